-- Logins and grants are leased, put off and named by the same columns.
ALTER TABLE {flows} RENAME COLUMN open_name TO name;
ALTER TABLE {grants} ADD COLUMN snoozes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE {grants} ADD COLUMN previous_owner TEXT;
