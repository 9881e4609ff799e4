-- Routes in namespaces and on the host.

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

-- The place that each route takes; the kernel takes one route for each. A table of its own, so that two routes may swap.
CREATE TABLE route_places (
    namespace    TEXT    NOT NULL,  -- or 'host'
    table_id     INTEGER NOT NULL,
    destination  TEXT    NOT NULL,
    metric       INTEGER NOT NULL,
    route_uid    TEXT    NOT NULL UNIQUE REFERENCES routes (uid) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (namespace, table_id, destination, metric)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 11;
