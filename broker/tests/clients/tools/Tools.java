import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Apache Kafka's command-line tools one after the other in one process, as each start of Java takes seconds.
 *
 * <p>Arguments: a file of steps, a folder for what they print, and NAME=VALUE for each {NAME} in the steps. A step is a
 * line of the form NAME: CLASS ARGUMENT..., words split at spaces, where an argument "&lt;FILE" is its standard input. For each,
 * the folder gets NAME.out, NAME.err and NAME.status.
 */
public class Tools {
    /** What a tool meets where it would end the process. Some print whatever they catch, so there is nothing to print. */
    private static final class Exited extends Error {
        Exited() {
            super("", null, false, false);
        }

        @Override
        public String toString() {
            return "";
        }
    }

    /** The first status that the running tool wanted to end with. */
    private static Integer exited;

    public static void main(String[] arguments) throws Exception {
        Exit.setExitProcedure((status, message) -> exit(status));
        Exit.setHaltProcedure((status, message) -> exit(status));
        // Tools add hooks that close their clients; one that has thrown at its end has closed them already.
        Exit.setShutdownHookAdder((name, runnable) -> {});
        Path folder = Path.of(arguments[1]);
        for (String line : Files.readAllLines(Path.of(arguments[0]))) {
            if (line.isBlank() || line.startsWith("#")) {
                continue;
            }
            for (String value : Arrays.asList(arguments).subList(2, arguments.length)) {
                String[] parts = value.split("=", 2);
                line = line.replace("{" + parts[0] + "}", parts[1]);
            }
            String[] parts = line.split(": ", 2);
            step(folder, parts[0], new ArrayList<>(List.of(parts[1].trim().split(" +"))));
        }
        Runtime.getRuntime().halt(0);
    }

    private static void exit(int status) {
        exited = exited == null ? status : exited;
        throw new Exited();
    }

    private static void step(Path folder, String name, List<String> words) throws Exception {
        InputStream input = new ByteArrayInputStream(new byte[0]);
        for (String word : List.copyOf(words)) {
            if (word.startsWith("<")) {
                words.remove(word);
                input = Files.newInputStream(Path.of(word.substring(1)));
            }
        }
        Class<?> tool = Class.forName(words.remove(0));
        InputStream in = System.in;
        PrintStream out = System.out, err = System.err;
        exited = null;
        try (var toOut = new PrintStream(folder.resolve(name + ".out").toFile(), StandardCharsets.UTF_8);
                var toErr = new PrintStream(folder.resolve(name + ".err").toFile(), StandardCharsets.UTF_8)) {
            System.setIn(input);
            System.setOut(toOut);
            System.setErr(toErr);
            try {
                tool.getMethod("main", String[].class).invoke(null, (Object) words.toArray(String[]::new));
            } catch (InvocationTargetException failure) {
                if (!(failure.getCause() instanceof Exited)) {
                    exited = 1;
                    failure.getCause().printStackTrace();
                }
            }
        } finally {
            System.setIn(in);
            System.setOut(out);
            System.setErr(err);
        }
        Files.writeString(folder.resolve(name + ".status"), (exited == null ? 0 : exited) + "\n");
    }
}
