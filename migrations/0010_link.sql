-- Links: direct cables. An end is in a Namespace, or on `host`, which has no row.

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

-- An interface name is one object's: no two ends, and no end and an attachment, share one in a namespace. On the host the
-- table of devices says so. The ends never change, so only new rows are looked at.
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

CREATE TRIGGER attachments_interface_taken AFTER INSERT ON attachments
WHEN EXISTS (SELECT 1 FROM links WHERE namespace_0 = new.namespace AND interface_0 = new.interface)
  OR EXISTS (SELECT 1 FROM links WHERE namespace_1 = new.namespace AND interface_1 = new.interface)
BEGIN
    SELECT raise(ABORT, 'an attachment takes an interface name that a link has');
END;

-- Links hold host devices, too; SQLite cannot change a CHECK, so the table is made anew.
CREATE TABLE devices_now (
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

INSERT INTO devices_now (name, holder_kind, holder_uid) SELECT name, holder_kind, holder_uid FROM devices;
DROP TABLE devices;
ALTER TABLE devices_now RENAME TO devices;

CREATE INDEX devices_by_holder ON devices (holder_uid);
CREATE INDEX devices_by_network ON devices (network) WHERE network IS NOT NULL;
CREATE INDEX devices_by_attachment ON devices (attachment) WHERE attachment IS NOT NULL;
CREATE INDEX devices_by_link ON devices (link) WHERE link IS NOT NULL;

PRAGMA user_version = 10;
