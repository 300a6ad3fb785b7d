// What the JavaScript programs have in common: events, the end, and where Redis is.
import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export { sleep };
export const where = {
  host: "127.0.0.1",
  port: Number(process.env.REDIS_PORT),
  password: process.env.REDIS_PASSWORD,
  db: Number(process.env.REDIS_INDEX),
};
export const master = process.env.REDIS_MASTER;
export const sentinels = (process.env.REDIS_SENTINELS ?? "")
  .split(",")
  .filter(Boolean)
  .map((place) => ({ host: place.split(":")[0], port: Number(place.split(":")[1]) }));

// Milliseconds between two commands of a client, and of a publisher or a producer.
const PAUSE = 20;
export const SLOW_PAUSE = 50;
export const large = "x".repeat(100_000);
// Milliseconds that consumers go on after the standard input has ended.
const REST = 2500;

export let ended = false;

export function event(role, client, kind, rest = "") {
  const text = String(rest).split(/\s+/).join(" ").slice(0, 200);
  writeSync(1, `${(Date.now() / 1000).toFixed(3)} ${role} ${client} ${kind} ${text}`.trimEnd() + "\n");
}

export function error(role, client, problem) {
  event(role, client, "error", `${problem?.name}: ${problem?.message}`);
}

// Ends the process after the standard input has ended.
export function endsWithInput(rest = REST) {
  process.stdin.resume();
  process.stdin.on("end", async () => {
    ended = true;
    await sleep(rest);
    process.exit(0);
  });
}

export async function commands(number, client) {
  while (!ended) {
    for (const command of ["incr", "get"]) {
      try {
        const found = await client[command](`count:${number}`);
        event("command", number, "ok", command === "incr" ? found : "");
      } catch (problem) {
        error("command", number, problem);
      }
      await sleep(PAUSE);
    }
  }
}

// Calls the action with rising numbers. The event has what it returns.
export async function repeats(role, done, action, pause = SLOW_PAUSE) {
  for (let number = 1; !ended; number += 1) {
    try {
      event(role, 0, done, await action(number));
    } catch (problem) {
      error(role, 0, problem);
    }
    await sleep(pause);
  }
}

// pop: returns an item, or null.
export async function consumes(number, pop) {
  for (;;) {
    try {
      const found = await pop();
      if (found === null) event("consumer", number, "ok");
      else event("consumer", number, "did", found);
    } catch (problem) {
      error("consumer", number, problem);
      await sleep(PAUSE);
    }
  }
}
