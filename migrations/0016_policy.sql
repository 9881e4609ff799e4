-- Policies: which traffic Attachments accept, or may send. What they select and whom they name changes with labels, so only
-- the Network that a selector names is a reference; a peer may be gone, and means nobody then.

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

PRAGMA user_version = 16;
