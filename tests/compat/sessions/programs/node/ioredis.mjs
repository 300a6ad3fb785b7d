// A session of ioredis, in both protocols.
import { once } from "node:events";

import { Redis } from "ioredis";
import { db, password, port, sleep, step, until, version } from "./steps.mjs";

version("ioredis");

for (const protocol of [2, 3]) {
  const clients = [];
  const it = (name, body) => step(`RESP${protocol}, ${name}`, body);

  function client(options = {}) {
    const made = new Redis({ host: "127.0.0.1", port, password, db, protocol, ...options });
    made.on("error", () => {}); // the promise that fails reports it
    clients.push(made);
    return made;
  }

  const redis = client({ connectionName: "the-session" });
  await redis.flushdb();

  await it("types", async () => {
    const bytes = Buffer.from([0, 13, 10, 255, 42]);
    await redis.set("bytes", bytes);
    await redis.hset("hash", { one: "1", two: "2" });
    await redis.zadd("sorted", 1.5, "low", 2.5, "high");
    return [
      await redis.set("key", "value", "EX", 100),
      await redis.get("key"),
      await redis.get("none"),
      await redis.getBuffer("bytes"),
      await redis.hgetall("hash"),
      await redis.zscore("sorted", "high"),
    ];
  });

  await it("a value of 20 MiB", async () => {
    const large = Buffer.alloc(20 << 20, "abcdefg");
    await redis.set("large", large);
    const same = large.compare(await redis.getBuffer("large")) === 0;
    await redis.del("large");
    return same;
  });

  await it("the protocol and the name", async () => {
    const hello = await redis.call("HELLO");
    const info = await redis.client("INFO");
    return [hello[hello.indexOf("proto") + 1], await redis.client("GETNAME"), / db=3 /.test(info), /name=the-session/.test(info)];
  });

  await it("INFO", async () => {
    const info = await redis.info();
    return ["redis_version:", "used_memory:", `db${db}:`].map((text) => info.includes(text));
  });

  await it("CONFIG GET maxmemory", () => redis.config("GET", "maxmemory"));

  await it("a pipeline of 2,000 commands, with an error", async () => {
    const pipeline = redis.pipeline();
    for (let i = 0; i < 1000; i++) pipeline.set(`key:${i}`, i).incr("sum");
    const replies = await pipeline.get("key:999").lpush("sum", "x").dbsize().exec();
    return [replies.length, ...replies.slice(-4).map(([error, value]) => error?.message ?? value)];
  });

  await it("pipelines of its own", async () => {
    const auto = client({ enableAutoPipelining: true });
    const numbers = await Promise.all(Array.from({ length: 500 }, () => auto.incr("counter")));
    return numbers.every((number, i) => number === i + 1);
  });

  await it("MULTI", async () => [
    await redis.multi().set("a", "1").incr("a").get("a").exec(),
    await redis.multi({ pipeline: false }),
    await redis.set("b", "1"),
    await redis.discard(),
    await redis.exists("b"),
  ]);

  await it("MULTI with an error", async () => {
    const failed = await redis.multi().set("a", "never").call("GET").exec().catch((error) => error.message.slice(0, 9));
    return [failed, await redis.get("a")];
  });

  await it("WATCH, changed meanwhile", async () => {
    await redis.watch("watched");
    await client().set("watched", "changed");
    return redis.multi().set("a", "never").exec();
  });

  await it("a script by EVALSHA, unknown at first", async () => {
    const lua = "redis.call('SET', KEYS[1], ARGV[1]); return {redis.call('GET', KEYS[1]), 7}";
    redis.defineCommand("setget", { numberOfKeys: 1, lua: `-- ${protocol} ${Math.random()}\n${lua}` });
    return [await redis.setget("key", "one"), await redis.setget("key", "two"), await redis.pipeline().setget("key", "three").get("key").exec()];
  });

  await it("another database, in a script", async () => {
    redis.defineCommand("leave", { numberOfKeys: 0, lua: "return redis.call('SELECT', 0)" });
    return redis.leave();
  });

  await it("pub/sub with patterns", async () => {
    const subscriber = client();
    const heard = [];
    subscriber.on("message", (...what) => heard.push(what));
    subscriber.on("pmessage", (...what) => heard.push(what));
    const counts = [await subscriber.subscribe("news", "weather"), await subscriber.psubscribe("n?ws")];
    counts.push((await redis.pubsub("CHANNELS")).sort(), await redis.pubsub("NUMSUB", "news", "none"));
    counts.push(await redis.publish("news", "one"), await redis.publish("weather", "two"), await redis.publish("sports", "three"));
    await until(() => heard.length === 3);
    // From all channels: ioredis waits for a count of 0, so this must come last.
    counts.push(await subscriber.punsubscribe("n?ws"), await subscriber.unsubscribe(), await redis.publish("news", "four"));
    return [counts, heard, await subscriber.set("after", "subscribing")];
  });

  await it("sharded pub/sub", async () => {
    const subscriber = client();
    const message = once(subscriber, "smessage");
    return [await subscriber.ssubscribe("shard"), await redis.spublish("shard", "hello"), await message, await subscriber.sunsubscribe("shard")];
  });

  for (const pattern of [`__keyevent@${db}__:expired`, "__keyevent@*__:expired"]) {
    await it(pattern.replace(String(db), "INDEX").replace(":", " "), async () => {
      const subscriber = client();
      const message = once(subscriber, "pmessage");
      await subscriber.psubscribe(pattern);
      await redis.set("gone", 1, "PX", 20);
      await until(async () => (await redis.exists("gone")) === 0);
      return (await message).slice(1).map((text) => text.replace(String(db), "INDEX").replace(":", " "));
    });
  }

  await it("BLPOP that waits, and one that waits in vain", async () => {
    const waiting = client();
    const popped = waiting.blpop("first", "queue", 20);
    await sleep(50);
    await redis.rpush("queue", "job");
    const found = [await popped, await waiting.blpop("queue", 0.05), await waiting.ping()];
    await redis.zadd("low", 1, "low");
    return [...found, await waiting.bzpopmin("low", 5)];
  });

  await it("a stream with a group", async () => {
    const reader = client();
    const read = reader.xread("BLOCK", 20_000, "STREAMS", "stream", "$");
    await sleep(100);
    const id = await redis.xadd("stream", "*", "field", "value");
    const first = (await read).flat(9).slice(-2);
    await redis.xgroup("CREATE", "stream", "group", "0");
    const delivered = await redis.xreadgroup("GROUP", "group", "me", "COUNT", 10, "STREAMS", "stream", ">");
    return [first, delivered.flat(9).slice(-2), (await redis.xpending("stream", "group"))[0], await redis.xack("stream", "group", id)];
  });

  await it("SCAN", async () => {
    const found = new Set();
    for await (const keys of redis.scanStream({ match: "key:*", count: 50 })) keys.forEach((key) => found.add(key));
    return found.size;
  });

  await it("it comes back after a lost connection, subscriptions included", async () => {
    const lost = client({ retryStrategy: () => 20 });
    const listener = client({ retryStrategy: () => 20 });
    await listener.subscribe("channel");
    await lost.set("key", "kept");
    for (const each of [lost, listener]) {
      const again = once(each, "ready");
      each.stream.destroy();
      await again;
    }
    const message = once(listener, "message");
    await until(async () => (await redis.publish("channel", "still here")) === 1);
    return [await lost.get("key"), await message];
  });

  await it("QUIT", async () => {
    const leaving = client();
    const ended = once(leaving, "end");
    return [await leaving.quit(), (await ended).length];
  });

  await it("log in with a wrong password", async () => {
    const told = [];
    const failing = client({ password: "not this one", retryStrategy: null }).on("error", (error) => told.push(error.message));
    // In RESP2 ioredis sends more before the answer, and may report that NOAUTH first.
    await until(() => told.some((message) => message.startsWith("WRONGPASS")));
    failing.disconnect();
    return told.every((message) => /^(WRONGPASS|NOAUTH)/.test(message));
  });

  await it("another database", async () => [await redis.select(db + 1), await redis.select(db)]);
  await it("the own database", () => redis.select(db));
  await it("CLIENT LIST", async () => (await redis.client("LIST")).includes("name=the-session"));
  await it("CLIENT NO-EVICT, NO-TOUCH", async () => [await redis.client("NO-EVICT", "ON"), await redis.client("NO-TOUCH", "ON")]);
  clients.forEach((each) => each.disconnect());
}
process.exit(0);
