// Clients of ioredis with its own settings. Each has one connection.
import { readFileSync } from "node:fs";

import { Redis } from "ioredis";

import { commands, consumes, endsWithInput, event, large, master, repeats, sentinels, where } from "./program.mjs";

function connect() {
  const { password, db } = where;
  const client = new Redis(sentinels.length ? { sentinels, name: master, password, db } : where);
  client.on("error", () => {}); // the promise that fails reports it
  return client;
}

const { version } = JSON.parse(readFileSync(new URL("node_modules/ioredis/package.json", import.meta.url)));
event("command", 0, "note", `ioredis ${version}`);
endsWithInput();
for (let number = 0; number < 12; number += 1) commands(number, connect());
const [publisher, producer, setter, transacting] = [connect(), connect(), connect(), connect()];
repeats("publisher", "published", async (number) => {
  await publisher.publish("news", number);
  return number;
});
repeats("producer", "added", async (number) => {
  await producer.rpush("queue", number);
  return number;
});
repeats("large", "ok", async () => {
  await setter.set("large", large);
  return "";
});
repeats("transaction", "ok", async () => {
  const [[problem, found]] = await transacting.multi().incr("transaction").get("transaction").exec();
  if (problem) throw problem;
  return found;
});
for (const number of [0, 1]) {
  const consumer = connect();
  consumes(number, async () => (await consumer.blpop("queue", 2))?.[1] ?? null);
  const subscriber = connect();
  subscriber.on("message", (_, item) => event("subscriber", number, "heard", item));
  subscriber.subscribe("news").catch((problem) => event("subscriber", number, "error", problem.message));
}
