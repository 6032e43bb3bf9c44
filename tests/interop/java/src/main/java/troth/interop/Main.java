package troth.interop;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * Reads one JSON command a line, and writes one JSON answer a line, in the order in which they are done.
 *
 * <p>A command is {@code {"id", "op", "thread", …}}. Commands of one thread are carried out one after the other, those of
 * different threads at the same time. The answer repeats the id and has either {@code "value"} or {@code "error"}: the
 * classes, messages and transaction codes of the exception and of its causes. The program ends with its input.
 */
public final class Main {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final Map<String, ExecutorService> threads = new ConcurrentHashMap<>();
    private final Application application;
    private final PrintStream out;

    private Main(Application application, PrintStream out) {
        this.application = application;
        this.out = out;
    }

    /** Arguments: application id, transaction service group. */
    public static void main(String[] arguments) throws Exception {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err); // whatever a library prints is no answer
        Main main = new Main(new Application(arguments[0], arguments[1]), out);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            main.take((ObjectNode) JSON.readTree(line));
        }
        System.exit(0);
    }

    private void take(ObjectNode command) {
        String thread = command.path("thread").asText("main");
        threads.computeIfAbsent(thread, name -> Executors.newSingleThreadExecutor()).execute(() -> answer(command));
    }

    private void answer(ObjectNode command) {
        ObjectNode answer = JSON.createObjectNode();
        answer.set("id", command.get("id"));
        try {
            JsonNode value = JSON.valueToTree(application.perform(command));
            answer.set("value", value);
        } catch (Throwable thrown) {
            answer.set("error", JSON.valueToTree(Failure.describe(thrown)));
        }
        synchronized (out) {
            out.println(answer);
        }
    }
}
