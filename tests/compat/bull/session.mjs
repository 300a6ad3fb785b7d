// A session of Bull 4, whose scripts publish, straight to Redis and through the proxy. ../run-node
// starts the servers, and sets REDIS_PORT, REDIS_PASSWORD and REDIS_INDEX.
import assert from "node:assert/strict";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { after, before, describe, it as test } from "node:test";

import Queue from "bull";

const redis = {
  host: "127.0.0.1",
  port: Number(process.env.REDIS_PORT),
  password: process.env.REDIS_PASSWORD,
  db: Number(process.env.REDIS_INDEX),
};
const it = (name, body) => test(name, { timeout: 20_000 }, body);

describe("Bull", () => {
  const queues = [];
  let number = 0;

  async function queue() {
    const made = new Queue(`jobs-${process.pid}-${number++}`, { redis, settings: { guardInterval: 200 } });
    queues.push(made);
    await made.isReady();
    return made;
  }

  /** Returns the queue as another process sees it. */
  async function another(of) {
    const made = new Queue(of.name, { redis });
    queues.push(made);
    await made.isReady();
    return made;
  }

  /** Waits until a list has so many elements. */
  async function reaches(list, length) {
    for (const end = Date.now() + 15_000; list.length < length; await sleep(5)) {
      assert.ok(Date.now() < end, `${list.length} of ${length}: ${JSON.stringify(list)}`);
    }
  }

  before(() => process.on("unhandledRejection", (error) => assert.fail(error)));
  after(() => Promise.all(queues.map((each) => each.close())));

  it("adds a job, and runs it", async () => {
    const jobs = await queue();
    const job = await jobs.add({ answer: 42 });
    assert.deepEqual(await jobs.getJobCounts(), { waiting: 1, active: 0, completed: 0, failed: 0, delayed: 0, paused: 0 });
    jobs.process((each) => each.data.answer + 1);
    assert.equal(await job.finished(), 43);
    assert.equal((await jobs.getJob(job.id)).returnvalue, 43);
    assert.equal((await jobs.getJobCounts()).completed, 1);
  });

  it("has its events heard by another process", async () => {
    const jobs = await queue();
    const listener = await another(jobs);
    const heard = [];
    const subscribed = ["waiting", "active", "progress", "completed", "failed", "paused", "resumed"].map((name) => {
      const registered = once(listener, `registered:global:${name}`);
      listener.on(`global:${name}`, (...what) => heard.push([name, ...what.slice(0, 2).map(String)]));
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
    const good = await jobs.add("good", {});
    await reaches(heard, 4);
    const bad = await jobs.add("bad", {});
    await reaches(heard, 7);
    await jobs.pause();
    await jobs.resume();
    await reaches(heard, 9);
    const names = heard.map(([name]) => name);
    assert.deepEqual(names, ["waiting", "active", "progress", "completed", "waiting", "active", "failed", "paused", "resumed"]);
    assert.deepEqual(heard[0].slice(1), [String(good.id), "null"]);
    assert.deepEqual(heard[3].slice(1), [String(good.id), '"done"']);
    assert.deepEqual(heard[6].slice(1), [String(bad.id), "no"]);
  });

  it("runs a delayed job, of which a subscriber learns from a script", async () => {
    const jobs = await queue();
    const ran = [];
    jobs.process((job) => ran.push(job.data.name));
    await jobs.add({ name: "later" }, { delay: 300 });
    await jobs.add({ name: "now" });
    await reaches(ran, 2);
    assert.deepEqual(ran, ["now", "later"]);
  });

  it("tries a failed job again", async () => {
    const jobs = await queue();
    let attempts = 0;
    jobs.process(async () => {
      if (++attempts < 3) throw new Error(`attempt ${attempts}`);
      return attempts;
    });
    const job = await jobs.add({}, { attempts: 3, backoff: 10 });
    assert.equal(await job.finished(), 3);
    assert.equal((await jobs.getJob(job.id)).attemptsMade, 2);
  });

  it("runs many jobs in several workers, each once", async () => {
    const jobs = await queue();
    const ran = [];
    for (let worker = 0; worker < 3; worker++) (await another(jobs)).process(10, async (job) => void ran.push(job.data.n));
    await jobs.addBulk(Array.from({ length: 300 }, (_, n) => ({ data: { n } })));
    await reaches(ran, 300);
    await sleep(50);
    assert.deepEqual(ran.sort((a, b) => a - b), Array.from({ length: 300 }, (_, n) => n));
  });

  it("carries a job of a megabyte", async () => {
    const jobs = await queue();
    const large = "x".repeat(1_500_000);
    jobs.process((job) => job.data.large.length);
    const job = await jobs.add({ large });
    assert.equal(await job.finished(), large.length);
  });

  it("pauses, promotes, removes and empties", async () => {
    const jobs = await queue();
    await jobs.pause();
    const job = await jobs.add({}, { delay: 100_000 });
    await job.promote();
    assert.equal((await jobs.getJobCounts()).delayed, 0);
    const other = await jobs.add({});
    await other.remove();
    assert.equal(await jobs.getJob(other.id), null);
    assert.equal(await jobs.isPaused(), true);
    await jobs.resume();
    assert.equal(await jobs.isPaused(), false);
    await jobs.empty();
    await jobs.obliterate({ force: true });
    assert.equal(await jobs.count(), 0);
  });

});
