-- How a branch holds its rows (core/model.py: LockMode): a column, since a report overwrites application_data.
ALTER TABLE troth.branch ADD COLUMN lock_mode text NOT NULL DEFAULT 'exclusive';

DROP FUNCTION troth.append_batch;

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
    add_data bytea[], add_auto boolean[], add_client bytea[], add_mode text[],
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
            auto_commit, client_id, lock_mode)
            SELECT v.* FROM unnest(add_xid, add_id, add_seq, add_type, add_resource, add_locks, add_data, add_auto,
                add_client, add_mode)
                AS v(xid, branch_id, seq, branch_type, resource_id, lock_text, data, auto_commit, client, lock_mode)
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
