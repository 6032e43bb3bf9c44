-- Batches that are durable and not yet in the tables above: one row a batch, its deltas packed (sqlite_journal.py).
-- Rows go when they have been folded: within seconds, and all of them when the store is closed. The first one is
-- always cell.last_batch + 1; the newest row's number and last_id are the counters of the cell.
CREATE TABLE journal (
    number  INTEGER PRIMARY KEY,
    last_id INTEGER NOT NULL,
    crc32   INTEGER NOT NULL,
    deltas  BLOB    NOT NULL
);
