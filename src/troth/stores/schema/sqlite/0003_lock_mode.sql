-- How a branch holds its rows (core/model.py: LockMode).
ALTER TABLE branch ADD COLUMN lock_mode TEXT NOT NULL DEFAULT 'exclusive';
