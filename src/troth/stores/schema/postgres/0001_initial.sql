-- What a client supplies is kept as bytea (UTF-8), so that no content can fail a batch; names of ours are text.
-- Times are integer milliseconds, ids 64-bit integers.

CREATE SCHEMA IF NOT EXISTS troth;

CREATE TABLE troth.schema_version (
    version integer NOT NULL
);

-- The one cell of this database: who leads it, until when (by this server's clock), and the counters of its history.
-- Every batch updates this row first, so it holds its lock until it is committed: nobody takes over in between.
CREATE TABLE troth.cell (
    id               text        PRIMARY KEY,
    node             integer     NOT NULL,
    epoch            bigint      NOT NULL,
    holder           text,
    lease_until      timestamptz NOT NULL,
    last_batch_epoch bigint      NOT NULL,
    last_batch       bigint      NOT NULL,
    last_id          bigint      NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

INSERT INTO troth.cell VALUES ('default', floor(random() * 1024)::integer, 0, NULL, '-infinity', 0, 0, 0);

-- A transaction and, once end_ms is set, its outcome: ending it is one UPDATE of its own row.
CREATE TABLE troth.global_transaction (
    xid           bytea   PRIMARY KEY,
    name          bytea   NOT NULL,
    application   bytea   NOT NULL,
    client_group  bytea   NOT NULL,
    begin_ms      bigint  NOT NULL,
    timeout_ms    bigint  NOT NULL,
    phase         text    NOT NULL,
    cause         text,
    rollback_only boolean NOT NULL,
    end_ms        bigint
);

-- What a restart loads; as small as the number of transactions that are open.
CREATE INDEX global_transaction_hot ON troth.global_transaction (xid) WHERE end_ms IS NULL;

-- Pages of outcomes and what is old enough to forget, each end phase in order of time.
CREATE INDEX global_transaction_ended ON troth.global_transaction (phase, end_ms, xid) WHERE end_ms IS NOT NULL;

-- The live branches, with their row locks in lock_text; they go when their transaction ends.
CREATE TABLE troth.branch (
    xid              bytea    NOT NULL,
    branch_id        bigint   NOT NULL,
    seq              bigint   NOT NULL,
    branch_type      smallint NOT NULL,
    resource_id      bytea    NOT NULL,
    lock_text        bytea    NOT NULL,
    application_data bytea,
    auto_commit      boolean  NOT NULL,
    client_id        bytea    NOT NULL,
    phase_one        text     NOT NULL DEFAULT 'registered',
    attempts         bigint   NOT NULL DEFAULT 0,
    frozen           boolean  NOT NULL DEFAULT false,
    last_error       bytea,
    last_worker      bytea,
    last_attempt_ms  bigint,
    next_due_ms      bigint,
    PRIMARY KEY (xid, branch_id)
);

-- Raises where a batch says something of what is not there: the whole batch is undone.
CREATE FUNCTION troth.expect(purpose text, expected integer, changed bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF changed <> expected THEN
        RAISE EXCEPTION USING ERRCODE = 'TR001', MESSAGE = pg_catalog.format(
            '%s is refused: %s of %s rows are not open in the store', purpose, expected - changed, expected);
    END IF;
END $$;

-- One batch in one round trip, and in one transaction of its own: a coordinator that is paused or cut off in the
-- middle cannot hold the lock. False: not the next batch of this epoch, so nothing was written.
-- `num_nulls(end_ms) = 1` is `end_ms IS NULL` in words that the planner does not take for the index of what is open: it
-- would read that from end to end for each batch, as soon as its statistics say that few are open.
CREATE FUNCTION troth.append_batch(
    p_cell text, p_epoch bigint, p_number bigint, p_last_id bigint,
    drop_xid bytea[], drop_id bigint[],
    open_xid bytea[], open_name bytea[], open_application bytea[], open_group bytea[], open_begin bigint[],
    open_timeout bigint[],
    add_xid bytea[], add_id bigint[], add_seq bigint[], add_type smallint[], add_resource bytea[], add_locks bytea[],
    add_data bytea[], add_auto boolean[], add_client bytea[],
    bm_xid bytea[], bm_id bigint[], bm_phase_one text[], bm_data bytea[], bm_attempts bigint[], bm_frozen boolean[],
    bm_error bytea[], bm_worker bytea[], bm_last bigint[], bm_due bigint[],
    mark_xid bytea[], mark_phase text[], mark_cause text[], mark_only boolean[],
    end_xid bytea[], end_phase text[], end_cause text[], end_at bigint[]
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
BEGIN
    UPDATE troth.cell SET last_batch_epoch = p_epoch, last_batch = p_number, last_id = p_last_id
        WHERE id = p_cell AND epoch = p_epoch AND last_batch = p_number - 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF cardinality(drop_xid) > 0 THEN
        DELETE FROM troth.branch AS b USING unnest(drop_xid, drop_id) AS v(xid, branch_id)
            WHERE b.xid = v.xid AND b.branch_id = v.branch_id;
        GET DIAGNOSTICS changed = ROW_COUNT;
        PERFORM troth.expect('DropBranch', cardinality(drop_xid), changed);
    END IF;
    IF cardinality(open_xid) > 0 THEN
        INSERT INTO troth.global_transaction
            (xid, name, application, client_group, begin_ms, timeout_ms, phase, rollback_only)
            SELECT v.*, 'open', false
            FROM unnest(open_xid, open_name, open_application, open_group, open_begin, open_timeout) AS v;
    END IF;
    IF cardinality(add_xid) > 0 THEN
        -- joined, so that a branch of no open transaction is refused here and not found by the next start
        INSERT INTO troth.branch (xid, branch_id, seq, branch_type, resource_id, lock_text, application_data,
            auto_commit, client_id)
            SELECT v.* FROM unnest(add_xid, add_id, add_seq, add_type, add_resource, add_locks, add_data, add_auto,
                add_client) AS v(xid, branch_id, seq, branch_type, resource_id, lock_text, data, auto_commit, client)
            JOIN troth.global_transaction AS g ON g.xid = v.xid AND num_nulls(g.end_ms) = 1;
        GET DIAGNOSTICS changed = ROW_COUNT;
        PERFORM troth.expect('AddBranch', cardinality(add_xid), changed);
    END IF;
    IF cardinality(bm_xid) > 0 THEN
        UPDATE troth.branch AS b SET phase_one = v.phase_one, application_data = v.data, attempts = v.attempts,
            frozen = v.frozen, last_error = v.error, last_worker = v.worker, last_attempt_ms = v.last_ms,
            next_due_ms = v.due_ms
            FROM unnest(bm_xid, bm_id, bm_phase_one, bm_data, bm_attempts, bm_frozen, bm_error, bm_worker, bm_last,
                bm_due) AS v(xid, branch_id, phase_one, data, attempts, frozen, error, worker, last_ms, due_ms)
            WHERE b.xid = v.xid AND b.branch_id = v.branch_id;
        GET DIAGNOSTICS changed = ROW_COUNT;
        PERFORM troth.expect('MarkBranch', cardinality(bm_xid), changed);
    END IF;
    IF cardinality(mark_xid) > 0 THEN
        UPDATE troth.global_transaction AS g SET phase = v.phase, cause = v.cause, rollback_only = v.vetoed
            FROM unnest(mark_xid, mark_phase, mark_cause, mark_only) AS v(xid, phase, cause, vetoed)
            WHERE g.xid = v.xid AND num_nulls(g.end_ms) = 1;
        GET DIAGNOSTICS changed = ROW_COUNT;
        PERFORM troth.expect('MarkGlobal', cardinality(mark_xid), changed);
    END IF;
    IF cardinality(end_xid) > 0 THEN
        UPDATE troth.global_transaction AS g SET phase = v.phase, cause = v.cause, end_ms = v.end_ms
            FROM unnest(end_xid, end_phase, end_cause, end_at) AS v(xid, phase, cause, end_ms)
            WHERE g.xid = v.xid AND num_nulls(g.end_ms) = 1;
        GET DIAGNOSTICS changed = ROW_COUNT;
        PERFORM troth.expect('EndGlobal', cardinality(end_xid), changed);
        DELETE FROM troth.branch AS b USING unnest(end_xid) AS v(xid) WHERE b.xid = v.xid;
    END IF;
    RETURN true;
END $$;
