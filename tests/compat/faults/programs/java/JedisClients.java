import java.util.stream.Collectors;

import redis.clients.jedis.AbstractTransaction;
import redis.clients.jedis.ConnectionPoolConfig;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.JedisPubSub;
import redis.clients.jedis.RedisClient;
import redis.clients.jedis.RedisSentinelClient;
import redis.clients.jedis.Response;
import redis.clients.jedis.UnifiedJedis;

/**
 * Clients of Jedis with its own settings, in threads that use one client and its pool. The pool is
 * larger than by default (8), so that all threads work at once.
 */
public final class JedisClients {
    static UnifiedJedis connect() {
        DefaultJedisClientConfig settings =
                DefaultJedisClientConfig.builder().password(Program.PASSWORD).database(Program.INDEX).build();
        ConnectionPoolConfig pool = new ConnectionPoolConfig();
        pool.setMaxTotal(20);
        if (Program.SENTINELS.isEmpty()) {
            return RedisClient.builder().hostAndPort("127.0.0.1", Program.PORT).clientConfig(settings).poolConfig(pool).build();
        }
        return RedisSentinelClient.builder()
                .masterName(Program.MASTER)
                .sentinels(Program.SENTINELS.stream().map(HostAndPort::from).collect(Collectors.toSet()))
                .clientConfig(settings)
                .poolConfig(pool)
                .build();
    }

    /** Jedis does not subscribe again by itself: an application does it in a loop. */
    static void subscribes(int number) {
        UnifiedJedis client = connect();
        while (true) {
            try {
                client.subscribe(
                        new JedisPubSub() {
                            @Override
                            public void onMessage(String channel, String item) {
                                Program.event("subscriber", number, "heard", item);
                            }
                        },
                        "news");
            } catch (Exception problem) {
                Program.error("subscriber", number, problem);
                Program.sleep(20);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        Program.event("command", 0, "note", "Jedis " + UnifiedJedis.class.getPackage().getImplementationVersion());
        UnifiedJedis client = connect();
        for (int number = 0; number < 12; number++) {
            Program.commands(number, n -> client.incr("count:" + n), n -> client.get("count:" + n));
        }
        Program.repeats("publisher", "published", n -> {
            client.publish("news", String.valueOf(n));
            return n;
        });
        Program.repeats("producer", "added", n -> {
            client.rpush("queue", String.valueOf(n));
            return n;
        });
        Program.repeats("large", "ok", n -> {
            client.set("large", Program.LARGE);
            return "";
        });
        Program.repeats("transaction", "ok", n -> {
            try (AbstractTransaction transaction = client.multi()) {
                Response<Long> found = transaction.incr("transaction");
                transaction.get("transaction");
                transaction.exec();
                return found.get();
            }
        });
        for (int number = 0; number < 2; number++) {
            int which = number;
            Program.consumes(which, () -> {
                var found = client.blpop(2.0, "queue");
                return found == null ? null : found.getValue();
            });
            Program.start(() -> subscribes(which));
        }
        Program.waitForTheEnd();
    }
}
