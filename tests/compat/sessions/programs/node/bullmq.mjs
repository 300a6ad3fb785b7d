// A session of BullMQ.
import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";
import { db, password, port, step, until, version } from "./steps.mjs";

version("bullmq");
const connection = { host: "127.0.0.1", port, password, db };
const opened = [];
const errors = [];
let number = 0;
const name = () => `jobs-${number++}`;

function open(kind, ...what) {
  const options = typeof what.at(-1) === "object" ? what.pop() : {};
  const made = new kind(...what, { connection, ...options });
  made.on("error", (error) => errors.push(error.message));
  opened.push(made);
  return made;
}

async function listening(queue) {
  const events = open(QueueEvents, queue);
  events.setMaxListeners(0);
  await events.waitUntilReady();
  return events;
}

await step("a job, with an event stream of its own each time", async () => {
  const queue = name();
  const jobs = open(Queue, queue);
  await open(Worker, queue, async (job) => job.data.n + 1).waitUntilReady();
  const found = [];
  for (let run = 0; run < 30; run++) {
    const events = await listening(queue);
    const job = await jobs.add("add", { n: run });
    found.push(await job.waitUntilFinished(events, 5_000));
    await opened.pop().close();
  }
  return found;
});

await step("many jobs in three workers", async () => {
  const queue = name();
  const jobs = open(Queue, queue);
  const events = await listening(queue);
  jobs.setMaxListeners(0);
  for (let worker = 0; worker < 3; worker++) open(Worker, queue, async (job) => job.data.n * 2);
  const added = await jobs.addBulk(Array.from({ length: 100 }, (_, n) => ({ name: "double", data: { n } })));
  const done = await Promise.all(added.map((job) => job.waitUntilFinished(events, 20_000)));
  return [done.length, done.at(-1)];
});

await step("a delayed job, one that fails first, one with a priority", async () => {
  const queue = name();
  const jobs = open(Queue, queue);
  const events = await listening(queue);
  open(Worker, queue, async (job) => {
    if (job.name === "fails" && job.attemptsMade < 1) throw new Error("no");
    return job.name;
  });
  const added = [
    await jobs.add("delayed", {}, { delay: 200 }),
    await jobs.add("fails", {}, { attempts: 2, backoff: 10 }),
    await jobs.add("important", {}, { priority: 1 }),
  ];
  return Promise.all(added.map((job) => job.waitUntilFinished(events, 10_000)));
});

await step("children before their parent", async () => {
  const queue = name();
  const ran = [];
  open(Worker, queue, async (job) => void ran.push(job.name));
  const child = { name: "child", queueName: queue };
  await open(FlowProducer).add({ name: "parent", queueName: queue, children: [child, child] });
  await until(() => ran.length === 3);
  return ran;
});

await step("a job scheduler", async () => {
  const queue = name();
  const jobs = open(Queue, queue);
  let ran = 0;
  open(Worker, queue, async () => ++ran);
  await jobs.upsertJobScheduler("often", { every: 200 }, { name: "often" });
  await until(() => ran >= 3);
  const found = (await jobs.getJobSchedulers()).length;
  return [ran >= 3, found, await jobs.removeJobScheduler("often")];
});

await step("a rate limit", async () => {
  const queue = name();
  const jobs = open(Queue, queue);
  const ran = [];
  open(Worker, queue, async () => ran.push(Date.now()), { limiter: { max: 5, duration: 500 } });
  await jobs.addBulk(Array.from({ length: 10 }, () => ({ name: "x", data: {} })));
  await until(() => ran.length >= 10);
  return ran[9] - ran[0] > 300;
});

await step("a job of a megabyte", async () => {
  const queue = name();
  const events = await listening(queue);
  open(Worker, queue, async (job) => job.data.large.length);
  return (await open(Queue, queue).add("large", { large: "x".repeat(1_500_000) })).waitUntilFinished(events, 10_000);
});

await step("pause, counts, drain, obliterate", async () => {
  const jobs = open(Queue, name());
  await jobs.pause();
  await jobs.add("x", {});
  const found = [await jobs.isPaused(), await jobs.getJobCounts("waiting", "paused")];
  await jobs.drain();
  await jobs.obliterate({ force: true });
  return [...found, await jobs.count()];
});

await step("getWorkers()", async () => {
  const queue = name();
  const jobs = open(Queue, queue);
  await open(Worker, queue, async () => 1, { name: "one" }).waitUntilReady();
  const found = await until(async () => (await jobs.getWorkers()).length && jobs.getWorkers(), 20_000);
  return found?.map((worker) => worker.rawname);
});

await step("the errors that it reported", () => [...new Set(errors)]);
await step("the end", async () => (await Promise.all(opened.map((each) => each.close()))).length);
process.exit(0);
