package troth.interop;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.seata.core.model.BranchStatus;
import org.apache.seata.core.model.BranchType;
import org.apache.seata.core.model.GlobalStatus;
import org.apache.seata.core.model.Resource;
import org.apache.seata.core.model.TransactionManager;
import org.apache.seata.rm.AbstractResourceManager;
import org.apache.seata.rm.DefaultResourceManager;

/**
 * Transactions as fast as Seata's own client makes them: begin, one AT branch with two row locks of its own, commit, each
 * awaited. Client, channels and threads are Seata's; the resource has no database behind it, and answers phase two at once.
 */
final class Load {
    private static final String RESOURCE = "jdbc:mysql://127.0.0.1:3306/load";
    private static final long NO_MORE_AFTER_NS = 60_000_000_000L;

    private final TransactionManager transactions;
    private final NoDatabase resource = new NoDatabase();
    private final AtomicLong nextRow = new AtomicLong(System.currentTimeMillis() * 1000);

    Load(TransactionManager transactions) {
        this.transactions = transactions;
        DefaultResourceManager.get(); // it fills its table first
        DefaultResourceManager.mockResourceManager(BranchType.AT, resource);
        resource.registerResource(resource);
    }

    /** Runs {@code threads} threads for {@code warmupS + seconds}; counts what was answered in the latter. */
    Map<String, Object> run(int threads, double warmupS, double seconds) throws Exception {
        resource.done.clear();
        long from = System.nanoTime() + (long) (warmupS * 1e9);
        long to = from + (long) (seconds * 1e9);
        List<Worker> workers = new ArrayList<>();
        for (int i = 0; i < threads; i++) {
            Worker worker = new Worker(from, to);
            worker.start();
            workers.add(worker);
        }
        List<Long> branches = new ArrayList<>();
        List<Long> latencies = new ArrayList<>();
        int committed = 0;
        for (Worker worker : workers) {
            worker.join();
            if (worker.failure != null) {
                throw worker.failure;
            }
            committed += worker.committed;
            branches.addAll(worker.branches);
            latencies.addAll(worker.latenciesNs);
        }
        await(committed);
        return report(from, seconds, branches, latencies);
    }

    private void await(int committed) throws InterruptedException {
        long until = System.nanoTime() + NO_MORE_AFTER_NS;
        while (resource.done.size() < committed) {
            if (System.nanoTime() > until) {
                throw new IllegalStateException("of " + committed + " branches " + resource.done.size() + " were told");
            }
            Thread.sleep(5);
        }
    }

    private Map<String, Object> report(long from, double seconds, List<Long> branches, List<Long> latencies) {
        long[] ends = branches.stream().mapToLong(branch -> resource.done.get(branch) - from).sorted().toArray();
        long[] sorted = latencies.stream().mapToLong(Long::longValue).sorted().toArray();
        int most = (int) Math.ceil(0.99 * ends.length);
        Map<String, Object> report = new LinkedHashMap<>();
        report.put("transactions", ends.length);
        report.put("tx_per_s", ends.length / seconds);
        report.put("whole_per_s", most / Math.max(ends[most - 1] / 1e9, 1e-3));
        report.put("p50_ms", at(sorted, 0.5));
        report.put("p99_ms", at(sorted, 0.99));
        report.put("max_ms", at(sorted, 1.0));
        return report;
    }

    private static double at(long[] sorted, double share) {
        return sorted[(int) Math.ceil(share * sorted.length) - 1] / 1e6;
    }

    /** One thread of the application. */
    private final class Worker extends Thread {
        private final long from;
        private final long to;
        private final List<Long> branches = new ArrayList<>();
        private final List<Long> latenciesNs = new ArrayList<>();
        private int committed;
        private Exception failure;

        Worker(long from, long to) {
            this.from = from;
            this.to = to;
        }

        @Override
        public void run() {
            try {
                for (long began = System.nanoTime(); began < to; began = System.nanoTime()) {
                    long branch = transaction();
                    long now = System.nanoTime();
                    committed++;
                    if (now >= from && now < to) {
                        branches.add(branch);
                        latenciesNs.add(now - began);
                    }
                }
            } catch (Exception thrown) {
                failure = thrown;
            }
        }

        private long transaction() throws Exception {
            String xid = transactions.begin(null, null, "load", 60_000);
            long row = nextRow.getAndAdd(2);
            String locks = "load:" + row + "," + (row + 1);
            long branch = DefaultResourceManager.get().branchRegister(BranchType.AT, RESOURCE, null, xid, null, locks);
            GlobalStatus status = transactions.commit(xid);
            if (status != GlobalStatus.Committed) {
                throw new IllegalStateException(xid + " is " + status);
            }
            return branch;
        }
    }

    /** A resource that is done with phase two as soon as it is asked, and notes when. */
    private static final class NoDatabase extends AbstractResourceManager implements Resource {
        private final Map<Long, Long> done = new ConcurrentHashMap<>();

        @Override
        public BranchStatus branchCommit(BranchType type, String xid, long branch, String resource, String data) {
            done.put(branch, System.nanoTime());
            return BranchStatus.PhaseTwo_Committed;
        }

        @Override
        public BranchStatus branchRollback(BranchType type, String xid, long branch, String resource, String data) {
            throw new IllegalStateException(xid + " is rolled back");
        }

        @Override
        public Map<String, Resource> getManagedResources() {
            return Map.of(RESOURCE, this);
        }

        @Override
        public BranchType getBranchType() {
            return BranchType.AT;
        }

        @Override
        public String getResourceGroupId() {
            return "DEFAULT";
        }

        @Override
        public String getResourceId() {
            return RESOURCE;
        }
    }
}
