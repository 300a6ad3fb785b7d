import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisURI;
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

    public static void main(String[] arguments) throws Exception {
        Program.event("command", 0, "note", "Lettuce " + RedisClient.class.getPackage().getImplementationVersion());
        RedisClient client = RedisClient.create(where());
        for (int number = 0; number < 12; number++) {
            RedisCommands<String, String> commands = client.connect().sync();
            Program.commands(number, n -> commands.incr("count:" + n), n -> commands.get("count:" + n));
        }
        RedisCommands<String, String> publisher = client.connect().sync();
        RedisCommands<String, String> producer = client.connect().sync();
        Program.adds("publisher", "published", n -> publisher.publish("news", String.valueOf(n)));
        Program.adds("producer", "added", n -> producer.rpush("queue", String.valueOf(n)));
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
