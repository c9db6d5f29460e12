-- Each statement by its name. What is in braces is another fragment, or a word of the dialect.
-- Values are written :name, in every dialect. A statement "each" is there for each table of
-- records, as TABLE.NAME; {table}, {columns} and the like are that table's, as in any of such a name.

-- Fragments.

-- fragment: row
SELECT {columns}, {now}, lease_owner, previous_owner, leased_at, lease_until, lease_clock, {steady},
    {clock}, {others} FROM {table}

-- fragment: over
-- As `deviceflow.stores._leases` says. What no lease can be is void.
(lease_until IS NULL OR leased_at IS NULL
    OR lease_until <= leased_at OR lease_until > leased_at + {longest_lease}
    OR lease_until <= {steady} AND leased_at <= {steady} + 1 AND lease_clock = {clock})

-- fragment: free
(lease_owner = :owner OR {over})

-- fragment: foreign
(lease_clock IS NULL OR lease_clock <> {clock} OR leased_at > {steady} + 1)

-- fragment: moves
{set}, snoozes = 0, previous_owner = NULL

-- fragment: takes_lease
lease_owner = :owner, leased_at = {steady}, lease_until = {steady} + :seconds,
lease_clock = {clock}

-- fragment: gives_lease_back
lease_owner = CASE WHEN lease_owner = :release THEN NULL ELSE lease_owner END,
lease_until = CASE WHEN lease_owner = :release THEN NULL ELSE lease_until END

-- fragment: at
WHERE id = :id AND seq = :before

-- fragment: newest_first
ORDER BY created_at DESC, id DESC LIMIT :limit

-- fragment: older
(created_at, id) < (:created_at, :id)

-- fragment: backed_off
CASE WHEN snoozes BETWEEN 0 AND 5 THEN snoozes ELSE 6 END

-- fragment: notice_due
-- Or the clock was set back.
(notify_at <= {now} OR notify_at > {now} + 90000)

-- fragment: last_events
SELECT flow_id, seq, hash FROM {audit}
JOIN (SELECT flow_id AS name, MAX(seq) AS last FROM {audit} GROUP BY flow_id) AS lasts
    ON flow_id = name AND seq = last

-- fragment: begun
-- All flows that may be those that are asked for; see `deviceflow.trail.query`.
SELECT flow_id, MIN("time") AS begun FROM {audit} WHERE flow_id <> :store GROUP BY flow_id
HAVING (CAST(:since AS TEXT) IS NULL OR MIN("time") >= :since)
    AND (CAST(:until AS TEXT) IS NULL OR MIN("time") < :until)
    AND (CAST(:state AS TEXT) IS NULL OR MAX({find}("text", :state)) > 0)
    AND (CAST(:reason AS TEXT) IS NULL OR MAX({find}("text", :reason)) > 0)
    AND (CAST(:name AS TEXT) IS NULL OR MAX({find}("text", :name)) > 0)
    AND (CAST(:actor AS TEXT) IS NULL OR MAX({find}("text", :actor)) > 0)
    AND (CAST(:client_id AS TEXT) IS NULL
        OR MAX({find}("text", :client_id)) > 0 OR MAX({find}("text", :client_name)) > 0)
ORDER BY begun

-- Records of each kind.

-- each: add
INSERT INTO {table} ({columns}, {times}) VALUES ({values})
ON CONFLICT DO NOTHING

-- each: get_by_id
{row} WHERE id = :id

-- each: get_by_name
{row} WHERE name = :name

-- each: lock
{row} WHERE id = :id {for_update}

-- each: move
UPDATE {table} SET {moves}, {gives_lease_back} {at}

-- each: lease_and_move
-- Or who would take the lease has waited until it had ended.
UPDATE {table} SET {moves}, {takes_lease} {at} AND ({free} OR lease_owner = :ended)

-- each: lease
UPDATE {table} SET previous_owner = :previous_owner, {takes_lease} WHERE id = :id

-- each: hold
-- Or hold it again. Whoever holds it has no lease of its own: that of the driver counts.
UPDATE {table} SET {moves}, lease_owner = NULL, lease_until = NULL {at} AND {free}

-- each: restart_lease
UPDATE {table}
SET leased_at = {steady}, lease_until = {steady} + (lease_until - leased_at), lease_clock = {clock}
WHERE id = :id AND leased_at = :since AND {foreign}

-- each: delete
DELETE FROM {table} WHERE id = :id AND seq = :seq

-- each: with_other_keys
SELECT id FROM {table} WHERE {other_keys} ORDER BY id LIMIT :limit OFFSET :skip

-- each: rows_all
SELECT {columns} FROM {table} ORDER BY id

-- each: rows_from
SELECT {columns} FROM {table} WHERE id >= :first ORDER BY id

-- each: rows_between
SELECT {columns} FROM {table} WHERE id >= :first AND id < :last ORDER BY id

-- Logins.

-- name: now
SELECT {now}

-- name: flows.all
{row} {newest_first}

-- name: flows.all_after
{row} WHERE {older} {newest_first}

-- name: flows.unended
{row} WHERE ended_at IS NULL {newest_first}

