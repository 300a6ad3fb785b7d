import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.function.Supplier;

/** What the Java programs have in common: events, the end, and where Redis is. */
final class Program {
    static final int PORT = Integer.parseInt(System.getenv("REDIS_PORT"));
    static final String PASSWORD = System.getenv("REDIS_PASSWORD");
    static final int INDEX = Integer.parseInt(System.getenv("REDIS_INDEX"));
    static final String MASTER = System.getenv("REDIS_MASTER");
    /** host:port */
    static final List<String> SENTINELS =
            System.getenv("REDIS_SENTINELS") == null ? List.of() : Arrays.asList(System.getenv("REDIS_SENTINELS").split(","));
    /** Milliseconds between two commands of a client, and of a publisher or a producer. */
    private static final long PAUSE = 20, SLOW_PAUSE = 50;
    static final String LARGE = "x".repeat(100_000);
    /** Milliseconds that consumers go on after the standard input has ended. */
    private static final long REST = 2500;

    private static final FileOutputStream OUTPUT = new FileOutputStream(FileDescriptor.out);
    private static volatile boolean ended;

    private Program() {}

    interface Call<T> {
        T call(int number) throws Exception;
    }

    static void event(String role, int client, String kind, Object rest) {
        String text = String.join(" ", String.valueOf(rest).trim().split("\\s+"));
        text = text.substring(0, Math.min(200, text.length()));
        double now = System.currentTimeMillis() / 1000.0;
        String line = String.format(Locale.ROOT, "%.3f %s %d %s %s", now, role, client, kind, text).stripTrailing() + "\n";
        try {
            OUTPUT.write(line.getBytes(StandardCharsets.UTF_8));
        } catch (IOException problem) {
            System.exit(1);
        }
    }

    static void error(String role, int client, Exception problem) {
        event(role, client, "error", problem.getClass().getSimpleName() + ": " + problem.getMessage());
    }

    static void start(Runnable work) {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        thread.start();
    }

    static void sleep(long milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException problem) {
            Thread.currentThread().interrupt();
        }
    }

    static void commands(int number, Call<Long> increment, Call<String> get) {
        start(() -> {
            while (!ended) {
                try {
                    event("command", number, "ok", increment.call(number));
                } catch (Exception problem) {
                    error("command", number, problem);
                }
                sleep(PAUSE);
                try {
                    get.call(number);
                    event("command", number, "ok", "");
                } catch (Exception problem) {
                    error("command", number, problem);
                }
                sleep(PAUSE);
            }
        });
    }

    /** Calls the action with rising numbers. The event has what it returns. */
    static void repeats(String role, String done, Call<?> action) {
        start(() -> {
            for (int number = 1; !ended; number++) {
                try {
                    event(role, 0, done, action.call(number));
                } catch (Exception problem) {
                    error(role, 0, problem);
                }
                sleep(SLOW_PAUSE);
            }
        });
    }

    /** pop: returns an item, or null. */
    static void consumes(int number, Supplier<String> pop) {
        start(() -> {
            while (true) {
                try {
                    String found = pop.get();
                    event("consumer", number, found == null ? "ok" : "did", found == null ? "" : found);
                } catch (Exception problem) {
                    error("consumer", number, problem);
                    sleep(PAUSE);
                }
            }
        });
    }

    static void waitForTheEnd() throws IOException {
        while (System.in.read() != -1) {
            // nothing to do with it
        }
        ended = true;
        sleep(REST);
        Runtime.getRuntime().halt(0);
    }
}
