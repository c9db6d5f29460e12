-- A login as it is. Columns that queries look at are columns of their own; the rest is JSON.
CREATE TABLE {flows} (
    -- What is authenticated, and stays while the login waits.
    id TEXT {bytewise}NOT NULL PRIMARY KEY,
    open_name TEXT UNIQUE,
    created_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    provider TEXT NOT NULL,
    record TEXT NOT NULL,
    code TEXT,
    token TEXT,
    revoke TEXT,
    -- What is authenticated, and moves with each transition.
    seq BIGINT NOT NULL,
    state TEXT NOT NULL,
    moved_at DOUBLE PRECISION NOT NULL,
    progress TEXT NOT NULL,
    head TEXT NOT NULL,
    mac TEXT NOT NULL,
    -- What can only delay a login.
    wake_at DOUBLE PRECISION,
    snoozes INTEGER NOT NULL DEFAULT 0,
    lease_owner TEXT,
    leased_at DOUBLE PRECISION,
    lease_until DOUBLE PRECISION,
    lease_clock TEXT,
    previous_owner TEXT
);
CREATE INDEX flows_wake ON {flows} (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX flows_all ON {flows} (created_at, id);
CREATE INDEX flows_unended ON {flows} (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX flows_ended ON {flows} (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX flows_token ON {flows} (ended_at, id) WHERE token IS NOT NULL;
CREATE INDEX flows_revoke ON {flows} (ended_at, id) WHERE revoke IS NOT NULL;
-- A grant as it is. Secrets are sealed, each kind in a column of its own.
CREATE TABLE {grants} (
    -- What is authenticated.
    id TEXT {bytewise}NOT NULL PRIMARY KEY,
    name TEXT {bytewise}NOT NULL UNIQUE,
    created_at DOUBLE PRECISION NOT NULL,
    asked TEXT NOT NULL,
    provider TEXT NOT NULL,
    access TEXT,
    refresh TEXT,
    aside TEXT,
    revoke TEXT,
    link TEXT,
    link_hash TEXT UNIQUE,
    seq BIGINT NOT NULL,
    state TEXT NOT NULL,
    moved_at DOUBLE PRECISION NOT NULL,
    progress TEXT NOT NULL,
    head TEXT NOT NULL,
    mac TEXT NOT NULL,
    -- What can only delay a refresh or a notification, or bring it forward.
    wake_at DOUBLE PRECISION,
    notify_at DOUBLE PRECISION,
    -- What can only delay that the grant is deleted, or have it looked at too early.
    ended_at DOUBLE PRECISION,
    used_at DOUBLE PRECISION,
    -- What used it lately, for people: not authenticated.
    used_by TEXT,
    lease_owner TEXT,
    leased_at DOUBLE PRECISION,
    lease_until DOUBLE PRECISION,
    lease_clock TEXT
);
CREATE INDEX grants_wake ON {grants} (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX grants_notify ON {grants} (notify_at) WHERE notify_at IS NOT NULL;
-- An event for each transition, written in the transaction that makes it true. Its text is what is
-- hashed. The columns that repeat a part of the text are those that rows are ordered by.
CREATE TABLE {audit} (
    flow_id TEXT {bytewise}NOT NULL,
    seq BIGINT NOT NULL,
    "time" TEXT NOT NULL,
    hash TEXT NOT NULL,
    mac TEXT NOT NULL,
    "text" TEXT NOT NULL,
    PRIMARY KEY (flow_id, seq)
);
