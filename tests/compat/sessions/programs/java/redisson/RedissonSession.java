import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.redisson.Redisson;
import org.redisson.api.DeletedObjectListener;
import org.redisson.api.ExpiredObjectListener;
import org.redisson.api.RBatch;
import org.redisson.api.RBlockingQueue;
import org.redisson.api.RBucket;
import org.redisson.api.RDelayedQueue;
import org.redisson.api.RLock;
import org.redisson.api.RMapCache;
import org.redisson.api.RRateLimiter;
import org.redisson.api.RScript;
import org.redisson.api.RTopic;
import org.redisson.api.RTransaction;
import org.redisson.api.RateType;
import org.redisson.api.RedissonClient;
import org.redisson.api.TransactionOptions;
import org.redisson.api.options.LocalCachedMapOptions;
import org.redisson.client.codec.StringCodec;
import org.redisson.config.Config;
import org.redisson.config.Protocol;

/** A session of Redisson: locks, queues, caches, topics, listeners, limits. */
final class RedissonSession {
    static RedissonClient client(String password, int index) {
        Config config = new Config();
        config.setCodec(StringCodec.INSTANCE).setProtocol(Protocol.RESP2).setPassword(password);
        config.useSingleServer().setAddress("redis://127.0.0.1:" + Steps.PORT).setDatabase(index)
            .setConnectionMinimumIdleSize(2).setConnectionPoolSize(16).setSubscriptionConnectionMinimumIdleSize(1).setTimeout(10_000)
            .setRetryAttempts(1);
        return Redisson.create(config);
    }

