import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.springframework.data.redis.connection.RedisStandaloneConfiguration;
import org.springframework.data.redis.connection.lettuce.LettuceConnectionFactory;
import org.springframework.data.redis.connection.stream.Consumer;
import org.springframework.data.redis.connection.stream.ReadOffset;
import org.springframework.data.redis.connection.stream.StreamOffset;
import org.springframework.data.redis.connection.stream.StreamRecords;
import org.springframework.data.redis.core.RedisCallback;
import org.springframework.data.redis.core.RedisKeyExpiredEvent;
import org.springframework.data.redis.core.RedisOperations;
import org.springframework.data.redis.core.ScanOptions;
import org.springframework.data.redis.core.SessionCallback;
import org.springframework.data.redis.core.StringRedisTemplate;
import org.springframework.data.redis.core.RedisTemplate;
import org.springframework.data.redis.core.script.RedisScript;
import org.springframework.data.redis.cache.RedisCacheManager;
import org.springframework.data.redis.listener.KeyExpirationEventMessageListener;
import org.springframework.data.redis.listener.PatternTopic;
import org.springframework.data.redis.listener.RedisMessageListenerContainer;
import org.springframework.data.redis.serializer.RedisSerializer;
import org.springframework.session.Session;
import org.springframework.session.SessionRepository;
import org.springframework.session.data.redis.RedisIndexedSessionRepository;
import org.springframework.session.data.redis.RedisSessionRepository;
import org.springframework.session.data.redis.config.ConfigureNotifyKeyspaceEventsAction;

/** A session of Spring Data Redis with Lettuce, its cache and listeners, and of Spring Session. */
final class SpringSession {
    static LettuceConnectionFactory factory(String password, int index) {
        RedisStandaloneConfiguration where = new RedisStandaloneConfiguration("127.0.0.1", Steps.PORT);
        where.setPassword(password);
        where.setDatabase(index);
        LettuceConnectionFactory made = new LettuceConnectionFactory(where);
        made.afterPropertiesSet();
        made.start();
        return made;
    }

