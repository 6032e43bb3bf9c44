package troth.interop;

import com.fasterxml.jackson.databind.JsonNode;
import javax.sql.DataSource;
import org.apache.seata.integration.tx.api.util.ProxyUtil;
import org.apache.seata.rm.fence.SpringFenceConfig;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;

/** The TCC actions, each behind Seata's proxy and its fence. */
final class Actions {
    private final Reserve reserve;
    private final Pay pay;

    Actions(DataSource source) {
        use(source);
        reserve = ProxyUtil.createProxy(new Reserve(), "reserve");
        pay = ProxyUtil.createProxy(new Pay(), "pay");
    }

    /** Books and fence are in this database from now on; Seata takes an action of one name only once. */
    void use(DataSource source) {
        new SpringFenceConfig(source, new DataSourceTransactionManager(source)).afterPropertiesSet();
        Book.use(source);
    }

    /** {@code action}, {@code book}, {@code amount}, and {@code fail}: throw at the end of the try. */
    boolean attempt(JsonNode step) {
        int id = step.get("book").asInt();
        int amount = step.get("amount").asInt();
        boolean fail = step.path("fail").asBoolean();
        if (step.get("action").asText().equals("reserve")) {
            return reserve.prepare(null, id, amount, fail);
        }
        return pay.prepare(null, id, amount, fail);
    }
}
