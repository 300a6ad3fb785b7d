import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import redis.clients.jedis.AbstractTransaction;
import redis.clients.jedis.ConnectionPoolConfig;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.JedisPubSub;
import redis.clients.jedis.Pipeline;
import redis.clients.jedis.RedisClient;
import redis.clients.jedis.RedisProtocol;
import redis.clients.jedis.Response;
import redis.clients.jedis.StreamEntryID;
import redis.clients.jedis.csc.CacheConfig;
import redis.clients.jedis.params.ScanParams;
import redis.clients.jedis.params.SetParams;
import redis.clients.jedis.params.XReadGroupParams;

/** A session of Jedis, in both protocols. */
final class JedisSession {
    static final HostAndPort WHERE = new HostAndPort("127.0.0.1", Steps.PORT);

    static DefaultJedisClientConfig.Builder settings(RedisProtocol protocol) {
        return DefaultJedisClientConfig.builder().password(Steps.PASSWORD).database(Steps.INDEX).protocol(protocol)
            .socketTimeoutMillis(15_000).clientName("the-session");
    }

    public static void main(String[] arguments) throws Exception {
        Steps.version("redis.clients", "jedis");
        session("RESP2, ", RedisProtocol.RESP2);
        session("RESP3, ", RedisProtocol.RESP3);
        System.exit(0);
    }

