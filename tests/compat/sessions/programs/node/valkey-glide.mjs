// A session of Valkey GLIDE for Node, in RESP3 and RESP2.
import { Batch, Decoder, GlideClient, ProtocolVersion, Script } from "@valkey/valkey-glide";
import { db, password, port, sleep, step, until, version } from "./steps.mjs";

version("@valkey/valkey-glide");

for (const [name, protocol] of [["RESP3", ProtocolVersion.RESP3], ["RESP2", ProtocolVersion.RESP2]]) {
  const it = (what, body) => step(`${name}, ${what}`, body);
  const opened = [];

  async function client(options = {}) {
    const made = await GlideClient.createClient({
      addresses: [{ host: "127.0.0.1", port }],
      credentials: { password },
      databaseId: db,
      protocol,
      requestTimeout: 15_000,
      ...options,
    });
    opened.push(made);
    return made;
  }

  const redis = await client({ clientName: "the-session" });
  await redis.flushdb();

  await it("types", async () => {
    await redis.hset("hash", { one: "1", two: "2" });
    await redis.zadd("sorted", { low: 1.5, high: 2.5 });
    return [await redis.set("key", "value"), await redis.get("key"), await redis.hgetall("hash"), await redis.zscore("sorted", "high")];
  });

  await it("an error of a type", () => redis.lpush("key", ["x"]));

  await it("a value of 20 MiB", async () => {
    const large = Buffer.alloc(20 << 20, "abcdefg");
    await redis.set("large", large);
    const got = await redis.get("large", { decoder: Decoder.Bytes });
    await redis.del(["large"]);
    return large.compare(got) === 0;
  });

  await it("commands at once", async () => {
    const numbers = await Promise.all(Array.from({ length: 1000 }, () => redis.incr("n")));
    return Math.max(...numbers);
  });

  await it("a pipeline", () => redis.exec(new Batch(false).set("p", "1").incr("p").lpush("p", ["x"]), false).then((all) => all.map(String)));
  await it("MULTI", () => redis.exec(new Batch(true).set("a", "1").incr("a").get("a"), true));

  await it("WATCH, changed meanwhile", async () => {
    const watching = await client();
    await watching.watch(["a"]);
    await redis.set("a", "changed");
    return watching.exec(new Batch(true).set("a", "never"), true);
  });

  await it("a script by EVALSHA, unknown at first", async () => {
    const script = new Script(`-- ${Math.random()}\nredis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])`);
    return [await redis.invokeScript(script, { keys: ["key"], args: ["one"] }), await redis.invokeScript(script, { keys: ["key"], args: ["two"] })];
  });

  await it("pub/sub with patterns", async () => {
    const heard = [];
    await client({
      pubsubSubscriptions: {
        channelsAndPatterns: { 0: new Set(["news"]), 1: new Set(["n?ws"]) },
        callback: (message) => heard.push([message.channel, message.message, message.pattern ?? ""]),
      },
    });
    await until(async () => (await redis.pubsubNumPat()) === 1);
    await redis.publish("hello", "news");
    await until(() => heard.length === 2);
    return [heard.map(String).sort(), await redis.pubsubChannels()];
  });

  await it("__keyevent@INDEX__ expired", async () => {
    const heard = [];
    await client({
      pubsubSubscriptions: { channelsAndPatterns: { 0: new Set([`__keyevent@${db}__:expired`]) }, callback: (message) => heard.push(message.message) },
    });
    await redis.customCommand(["SET", "gone", "1", "PX", "20"]);
    await until(async () => (await redis.exists(["gone"])) === 0 && heard.length);
    return heard;
  });

  await it("BLPOP that waits, and one that waits in vain", async () => {
    const waiting = await client();
    const popped = waiting.blpop(["queue"], 10);
    await sleep(100);
    await redis.rpush("queue", ["job"]);
    return [await popped, await waiting.blpop(["queue"], 0.1), await waiting.ping()];
  });

  await it("a stream with a group", async () => {
    await redis.xgroupCreate("stream", "group", "0", { mkStream: true });
    const id = await redis.xadd("stream", [["field", "value"]]);
    const read = await redis.xreadgroup("group", "me", { stream: ">" }, { count: 10, block: 1000 });
    return [JSON.stringify(read).includes('["field","value"]'), await redis.xack("stream", "group", [id])];
  });

  await it("SCAN", async () => {
    await redis.mset(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`key:${i}`, "x"])));
    const found = new Set();
    let cursor = "0";
    do {
      const [next, keys] = await redis.scan(cursor, { match: "key:*", count: 50 });
      keys.forEach((key) => found.add(key));
      cursor = next;
    } while (cursor !== "0");
    return found.size;
  });

  await it("the name", () => redis.clientGetName());
  await it("INFO", async () => /redis_version:/.test(await redis.info()));
  await it("CONFIG GET maxmemory", () => redis.configGet(["maxmemory"]));
  await it("CLIENT LIST", async () => (await redis.customCommand(["CLIENT", "LIST"])).includes("name=the-session"));
  await it("the own database", () => redis.select(db));
  await it("another database", async () => [await redis.select(db + 1), await redis.select(db)]);

  await it("a new password without and with a log-in", async () => [
    await redis.updateConnectionPassword(password, false),
    await redis.updateConnectionPassword(password, true),
  ]);

  await it("log in with a wrong password", async () => {
    // The proxy answers wrong passwords late, and later each time. The time-out of GLIDE is 2 s by default.
    const advancedConfiguration = { connectionTimeout: 15_000 };
    const problem = await client({ credentials: { password: "not this one" }, advancedConfiguration, connectionBackoff: { numberOfRetries: 1, factor: 1, exponentBase: 2 } }).catch(
      (error) => error.message,
    );
    return /WRONGPASS|AuthenticationFailed/.test(problem) ? "refused" : problem;
  });
  opened.forEach((each) => each.close());
}
process.exit(0);
