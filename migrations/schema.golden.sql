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

CREATE INDEX allocations_by_attachment ON allocations (attachment) WHERE attachment IS NOT NULL;

CREATE INDEX allocations_by_holder ON allocations (holder_uid);

CREATE INDEX allocations_by_reservation ON allocations (reservation) WHERE reservation IS NOT NULL;

CREATE TRIGGER attachments_interface_taken AFTER INSERT ON attachments
WHEN EXISTS (SELECT 1 FROM links WHERE namespace_0 = new.namespace AND interface_0 = new.interface)
  OR EXISTS (SELECT 1 FROM links WHERE namespace_1 = new.namespace AND interface_1 = new.interface)
BEGIN
    SELECT raise(ABORT, 'an attachment takes an interface name that a link has');
END;

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

CREATE TABLE cursors (
    network      TEXT    NOT NULL REFERENCES networks (name) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    subnet       TEXT    NOT NULL,
    address      TEXT    NOT NULL,
    PRIMARY KEY (network, subnet)
) STRICT, WITHOUT ROWID;

CREATE TABLE "devices" (
    name         TEXT    NOT NULL PRIMARY KEY,
    holder_kind  TEXT    NOT NULL CHECK (holder_kind IN ('Network', 'Attachment', 'Link')),
    holder_uid   TEXT    NOT NULL,
    network      TEXT    AS (CASE WHEN holder_kind = 'Network' THEN holder_uid END)
                 REFERENCES networks (uid) DEFERRABLE INITIALLY DEFERRED,
    attachment   TEXT    AS (CASE WHEN holder_kind = 'Attachment' THEN holder_uid END)
                 REFERENCES attachments (uid) DEFERRABLE INITIALLY DEFERRED,
    link         TEXT    AS (CASE WHEN holder_kind = 'Link' THEN holder_uid END)
                 REFERENCES links (uid) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE INDEX devices_by_attachment ON devices (attachment) WHERE attachment IS NOT NULL;

CREATE INDEX devices_by_holder ON devices (holder_uid);

CREATE INDEX devices_by_link ON devices (link) WHERE link IS NOT NULL;

CREATE INDEX devices_by_network ON devices (network) WHERE network IS NOT NULL;

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

CREATE TRIGGER links_interface_taken AFTER INSERT ON links
WHEN (new.namespace_0 = new.namespace_1 AND new.interface_0 = new.interface_1) OR EXISTS (
    SELECT 1 FROM (SELECT new.namespace_0 AS namespace, new.interface_0 AS interface
                   UNION ALL SELECT new.namespace_1, new.interface_1) AS one
    WHERE EXISTS (SELECT 1 FROM links WHERE namespace_0 = one.namespace AND interface_0 = one.interface AND uid <> new.uid)
       OR EXISTS (SELECT 1 FROM links WHERE namespace_1 = one.namespace AND interface_1 = one.interface AND uid <> new.uid)
       OR EXISTS (SELECT 1 FROM attachments WHERE namespace = one.namespace AND interface = one.interface))
BEGIN
    SELECT raise(ABORT, 'a link takes an interface name that is taken');
END;

CREATE TABLE links (
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
    namespace_0  TEXT             AS (nullif(spec ->> '$.ends[0].namespace', 'host'))
                 REFERENCES namespaces (name) DEFERRABLE INITIALLY DEFERRED,
    interface_0  TEXT    NOT NULL AS (spec ->> '$.ends[0].interface'),
    namespace_1  TEXT             AS (nullif(spec ->> '$.ends[1].namespace', 'host'))
                 REFERENCES namespaces (name) DEFERRABLE INITIALLY DEFERRED,
    interface_1  TEXT    NOT NULL AS (spec ->> '$.ends[1].interface')
) STRICT, WITHOUT ROWID;

CREATE INDEX links_by_namespace_0 ON links (namespace_0, interface_0);

CREATE INDEX links_by_namespace_1 ON links (namespace_1, interface_1);

CREATE TABLE meta (
    id           INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    revision     INTEGER NOT NULL,  -- counts intent: +1 with every commit that changes an object
    seq          INTEGER NOT NULL,  -- of the last event ever
    pruned       INTEGER NOT NULL   -- of the last event that is no longer kept
) STRICT;

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

CREATE UNIQUE INDEX namespaces_adopted ON namespaces (alloc ->> '$.adopted.boot', alloc ->> '$.adopted.cookie')
    WHERE alloc ->> '$.adopted.cookie' IS NOT NULL;

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

CREATE TABLE policies (
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
    network      TEXT    AS (spec ->> '$.selector.network')
                 REFERENCES networks (name) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE INDEX policies_by_network ON policies (network) WHERE network IS NOT NULL;

CREATE VIEW port_forward_conflicts AS
    SELECT one.uid, other.uid AS other FROM port_forwards AS one JOIN port_forwards AS other
        ON other.protocol = one.protocol
       AND other.first_port BETWEEN one.first_port AND one.last_port
       AND (other.address IS NULL OR one.address IS NULL OR other.address = one.address)
       AND other.uid <> one.uid
       AND one.delete_time IS NULL AND other.delete_time IS NULL
    UNION ALL
    SELECT one.uid, other.uid AS other FROM port_forwards AS one JOIN port_forwards AS other
        ON other.protocol = one.protocol
       AND other.last_port > other.first_port
       AND other.first_port BETWEEN one.first_port - 1023 AND one.first_port - 1
       AND other.last_port >= one.first_port
       AND (other.address IS NULL OR one.address IS NULL OR other.address = one.address)
       AND one.delete_time IS NULL AND other.delete_time IS NULL;

CREATE TRIGGER port_forwards_conflict_of_changed AFTER UPDATE OF spec, alloc ON port_forwards
WHEN EXISTS (SELECT 1 FROM port_forward_conflicts WHERE uid = new.uid)
BEGIN
    SELECT raise(ABORT, 'two port forwards publish the same port');
END;

CREATE TRIGGER port_forwards_conflict_of_new AFTER INSERT ON port_forwards
WHEN EXISTS (SELECT 1 FROM port_forward_conflicts WHERE uid = new.uid)
BEGIN
    SELECT raise(ABORT, 'two port forwards publish the same port');
END;

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

CREATE INDEX port_forwards_by_port ON port_forwards (protocol, first_port);

CREATE INDEX port_forwards_ranges ON port_forwards (protocol, first_port, last_port) WHERE last_port > first_port;

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

CREATE INDEX reservations_by_network ON reservations (network);

CREATE TABLE route_places (
    namespace    TEXT    NOT NULL,  -- or 'host'
    table_id     INTEGER NOT NULL,
    destination  TEXT    NOT NULL,
    metric       INTEGER NOT NULL,
    route_uid    TEXT    NOT NULL UNIQUE REFERENCES routes (uid) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (namespace, table_id, destination, metric)
) STRICT, WITHOUT ROWID;

CREATE TABLE routes (
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
    -- The host is no object, so its routes refer to none.
    namespace    TEXT    AS (nullif(spec ->> '$.namespace', 'host'))
                 REFERENCES namespaces (name) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE INDEX routes_by_namespace ON routes (namespace) WHERE namespace IS NOT NULL;