    public static void main(String[] arguments) throws Exception {
        Steps.version("org.redisson", "redisson");
        RedissonClient c = client(Steps.PASSWORD, Steps.INDEX);
        RedissonClient other = client(Steps.PASSWORD, Steps.INDEX);
        c.getKeys().flushdb();

        Steps.step("types", () -> {
            RBucket<String> bucket = c.getBucket("key");
            bucket.set("value", java.time.Duration.ofSeconds(100));
            Map<String, String> hash = c.getMap("hash");
            hash.putAll(Map.of("one", "1", "two", "2"));
            c.<String>getScoredSortedSet("sorted").add(1.5, "low");
            c.getList("list").addAll(List.of("a", "b"));
            return new Object[] {bucket.get(), new TreeMap<>(hash), c.getScoredSortedSet("sorted").getScore("low"), c.getList("list").readAll(), c.getAtomicLong("n").incrementAndGet()};
        });
        Steps.step("a value of 20 MiB", () -> {
            String large = "x".repeat(20 << 20);
            c.getBucket("large").set(large);
            boolean same = large.equals(c.getBucket("large").get());
            c.getBucket("large").delete();
            return same;
        });
        Steps.step("a batch", () -> {
            RBatch batch = c.createBatch();
            for (int i = 0; i < 1000; i++) batch.getBucket("key:" + i).setAsync("x");
            batch.getAtomicLong("sum").addAndGetAsync(7);
            List<?> replies = batch.execute().getResponses();
            return new Object[] {replies.size(), replies.get(1000)};
        });
        Steps.step("a transaction", () -> {
            RTransaction transaction = c.createTransaction(TransactionOptions.defaults());
            transaction.getBucket("in").set("transaction");
            transaction.getMap("map").put("a", "1");
            transaction.commit();
            return new Object[] {c.getBucket("in").get(), c.getMap("map").get("a")};
        });
        Steps.step("a lock, its watchdog, and one that waits for it", () -> {
            RLock lock = c.getLock("lock");
            lock.lock();
            boolean held = other.getLock("lock").tryLock();
            CountDownLatch got = new CountDownLatch(1);
            Thread waits = new Thread(() -> { other.getLock("lock").lock(); got.countDown(); other.getLock("lock").unlock(); });
            waits.start();
            Thread.sleep(200);
            long before = got.getCount();
            lock.unlock();
            return new Object[] {held, before, got.await(10, TimeUnit.SECONDS)};
        });
        Steps.step("a fair lock, a read-write lock, a semaphore, a latch", () -> {
            RLock fair = c.getFairLock("fair");
            fair.lock(10, TimeUnit.SECONDS);
            fair.unlock();
            c.getReadWriteLock("rw").readLock().lock();
            boolean writes = other.getReadWriteLock("rw").writeLock().tryLock();
            c.getSemaphore("semaphore").trySetPermits(2);
            boolean permit = other.getSemaphore("semaphore").tryAcquire(3);
            c.getCountDownLatch("latch").trySetCount(1);
            Steps.later(100, () -> other.getCountDownLatch("latch").countDown());
            return new Object[] {writes, permit, c.getCountDownLatch("latch").await(10, TimeUnit.SECONDS)};
        });
        Steps.step("a blocking queue, and a delayed one", () -> {
            RBlockingQueue<String> queue = c.getBlockingQueue("queue");
            Steps.later(100, () -> other.getQueue("queue").add("job"));
            String first = queue.poll(10, TimeUnit.SECONDS);
            RDelayedQueue<String> delayed = c.getDelayedQueue(queue);
            delayed.offer("later", 300, TimeUnit.MILLISECONDS);
            return new Object[] {first, queue.poll(10, TimeUnit.SECONDS)};
        });
        Steps.step("a topic, and a pattern", () -> {
            List<String> found = Collections.synchronizedList(new ArrayList<>());
            RTopic topic = other.getTopic("news");
            topic.addListener(String.class, (channel, message) -> found.add(message));
            other.getPatternTopic("n?ws").addListener(String.class, (pattern, channel, message) -> found.add(message));
            long count = c.getTopic("news").publish("hello");
            Steps.until(() -> found.size() == 2);
            return new Object[] {count, found, c.getTopic("news").countSubscribers()};
        });
        Steps.step("a reliable topic", () -> {
            List<String> found = Collections.synchronizedList(new ArrayList<>());
            other.getReliableTopic("reliable").addListener(String.class, (channel, message) -> found.add(message));
            c.getReliableTopic("reliable").publish("hello");
            Steps.until(() -> !found.isEmpty());
            return found;
        });
        Steps.step("a map whose entries expire", () -> {
            RMapCache<String, String> map = c.getMapCache("cache");
            map.put("short", "1", 100, TimeUnit.MILLISECONDS);
            map.put("long", "1", 100, TimeUnit.SECONDS);
            Thread.sleep(200);
            return new Object[] {map.get("short"), map.get("long")};
        });
        Steps.step("a map with a local cache", () -> localCache(c, other, "local", LocalCachedMapOptions.ExpirationEventPolicy.SUBSCRIBE_WITH_KEYEVENT_PATTERN));
        Steps.step("a map with a local cache, without key events", () -> localCache(c, other, "quiet", LocalCachedMapOptions.ExpirationEventPolicy.DONT_SUBSCRIBE));
        Steps.step("a map with a local cache, with events of its key", () -> localCache(c, other, "own", LocalCachedMapOptions.ExpirationEventPolicy.SUBSCRIBE_WITH_KEYSPACE_CHANNEL));
        Steps.step("a listener to keys that expire", () -> listener(c, new ExpiredObjectListener() {
            @Override public void onExpired(String name) { heard.add(name); }
        }, () -> {
            c.getBucket("gone").set("1", java.time.Duration.ofMillis(50));
            Thread.sleep(100);
            return c.getBucket("gone").isExists();
        }));
        Steps.step("a listener to keys that are deleted", () -> listener(c, new DeletedObjectListener() {
            @Override public void onDeleted(String name) { heard.add(name); }
        }, () -> {
            c.getBucket("gone").set("1");
            return c.getBucket("gone").delete();
        }));
        Steps.step("a rate limit", () -> {
            RRateLimiter limiter = c.getRateLimiter("limiter");
            limiter.trySetRate(RateType.OVERALL, 2, java.time.Duration.ofSeconds(60));
            return new Object[] {limiter.tryAcquire(), limiter.tryAcquire(), limiter.tryAcquire()};
        });
        Steps.step("a script", () -> c.getScript(StringCodec.INSTANCE).eval(RScript.Mode.READ_WRITE, "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])", RScript.ReturnType.STRING, List.of("key"), "one"));
        Steps.step("keys", () -> c.getKeys().getKeysStream(org.redisson.api.options.KeysScanOptions.defaults().pattern("key:*").chunkSize(50)).distinct().count());
        Steps.step("another database", () -> client(Steps.PASSWORD, Steps.INDEX + 1).getBucket("key").isExists());
        Steps.step("log in with a wrong password", () -> client("not this one", Steps.INDEX).getBucket("key").isExists());
        System.exit(0);
    }

    static Object localCache(RedissonClient c, RedissonClient other, String name, LocalCachedMapOptions.ExpirationEventPolicy policy) throws Exception {
        var one = c.getLocalCachedMap(LocalCachedMapOptions.<String, String>name(name).expirationEventPolicy(policy));
        var two = other.getLocalCachedMap(LocalCachedMapOptions.<String, String>name(name).expirationEventPolicy(policy));
        one.put("a", "1");
        String first = two.get("a");
        one.put("a", "2");
        return new Object[] {first, Steps.until(() -> "2".equals(two.get("a")))};
    }

    static final List<String> heard = Collections.synchronizedList(new ArrayList<>());

    static Object listener(RedissonClient c, org.redisson.api.ObjectListener listener, Callable<Object> cause) throws Exception {
        heard.clear();
        int id = c.getBucket("gone").addListener(listener);
        Object caused = cause.call();
        Steps.until(() -> !heard.isEmpty());
        c.getBucket("gone").removeListener(id);
        return new Object[] {caused, heard};
    }
}
