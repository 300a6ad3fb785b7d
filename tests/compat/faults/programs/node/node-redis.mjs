// Clients of node-redis with its own settings. Each has one connection.
import { readFileSync } from "node:fs";

import { createClient, createSentinel } from "redis";

import { commands, consumes, endsWithInput, event, large, master, repeats, sentinels, where } from "./program.mjs";

async function connect() {
  const { host, port, password, db: database } = where;
  const nodeClientOptions = { password, database };
  const client = sentinels.length
    ? createSentinel({ name: master, sentinelRootNodes: sentinels, nodeClientOptions })
    : createClient({ socket: { host, port }, password, database });
  client.on("error", () => {}); // the promise that fails reports it
  await client.connect();
  return client;
}

const { version } = JSON.parse(readFileSync(new URL("node_modules/redis/package.json", import.meta.url)));
event("command", 0, "note", `node-redis ${version}`);
endsWithInput();
for (let number = 0; number < 12; number += 1) commands(number, await connect());
const publisher = await connect();
repeats("publisher", "published", async (number) => {
  await publisher.publish("news", String(number));
  return number;
});
const producer = await connect();
repeats("producer", "added", async (number) => {
  await producer.rPush("queue", String(number));
  return number;
});
const setter = await connect();
repeats("large", "ok", async () => {
  await setter.set("large", large);
  return "";
});
const transacting = await connect();
repeats("transaction", "ok", async () => (await transacting.multi().incr("transaction").get("transaction").exec())[0]);
for (const number of [0, 1]) {
  const consumer = await connect();
  consumes(number, async () => (await consumer.blPop("queue", 2))?.element ?? null);
  const subscriber = await connect();
  subscriber
    .subscribe("news", (item) => event("subscriber", number, "heard", item))
    .catch((problem) => event("subscriber", number, "error", problem.message));
}
