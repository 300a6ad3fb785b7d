import io.lettuce.core.ClientOptions;
import io.lettuce.core.Consumer;
import io.lettuce.core.KeyScanCursor;
import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisURI;
import io.lettuce.core.ScanArgs;
import io.lettuce.core.ScanCursor;
import io.lettuce.core.ScriptOutputType;
import io.lettuce.core.SetArgs;
import io.lettuce.core.TrackingArgs;
import io.lettuce.core.XGroupCreateArgs;
import io.lettuce.core.XReadArgs;
import io.lettuce.core.api.StatefulRedisConnection;
import io.lettuce.core.api.sync.RedisCommands;
import io.lettuce.core.codec.ByteArrayCodec;
import io.lettuce.core.protocol.ProtocolVersion;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import io.lettuce.core.pubsub.StatefulRedisPubSubConnection;
import io.lettuce.core.support.caching.CacheAccessor;
import io.lettuce.core.support.caching.CacheFrontend;
import io.lettuce.core.support.caching.ClientSideCaching;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Future;

/** A session of Lettuce, in both protocols. */
final class LettuceSession {
    static RedisURI where(String password, int index) {
        return RedisURI.builder().withHost("127.0.0.1").withPort(Steps.PORT).withPassword(password.toCharArray())
            .withDatabase(index).withClientName("the-session").build();
    }

    static RedisClient client(ProtocolVersion protocol, String password, int index) {
        RedisClient made = RedisClient.create(where(password, index));
        made.setOptions(ClientOptions.builder().protocolVersion(protocol).build());
        return made;
    }

    public static void main(String[] arguments) throws Exception {
        Steps.version("io.lettuce", "lettuce-core");
        session("RESP2, ", ProtocolVersion.RESP2);
        session("RESP3, ", ProtocolVersion.RESP3);
        System.exit(0);
    }

