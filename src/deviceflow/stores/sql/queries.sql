-- Each statement by its name. What is in braces is another fragment, or a word of the dialect.
-- Values are written :name, in every dialect.

-- Fragments.

-- fragment: row
SELECT {columns}, {now} FROM {flows}

-- fragment: free
-- As `deviceflow.stores._leases` says. What no lease can be is void.
(lease_until IS NULL OR leased_at IS NULL OR lease_owner = :owner
    OR lease_until <= leased_at OR lease_until > leased_at + {longest_lease}
    OR lease_until <= {steady} AND leased_at <= {steady} + 1 AND lease_clock = {clock})

-- fragment: foreign
(lease_clock IS NULL OR lease_clock <> {clock} OR leased_at > {steady} + 1)

-- fragment: restarts
SET leased_at = {steady}, lease_until = {steady} + (lease_until - leased_at), lease_clock = {clock}
WHERE id = :id AND leased_at = :since AND {foreign}

-- fragment: moves
seq = :seq, state = :state, moved_at = :moved_at, progress = :progress,
head = :head, mac = :mac, wake_at = :wake_at, snoozes = 0, previous_owner = NULL

-- fragment: turns
-- Of its own, since each index that one of these columns is in costs time to keep; and with the
-- provider in the very words that the secrets are bound to.
{moves}, ended_at = :ended_at, open_name = :open_name, provider = :provider, record = :record,
code = :code, token = :token, revoke = :revoke

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

-- fragment: grant_row
SELECT {grant_columns}, {now}, used_at, used_by, lease_owner, leased_at, lease_until, lease_clock,
    {steady}, {clock} FROM {grants}

-- fragment: notice_due
-- Or the clock was set back.
(notify_at <= {now} OR notify_at > {now} + 90000)

-- fragment: grant_free
-- Or who would take it has waited until it had ended.
({free} OR lease_owner = :ended)

-- fragment: grant_moves
{grant_set}, wake_at = :wake_at, notify_at = :notify_at, ended_at = :ended_at

-- A login.

-- name: now
SELECT {now}

-- name: add
INSERT INTO {flows} ({columns}, wake_at) VALUES ({column_values}, :wake_at)
ON CONFLICT DO NOTHING

-- name: get
{row} WHERE id = :id

-- name: get_by_open_name
{row} WHERE open_name = :open_name

-- name: all_first
{row} {newest_first}

-- name: all_next
{row} WHERE {older} {newest_first}

-- name: unended_first
{row} WHERE ended_at IS NULL {newest_first}

-- name: unended_next
{row} WHERE ended_at IS NULL AND {older} {newest_first}

-- name: move
UPDATE {flows} SET {moves}, {gives_lease_back} {at}

-- name: turn
UPDATE {flows} SET {turns}, {gives_lease_back} {at}

-- Leases.

-- name: lock
SELECT {columns}, {now}, lease_owner, previous_owner, leased_at, lease_until, lease_clock,
    {steady}, {clock} FROM {flows} WHERE id = :id {for_update}

-- name: find_due
SELECT id FROM {flows} WHERE wake_at <= (SELECT {now}) AND {free} ORDER BY wake_at LIMIT 1 {skip_locked}

-- name: lease
UPDATE {flows} SET previous_owner = :previous_owner, {takes_lease} WHERE id = :id

-- name: lease_due
UPDATE {flows} SET {takes_lease}
WHERE id = (
    SELECT id FROM {flows} WHERE wake_at <= (SELECT {now}) AND {free} ORDER BY wake_at LIMIT 1 {skip_locked}
)

-- name: lease_and_move
UPDATE {flows} SET {moves}, {takes_lease} {at}

-- name: lease_and_turn
UPDATE {flows} SET {turns}, {takes_lease} {at}

-- name: poll_remembered
-- All that this overwrites must be as it is remembered, or an edit of it would go unnoticed.
UPDATE {flows} SET {moves},
    {takes_lease}
{at} AND mac = :old_mac AND progress = :old_progress AND head = :old_head
    AND state = :old_state AND moved_at = :old_moved_at
    AND lease_owner IS NULL AND lease_until IS NULL AND previous_owner IS NULL

-- name: release
UPDATE {flows} SET lease_owner = NULL, lease_until = NULL WHERE id = :id AND lease_owner = :owner

-- name: snooze
UPDATE {flows} SET lease_owner = NULL, lease_until = NULL,
    wake_at = {now} + {first_snooze} * (1 << {backed_off}), snoozes = {backed_off} + 1
WHERE lease_owner = :owner OR id = :id AND {free}

-- name: reschedule
UPDATE {flows} SET lease_owner = NULL, lease_until = NULL, wake_at = :wake_at, snoozes = 0
WHERE id = :id AND seq = :seq AND lease_owner = :owner