-- name: flows.unended_after
{row} WHERE ended_at IS NULL AND {older} {newest_first}

-- name: without_secrets
{login_row} WHERE ended_at <= :ended_before AND token IS NULL AND revoke IS NULL
ORDER BY ended_at, id LIMIT :limit OFFSET :skip

-- name: release
UPDATE {flows} SET lease_owner = NULL, lease_until = NULL WHERE id = :id AND lease_owner = :owner

-- name: put_off_flows
UPDATE {flows} SET lease_owner = NULL, lease_until = NULL,
    wake_at = {now} + {first_snooze} * (1 << {backed_off}), snoozes = {backed_off} + 1
WHERE lease_owner = :owner OR id = :key AND {free}

-- name: release_until_due
UPDATE {flows} SET lease_owner = NULL, lease_until = NULL, wake_at = :wake_at, snoozes = 0
WHERE id = :id AND seq = :seq AND lease_owner = :owner

-- name: upcoming
-- The first event of a login is its code: a login with one event was never polled.
SELECT id, seq, wake_at, {now}, provider FROM {flows}
WHERE wake_at <= (SELECT {now}) + :ahead AND (seq <= 1 OR wake_at <= (SELECT {now}) - :grace)
    AND {free}
ORDER BY wake_at LIMIT :limit

-- name: pending
SELECT 1 FROM {flows}
WHERE ended_at IS NULL AND (wake_at IS NOT NULL AND snoozes = 0 OR held_by IS NOT NULL) LIMIT 1

-- name: foreign_leases
SELECT id, leased_at FROM {flows}
WHERE wake_at <= {now} AND leased_at < lease_until AND {foreign}
UNION ALL
SELECT (SELECT MIN(id) FROM {flows} WHERE held_by = driver), leased_at FROM {drivers}
WHERE leased_at < lease_until AND {foreign}

-- name: lapsed
-- Logins that somebody held who has died, and nobody has taken over. Whoever has no row has died.
SELECT id, seq, {now}, {now}, provider FROM {flows}
WHERE held_by IS NOT NULL AND held_by NOT IN (SELECT driver FROM {drivers} WHERE NOT {over})
    AND wake_at IS NULL AND {free}
LIMIT :limit

-- name: wake_after_clock_change
UPDATE {flows} SET wake_at = {now} WHERE wake_at > {now} AND moved_at > {now} + 1

-- name: with_token
SELECT id FROM {flows}
WHERE token IS NOT NULL AND ended_at <= :ended_before AND (snoozes = 0 OR wake_at <= {now})
ORDER BY ended_at, id LIMIT :limit OFFSET :skip

-- name: with_revoke
SELECT id FROM {flows}
WHERE revoke IS NOT NULL AND ended_at <= :ended_before AND (snoozes = 0 OR wake_at <= {now})
ORDER BY ended_at, id LIMIT :limit OFFSET :skip

-- Grants.

-- name: grants.get_by_link
{row} WHERE link_hash = :link

-- name: grants.all
{row} ORDER BY name LIMIT :limit

-- name: grants.all_after
{row} WHERE name > :name ORDER BY name LIMIT :limit

-- name: grant_id
SELECT id FROM {grants} WHERE name = :name

-- name: use_grant
UPDATE {grants} SET used_at = {now}, used_by = :used_by WHERE id = :id

-- name: put_off_grants
UPDATE {grants} SET
    wake_at = CASE WHEN wake_at <= {now} THEN {now} + :seconds ELSE wake_at END,
    notify_at = CASE WHEN {notice_due} THEN {now} + :seconds ELSE notify_at END
WHERE name = :key

-- name: due_grants
SELECT name, provider FROM {grants}
WHERE wake_at <= {now} AND ({free} OR {foreign}) AND (used_at >= {now} - :unused OR state = 'revoked')
ORDER BY wake_at LIMIT :limit

-- name: due_notices
SELECT name FROM {grants}
WHERE notify_at IS NOT NULL AND {notice_due}
ORDER BY notify_at LIMIT :limit

-- name: claim_notice
UPDATE {grants} SET notify_at = {now} + :seconds WHERE id = :id AND {notice_due}

-- name: ended_grants
SELECT name FROM {grants} WHERE ended_at <= :ended_before AND name > :after ORDER BY name LIMIT :limit

-- Who holds logins. A row's lease is that of all logins that it holds.

-- name: add_driver
INSERT INTO {drivers} (driver, leased_at, lease_until, lease_clock)
VALUES (:driver, {steady}, {steady} + :seconds, {clock})
ON CONFLICT DO NOTHING

-- name: renew_driver
UPDATE {drivers} SET leased_at = {steady}, lease_until = {steady} + :seconds
WHERE driver = :driver AND NOT {over} AND NOT {foreign}

-- name: driver
SELECT leased_at, lease_until, lease_clock, {steady}, {clock} FROM {drivers} WHERE driver = :driver

-- name: restart_driver
UPDATE {drivers}
SET leased_at = {steady}, lease_until = {steady} + (lease_until - leased_at), lease_clock = {clock}
WHERE driver = (SELECT held_by FROM {flows} WHERE id = :id) AND leased_at = :since AND {foreign}

