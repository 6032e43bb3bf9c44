package troth.interop;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.seata.core.exception.TransactionException;
import org.apache.seata.tm.api.TransactionalExecutor.ExecutionException;

/** What went wrong, as a list: the exception, then its causes. */
final class Failure {
    private Failure() {}

    static List<Map<String, String>> describe(Throwable thrown) {
        List<Map<String, String>> chain = new ArrayList<>();
        for (Throwable each = thrown; each != null && chain.size() < 10; each = next(each)) {
            Map<String, String> one = new LinkedHashMap<>();
            one.put("class", each.getClass().getSimpleName());
            one.put("message", String.valueOf(each.getMessage()));
            if (each instanceof ExecutionException execution) {
                one.put("code", String.valueOf(execution.getCode()));
                one.put("xid", execution.getTransaction().getXid());
            } else if (each instanceof TransactionException transaction) {
                one.put("code", String.valueOf(transaction.getCode()));
            }
            chain.add(one);
        }
        return chain;
    }

    private static Throwable next(Throwable thrown) {
        if (thrown instanceof ExecutionException execution && execution.getOriginalException() != null) {
            return execution.getOriginalException();
        }
        return thrown.getCause() == thrown ? null : thrown.getCause();
    }
}
