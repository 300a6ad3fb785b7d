// A session of ioredis through the proxy, in both protocols. ../run-node starts the servers, and sets
// REDIS_PORT, REDIS_PASSWORD and REDIS_INDEX of one tenant.
import assert from "node:assert/strict";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { after, before, beforeEach, describe, it as test } from "node:test";

import { Redis } from "ioredis";

const port = Number(process.env.REDIS_PORT);
const password = process.env.REDIS_PASSWORD;
const db = Number(process.env.REDIS_INDEX);

const it = (name, body) => test(name, { timeout: 10_000 }, body);

for (const protocol of [2, 3]) {
  describe(`ioredis in RESP${protocol}`, () => {
    const clients = [];
    let redis;

    function client(options = {}) {
      const made = new Redis({ host: "127.0.0.1", port, password, db, protocol, ...options });
      made.on("error", () => {}); // the promise that fails reports it
      clients.push(made);
      return made;
    }

    before(() => {
      redis = client({ connectionName: "the-session" });
    });
    beforeEach(() => redis.flushdb());
    after(() => clients.forEach((each) => each.disconnect()));

    it("gets what it set, bytes included", async () => {
      const bytes = Buffer.from([0, 13, 10, 255, 42]);
      assert.equal(await redis.set("key", "value", "EX", 100), "OK");
      assert.equal(await redis.get("key"), "value");
      assert.equal(await redis.get("none"), null);
      await redis.set("bytes", bytes);
      assert.deepEqual(await redis.getBuffer("bytes"), bytes);
      await redis.hset("hash", { one: "1", two: "2" });
      assert.deepEqual(await redis.hgetall("hash"), { one: "1", two: "2" });
      assert.equal(await redis.zadd("sorted", 1.5, "low", 2.5, "high"), 2);
      assert.equal(String(await redis.zscore("sorted", "high")), "2.5");
    });

    it("carries a value of some megabytes", async () => {
      const large = Buffer.alloc(5_000_000, "abcdefg");
      await redis.set("large", large);
      assert.equal(large.compare(await redis.getBuffer("large")), 0);
    });

    it("speaks the protocol that was asked for, under the name that was given", async () => {
      const hello = await redis.call("HELLO");
      assert.equal(hello[hello.indexOf("proto") + 1], protocol);
      assert.equal(await redis.client("GETNAME"), "the-session");
      assert.match(await redis.client("INFO"), new RegExp(` db=${db} .*name=the-session|name=the-session .* db=${db} `));
      assert.match(await redis.info("server"), /redis_version:/);
    });

    it("has a pipeline answered in order, refusals in their places", async () => {
      const pipeline = redis.pipeline();
      for (let i = 0; i < 1000; i++) pipeline.set(`key:${i}`, i).incr("sum");
      const replies = await pipeline.config("REWRITE").get("key:999").lpush("sum", "x").dbsize().exec();
      assert.equal(replies.length, 2004);
      const [refused, got, wrongType, size] = replies.slice(-4);
      assert.deepEqual(replies[1999], [null, 1000]);
      assert.match(refused[0].message, /^NOPERM/);
      assert.deepEqual(got, [null, "999"]);
      assert.match(wrongType[0].message, /^WRONGTYPE/);
      assert.deepEqual(size, [null, 1001]);
    });

    it("reads what is harmless of the configuration", async () => {
      const found = await redis.config("GET", "maxmemory*", "databases", "requirepass");
      const names = (Array.isArray(found) ? found.filter((_, i) => i % 2 === 0) : Object.keys(found)).sort();
      assert.deepEqual(names, ["databases", "maxmemory", "maxmemory-policy"]);
    });

    it("gathers commands in pipelines by itself", async () => {
      const auto = client({ enableAutoPipelining: true });
      const numbers = await Promise.all(Array.from({ length: 500 }, () => auto.incr("counter")));
      assert.deepEqual(numbers, Array.from({ length: 500 }, (_, i) => i + 1));
    });

    it("runs transactions, whole or not at all", async () => {
      assert.deepEqual(await redis.multi().set("a", "1").incr("a").get("a").exec(), [[null, "OK"], [null, 2], [null, "2"]]);
      await assert.rejects(redis.multi().set("a", "never").config("REWRITE").exec(), /^(ReplyError: )?EXECABORT/);
      assert.equal(await redis.get("a"), "2");

      await redis.multi({ pipeline: false });
      assert.equal(await redis.set("b", "1"), "QUEUED");
      assert.equal(await redis.discard(), "OK");
      assert.equal(await redis.exists("b"), 0);
    });

    it("has a transaction fail when what it watches changes", async () => {
      const other = client();
      await redis.watch("watched");
      await other.set("watched", "changed");
      assert.equal(await redis.multi().set("a", "never").exec(), null);
      assert.equal(await redis.exists("a"), 0);
    });

    it("runs scripts of its own, which Redis does not know at first", async () => {
      const lua = "redis.call('SET', KEYS[1], ARGV[1]); return {redis.call('GET', KEYS[1]), 7}";
      redis.defineCommand("setget", { numberOfKeys: 1, lua: `-- ${protocol} ${Math.random()}\n${lua}` });
      assert.deepEqual(await redis.setget("key", "one"), ["one", 7]);
      assert.deepEqual(await redis.setget("key", "two"), ["two", 7]);
      assert.deepEqual(await redis.pipeline().setget("key", "three").get("key").exec(), [
        [null, ["three", 7]],
        [null, "three"],
      ]);
      redis.defineCommand("leave", { numberOfKeys: 0, lua: "return redis.call('SELECT', 0)" });
      await assert.rejects(redis.leave(), /ACL|permission|not allowed/i);
      assert.equal(await redis.get("key"), "three");
    });

    it("hears its channels and patterns under their own names", async () => {
      const subscriber = client();
      const heard = [];
      subscriber.on("message", (channel, message) => heard.push([channel, message]));
      subscriber.on("pmessage", (pattern, channel, message) => heard.push([pattern, channel, message]));
      assert.equal(await subscriber.subscribe("news", "weather"), 2);
      assert.equal(await subscriber.psubscribe("n?ws"), 3);
      assert.deepEqual((await redis.pubsub("CHANNELS")).sort(), ["news", "weather"]);
      assert.deepEqual(await redis.pubsub("NUMSUB", "news", "none"), ["news", 1, "none", 0]);
      assert.equal(await redis.publish("news", "one"), 2);
      assert.equal(await redis.publish("weather", "two"), 1);
      assert.equal(await redis.publish("sports", "three"), 0);
      while (heard.length < 3) await sleep(5);
      assert.deepEqual(heard, [
        ["news", "one"],
        ["n?ws", "news", "one"],
        ["weather", "two"],
      ]);
      assert.equal(await subscriber.punsubscribe("n?ws"), 2);
      // From all channels: ioredis waits for a count of 0, so this must come last, without a proxy as well.
      assert.equal(await subscriber.unsubscribe(), 0);
      assert.equal(await redis.publish("news", "four"), 0);
      await subscriber.set("after", "subscribing");
      assert.equal(await subscriber.get("after"), "subscribing");
    });

    it("hears sharded channels", async () => {
      const subscriber = client();
      const message = once(subscriber, "smessage");
      assert.equal(await subscriber.ssubscribe("shard"), 1);
      assert.equal(await redis.spublish("shard", "hello"), 1);
      assert.deepEqual(await message, ["shard", "hello"]);
      assert.equal(await subscriber.sunsubscribe("shard"), 0);
    });

    it("waits for an element, and goes on when none comes", async () => {
      const waiting = client();
      const popped = waiting.blpop("first", "queue", 20);
      await sleep(50);
      await redis.rpush("queue", "job");
      assert.deepEqual(await popped, ["queue", "job"]);
      assert.equal(await waiting.blpop("queue", 0.05), null);
      assert.equal(await waiting.ping(), "PONG");
      await redis.zadd("sorted", 1, "low");
      const [key, member, score] = await waiting.bzpopmin("sorted", 5);
      assert.deepEqual([key, member, Number(score)], ["sorted", "low", 1]);
    });

    it("reads streams, alone and as a group", async () => {
      const reader = client();
      const read = reader.xread("BLOCK", 20_000, "STREAMS", "stream", "$");
      while (!(await redis.info("clients")).includes("blocked_clients:1")) await sleep(5);
      await sleep(50);
      const id = await redis.xadd("stream", "*", "field", "value");
      assert.deepEqual(await read, [["stream", [[id, ["field", "value"]]]]]);
      assert.equal(await redis.xgroup("CREATE", "stream", "group", "0"), "OK");
      const delivered = await redis.xreadgroup("GROUP", "group", "me", "COUNT", 10, "STREAMS", "stream", ">");
      assert.equal(delivered.flat(Infinity)[1], id);
      assert.deepEqual((await redis.xpending("stream", "group")).slice(0, 3), [1, id, id]);
      assert.equal(await redis.xack("stream", "group", id), 1);
      assert.equal(await redis.xlen("stream"), 1);
    });

    it("walks all of its keys", async () => {
      const names = Array.from({ length: 300 }, (_, i) => `key:${i}`);
      await redis.mset(...names.flatMap((name) => [name, "x"]));
      const found = new Set();
      for await (const keys of redis.scanStream({ match: "key:*", count: 50 })) keys.forEach((key) => found.add(key));
      assert.equal(found.size, names.length);
    });

    it("comes back after a lost connection, subscriptions included", async () => {
      const lost = client({ retryStrategy: () => 20 });
      const listener = client({ retryStrategy: () => 20 });
      await listener.subscribe("channel");
      await lost.set("key", "kept");
      for (const each of [lost, listener]) {
        const again = once(each, "ready");
        each.stream.destroy();
        await again;
      }
      assert.equal(await lost.get("key"), "kept");
      const message = once(listener, "message");
      while ((await redis.publish("channel", "still here")) === 0) await sleep(5);
      assert.deepEqual(await message, ["channel", "still here"]);
    });

    it("says goodbye", async () => {
      const leaving = client();
      const ended = once(leaving, "end");
      assert.equal(await leaving.quit(), "OK");
      await ended;
    });

    it("is told that its password is wrong", async () => {
      const stranger = client({ password: "not this one", maxRetriesPerRequest: 0, retryStrategy: null });
      await assert.rejects(stranger.get("key"), /WRONGPASS|NOAUTH|Connection is closed/);
      const told = [];
      const failing = client({ password: "nor this", retryStrategy: null }).on("error", (error) => told.push(error.message));
      // In RESP2 ioredis sends more before the answer, and reports that NOAUTH first, without a proxy as well.
      while (!told.some((message) => message.startsWith("WRONGPASS"))) await sleep(5);
      assert.ok(told.every((message) => /^(WRONGPASS|NOAUTH)/.test(message)));
      failing.disconnect();
    });

    it("is refused another database, and goes on in its own", async () => {
      await redis.set("key", "own");
      await assert.rejects(redis.select(db + 1), /NOPERM/);
      assert.equal(await redis.select(db), "OK");
      assert.equal(await redis.get("key"), "own");
      await assert.rejects(redis.copy("key", "copied", "DB", db + 1), /NOPERM/);
      await assert.rejects(redis.swapdb(db, db + 1), /NOPERM/);
    });
  });
}