-- name: gone_drivers
SELECT driver FROM {drivers}
WHERE {over} AND NOT EXISTS (SELECT 1 FROM {flows} WHERE held_by = driver)

-- name: delete_driver
-- But not while it holds a login: others must wait until its lease has ended.
DELETE FROM {drivers}
WHERE driver = :driver AND NOT EXISTS (SELECT 1 FROM {flows} WHERE held_by = driver)

-- name: take_from_driver
INSERT INTO {taken} (driver, flow_id)
SELECT held_by, id FROM {flows} WHERE id = :id AND held_by IS NOT NULL
ON CONFLICT DO NOTHING

-- name: taken
SELECT flow_id FROM {taken} WHERE driver = :driver

-- name: delete_seen
DELETE FROM {taken} WHERE driver = :driver AND flow_id = :id

-- name: delete_taken
DELETE FROM {taken} WHERE driver = :driver

-- The trail.

-- name: add_event
INSERT INTO {audit} ({stored}) VALUES ({stored_values})
ON CONFLICT DO NOTHING

-- name: text_of_event
SELECT "text" FROM {audit} WHERE flow_id = :id AND seq = :seq

-- name: delete_events
DELETE FROM {audit} WHERE flow_id = :id

-- name: delete_events_before
DELETE FROM {audit} WHERE flow_id = :id AND seq < :seq

-- name: last_event
SELECT seq, hash, "time" FROM {audit} WHERE flow_id = :id ORDER BY seq DESC LIMIT 1

-- name: event
SELECT seq, hash FROM {audit} WHERE flow_id = :id AND seq = :seq

-- name: history
SELECT {stored} FROM {audit} WHERE flow_id = :id ORDER BY seq

-- name: histories
SELECT {stored} FROM {audit} WHERE flow_id IN ({ids}) ORDER BY flow_id, seq

-- name: progress
SELECT id, progress FROM {flows} WHERE id IN ({ids})

-- name: uses
SELECT id, used_by FROM {grants} WHERE id IN ({ids})

-- name: begun_oldest
{begun} ASC, flow_id ASC

-- name: begun_newest
{begun} DESC, flow_id DESC

-- name: count_events
SELECT COUNT(*) FROM {audit}

-- name: flow_at_event
SELECT flow_id FROM {audit} ORDER BY flow_id, seq LIMIT 1 OFFSET :place

-- name: last_events
{last_events} ORDER BY flow_id

-- name: last_events_before
{last_events}
WHERE "time" < :until AND flow_id <> :store
    AND NOT EXISTS (SELECT 1 FROM {flows} WHERE id = flow_id)
    AND NOT EXISTS (SELECT 1 FROM {grants} WHERE id = flow_id)
    AND ({find}("text", '"to":"expired"') > 0 OR {find}("text", '"to":"failed"') > 0
        OR {find}("text", '"to":"lost"') > 0 OR {find}("text", '"to":"revoked"') > 0
        OR {find}("text", '"to":"authorized"') > 0 AND EXISTS (
            SELECT 1 FROM {audit} AS its WHERE its.flow_id = name AND ({token_gone})
        ))
ORDER BY flow_id

-- name: open_before
-- Of each flow that has not ended, and of each grant, the last event before a time, if there are more before it.
SELECT {stored} FROM {audit}
JOIN (
    SELECT flow_id AS name, MAX(seq) AS last FROM {audit} WHERE "time" < :until
    GROUP BY flow_id HAVING COUNT(*) > 1
) AS lasts ON flow_id = name AND seq = last
WHERE EXISTS (SELECT 1 FROM {flows} WHERE id = flow_id AND ended_at IS NULL)
    OR EXISTS (SELECT 1 FROM {grants} WHERE id = flow_id)
ORDER BY flow_id

-- name: event_before
SELECT seq, hash FROM {audit} WHERE flow_id = :id AND seq < :seq ORDER BY seq DESC LIMIT 1

-- name: events_all
SELECT {stored} FROM {audit} ORDER BY flow_id, seq

-- name: events_from
SELECT {stored} FROM {audit} WHERE flow_id >= :first ORDER BY flow_id, seq

-- name: events_between
SELECT {stored} FROM {audit} WHERE flow_id >= :first AND flow_id < :last ORDER BY flow_id, seq

-- The store itself.

-- name: wal_checkpoint
-- SQLite's.
PRAGMA wal_checkpoint(TRUNCATE)

-- name: data_version
-- SQLite's.
PRAGMA data_version

-- name: notify
-- PostgreSQL's.
SELECT pg_notify('deviceflow', :payload)

-- name: lock_store
UPDATE {meta} SET value = value WHERE name = 'version'

-- name: is_unicode
{is_unicode}

-- name: has_meta
{has_meta}

-- name: create_meta
CREATE TABLE IF NOT EXISTS {meta} (name TEXT PRIMARY KEY, value TEXT NOT NULL)

-- name: get_meta
SELECT value FROM {meta} WHERE name = :name

-- name: set_meta
INSERT INTO {meta} (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = :value
