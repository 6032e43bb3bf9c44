package troth.interop;

import com.fasterxml.jackson.databind.JsonNode;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CyclicBarrier;
import javax.sql.DataSource;
import org.apache.seata.rm.datasource.DataSourceProxy;

/** The application's data sources, under AT and plain. */
final class Databases {
    private final Map<String, DataSourceProxy> underAt = new ConcurrentHashMap<>();
    private final Map<String, FailingCommits> plain = new ConcurrentHashMap<>();
    private final Map<Integer, CyclicBarrier> meetings = new ConcurrentHashMap<>();

    /** Opens a data source under {@code db}; gives its resource id. */
    String open(JsonNode command) {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(command.get("url").asText());
        config.setUsername(command.get("user").asText());
        config.setPassword(command.get("password").asText());
        config.setMaximumPoolSize(40);
        config.setMinimumIdle(1);
        String name = command.get("db").asText();
        FailingCommits source = new FailingCommits(new HikariDataSource(config));
        DataSourceProxy proxy = new DataSourceProxy(source);
        plain.put(name, source);
        underAt.put(name, proxy);
        return proxy.getResourceId();
    }

    DataSource plain(String name) {
        return plain.get(name);
    }

    /**
     * Runs {@code statements} ({@code [sql, parameter…]} each) on one connection: in one local transaction, or with
     * autocommit. {@code commit_throws}: the commit is carried out, and its answer is lost. {@code meet}: so many threads
     * wait for each other before they commit.
     */
    List<Object> run(JsonNode step) throws SQLException {
        String name = step.get("db").asText();
        List<Object> results = new ArrayList<>();
        if (step.path("commit_throws").asBoolean()) {
            plain.get(name).failNextCommit();
        }
        try (Connection connection = underAt.get(name).getConnection()) {
            connection.setAutoCommit(step.path("autocommit").asBoolean());
            try {
                for (JsonNode statement : step.get("statements")) {
                    results.add(execute(connection, statement));
                }
                meet(step.path("meet").asInt(1));
                if (!connection.getAutoCommit()) {
                    connection.commit();
                }
            } catch (SQLException | RuntimeException failure) {
                if (!connection.getAutoCommit()) {
                    connection.rollback();
                }
                throw failure;
            }
        }
        return results;
    }

    private void meet(int threads) {
        try {
            meetings.computeIfAbsent(threads, CyclicBarrier::new).await();
        } catch (InterruptedException | BrokenBarrierException failure) {
            throw new IllegalStateException(failure);
        }
    }

    private static Object execute(Connection connection, JsonNode statement) throws SQLException {
        String sql = statement.get(0).asText();
        boolean inserts = sql.regionMatches(true, 0, "insert", 0, 6);
        int keys = inserts ? Statement.RETURN_GENERATED_KEYS : Statement.NO_GENERATED_KEYS;
        try (PreparedStatement prepared = connection.prepareStatement(sql, keys)) {
            for (int index = 1; index < statement.size(); index++) {
                prepared.setObject(index, parameter(statement.get(index)));
            }
            if (prepared.execute()) {
                return rows(prepared.getResultSet());
            }
            return inserts ? rows(prepared.getGeneratedKeys()) : prepared.getUpdateCount();
        }
    }

    private static Object parameter(JsonNode node) {
        if (node.isNull()) {
            return null;
        }
        if (node.isIntegralNumber()) {
            return node.canConvertToInt() ? (Object) node.asInt() : (Object) node.asLong();
        }
        return node.isNumber() ? (Object) node.decimalValue() : node.asText();
    }

    private static List<List<String>> rows(ResultSet found) throws SQLException {
        List<List<String>> rows = new ArrayList<>();
        int columns = found.getMetaData().getColumnCount();
        while (found.next()) {
            List<String> row = new ArrayList<>();
            for (int column = 1; column <= columns; column++) {
                row.add(found.getString(column));
            }
            rows.add(row);
        }
        return rows;
    }
}
