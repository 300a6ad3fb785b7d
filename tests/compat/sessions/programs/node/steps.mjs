// What the Node programs have in common: where Redis is, and how an outcome is printed.
import { readFileSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";

export const port = Number(process.env.REDIS_PORT);
export const password = process.env.REDIS_PASSWORD;
export const db = Number(process.env.REDIS_INDEX);
export const url = `redis://:${password}@127.0.0.1:${port}/${db}`;
export { sleep };
/** Milliseconds that a step waits at most. */
const LIMIT = 60_000;

/** Prints an outcome. */
export function show(name, outcome) {
  const options = { depth: 6, breakLength: Infinity, maxArrayLength: 50, maxStringLength: 200, sorted: true };
  const text = typeof outcome === "string" ? outcome : inspect(outcome, options);
  writeSync(1, `${name}: ${text.split(/\s+/).join(" ")}\n`);
}

/** Runs a step, and prints what it returns or throws. */
export async function step(name, body) {
  const late = sleep(LIMIT, "it did not end", { ref: false });
  try {
    show(name, await Promise.race([body(), late]));
  } catch (error) {
    show(name, `${error.name}: ${error.message}`);
  }
}

/** Returns the first true value of the probe, or undefined after the limit. */
export async function until(probe, limit = LIMIT) {
  for (const end = Date.now() + limit; Date.now() < end; await sleep(10)) {
    const found = await probe();
    if (found) return found;
  }
}

/** Prints the version of a package. */
export function version(name) {
  const found = readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url));
  show("version", JSON.parse(found).version);
}
