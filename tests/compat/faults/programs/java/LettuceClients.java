import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisURI;
import io.lettuce.core.api.StatefulRedisConnection;
import io.lettuce.core.api.sync.RedisCommands;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import io.lettuce.core.pubsub.StatefulRedisPubSubConnection;

/** Clients of Lettuce with its own settings, in threads. Each has one connection. */
public final class LettuceClients {
    static RedisURI where() {
        RedisURI.Builder found;
        if (Program.SENTINELS.isEmpty()) {
            found = RedisURI.Builder.redis("127.0.0.1", Program.PORT);
        } else {
            found = null;
            for (String sentinel : Program.SENTINELS) {
                String[] parts = sentinel.split(":");
                int port = Integer.parseInt(parts[1]);
                found = found == null
                        ? RedisURI.Builder.sentinel(parts[0], port, Program.MASTER)
                        : found.withSentinel(parts[0], port);
            }
        }
        return found.withPassword(Program.PASSWORD.toCharArray()).withDatabase(Program.INDEX).build();
    }

    /** An application that got an error within a transaction gives it up. */
    static Object transact(RedisCommands<String, String> commands) {
        try {
            commands.multi();
            commands.incr("transaction");
            commands.get("transaction");
            return commands.exec().get(0);
        } catch (RuntimeException problem) {
            try {
                commands.discard();
            } catch (RuntimeException second) {
                // there was no transaction any more
            }
            throw problem;
        }
    }

    public static void main(String[] arguments) throws Exception {
        Program.event("command", 0, "note", "Lettuce " + RedisClient.class.getPackage().getImplementationVersion());
        RedisClient client = RedisClient.create(where());
        for (int number = 0; number < 12; number++) {
            RedisCommands<String, String> commands = client.connect().sync();
            Program.commands(number, n -> commands.incr("count:" + n), n -> commands.get("count:" + n));
        }
        RedisCommands<String, String> publisher = client.connect().sync();
        RedisCommands<String, String> producer = client.connect().sync();
        Program.repeats("publisher", "published", n -> {
            publisher.publish("news", String.valueOf(n));
            return n;
        });
        Program.repeats("producer", "added", n -> {
            producer.rpush("queue", String.valueOf(n));
            return n;
        });
        RedisCommands<String, String> setter = client.connect().sync();
        Program.repeats("large", "ok", n -> {
            setter.set("large", Program.LARGE);
            return "";
        });
        StatefulRedisConnection<String, String> transacting = client.connect();
        Program.repeats("transaction", "ok", n -> transact(transacting.sync()));
        for (int number = 0; number < 2; number++) {
            int which = number;
            RedisCommands<String, String> consumer = client.connect().sync();
            Program.consumes(which, () -> {
                var found = consumer.blpop(2, "queue");
                return found == null ? null : found.getValue();
            });
            StatefulRedisPubSubConnection<String, String> subscriber = client.connectPubSub();
            subscriber.addListener(new RedisPubSubAdapter<>() {
                @Override
                public void message(String channel, String item) {
                    Program.event("subscriber", which, "heard", item);
                }
            });
            subscriber.sync().subscribe("news");
        }
        Program.waitForTheEnd();
    }
}
