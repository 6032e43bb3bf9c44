package troth.interop;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.sql.Connection;
import java.sql.SQLException;
import javax.sql.DataSource;
import org.springframework.jdbc.datasource.DelegatingDataSource;

/** A data source one of whose commits can be made to throw after it has been carried out: a lost answer. */
final class FailingCommits extends DelegatingDataSource {
    private boolean armed;

    FailingCommits(DataSource target) {
        super(target);
    }

    synchronized void failNextCommit() {
        armed = true;
    }

    private synchronized boolean disarm() {
        boolean was = armed;
        armed = false;
        return was;
    }

    @Override
    public Connection getConnection() throws SQLException {
        Connection real = super.getConnection();
        return disarm() ? failing(real) : real;
    }

    private static Connection failing(Connection real) {
        return (Connection) Proxy.newProxyInstance(
                Connection.class.getClassLoader(), new Class<?>[] {Connection.class}, (self, method, arguments) -> {
                    try {
                        Object result = method.invoke(real, arguments);
                        if (method.getName().equals("commit")) {
                            throw new SQLException("the answer to the commit was lost", "08007");
                        }
                        return result;
                    } catch (InvocationTargetException thrown) {
                        throw thrown.getCause();
                    }
                });
    }
}