    static void session(String in, ProtocolVersion protocol) {
        RedisClient client = client(protocol, Steps.PASSWORD, Steps.INDEX);
        StatefulRedisConnection<String, String> connection = client.connect();
        RedisCommands<String, String> c = connection.sync();
        c.flushdb();

        Steps.step(in + "types", () -> {
            c.hset("hash", Map.of("one", "1", "two", "2"));
            c.zadd("sorted", 1.5, "low");
            return new Object[] {c.set("key", "value", SetArgs.Builder.ex(100)), c.get("key"), c.get("none"), new TreeMap<>(c.hgetall("hash")), c.zscore("sorted", "low")};
        });
        Steps.step(in + "an error of a type", () -> c.lpush("key", "x"));
        Steps.step(in + "a value of 20 MiB", () -> {
            try (var bytes = client.connect(ByteArrayCodec.INSTANCE)) {
                byte[] large = new byte[20 << 20];
                Arrays.fill(large, (byte) 'x');
                bytes.sync().set("large".getBytes(), large);
                boolean same = Arrays.equals(large, bytes.sync().get("large".getBytes()));
                c.del("large");
                return same;
            }
        });
        Steps.step(in + "commands at once are a pipeline", () -> {
            List<Future<Long>> all = new ArrayList<>();
            for (int i = 0; i < 2000; i++) all.add(connection.async().incr("n"));
            return all.get(1999).get();
        });
        Steps.step(in + "MULTI", () -> {
            c.multi();
            c.set("a", "1");
            c.incr("a");
            var result = c.exec();
            return new Object[] {result.wasDiscarded(), result.stream().toList()};
        });
        Steps.step(in + "WATCH, changed meanwhile", () -> {
            try (var other = client.connect()) {
                c.watch("a");
                other.sync().set("a", "changed");
                c.multi();
                c.set("a", "never");
                return c.exec().wasDiscarded();
            }
        });
        Steps.step(in + "a script by EVALSHA", () -> {
            String sha = c.scriptLoad("redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])");
            Object got = c.evalsha(sha, ScriptOutputType.VALUE, new String[] {"key"}, "one");
            return new Object[] {got, c.scriptExists(sha)};
        });
        Steps.step(in + "BLPOP that waits, and one that waits in vain", () -> {
            try (var waiting = client.connect()) {
                Steps.later(100, () -> c.rpush("queue", "job"));
                return new Object[] {waiting.sync().blpop(10, "queue"), waiting.sync().blpop(0.2, "queue")};
            }
        });
        Steps.step(in + "a stream with a group", () -> {
            c.xgroupCreate(XReadArgs.StreamOffset.from("stream", "0"), "group", XGroupCreateArgs.Builder.mkstream());
            String id = c.xadd("stream", Map.of("field", "value"));
            var read = c.xreadgroup(Consumer.from("group", "me"), XReadArgs.Builder.count(10), XReadArgs.StreamOffset.lastConsumed("stream"));
            return new Object[] {read.get(0).getBody(), c.xpending("stream", "group").getCount(), c.xack("stream", "group", id)};
        });
        Steps.step(in + "pub/sub with patterns", () -> heard(client, "n?ws", () -> c.publish("news", "hello")));
        Steps.step(in + "__keyevent@INDEX__ expired", () -> heard(client, "__keyevent@" + Steps.INDEX + "__:expired", () -> {
            c.set("gone", "1", SetArgs.Builder.px(20));
            return Steps.until(() -> c.exists("gone") == 0);
        }));
        Steps.step(in + "SCAN", () -> {
            for (int i = 0; i < 300; i++) connection.async().set("key:" + i, "x");
            Set<String> found = new HashSet<>();
            ScanArgs matching = ScanArgs.Builder.matches("key:*").limit(50);
            KeyScanCursor<String> page = c.scan(matching);
            found.addAll(page.getKeys());
            while (!page.isFinished()) {
                page = c.scan(ScanCursor.of(page.getCursor()), matching);
                found.addAll(page.getKeys());
            }
            return found.size();
        });
        Steps.step(in + "it comes back after a lost connection", () -> {
            try (var lost = client.connect()) {
                lost.sync().set("key", "kept");
                lost.async().quit();
                Steps.until(() -> { try { return lost.sync().get("key") != null; } catch (Exception closed) { return false; } });
                return lost.sync().get("key");
            }
        });
        Steps.step(in + "the name", () -> c.clientGetname());
        Steps.step(in + "INFO", () -> c.info().contains("redis_version:"));
        Steps.step(in + "CONFIG GET maxmemory", () -> c.configGet("maxmemory"));
        Steps.step(in + "CLIENT LIST", () -> c.clientList().contains("name=the-session"));
        Steps.step(in + "ROLE", () -> c.role().get(0));
        Steps.step(in + "another database", () -> client(protocol, Steps.PASSWORD, Steps.INDEX + 1).connect().sync().ping());
        Steps.step(in + "log in with a wrong password", () -> client(protocol, "not this one", Steps.INDEX).connect().sync().ping());
        if (protocol == ProtocolVersion.RESP3) {
            Steps.step(in + "client-side caching", () -> {
                try (var caching = client.connect()) {
                    Map<String, String> own = new ConcurrentHashMap<>();
                    CacheFrontend<String, String> cache = ClientSideCaching.enable(CacheAccessor.forMap(own), caching, TrackingArgs.Builder.enabled());
                    c.set("cached", "one");
                    String first = cache.get("cached") + cache.get("cached");
                    c.set("cached", "two");
                    return new Object[] {first, Steps.until(() -> "two".equals(cache.get("cached")))};
                }
            });
        }
        client.shutdownAsync();
    }

    static Object heard(RedisClient client, String pattern, Callable<Object> cause) throws Exception {
        List<String> found = Collections.synchronizedList(new ArrayList<>());
        try (StatefulRedisPubSubConnection<String, String> listening = client.connectPubSub()) {
            listening.addListener(new RedisPubSubAdapter<>() {
                @Override public void message(String by, String channel, String message) { found.add(message); }
            });
            listening.sync().psubscribe(pattern);
            Object counted = cause.call();
            Steps.until(() -> !found.isEmpty());
            listening.sync().punsubscribe(pattern);
            return new Object[] {counted, found};
        }
    }
}