-- name: upcoming
-- The first event of a flow is its code: a flow with one event was never polled.
SELECT id, seq, wake_at, {now}, provider FROM {flows}
WHERE wake_at <= (SELECT {now}) + :ahead AND (seq <= 1 OR wake_at <= (SELECT {now}) - :grace)
    AND {free}
ORDER BY wake_at LIMIT :limit

-- name: any_pending
SELECT 1 FROM {flows} WHERE ended_at IS NULL AND wake_at IS NOT NULL AND snoozes = 0 LIMIT 1

-- name: restart_lease
UPDATE {flows} {restarts}

-- name: restart_grant_lease
UPDATE {grants} {restarts}

-- name: foreign_leases
SELECT id, leased_at FROM {flows}
WHERE wake_at <= {now} AND leased_at < lease_until AND {foreign}

-- name: wake_after_clock_change
UPDATE {flows} SET wake_at = {now} WHERE wake_at > {now} AND moved_at > {now} + 1

-- What is left after the end.

-- name: with_token
SELECT id FROM {flows}
WHERE token IS NOT NULL AND ended_at <= :ended_before AND (snoozes = 0 OR wake_at <= {now})
ORDER BY ended_at, id LIMIT :limit OFFSET :skip

-- name: with_revoke
SELECT id FROM {flows}
WHERE revoke IS NOT NULL AND ended_at <= :ended_before AND (snoozes = 0 OR wake_at <= {now})
ORDER BY ended_at, id LIMIT :limit OFFSET :skip

-- name: without_secrets
{row} WHERE ended_at <= :ended_before AND token IS NULL AND revoke IS NULL
ORDER BY ended_at, id LIMIT :limit OFFSET :skip

-- name: delete
DELETE FROM {flows} WHERE id = :id AND mac = :mac

-- name: with_other_keys
SELECT id FROM {flows}
WHERE mac NOT LIKE :prefix
    OR code NOT LIKE :prefix OR token NOT LIKE :prefix OR revoke NOT LIKE :prefix
ORDER BY id LIMIT :limit OFFSET :skip

-- Grants.

-- name: add_grant
INSERT INTO {grants} ({grant_columns}, wake_at, notify_at, ended_at)
VALUES ({grant_values}, :wake_at, :notify_at, :ended_at)
ON CONFLICT DO NOTHING

-- name: get_grant
{grant_row} WHERE name = :name

-- name: get_grant_by_id
{grant_row} WHERE id = :id

-- name: get_grant_by_link
{grant_row} WHERE link_hash = :link_hash

-- name: grant_id
SELECT id FROM {grants} WHERE name = :name

-- name: grants_first
{grant_row} ORDER BY name LIMIT :limit

-- name: grants_next
{grant_row} WHERE name > :name ORDER BY name LIMIT :limit

-- name: move_grant
UPDATE {grants} SET {grant_moves}, {gives_lease_back} {at}

-- name: lease_and_move_grant
UPDATE {grants} SET {grant_moves}, {takes_lease} {at} AND {grant_free}

-- name: use_grant
UPDATE {grants} SET used_at = {now}, used_by = :used_by WHERE id = :id

-- name: snooze_grant
UPDATE {grants} SET
    wake_at = CASE WHEN wake_at <= {now} THEN {now} + :seconds ELSE wake_at END,
    notify_at = CASE WHEN {notice_due} THEN {now} + :seconds ELSE notify_at END
WHERE name = :name

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
SELECT name FROM {grants} WHERE ended_at <= :ended_before AND name > :name ORDER BY name LIMIT :limit

-- name: delete_grant
DELETE FROM {grants} WHERE id = :id AND seq = :seq

-- name: grants_with_other_keys
SELECT id FROM {grants}
WHERE mac NOT LIKE :prefix OR access NOT LIKE :prefix OR refresh NOT LIKE :prefix
    OR aside NOT LIKE :prefix OR revoke NOT LIKE :prefix OR link NOT LIKE :prefix
ORDER BY id LIMIT :limit OFFSET :skip

-- The trail.

-- name: add_event
INSERT INTO {audit} ({stored}) VALUES ({stored_values})

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

-- name: flows_all
SELECT {columns} FROM {flows} ORDER BY id

-- name: flows_from
SELECT {columns} FROM {flows} WHERE id >= :first ORDER BY id

-- name: flows_between
SELECT {columns} FROM {flows} WHERE id >= :first AND id < :last ORDER BY id

-- name: grants_all
SELECT {grant_columns} FROM {grants} ORDER BY id

-- name: grants_from
SELECT {grant_columns} FROM {grants} WHERE id >= :first ORDER BY id

-- name: grants_between
SELECT {grant_columns} FROM {grants} WHERE id >= :first AND id < :last ORDER BY id

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
