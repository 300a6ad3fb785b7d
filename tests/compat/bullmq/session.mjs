// A session of BullMQ, straight to Redis and through the proxy: a client waits for the end of a job
// that it has just added, which it learns from a stream. ../run-node starts the servers, and sets
// REDIS_PORT, REDIS_PASSWORD and REDIS_INDEX.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { after, describe, it as test } from "node:test";

import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";

const connection = {
  host: "127.0.0.1",
  port: Number(process.env.REDIS_PORT),
  password: process.env.REDIS_PASSWORD,
  db: Number(process.env.REDIS_INDEX),
};
const it = (name, body) => test(name, { timeout: 60_000 }, body);

describe("BullMQ", () => {
  const opened = [];
  let number = 0;
  const name = () => `jobs-${process.pid}-${number++}`;

  function open(kind, ...what) {
    const made = new kind(...what, { connection });
    made.on("error", (error) => assert.fail(error));
    opened.push(made);
    return made;
  }

  after(() => Promise.all(opened.map((each) => each.close())));

  it("waits until a job is finished, with an event stream of its own each time", async () => {
    const queue = name();
    const jobs = open(Queue, queue);
    await open(Worker, queue, async (job) => job.data.n + 1).waitUntilReady();
    for (let run = 0; run < 50; run++) {
      const events = open(QueueEvents, queue);
      await events.waitUntilReady();
      const job = await jobs.add("add", { n: run });
      assert.equal(await job.waitUntilFinished(events, 5_000), run + 1);
      await opened.pop().close();
    }
  });

  it("waits for many jobs at once", async () => {
    const queue = name();
    const jobs = open(Queue, queue);
    const events = open(QueueEvents, queue);
    await events.waitUntilReady();
    jobs.setMaxListeners(0);
    for (let worker = 0; worker < 3; worker++) open(Worker, queue, async (job) => job.data.n * 2);
    const added = await jobs.addBulk(Array.from({ length: 100 }, (_, n) => ({ name: "double", data: { n } })));
    const done = await Promise.all(added.map((job) => job.waitUntilFinished(events, 20_000)));
    assert.deepEqual(done, Array.from({ length: 100 }, (_, n) => n * 2));
  });

  it("runs a delayed job, and one that fails first", async () => {
    const queue = name();
    const jobs = open(Queue, queue);
    const events = open(QueueEvents, queue);
    await events.waitUntilReady();
    open(Worker, queue, async (job) => {
      if (job.name === "fails" && job.attemptsMade < 1) throw new Error("no");
      return job.name;
    });
    const delayed = await jobs.add("delayed", {}, { delay: 200 });
    const fails = await jobs.add("fails", {}, { attempts: 2, backoff: 10 });
    assert.equal(await fails.waitUntilFinished(events, 10_000), "fails");
    assert.equal(await delayed.waitUntilFinished(events, 10_000), "delayed");
  });

  it("runs children before their parent", async () => {
    const queue = name();
    const ran = [];
    open(Worker, queue, async (job) => void ran.push(job.name));
    open(Queue, queue);
    await open(FlowProducer).add({
      name: "parent",
      queueName: queue,
      children: [{ name: "child", queueName: queue }, { name: "child", queueName: queue }],
    });
    for (const end = Date.now() + 15_000; ran.length < 3; await sleep(5)) assert.ok(Date.now() < end, ran);
    assert.deepEqual(ran, ["child", "child", "parent"]);
  });
});
