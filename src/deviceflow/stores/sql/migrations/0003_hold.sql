-- Whoever drives logins that wait holds them, by one lease for all of them.
ALTER TABLE {flows} ADD COLUMN held_by TEXT;
CREATE INDEX flows_held ON {flows} (held_by) WHERE held_by IS NOT NULL;
CREATE TABLE {drivers} (
    driver TEXT NOT NULL PRIMARY KEY,
    leased_at DOUBLE PRECISION,
    lease_until DOUBLE PRECISION,
    lease_clock TEXT
);
-- What others have done to logins while they were held: the drivers look here.
CREATE TABLE {taken} (
    driver TEXT NOT NULL,
    flow_id TEXT NOT NULL,
    PRIMARY KEY (driver, flow_id)
);
