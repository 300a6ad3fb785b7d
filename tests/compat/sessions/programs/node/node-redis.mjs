// A session of node-redis, in both protocols.
import { createClient, createClientPool, defineScript } from "redis";
import { db, sleep, step, until, url, version } from "./steps.mjs";

version("redis");

const SETGET = `-- ${Math.random()}\nredis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])`;
const scripts = {
  setget: defineScript({
    SCRIPT: SETGET,
    NUMBER_OF_KEYS: 1,
    parseCommand(parser, key, value) {
      parser.pushKey(key);
      parser.push(value);
    },
    transformReply: (reply) => reply,
  }),
};

for (const RESP of [2, 3]) {
  const it = (name, body) => step(`RESP${RESP}, ${name}`, body);
  const opened = [];

  async function client(options = {}) {
    const made = createClient({ url, RESP, scripts, ...options }).on("error", () => {});
    opened.push(made);
    await made.connect();
    return made;
  }

  const redis = await client({ name: "the-session" });
  await redis.flushDb();

  await it("types", async () => {
    await redis.hSet("hash", { one: 1, two: 2 });
    await redis.zAdd("sorted", [{ value: "low", score: 1.5 }, { value: "high", score: 2.5 }]);
    await redis.sAdd("set", ["a", "b"]);
    return [
      await redis.set("key", "value", { EX: 100 }),
      await redis.get("key"),
      await redis.get("none"),
      { ...(await redis.hGetAll("hash")) },
      await redis.zRangeWithScores("sorted", 0, -1),
      [...(await redis.sMembers("set"))].sort(),
    ];
  });

  await it("an error of a type", () => redis.lPush("key", "x"));

  await it("a value of 20 MiB", async () => {
    const large = "abcdefgh".repeat((20 << 20) / 8);
    await redis.set("large", large);
    const same = (await redis.get("large")) === large;
    await redis.del("large");
    return same;
  });

  await it("commands at once are a pipeline", async () => {
    const numbers = await Promise.all(Array.from({ length: 2000 }, () => redis.incr("n")));
    return numbers.every((number, i) => number === i + 1);
  });

  await it("a pipeline", () => redis.multi().set("p", 1).incr("p").execAsPipeline());
  await it("MULTI", () => redis.multi().set("a", 1).incr("a").get("a").exec());

  await it("WATCH, changed meanwhile", async () => {
    const watching = await client();
    await watching.watch("a");
    await redis.set("a", "changed");
    return watching.multi().set("a", "never").exec();
  });

  await it("a pool", async () => {
    const pool = await createClientPool({ url, RESP }, { minimum: 1, maximum: 5 }).on("error", () => {}).connect();
    const numbers = await Promise.all(Array.from({ length: 100 }, () => pool.incr("pooled")));
    const inside = await pool.execute(async (one) => {
      await one.watch("pooled");
      return one.multi().incr("pooled").exec();
    });
    await pool.destroy();
    return [Math.max(...numbers), inside];
  });

  await it("a script by EVALSHA, unknown at first", async () => [
    await redis.setget("key", "one"),
    await redis.setget("key", "two"),
    await redis.multi().setget("key", "three").get("key").exec(),
  ]);

  await it("pub/sub with patterns", async () => {
    const listener = await client();
    const heard = [];
    await listener.subscribe("news", (message, channel) => heard.push([channel, message]));
    await listener.pSubscribe("n?ws", (message, channel) => heard.push([channel, message, "n?ws"]));
    const counts = [await redis.publish("news", "one"), await redis.pubSubChannels(), { ...(await redis.pubSubNumSub(["news"])) }];
    await until(() => heard.length === 2);
    await listener.unsubscribe();
    await listener.pUnsubscribe();
    return [counts, heard, await listener.get("key")];
  });

  await it("sharded pub/sub", async () => {
    const listener = await client();
    const heard = [];
    await listener.sSubscribe("shard", (message) => heard.push(message));
    const count = await redis.sPublish("shard", "hello");
    await until(() => heard.length);
    return [count, heard];
  });

  await it("__keyevent@INDEX__ expired", async () => {
    const listener = await client();
    const heard = [];
    await listener.subscribe(`__keyevent@${db}__:expired`, (message) => heard.push(message));
    await redis.set("gone", 1, { PX: 20 });
    await until(async () => (await redis.exists("gone")) === 0 && heard.length);
    return heard;
  });

  await it("BLPOP that waits, and one that waits in vain", async () => {
    const waiting = await client();
    const popped = waiting.blPop("queue", 10);
    await sleep(100);
    await redis.rPush("queue", "job");
    const found = { ...(await popped) };
    return [found, await waiting.blPop("queue", 0.1), await waiting.ping()];
  });

  await it("a stream with a group", async () => {
    await redis.xGroupCreate("stream", "group", "0", { MKSTREAM: true });
    const id = await redis.xAdd("stream", "*", { field: "value" });
    const read = await redis.xReadGroup("group", "me", { key: "stream", id: ">" }, { COUNT: 10, BLOCK: 1000 });
    const claimed = await redis.xAutoClaim("stream", "group", "you", 0, "0");
    const messages = read[0]?.messages ?? Object.values(read)[0];
    return [{ ...messages[0].message }, claimed.messages.length, await redis.xAck("stream", "group", id)];
  });

  await it("SCAN", async () => {
    await redis.mSet(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`key:${i}`, "x"])));
    const found = new Set();
    for await (const keys of redis.scanIterator({ MATCH: "key:*", COUNT: 50 })) [keys].flat().forEach((key) => found.add(key));
    return found.size;
  });

  await it("it comes back after a lost connection", async () => {
    const lost = await client({ socket: { reconnectStrategy: 20 } });
    await lost.set("key", "kept");
    const again = new Promise((resolve) => lost.once("ready", resolve));
    await lost.sendCommand(["QUIT"]).catch(() => {});
    await again;
    return lost.get("key");
  });

  await it("INFO", async () => /redis_version:/.test(await redis.info()));
  await it("CONFIG GET maxmemory", async () => ({ ...(await redis.configGet("maxmemory")) }));
  await it("CLIENT INFO", async () => Object.keys(await redis.clientInfo()).filter((name) => name !== "id").sort().slice(0, 8));
  await it("CLIENT LIST", async () => (await redis.clientList()).some((each) => each.name === "the-session"));
  await it("CLIENT NO-EVICT, NO-TOUCH", async () => [await redis.clientNoEvict(true), await redis.clientNoTouch(true)]);
  await it("ROLE", async () => (await redis.role()).role);
  await it("another database", async () => [await redis.select(db + 1), await redis.select(db)]);

  await it("log in with a wrong password", async () => {
    const failing = createClient({ url: url.replace(/:[^:@]*@/, ":not-this-one@"), RESP, socket: { reconnectStrategy: false } });
    failing.on("error", () => {});
    return failing.connect();
  });

  if (RESP === 3) {
    await it("client-side caching", async () => {
      const settings = { url, RESP, clientSideCache: { ttl: 0, maxEntries: 0 }, socket: { reconnectStrategy: false } };
      const caching = createClient(settings).on("error", () => {});
      opened.push(caching);
      await caching.connect();
      await redis.set("cached", "one");
      const first = [await caching.get("cached"), await caching.get("cached")];
      await redis.set("cached", "two");
      return [first, await until(async () => (await caching.get("cached")) === "two", 10_000)];
    });
  }
  opened.forEach((each) => each.isOpen && each.destroy());
}
process.exit(0);
