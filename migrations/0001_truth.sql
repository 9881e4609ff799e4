-- The truth: what callers want, what was allocated for it, and what happened.
--
-- One table per noun. The common columns are those that every object has; `spec` is the caller's intent and `alloc` what
-- was chosen for it, both as JSON in the words of the API (the types are in proto/ and server/src/world/). The daemon
-- checks every write against its World first; what the tables guard on top (references, addresses, devices, ports) is a
-- second line, and a violation there is a defect of the daemon. References are checked at COMMIT, since one write may
-- put the child before the parent. What is deleted has `delete_time` set until the kernel is rid of it; then the row goes.
--
-- Times are microseconds since 1970. A uid is a UUIDv7 as text. A change of this schema is a new file beside this one,
-- which ends with the next `user_version`.

CREATE TABLE namespaces (
    uid          TEXT    NOT NULL PRIMARY KEY,
    name         TEXT    NOT NULL UNIQUE,
    labels       TEXT    NOT NULL,
    annotations  TEXT    NOT NULL,
    owner        TEXT,
    generation   INTEGER NOT NULL,  -- +1 when spec changes
    revision     INTEGER NOT NULL,  -- meta.revision of its last change
    create_time  INTEGER NOT NULL,
    update_time  INTEGER NOT NULL,
    delete_time  INTEGER,
    spec_version INTEGER NOT NULL,
    spec         TEXT    NOT NULL,
    alloc        TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE networks (
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
    alloc        TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE attachments (
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
    namespace    TEXT    NOT NULL AS (spec ->> '$.namespace')
                 REFERENCES namespaces (name) DEFERRABLE INITIALLY DEFERRED,
    network      TEXT    NOT NULL AS (spec ->> '$.network')
                 REFERENCES networks (name) DEFERRABLE INITIALLY DEFERRED,
    interface    TEXT    NOT NULL AS (alloc ->> '$.interface'),
    mac          TEXT    NOT NULL AS (alloc ->> '$.mac'),
    UNIQUE (namespace, interface),
    UNIQUE (network, mac)
) STRICT, WITHOUT ROWID;

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
    first_port   INTEGER NOT NULL AS (spec ->> '$.listen.port'),
    last_port    INTEGER NOT NULL AS (coalesce(spec ->> '$.listen.end_port', spec ->> '$.listen.port')),
    CHECK (last_port - first_port BETWEEN 0 AND 1023)
) STRICT, WITHOUT ROWID;

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

CREATE TRIGGER port_forwards_conflict_of_new AFTER INSERT ON port_forwards
WHEN EXISTS (SELECT 1 FROM port_forward_conflicts WHERE uid = new.uid)
BEGIN
    SELECT raise(ABORT, 'two port forwards publish the same port');
END;

CREATE TRIGGER port_forwards_conflict_of_changed AFTER UPDATE OF spec ON port_forwards
WHEN EXISTS (SELECT 1 FROM port_forward_conflicts WHERE uid = new.uid)
BEGIN
    SELECT raise(ABORT, 'two port forwards publish the same port');
END;

CREATE TABLE reservations (
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
    network      TEXT    NOT NULL AS (spec ->> '$.network')
                 REFERENCES networks (name) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

-- Children are looked up when their parent goes.
CREATE INDEX reservations_by_network ON reservations (network);

-- Every used address: gateways, attachments, reservations. Written in the transaction of its holder, and gone before it.
CREATE TABLE allocations (
    network_uid  TEXT    NOT NULL REFERENCES networks (uid) DEFERRABLE INITIALLY DEFERRED,
    address      TEXT    NOT NULL,
    holder_kind  TEXT    NOT NULL CHECK (holder_kind IN ('Network', 'Attachment', 'Reservation')),
    holder_uid   TEXT    NOT NULL,
    since        INTEGER NOT NULL,
    attachment   TEXT    AS (CASE WHEN holder_kind = 'Attachment' THEN holder_uid END)
                 REFERENCES attachments (uid) DEFERRABLE INITIALLY DEFERRED,
    reservation  TEXT    AS (CASE WHEN holder_kind = 'Reservation' THEN holder_uid END)
                 REFERENCES reservations (uid) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (network_uid, address),
    CHECK (holder_kind <> 'Network' OR holder_uid = network_uid)
) STRICT, WITHOUT ROWID;

CREATE INDEX allocations_by_holder ON allocations (holder_uid);
CREATE INDEX allocations_by_attachment ON allocations (attachment) WHERE attachment IS NOT NULL;
CREATE INDEX allocations_by_reservation ON allocations (reservation) WHERE reservation IS NOT NULL;

-- Every host device that bears a name of ours: bridges, and the host's ends of cables.
CREATE TABLE devices (
    name         TEXT    NOT NULL PRIMARY KEY,
    holder_kind  TEXT    NOT NULL CHECK (holder_kind IN ('Network', 'Attachment')),
    holder_uid   TEXT    NOT NULL,
    network      TEXT    AS (CASE WHEN holder_kind = 'Network' THEN holder_uid END)
                 REFERENCES networks (uid) DEFERRABLE INITIALLY DEFERRED,
    attachment   TEXT    AS (CASE WHEN holder_kind = 'Attachment' THEN holder_uid END)
                 REFERENCES attachments (uid) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE INDEX devices_by_holder ON devices (holder_uid);
CREATE INDEX devices_by_network ON devices (network) WHERE network IS NOT NULL;
CREATE INDEX devices_by_attachment ON devices (attachment) WHERE attachment IS NOT NULL;

-- Where next-fit allocation goes on in a subnet: a hint that goes with its network.
CREATE TABLE cursors (
    network      TEXT    NOT NULL REFERENCES networks (name) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    subnet       TEXT    NOT NULL,
    address      TEXT    NOT NULL,
    PRIMARY KEY (network, subnet)
) STRICT, WITHOUT ROWID;

-- The log, oldest entries pruned.
CREATE TABLE events (
    seq          INTEGER NOT NULL PRIMARY KEY,
    time         INTEGER NOT NULL,
    type         TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    uid          TEXT    NOT NULL,
    generation   INTEGER NOT NULL,
    actor        TEXT,
    request_id   TEXT,
    reason       TEXT,
    message      TEXT,
    object       TEXT    -- as the API shows it after the event
) STRICT;

-- Which object a caller's request made or changed, so that a retry gets the same one. Kept for a day.
CREATE TABLE requests (
    actor        TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    hash         TEXT    NOT NULL,  -- of the request: the same key with another one is an error
    kind         TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    uid          TEXT    NOT NULL,
    time         INTEGER NOT NULL,
    PRIMARY KEY (actor, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_time ON requests (time);

CREATE TABLE meta (
    id           INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    revision     INTEGER NOT NULL,  -- counts intent: +1 with every commit that changes an object
    seq          INTEGER NOT NULL,  -- of the last event ever
    pruned       INTEGER NOT NULL   -- of the last event that is no longer kept
) STRICT;

INSERT INTO meta (id, revision, seq, pruned) VALUES (1, 0, 0, 0);

PRAGMA application_id = 0x6e65746c;  -- "netl"
PRAGMA user_version = 1;
