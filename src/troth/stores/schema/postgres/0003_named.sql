-- Transactions with terms (core/model.py: Terms): the name that a user chose, the terms, the words of the decision and,
-- once it has ended, its branches, packed (packed.py). Usual transactions have NULL in all of them.
ALTER TABLE troth.global_transaction
    ADD COLUMN gid bytea, ADD COLUMN terms bytea, ADD COLUMN reason bytea, ADD COLUMN branches bytea;

-- By its hash, so that a name may be of any length.
CREATE INDEX global_transaction_gid ON troth.global_transaction USING hash (gid) WHERE gid IS NOT NULL;

-- plan: how the coordinator reaches the branch. gone: nothing is to be done about it any more, it is kept to be shown;
-- ended: because its phase two is done. epoch: which attempt of a runner has the run.
ALTER TABLE troth.branch
    ADD COLUMN plan bytea, ADD COLUMN gone boolean NOT NULL DEFAULT false,
    ADD COLUMN ended boolean NOT NULL DEFAULT false, ADD COLUMN epoch bigint NOT NULL DEFAULT 0;

-- What users keep here, such as the subscribers of a topic; `version` counts the changes.
CREATE TABLE troth.kv (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cat       bytea  NOT NULL,
    k         bytea  NOT NULL,
    v         bytea  NOT NULL,
    version   bigint NOT NULL,
    create_ms bigint NOT NULL,
    update_ms bigint NOT NULL,
    UNIQUE (cat, k)
);

CREATE INDEX kv_in_order ON troth.kv (cat, id);

DROP FUNCTION troth.append_batch;

-- One batch in one round trip, and in one transaction of its own: a coordinator that is paused or cut off in the
-- middle cannot hold the lock. False: not the next batch of this epoch, so nothing was written.
-- `num_nulls(end_ms) = 1` is `end_ms IS NULL` in words that the planner does not take for the index of what is open: it
-- would read that from end to end for each batch, as soon as its statistics say that few are open.
CREATE FUNCTION troth.append_batch(
    p_cell text, p_epoch bigint, p_number bigint, p_last_id bigint,
    drop_xid bytea[], drop_id bigint[],
    open_xid bytea[], open_name bytea[], open_application bytea[], open_group bytea[], open_begin bigint[],
    open_timeout bigint[], open_gid bytea[], open_terms bytea[],
    add_xid bytea[], add_id bigint[], add_seq bigint[], add_type smallint[], add_resource bytea[], add_locks bytea[],
    add_data bytea[], add_auto boolean[], add_client bytea[], add_mode text[], add_plan bytea[],
    bm_xid bytea[], bm_id bigint[], bm_phase_one text[], bm_data bytea[], bm_attempts bigint[], bm_frozen boolean[],
    bm_error bytea[], bm_worker bytea[], bm_last bigint[], bm_due bigint[],
    bm_gone boolean[], bm_ended boolean[], bm_epoch bigint[], bm_client bytea[],
    mark_xid bytea[], mark_phase text[], mark_cause text[], mark_only boolean[], mark_reason bytea[],
    end_xid bytea[], end_phase text[], end_cause text[], end_at bigint[], end_reason bytea[], end_branches bytea[]
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
        -- names are few in a batch, and each is looked up by its index
        SELECT count(*) INTO changed FROM unnest(open_gid) AS v(gid)
            WHERE v.gid IS NOT NULL AND EXISTS (SELECT FROM troth.global_transaction AS g WHERE g.gid = v.gid);
        IF changed > 0 THEN
            RAISE EXCEPTION USING ERRCODE = 'TR001', MESSAGE = 'OpenGlobal is refused: its gid is known already';
        END IF;
        INSERT INTO troth.global_transaction
            (xid, name, application, client_group, begin_ms, timeout_ms, gid, terms, phase, rollback_only)
            SELECT v.*, 'open', false
            FROM unnest(open_xid, open_name, open_application, open_group, open_begin, open_timeout, open_gid,
                open_terms) AS v;
    END IF;
    IF cardinality(add_xid) > 0 THEN
        -- joined, so that a branch of no open transaction is refused here and not found by the next start
        INSERT INTO troth.branch (xid, branch_id, seq, branch_type, resource_id, lock_text, application_data,
            auto_commit, client_id, lock_mode, plan)
            SELECT v.* FROM unnest(add_xid, add_id, add_seq, add_type, add_resource, add_locks, add_data, add_auto,
                add_client, add_mode, add_plan)
                AS v(xid, branch_id, seq, branch_type, resource_id, lock_text, data, auto_commit, client, lock_mode, plan)
            JOIN troth.global_transaction AS g ON g.xid = v.xid AND num_nulls(g.end_ms) = 1;
        GET DIAGNOSTICS changed = ROW_COUNT;
        PERFORM troth.expect('AddBranch', cardinality(add_xid), changed);
    END IF;
    IF cardinality(bm_xid) > 0 THEN
        UPDATE troth.branch AS b SET phase_one = v.phase_one, application_data = v.data, attempts = v.attempts,
            frozen = v.frozen, last_error = v.error, last_worker = v.worker, last_attempt_ms = v.last_ms,
            next_due_ms = v.due_ms, gone = v.gone, ended = v.ended, epoch = v.epoch,
            client_id = coalesce(v.client, b.client_id)
            FROM unnest(bm_xid, bm_id, bm_phase_one, bm_data, bm_attempts, bm_frozen, bm_error, bm_worker, bm_last,
                bm_due, bm_gone, bm_ended, bm_epoch, bm_client)
                AS v(xid, branch_id, phase_one, data, attempts, frozen, error, worker, last_ms, due_ms, gone, ended,
                    epoch, client)
            WHERE b.xid = v.xid AND b.branch_id = v.branch_id;
        GET DIAGNOSTICS changed = ROW_COUNT;
        PERFORM troth.expect('MarkBranch', cardinality(bm_xid), changed);
    END IF;
    IF cardinality(mark_xid) > 0 THEN
        UPDATE troth.global_transaction AS g SET phase = v.phase, cause = v.cause, rollback_only = v.vetoed,
            reason = v.reason
            FROM unnest(mark_xid, mark_phase, mark_cause, mark_only, mark_reason)
                AS v(xid, phase, cause, vetoed, reason)
            WHERE g.xid = v.xid AND num_nulls(g.end_ms) = 1;
        GET DIAGNOSTICS changed = ROW_COUNT;
        PERFORM troth.expect('MarkGlobal', cardinality(mark_xid), changed);
    END IF;
    IF cardinality(end_xid) > 0 THEN
        UPDATE troth.global_transaction AS g SET phase = v.phase, cause = v.cause, end_ms = v.end_ms,
            reason = v.reason, branches = v.branches
            FROM unnest(end_xid, end_phase, end_cause, end_at, end_reason, end_branches)
                AS v(xid, phase, cause, end_ms, reason, branches)
            WHERE g.xid = v.xid AND num_nulls(g.end_ms) = 1;
        GET DIAGNOSTICS changed = ROW_COUNT;
        PERFORM troth.expect('EndGlobal', cardinality(end_xid), changed);
        DELETE FROM troth.branch AS b USING unnest(end_xid) AS v(xid) WHERE b.xid = v.xid;
    END IF;
    RETURN true;
END $$;
