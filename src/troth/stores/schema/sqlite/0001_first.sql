-- What a client supplies is kept as BLOB (UTF-8), so that no content can fail a batch; names of ours are TEXT.
-- Times are integer milliseconds, ids 64-bit integers.

-- The counters of the one cell that this file belongs to; every batch moves them in its own transaction.
CREATE TABLE cell (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    last_batch INTEGER NOT NULL,
    last_id    INTEGER NOT NULL
);

INSERT INTO cell (id, last_batch, last_id) VALUES (1, 0, 0);

-- A transaction and, once end_ms is set, its outcome: ending it is one UPDATE of its own row.
CREATE TABLE global_transaction (
    xid           BLOB    PRIMARY KEY,
    name          BLOB    NOT NULL,
    application   BLOB    NOT NULL,
    client_group  BLOB    NOT NULL,
    begin_ms      INTEGER NOT NULL,
    timeout_ms    INTEGER NOT NULL,
    phase         TEXT    NOT NULL,
    cause         TEXT,
    rollback_only INTEGER NOT NULL,
    end_ms        INTEGER
) WITHOUT ROWID;

-- What a restart loads; as small as the number of transactions that are open.
CREATE INDEX global_transaction_hot ON global_transaction (xid) WHERE end_ms IS NULL;

-- Pages of outcomes and what is old enough to forget, each end phase in order of time.
CREATE INDEX global_transaction_ended ON global_transaction (phase, end_ms, xid) WHERE end_ms IS NOT NULL;

-- The live branches, with their row locks in lock_text; they go when their transaction ends.
CREATE TABLE branch (
    xid              BLOB    NOT NULL,
    branch_id        INTEGER NOT NULL,
    seq              INTEGER NOT NULL,
    branch_type      INTEGER NOT NULL,
    resource_id      BLOB    NOT NULL,
    lock_text        BLOB    NOT NULL,
    application_data BLOB,
    auto_commit      INTEGER NOT NULL,
    client_id        BLOB    NOT NULL,
    phase_one        TEXT    NOT NULL DEFAULT 'registered',
    attempts         INTEGER NOT NULL DEFAULT 0,
    frozen           INTEGER NOT NULL DEFAULT 0,
    last_error       BLOB,
    last_worker      BLOB,
    last_attempt_ms  INTEGER,
    next_due_ms      INTEGER,
    PRIMARY KEY (xid, branch_id)
) WITHOUT ROWID;
