-- Transactions with terms (core/model.py: Terms): the name that a user chose, the terms, the words of the decision and,
-- once it has ended, its branches, packed (packed.py). Usual transactions have NULL in all of them.
ALTER TABLE global_transaction ADD COLUMN gid BLOB;
ALTER TABLE global_transaction ADD COLUMN terms BLOB;
ALTER TABLE global_transaction ADD COLUMN reason BLOB;
ALTER TABLE global_transaction ADD COLUMN branches BLOB;

-- Not UNIQUE: a batch is checked before it is written, and folding it must never fail.
CREATE INDEX global_transaction_gid ON global_transaction (gid) WHERE gid IS NOT NULL;

-- plan: how the coordinator reaches the branch. gone: nothing is to be done about it any more, it is kept to be shown;
-- ended: because its phase two is done. epoch: which attempt of a runner has the run.
ALTER TABLE branch ADD COLUMN plan BLOB;
ALTER TABLE branch ADD COLUMN gone INTEGER NOT NULL DEFAULT 0;
ALTER TABLE branch ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;
ALTER TABLE branch ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- What users keep here, such as the subscribers of a topic; `version` counts the changes.
CREATE TABLE kv (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    cat       BLOB    NOT NULL,
    k         BLOB    NOT NULL,
    v         BLOB    NOT NULL,
    version   INTEGER NOT NULL,
    create_ms INTEGER NOT NULL,
    update_ms INTEGER NOT NULL,
    UNIQUE (cat, k)
);