    static void session(String in, RedisProtocol protocol) {
        ConnectionPoolConfig pool = new ConnectionPoolConfig();
        pool.setMaxTotal(8);
        RedisClient c = RedisClient.builder().hostAndPort(WHERE).clientConfig(settings(protocol).build()).poolConfig(pool).build();
        Jedis one = new Jedis(WHERE, settings(protocol).build());
        c.flushDB();

        Steps.step(in + "types", () -> {
            c.hset("hash", Map.of("one", "1", "two", "2"));
            c.zadd("sorted", 1.5, "low");
            return new Object[] {c.set("key", "value", SetParams.setParams().ex(100)), c.get("key"), c.get("none"), new TreeMap<>(c.hgetAll("hash")), c.zscore("sorted", "low")};
        });
        Steps.step(in + "an error of a type", () -> c.lpush("key", "x"));
        Steps.step(in + "a value of 20 MiB", () -> {
            byte[] large = new byte[20 << 20];
            Arrays.fill(large, (byte) 'x');
            c.set("large".getBytes(), large);
            boolean same = Arrays.equals(large, c.get("large".getBytes()));
            c.del("large");
            return same;
        });
        Steps.step(in + "a pipeline of 2,000 commands, with an error", () -> {
            try (Pipeline pipeline = (Pipeline) c.pipelined()) {
                for (int i = 0; i < 1000; i++) {
                    pipeline.set("key:" + i, "" + i);
                    pipeline.incr("sum");
                }
                pipeline.lpush("sum", "x");
                List<Object> replies = pipeline.syncAndReturnAll();
                return new Object[] {replies.size(), replies.get(1999), String.valueOf(replies.get(2000))};
            }
        });
        Steps.step(in + "MULTI", () -> {
            try (AbstractTransaction transaction = c.multi()) {
                transaction.set("a", "1");
                Response<Long> number = transaction.incr("a");
                List<Object> replies = transaction.exec();
                return new Object[] {replies, number.get()};
            }
        });
        Steps.step(in + "WATCH, changed meanwhile", () -> {
            try (AbstractTransaction transaction = c.transaction(false)) {
                transaction.watch("a");
                c.set("a", "changed");
                transaction.multi();
                transaction.set("a", "never");
                return transaction.exec();
            }
        });
        Steps.step(in + "a script by EVALSHA", () -> {
            String sha = c.scriptLoad("redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])", "key");
            return new Object[] {c.evalsha(sha, List.of("key"), List.of("one")), one.scriptExists(sha)};
        });
        Steps.step(in + "an unknown script", () -> c.evalsha("0".repeat(40)));
        Steps.step(in + "BLPOP that waits, and one that waits in vain", () -> {
            Steps.later(100, () -> c.rpush("queue", "job"));
            return new Object[] {c.blpop(10, "queue"), c.blpop(0.2, "queue")};
        });
        Steps.step(in + "a stream with a group", () -> {
            c.xgroupCreate("stream", "group", new StreamEntryID("0-0"), true);
            StreamEntryID id = c.xadd("stream", StreamEntryID.NEW_ENTRY, Map.of("field", "value"));
            var read = c.xreadGroup("group", "me", XReadGroupParams.xReadGroupParams().block(1000).count(10), Map.of("stream", StreamEntryID.XREADGROUP_UNDELIVERED_ENTRY));
            return new Object[] {read.get(0).getValue().get(0).getFields(), c.xpending("stream", "group").getTotal(), c.xack("stream", "group", id)};
        });
        Steps.step(in + "pub/sub with patterns", () -> heard(protocol, c, "n?ws", () -> c.publish("news", "hello")));
        Steps.step(in + "__keyevent@INDEX__ expired", () -> heard(protocol, c, "__keyevent@" + Steps.INDEX + "__:expired", () -> {
            c.set("gone", "1", SetParams.setParams().px(20));
            return Steps.until(() -> !c.exists("gone"));
        }));
        Steps.step(in + "SCAN", () -> {
            Set<String> found = new HashSet<>();
            String cursor = "0";
            do {
                var page = c.scan(cursor, new ScanParams().match("key:*").count(50));
                found.addAll(page.getResult());
                cursor = page.getCursor();
            } while (!cursor.equals("0"));
            return found.size();
        });
        Steps.step(in + "twenty threads share a pool", () -> {
            c.del("n");
            List<Thread> threads = new ArrayList<>();
            for (int i = 0; i < 20; i++) {
                Thread thread = new Thread(() -> { for (int j = 0; j < 50; j++) c.incr("n"); });
                thread.start();
                threads.add(thread);
            }
            for (Thread thread : threads) thread.join();
            return c.get("n");
        });
        Steps.step(in + "the name", () -> one.clientGetname());
        Steps.step(in + "INFO", () -> one.info().contains("redis_version:"));
        Steps.step(in + "CONFIG GET maxmemory", () -> one.configGet("maxmemory"));
        Steps.step(in + "CLIENT LIST", () -> one.clientList().contains("name=the-session"));
        Steps.step(in + "ROLE", () -> one.role().get(0));
        Steps.step(in + "another database", () -> new Jedis(WHERE, settings(protocol).database(Steps.INDEX + 1).build()).ping());
        Steps.step(in + "log in with a wrong password", () -> new Jedis(WHERE, settings(protocol).password("not this one").build()).ping());
        if (protocol == RedisProtocol.RESP3) {
            Steps.step(in + "a cache of Jedis, which is for Redis 7.4 and newer only", () -> {
                try (RedisClient caching = RedisClient.builder().hostAndPort(WHERE).clientConfig(settings(protocol).build()).cacheConfig(CacheConfig.builder().build()).build()) {
                    c.set("cached", "one");
                    String first = caching.get("cached") + caching.get("cached");
                    c.set("cached", "two");
                    return new Object[] {first, Steps.until(() -> "two".equals(caching.get("cached"))), caching.getCache().getSize()};
                }
            });
        }
    }

    /** What a subscriber of a pattern hears. It has a connection of its own. */
    static Object heard(RedisProtocol protocol, RedisClient c, String pattern, java.util.concurrent.Callable<Object> cause) throws Exception {
        List<String> found = Collections.synchronizedList(new ArrayList<>());
        List<String> failed = Collections.synchronizedList(new ArrayList<>());
        try (Jedis own = new Jedis(WHERE, settings(protocol).build())) {
            JedisPubSub listener = new JedisPubSub() {
                @Override public void onPMessage(String by, String channel, String message) { found.add(message); }
            };
            Thread thread = new Thread(() -> {
                try { own.psubscribe(listener, pattern); } catch (Exception error) { failed.add(error.getMessage()); }
            });
            thread.start();
            Steps.until(() -> listener.isSubscribed() || !failed.isEmpty());
            Object counted = failed.isEmpty() ? cause.call() : null;
            if (failed.isEmpty()) Steps.until(() -> !found.isEmpty());
            if (listener.isSubscribed()) listener.punsubscribe();
            thread.join(5000);
            return new Object[] {counted, found, failed};
        }
    }
}
