package troth.interop;

import org.apache.seata.rm.tcc.api.BusinessActionContext;
import org.apache.seata.rm.tcc.api.BusinessActionContextParameter;
import org.apache.seata.rm.tcc.api.LocalTCC;
import org.apache.seata.rm.tcc.api.TwoPhaseBusinessAction;

/** The TCC action {@code reserve}. Seata's proxy is a subclass, and its annotations must stand on the class itself. */
@LocalTCC
public class Reserve {
    @TwoPhaseBusinessAction(name = "reserve", commitMethod = "confirm", rollbackMethod = "cancel", useTCCFence = true)
    public boolean prepare(
            BusinessActionContext context,
            @BusinessActionContextParameter(paramName = "id") int id,
            @BusinessActionContextParameter(paramName = "amount") int amount,
            boolean fail) {
        return Book.reserve("reserve", id, amount, fail);
    }

    public boolean confirm(BusinessActionContext context) {
        return Book.confirm("reserve", context);
    }

    public boolean cancel(BusinessActionContext context) {
        return Book.cancel("reserve", context);
    }
}
