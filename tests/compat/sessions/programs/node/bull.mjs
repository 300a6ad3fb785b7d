// A session of Bull 4, whose scripts publish.
import { once } from "node:events";

import Queue from "bull";
import { db, password, port, sleep, step, until, version } from "./steps.mjs";

version("bull");
const redis = { host: "127.0.0.1", port, password, db };
const queues = [];

async function queue(name = `jobs-${queues.length}`) {
  const made = new Queue(name, { redis, settings: { guardInterval: 200 } });
  made.on("error", (error) => console.error(error));
  queues.push(made);
  await made.isReady();
  return made;
}

await step("a job and its result", async () => {
  const jobs = await queue();
  const job = await jobs.add({ answer: 42 });
  const before = await jobs.getJobCounts();
  jobs.process((each) => each.data.answer + 1);
  return [before, await job.finished(), (await jobs.getJob(job.id)).returnvalue, (await jobs.getJobCounts()).completed];
});

await step("events in another process", async () => {
  const jobs = await queue();
  const listener = await queue(jobs.name);
  const heard = [];
  const subscribed = ["waiting", "active", "progress", "completed", "failed", "paused", "resumed"].map((name) => {
    const registered = once(listener, `registered:global:${name}`);
    listener.on(`global:${name}`, (...what) => heard.push([name, ...what.slice(0, 2).map(String)].join(" ")));
    return registered;
  });
  await Promise.all(subscribed);
  jobs.process("good", async (job) => {
    await job.progress(50);
    return "done";
  });
  jobs.process("bad", async () => {
    throw new Error("no");
  });
  await jobs.add("good", {});
  await until(() => heard.length >= 4);
  await jobs.add("bad", {});
  await until(() => heard.length >= 7);
  await jobs.pause();
  await jobs.resume();
  await until(() => heard.length >= 9);
  return heard;
});

await step("a delayed job, of which a subscriber learns from a script", async () => {
  const jobs = await queue();
  const ran = [];
  jobs.process((job) => ran.push(job.data.name));
  await jobs.add({ name: "later" }, { delay: 300 });
  await jobs.add({ name: "now" });
  await until(() => ran.length >= 2);
  return ran.sort(); // on a busy machine the delay may be over first
});

await step("a job that is tried again", async () => {
  const jobs = await queue();
  let attempts = 0;
  jobs.process(async () => {
    if (++attempts < 3) throw new Error(`attempt ${attempts}`);
    return attempts;
  });
  const job = await jobs.add({}, { attempts: 3, backoff: 10 });
  return [await job.finished(), (await jobs.getJob(job.id)).attemptsMade];
});

await step("many jobs in several workers, each once", async () => {
  const jobs = await queue();
  const ran = [];
  for (let worker = 0; worker < 3; worker++) (await queue(jobs.name)).process(10, async (job) => void ran.push(job.data.n));
  await jobs.addBulk(Array.from({ length: 300 }, (_, n) => ({ data: { n } })));
  await until(() => ran.length >= 300);
  await sleep(50);
  return [ran.length, new Set(ran).size];
});

await step("a job of a megabyte", async () => {
  const jobs = await queue();
  jobs.process((job) => job.data.large.length);
  return (await jobs.add({ large: "x".repeat(1_500_000) })).finished();
});

await step("a repeated job", async () => {
  const jobs = await queue();
  let ran = 0;
  jobs.process(() => ++ran);
  await jobs.add({}, { repeat: { every: 200, limit: 3 } });
  await until(() => ran >= 3);
  return [ran, (await jobs.getRepeatableJobs()).length >= 0];
});

await step("a rate limit", async () => {
  const jobs = new Queue("limited", { redis, limiter: { max: 5, duration: 500 } });
  queues.push(jobs);
  const ran = [];
  jobs.process(() => ran.push(Date.now()));
  for (let n = 0; n < 10; n++) await jobs.add({});
  await until(() => ran.length >= 10);
  return ran[9] - ran[0] > 300;
});

await step("pause, promote, remove, empty", async () => {
  const jobs = await queue();
  await jobs.pause();
  const job = await jobs.add({}, { delay: 100_000 });
  await job.promote();
  const other = await jobs.add({});
  await other.remove();
  const found = [(await jobs.getJobCounts()).delayed, await jobs.getJob(other.id), await jobs.isPaused()];
  await jobs.resume();
  found.push(await jobs.isPaused());
  await jobs.empty();
  await jobs.obliterate({ force: true });
  return [...found, await jobs.count()];
});

await step("workers", async () => {
  const jobs = await queue("jobs-with-workers");
  jobs.process(() => 1);
  await sleep(300);
  return (await jobs.getWorkers()).length;
});

await step("the end", async () => (await Promise.all(queues.map((each) => each.close()))).length);
process.exit(0);
