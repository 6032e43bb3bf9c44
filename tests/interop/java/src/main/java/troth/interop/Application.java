package troth.interop;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import javax.sql.DataSource;
import org.apache.seata.core.context.RootContext;
import org.apache.seata.core.model.GlobalStatus;
import org.apache.seata.core.model.TransactionManager;
import org.apache.seata.rm.RMClient;
import org.apache.seata.tm.TMClient;
import org.apache.seata.tm.TransactionManagerHolder;
import org.apache.seata.tm.api.TransactionalExecutor;
import org.apache.seata.tm.api.TransactionalTemplate;
import org.apache.seata.tm.api.transaction.Propagation;
import org.apache.seata.tm.api.transaction.TransactionInfo;

/** The commands: the parts of a Seata application, one by one, and a whole business method. */
final class Application {
    private final Databases databases = new Databases();
    private final TransactionManager transactions;
    private volatile Actions actions;
    private volatile Load load;

    Application(String applicationId, String group) {
        TMClient.init(applicationId, group);
        RMClient.init(applicationId, group);
        transactions = TransactionManagerHolder.get();
    }

    Object perform(JsonNode command) throws Throwable {
        String op = command.get("op").asText();
        return switch (op) {
            case "open" -> databases.open(command);
            case "fence" -> {
                keepFenceIn(databases.plain(command.get("db").asText()));
                yield true;
            }
            case "begin" -> transactions.begin(null, null, command.path("name").asText("java"), timeoutMs(command));
            case "commit" -> transactions.commit(xid(command)).name();
            case "rollback" -> transactions.rollback(xid(command)).name();
            case "status" -> transactions.getStatus(xid(command)).name();
            case "vote" -> transactions.globalReport(xid(command), GlobalStatus.Rollbacking).name();
            case "global" -> global(command);
            case "load" -> load(command);
            default -> inside(command);
        };
    }

    private void keepFenceIn(DataSource source) {
        if (actions == null) {
            actions = new Actions(source);
        } else {
            actions.use(source);
        }
    }

    /** A step inside a global transaction that somebody else has begun, or inside none. */
    private Object inside(JsonNode command) throws Throwable {
        String xid = command.path("xid").asText(null);
        if (xid == null) {
            return step(command);
        }
        RootContext.bind(xid);
        try {
            return step(command);
        } finally {
            RootContext.unbind();
        }
    }

    private Object step(JsonNode step) throws Throwable {
        String op = step.get("op").asText();
        return switch (op) {
            case "sql" -> databases.run(step);
            case "try" -> actions.attempt(step);
            case "sleep" -> {
                Thread.sleep(step.get("ms").asLong());
                yield null;
            }
            case "fail" -> throw new IllegalStateException(step.get("message").asText());
            default -> throw new IllegalArgumentException("no such command: " + op);
        };
    }

    /** A business method under Seata's own template: what {@code @GlobalTransactional} does. */
    private Map<String, Object> global(JsonNode command) throws Throwable {
        Map<String, Object> done = new LinkedHashMap<>();
        List<Object> results = new ArrayList<>();
        new TransactionalTemplate().execute(new TransactionalExecutor() {
            @Override
            public Object execute() throws Throwable {
                done.put("xid", RootContext.getXID());
                for (JsonNode step : command.get("steps")) {
                    results.add(step(step));
                }
                return null;
            }

            @Override
            public TransactionInfo getTransactionInfo() {
                TransactionInfo info = new TransactionInfo();
                info.setName(command.path("name").asText("java"));
                info.setTimeOut(timeoutMs(command));
                info.setPropagation(Propagation.REQUIRED);
                info.setLockRetryTimes(-1); // as configured; 0 would mean no retry
                info.setLockRetryInterval(-1);
                return info;
            }
        });
        done.put("results", results);
        return done;
    }

    /** Puts load on the coordinator; from then on this application has no AT on databases. */
    private Object load(JsonNode command) throws Exception {
        if (load == null) {
            load = new Load(transactions);
        }
        return load.run(command.get("threads").asInt(), command.get("warmup_s").asDouble(), command.get("seconds").asDouble());
    }

    private static String xid(JsonNode command) {
        return command.get("xid").asText();
    }

    private static int timeoutMs(JsonNode command) {
        return command.path("timeout_ms").asInt(60_000);
    }
}
