// A producer and two workers of BullMQ with its own settings.
import { readFileSync } from "node:fs";

import { Queue, Worker } from "bullmq";

import { endsWithInput, event, master, repeats, sentinels, where } from "./program.mjs";

const { password, db } = where;
const connection = sentinels.length ? { sentinels, name: master, password, db } : where;
const { version } = JSON.parse(readFileSync(new URL("node_modules/bullmq/package.json", import.meta.url)));
event("producer", 0, "note", `BullMQ ${version}`);
endsWithInput(6000);
const queue = new Queue("jobs", { connection });
queue.on("error", () => {}); // the promise that fails reports it
for (const number of [0, 1]) {
  const worker = new Worker("jobs", async (job) => event("worker", number, "did", job.data.number), { connection });
  worker.on("error", (problem) => event("worker", number, "note", problem.message));
}
const produces = async (number) => {
  await queue.add("job", { number });
  return number;
};
repeats("producer", "added", produces, 100);
