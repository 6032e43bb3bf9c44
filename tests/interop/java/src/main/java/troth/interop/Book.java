package troth.interop;

import javax.sql.DataSource;
import org.apache.seata.rm.tcc.api.BusinessActionContext;
import org.springframework.jdbc.core.JdbcTemplate;

/** Accounts with a reserved part, in table {@code book (action, id, amount, reserved)}; and what happened, in order. */
final class Book {
    private static volatile JdbcTemplate sql;

    private Book() {}

    static void use(DataSource source) {
        sql = new JdbcTemplate(source);
    }

    static boolean reserve(String action, int id, int amount, boolean fail) {
        write("try", action, id);
        sql.update("UPDATE book SET amount = amount - ?, reserved = reserved + ? WHERE action = ? AND id = ?",
                amount, amount, action, id);
        if (fail) {
            throw new IllegalStateException("the try failed");
        }
        return true;
    }

    static boolean confirm(String action, BusinessActionContext context) {
        int id = number(context, "id");
        write("confirm", action, id);
        sql.update("UPDATE book SET reserved = reserved - ? WHERE action = ? AND id = ?",
                number(context, "amount"), action, id);
        return true;
    }

    static boolean cancel(String action, BusinessActionContext context) {
        int id = number(context, "id");
        int amount = number(context, "amount");
        write("cancel", action, id);
        sql.update("UPDATE book SET amount = amount + ?, reserved = reserved - ? WHERE action = ? AND id = ?",
                amount, amount, action, id);
        return true;
    }

    private static void write(String verb, String action, int id) {
        sql.update("INSERT INTO diary (verb, action, id) VALUES (?, ?, ?)", verb, action, id);
    }

    private static int number(BusinessActionContext context, String key) {
        return ((Number) context.getActionContext(key)).intValue();
    }
}
