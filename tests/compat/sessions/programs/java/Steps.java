import java.util.Arrays;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** What the Java programs have in common: where Redis is, and how an outcome is printed. */
final class Steps {
    static final int PORT = Integer.parseInt(System.getenv("REDIS_PORT"));
    static final String PASSWORD = System.getenv("REDIS_PASSWORD");
    static final int INDEX = Integer.parseInt(System.getenv("REDIS_INDEX"));
    /** Seconds that a step waits at most. */
    private static final int LIMIT = 60;
    private static final ExecutorService threads = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        return thread;
    });

    private Steps() {}

    static void show(String name, Object outcome) {
        String text = outcome instanceof Object[] ? Arrays.deepToString((Object[]) outcome) : String.valueOf(outcome);
        System.out.println(name + ": " + text.replaceAll("\\s+", " "));
    }

    /** Prints the version of a package from its Maven properties. */
    static void version(String group, String artifact) throws Exception {
        Properties found = new Properties();
        String path = "/META-INF/maven/" + group + "/" + artifact + "/pom.properties";
        try (var stream = Steps.class.getResourceAsStream(path)) {
            found.load(stream);
        }
        show("version", found.getProperty("version"));
    }

    /** Runs a step, and prints what it returns, or the innermost cause of what it throws. */
    static void step(String name, Callable<Object> body) {
        try {
            show(name, threads.submit(body).get(LIMIT, TimeUnit.SECONDS));
        } catch (TimeoutException late) {
            show(name, "it did not end");
        } catch (Exception error) {
            Throwable cause = error;
            while (cause.getCause() != null) cause = cause.getCause();
            // Redisson's messages name the channel.
            show(name, cause.getClass().getSimpleName() + " " + String.valueOf(cause.getMessage()).replaceAll("\\.? channel: \\[id.*", ""));
        }
    }

    static boolean until(Callable<Boolean> probe) throws Exception {
        for (long end = System.nanoTime() + 20_000_000_000L; System.nanoTime() < end; Thread.sleep(10)) {
            if (probe.call()) return true;
        }
        return false;
    }

    static void later(int milliseconds, Runnable body) {
        threads.submit(() -> {
            Thread.sleep(milliseconds);
            body.run();
            return null;
        });
    }
}