    public static void main(String[] arguments) throws Exception {
        Steps.show("version", "Session " + org.springframework.session.Session.class.getPackage().getImplementationVersion()
            + ", Data " + RedisTemplate.class.getPackage().getImplementationVersion());
        LettuceConnectionFactory factory = factory(Steps.PASSWORD, Steps.INDEX);
        StringRedisTemplate c = new StringRedisTemplate(factory);
        RedisMessageListenerContainer listeners = new RedisMessageListenerContainer();
        listeners.setConnectionFactory(factory);
        listeners.afterPropertiesSet();
        listeners.start();
        c.execute((RedisCallback<Object>) connection -> { connection.serverCommands().flushDb(); return null; });

        Steps.step("types", () -> {
            c.opsForValue().set("key", "value", Duration.ofSeconds(100));
            c.opsForHash().putAll("hash", Map.of("one", "1", "two", "2"));
            c.opsForZSet().add("sorted", "low", 1.5);
            return new Object[] {c.opsForValue().get("key"), new TreeMap<>(c.opsForHash().entries("hash")), c.opsForZSet().score("sorted", "low")};
        });
        Steps.step("a pipeline", () -> c.executePipelined((RedisCallback<Object>) connection -> {
            for (int i = 0; i < 1000; i++) connection.stringCommands().set(("key:" + i).getBytes(), "x".getBytes());
            return null;
        }).size());
        Steps.step("MULTI", () -> c.execute(new SessionCallback<List<Object>>() {
            @Override @SuppressWarnings("unchecked") public List<Object> execute(RedisOperations operations) {
                operations.multi();
                operations.opsForValue().set("a", "1");
                operations.opsForValue().increment("a");
                return operations.exec();
            }
        }));
        Steps.step("a script by EVALSHA", () -> c.execute(RedisScript.of("redis.call('SET', KEYS[1], ARGV[1]); return redis.call('GET', KEYS[1])", String.class), List.of("key"), "one"));
        Steps.step("BLPOP that waits", () -> {
            Steps.later(100, () -> c.opsForList().rightPush("queue", "job"));
            return c.opsForList().leftPop("queue", Duration.ofSeconds(10));
        });
        Steps.step("a stream with a group", () -> {
            var id = c.opsForStream().add(StreamRecords.newRecord().in("stream").ofMap(Map.of("field", "value")));
            c.opsForStream().createGroup("stream", ReadOffset.from("0"), "group");
            var read = c.opsForStream().read(Consumer.from("group", "me"), StreamOffset.create("stream", ReadOffset.lastConsumed()));
            return new Object[] {read.get(0).getValue(), c.opsForStream().acknowledge("stream", "group", id)};
        });
        Steps.step("pub/sub with patterns", () -> {
            List<String> found = Collections.synchronizedList(new ArrayList<>());
            listeners.addMessageListener((message, pattern) -> found.add(new String(message.getBody(), StandardCharsets.UTF_8)), new PatternTopic("n?ws"));
            Long count = c.convertAndSend("news", "hello");
            Steps.until(() -> !found.isEmpty());
            return new Object[] {count, found};
        });
        Steps.step("SCAN", () -> {
            try (var keys = c.scan(ScanOptions.scanOptions().match("key:*").count(50).build())) {
                return keys.stream().distinct().count();
            }
        });
        Steps.step("a cache, and its clearing by SCAN", () -> {
            RedisCacheManager manager = RedisCacheManager.create(factory);
            manager.afterPropertiesSet();
            var cache = manager.getCache("users");
            cache.put("one", "1");
            String found = cache.get("one", String.class);
            cache.clear();
            return new Object[] {found, Steps.until(() -> cache.get("one") == null), cache.get("two", () -> "made")};
        });
        Steps.step("a listener to keys that expire, of the own database", () -> {
            List<String> found = Collections.synchronizedList(new ArrayList<>());
            listeners.addMessageListener((message, pattern) -> found.add(new String(message.getBody(), StandardCharsets.UTF_8)), new PatternTopic("__keyevent@" + Steps.INDEX + "__:expired"));
            c.opsForValue().set("gone", "1", Duration.ofMillis(50));
            Thread.sleep(100);
            c.hasKey("gone");
            Steps.until(() -> !found.isEmpty());
            return found;
        });
        Steps.step("Spring's KeyExpirationEventMessageListener", () -> {
            List<String> found = Collections.synchronizedList(new ArrayList<>());
            RedisMessageListenerContainer own = new RedisMessageListenerContainer();
            own.setConnectionFactory(factory(Steps.PASSWORD, Steps.INDEX));
            own.setMaxSubscriptionRegistrationWaitingTime(3000);
            own.afterPropertiesSet();
            own.start();
            KeyExpirationEventMessageListener listener = new KeyExpirationEventMessageListener(own);
            listener.setApplicationEventPublisher(event -> found.add(new String(((RedisKeyExpiredEvent<?>) event).getSource(), StandardCharsets.UTF_8)));
            listener.afterPropertiesSet();
            c.opsForValue().set("gone", "1", Duration.ofMillis(50));
            Thread.sleep(100);
            c.hasKey("gone");
            Steps.until(() -> !found.isEmpty());
            return found;
        });
        RedisTemplate<String, Object> template = new RedisTemplate<>();
        template.setConnectionFactory(factory);
        template.setKeySerializer(RedisSerializer.string());
        template.setHashKeySerializer(RedisSerializer.string());
        template.afterPropertiesSet();
        Steps.step("Spring Session", () -> kept(new RedisSessionRepository(template)));
        Steps.step("Spring Session's ConfigureNotifyKeyspaceEventsAction", () -> {
            try (var connection = factory.getConnection()) {
                new ConfigureNotifyKeyspaceEventsAction().configure(connection);
            }
            return "done";
        });
        Steps.step("Spring Session, indexed, and its events", () -> {
            List<String> found = Collections.synchronizedList(new ArrayList<>());
            RedisIndexedSessionRepository sessions = new RedisIndexedSessionRepository(template);
            sessions.setDatabase(Steps.INDEX);
            sessions.setApplicationEventPublisher(event -> found.add(event.getClass().getSimpleName()));
            listeners.addMessageListener(sessions, List.of(new org.springframework.data.redis.listener.ChannelTopic(sessions.getSessionDeletedChannel()),
                new org.springframework.data.redis.listener.ChannelTopic(sessions.getSessionExpiredChannel())));
            listeners.addMessageListener(sessions, new PatternTopic(sessions.getSessionCreatedChannelPrefix() + "*"));
            var session = sessions.createSession();
            session.setAttribute(org.springframework.session.FindByIndexNameSessionRepository.PRINCIPAL_NAME_INDEX_NAME, "me");
            sessions.save(session);
            int own = sessions.findByPrincipalName("me").size();
            Steps.until(() -> found.size() == 1);
            sessions.deleteById(session.getId());
            Steps.until(() -> found.size() == 2);
            return new Object[] {own, found, sessions.findById(session.getId())};
        });
        Steps.step("INFO", () -> c.execute((RedisCallback<Object>) connection -> connection.serverCommands().info().containsKey("redis_version")));
        Steps.step("CLIENT LIST", () -> !c.getClientList().isEmpty());
        Steps.step("another database", () -> new StringRedisTemplate(factory(Steps.PASSWORD, Steps.INDEX + 1)).hasKey("key"));
        Steps.step("log in with a wrong password", () -> new StringRedisTemplate(factory("not this one", Steps.INDEX)).hasKey("key"));
        System.exit(0);
    }

    static <S extends Session> Object kept(SessionRepository<S> sessions) {
        S session = sessions.createSession();
        session.setAttribute("user", "me");
        sessions.save(session);
        String old = session.changeSessionId();
        sessions.save(session);
        String user = sessions.findById(old).getAttribute("user");
        sessions.deleteById(old);
        return new Object[] {user, sessions.findById(old)};
    }
}
