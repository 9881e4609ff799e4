-- A port forward's port may be chosen (spec.listen.port is 0, alloc.port is the choice), and where it listens may
-- change. Generated columns cannot be changed in place, so the table is made anew; nothing refers to it.

DROP TRIGGER port_forwards_conflict_of_new;
DROP TRIGGER port_forwards_conflict_of_changed;
DROP VIEW port_forward_conflicts;
DROP INDEX port_forwards_by_port;
DROP INDEX port_forwards_ranges;
ALTER TABLE port_forwards RENAME TO port_forwards_before;

CREATE TABLE port_forwards (
    uid          TEXT    NOT NULL PRIMARY KEY,
    name         TEXT    NOT NULL UNIQUE,
    labels       TEXT    NOT NULL,
    annotations  TEXT    NOT NULL,
    owner        TEXT,
    generation   INTEGER NOT NULL,
    revision     INTEGER NOT NULL,
    create_time  INTEGER NOT NULL,
    update_time  INTEGER NOT NULL,
    delete_time  INTEGER,
    spec_version INTEGER NOT NULL,
    spec         TEXT    NOT NULL,
    alloc        TEXT    NOT NULL,
    -- The target may come later, so it is not a reference.
    protocol     TEXT    NOT NULL AS (spec ->> '$.protocol'),
    address      TEXT             AS (spec ->> '$.listen.address'),  -- NULL for any
    first_port   INTEGER NOT NULL AS (coalesce(alloc ->> '$.port', spec ->> '$.listen.port')),
    last_port    INTEGER NOT NULL
                 AS (coalesce(spec ->> '$.listen.end_port', alloc ->> '$.port', spec ->> '$.listen.port')),
    CHECK (first_port > 0 AND last_port - first_port BETWEEN 0 AND 1023)
) STRICT, WITHOUT ROWID;

INSERT INTO port_forwards (uid, name, labels, annotations, owner, generation, revision, create_time, update_time,
                           delete_time, spec_version, spec, alloc)
    SELECT uid, name, labels, annotations, owner, generation, revision, create_time, update_time,
           delete_time, spec_version, spec, alloc FROM port_forwards_before;
DROP TABLE port_forwards_before;

CREATE INDEX port_forwards_by_port ON port_forwards (protocol, first_port);
CREATE INDEX port_forwards_ranges ON port_forwards (protocol, first_port, last_port) WHERE last_port > first_port;

-- Two forwards conflict when the protocol agrees, the ports intersect, and the addresses are equal or one is any. The
-- other one either begins within this one's ports, or is a range, at most 1 024 long, that begins before and reaches in.
CREATE VIEW port_forward_conflicts AS
    SELECT one.uid, other.uid AS other FROM port_forwards AS one JOIN port_forwards AS other
        ON other.protocol = one.protocol
       AND other.first_port BETWEEN one.first_port AND one.last_port
       AND (other.address IS NULL OR one.address IS NULL OR other.address = one.address)
       AND other.uid <> one.uid
    UNION ALL
    SELECT one.uid, other.uid AS other FROM port_forwards AS one JOIN port_forwards AS other
        ON other.protocol = one.protocol
       AND other.last_port > other.first_port
       AND other.first_port BETWEEN one.first_port - 1023 AND one.first_port - 1
       AND other.last_port >= one.first_port
       AND (other.address IS NULL OR one.address IS NULL OR other.address = one.address);

-- Forwards that change places are taken out before any of them is put in again, so a row only ever comes in.
CREATE TRIGGER port_forwards_conflict_of_new AFTER INSERT ON port_forwards
WHEN EXISTS (SELECT 1 FROM port_forward_conflicts WHERE uid = new.uid)
BEGIN
    SELECT raise(ABORT, 'two port forwards publish the same port');
END;

CREATE TRIGGER port_forwards_conflict_of_changed AFTER UPDATE OF spec, alloc ON port_forwards
WHEN EXISTS (SELECT 1 FROM port_forward_conflicts WHERE uid = new.uid)
BEGIN
    SELECT raise(ABORT, 'two port forwards publish the same port');
END;

PRAGMA user_version = 14;
