//! Several batches as one transaction: what is left of them when each object is written once, as one SQL text.
//!
//! The rows of a table go in as one JSON array, so the text depends on which tables are touched and not on how much is
//! written: few texts, each prepared once, and one await for all of it, since each costs two thread switches.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
    sync::atomic::Ordering,
};

use netloom_api::{Event, IfName, KIND_NAMES, Kind, Meta, Name, Prefix, Uid};
use serde::{Serialize, Serializer};
use sqlx::{Arguments, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type, sqlite::SqliteArguments};

use super::{Batch, RequestRecord, StoreError};
use crate::telemetry::EFFORT;
use crate::{
    fault::{self, Effect},
    world::{AnyStored, Stored, World, WorldNoun},
};

/// The version of the JSON in `spec` and `alloc`, of every noun.
pub(super) const SPEC_VERSION: i64 = 1;

/// The end of every group's text.
const COMMIT: &str = "COMMIT";

/// The table of a noun.
pub(super) fn table(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespaces",
        Kind::Network => "networks",
        Kind::Attachment => "attachments",
        Kind::PortForward => "port_forwards",
        Kind::Reservation => "reservations",
        Kind::Route => "routes",
        Kind::Link => "links",
        Kind::Policy => "policies",
    }
}

/// Writes the batches in one transaction. Nothing is written when it fails.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    batches: &[&Batch],
    last_seq: i64,
) -> Result<(), StoreError> {
    EFFORT.transactions.fetch_add(1, Ordering::Relaxed);
    let Transaction { text, arguments } = Transaction::of(batches, last_seq)?;
    let fault = fault::before(Effect::Transaction);
    let dies = fault::dies_between(Effect::Transaction);
    if dies || fault.is_some() {
        // All of it but the commit.
        let unfinished = text.trim_end_matches(COMMIT).to_owned();
        sqlx::query_with(AssertSqlSafe(unfinished), arguments).execute(&mut *connection).await?;
        if dies {
            fault::die();
        }
        roll_back(connection).await;
        return Err(StoreError::Unavailable(fault.map(|fault| fault.to_string()).unwrap_or_default()));
    }
    let result = sqlx::query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await;
    fault::after(Effect::Transaction);
    if result.is_err() {
        roll_back(connection).await;
    }
    result?;
    Ok(())
}

/// Ends a transaction that failed half way. SQLite may have ended it already, which is no error.
pub(super) async fn roll_back(connection: &mut SqliteConnection) {
    if let Err(error) = sqlx::query("ROLLBACK").execute(connection).await {
        tracing::debug!(%error, "nothing to roll back");
    }
}

#[derive(Default)]
struct Transaction {
    text: String,
    arguments: SqliteArguments,
}

type Puts<'b> = BTreeMap<(Kind, Uid), &'b AnyStored>;
type Removes = BTreeSet<(Kind, Uid)>;

impl Transaction {
    fn of(batches: &[&Batch], last_seq: i64) -> Result<Self, StoreError> {
        let world = batches.iter().rev().find_map(|batch| batch.world.as_deref());
        let (puts, removes) = last_words(batches);
        let mut sql = Self::default();
        sql.text.push_str("BEGIN IMMEDIATE;");
        sql.release(&puts, &removes)?;
        sql.put(&puts)?;
        sql.hold(&puts)?;
        if let Some(world) = world {
            sql.cursors(batches, world)?;
        }
        sql.log(batches)?;
        sql.text.push_str("UPDATE meta SET revision = max(revision, ?), seq = ?;");
        sql.bind(world.map_or(0, |world| world.revision))?;
        sql.bind(last_seq)?;
        sql.text.push_str(COMMIT);
        Ok(sql)
    }

    fn bind<'q>(&mut self, value: impl Encode<'q, Sqlite> + Type<Sqlite>) -> Result<(), StoreError> {
        self.arguments.add(value).map_err(|error| StoreError::Guard(error.to_string()))
    }

    /// Adds a statement that takes all rows as one JSON array. Without rows there is nothing to do.
    fn rows<R: Serialize>(
        &mut self,
        statement: impl std::fmt::Display,
        rows: impl Iterator<Item = R>,
    ) -> Result<(), StoreError> {
        let rows: Vec<R> = rows.collect();
        if rows.is_empty() {
            return Ok(());
        }
        let wrong = |error: &dyn std::error::Error| StoreError::Guard(error.to_string());
        write!(self.text, "{statement};").map_err(|error| wrong(&error))?;
        self.bind(serde_json::to_string(&rows).map_err(|error| wrong(&error))?)
    }

    /// Takes out what is gone, and all that the changed ones held, before anything comes in; so two objects may swap.
    fn release(&mut self, puts: &Puts<'_>, removes: &Removes) -> Result<(), StoreError> {
        const OF: &str = "IN (SELECT value FROM json_each(?))";
        let touched = || puts.keys().chain(removes).map(|(_, uid)| uid);
        self.rows(format_args!("DELETE FROM allocations WHERE holder_uid {OF}"), touched())?;
        self.rows(format_args!("DELETE FROM devices WHERE holder_uid {OF}"), touched())?;
        let routes = touched_routes(puts, removes);
        self.rows(format_args!("DELETE FROM route_places WHERE route_uid {OF}"), routes)?;
        for (kind, _) in KIND_NAMES {
            // A forward's ports are in its own row, so it is the row that makes room.
            let moved = puts.keys().filter(|_| kind == Kind::PortForward);
            let gone = removes.iter().chain(moved).filter(|(of, _)| *of == kind).map(|(_, uid)| uid);
            self.rows(format_args!("DELETE FROM {} WHERE uid {OF}", table(kind)), gone)?;
        }
        Ok(())
    }

    fn put(&mut self, puts: &Puts<'_>) -> Result<(), StoreError> {
        for (kind, _) in KIND_NAMES {
            let objects = puts.iter().filter(|((of, _), _)| *of == kind).map(|(_, object)| Row(object));
            let statement = format_args!(
                "INSERT INTO {} (uid, name, labels, annotations, owner, generation, revision, create_time, \
                 update_time, delete_time, spec_version, spec, alloc) \
                 SELECT value ->> 0, value ->> 1, value -> 2, value -> 3, value ->> 4, value ->> 5, value ->> 6, \
                 value ->> 7, value ->> 8, value ->> 9, value ->> 10, value -> 11, value -> 12 \
                 FROM json_each(?) WHERE true \
                 ON CONFLICT (uid) DO UPDATE SET labels = excluded.labels, annotations = excluded.annotations, \
                 owner = excluded.owner, generation = excluded.generation, revision = excluded.revision, \
                 update_time = excluded.update_time, delete_time = excluded.delete_time, \
                 spec_version = excluded.spec_version, spec = excluded.spec, alloc = excluded.alloc",
                table(kind)
            );
            self.rows(statement, objects)?;
        }
        Ok(())
    }

    fn hold(&mut self, puts: &Puts<'_>) -> Result<(), StoreError> {
        let addresses = puts.iter().flat_map(|((kind, uid), object)| {
            let since = object.meta().create_time.as_micros();
            addresses(object).into_iter().map(move |(net, address)| (net, address, kind, uid, since))
        });
        self.rows(
            "INSERT INTO allocations (network_uid, address, holder_kind, holder_uid, since) \
             SELECT (SELECT uid FROM networks WHERE name = value ->> 0), value ->> 1, value ->> 2, value ->> 3, \
             value ->> 4 FROM json_each(?)",
            addresses,
        )?;
        let devices = puts.iter().flat_map(|((kind, uid), object)| {
            devices(object).into_iter().map(move |device| (device, kind, uid))
        });
        self.rows(
            "INSERT INTO devices (name, holder_kind, holder_uid) \
             SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)",
            devices,
        )?;
        let places = puts.iter().filter_map(|((_, uid), object)| place(object).map(|place| (place, uid)));
        self.rows(
            "INSERT INTO route_places (namespace, table_id, destination, metric, route_uid) \
             SELECT value ->> 0 ->> 0, value ->> 0 ->> 1, value ->> 0 ->> 2, value ->> 0 ->> 3, value ->> 1 \
             FROM json_each(?)",
            places,
        )
    }

    /// The World decides: a cursor goes with its network, and may have moved on in a later batch.
    fn cursors(&mut self, batches: &[&Batch], world: &World) -> Result<(), StoreError> {
        let moved: BTreeSet<_> =
            batches.iter().flat_map(|batch| &batch.cursors).map(|(n, s, _)| (n, s)).collect();
        let cursors = moved
            .into_iter()
            .filter_map(|(network, subnet)| Some((network, subnet, world.cursor(network, subnet)?)));
        self.rows(
            "INSERT INTO cursors (network, subnet, address) \
             SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true \
             ON CONFLICT (network, subnet) DO UPDATE SET address = excluded.address",
            cursors,
        )
    }

    fn log(&mut self, batches: &[&Batch]) -> Result<(), StoreError> {
        self.rows(
            "INSERT INTO events (seq, time, type, kind, name, uid, generation, actor, request_id, reason, \
             message, object) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, \
             value ->> 7, value ->> 8, value ->> 9, value ->> 10, nullif(value -> 11, 'null') FROM json_each(?)",
            batches.iter().flat_map(|batch| &batch.events).map(event_row),
        )?;
        self.rows(
            "DELETE FROM requests WHERE (actor, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))",
            batches.iter().filter_map(|batch| batch.undone.as_ref()),
        )?;
        self.rows(
            "INSERT INTO requests (actor, key, hash, kind, name, uid, time) \
             SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6 \
             FROM json_each(?)",
            batches.iter().filter_map(|batch| batch.request.as_ref()).map(request_row),
        )
    }
}

fn touched_routes<'b>(puts: &'b Puts<'_>, removes: &'b Removes) -> impl Iterator<Item = &'b Uid> {
    puts.keys().chain(removes).filter(|(kind, _)| *kind == Kind::Route).map(|(_, uid)| uid)
}

/// What the last of the batches that speaks of an object says of it.
fn last_words<'b>(batches: &[&'b Batch]) -> (Puts<'b>, Removes) {
    let (mut puts, mut removes) = (Puts::new(), Removes::new());
    for batch in batches {
        for removed in &batch.removes {
            puts.remove(removed);
            removes.insert(*removed);
        }
        for object in &batch.puts {
            let key = (object.kind(), object.meta().uid);
            removes.remove(&key);
            puts.insert(key, object);
        }
    }
    (puts, removes)
}

/// An object as the columns of its table.
struct Row<'a>(&'a AnyStored);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            AnyStored::Namespace(object) => columns(object, serializer),
            AnyStored::Network(object) => columns(object, serializer),
            AnyStored::Attachment(object) => columns(object, serializer),
            AnyStored::PortForward(object) => columns(object, serializer),
            AnyStored::Reservation(object) => columns(object, serializer),
            AnyStored::Route(object) => columns(object, serializer),
            AnyStored::Link(object) => columns(object, serializer),
            AnyStored::Policy(object) => columns(object, serializer),
        }
    }
}

fn columns<N: WorldNoun, S: Serializer>(object: &Stored<N>, serializer: S) -> Result<S::Ok, S::Error> {
    let Stored { meta, spec, alloc } = object;
    let Meta { name, labels, annotations, owner, uid, generation, revision, .. } = meta;
    let Meta { create_time, update_time, delete_time, .. } = meta;
    let first = (uid, name, labels, annotations, owner, generation, revision);
    let times = (create_time.as_micros(), update_time.as_micros(), delete_time.map(|time| time.as_micros()));
    let (uid, name, labels, annotations, owner, generation, revision) = first;
    let (create, update, delete) = times;
    (
        uid,
        name,
        labels,
        annotations,
        owner,
        generation,
        revision,
        create,
        update,
        delete,
        SPEC_VERSION,
        spec,
        alloc,
    )
        .serialize(serializer)
}

/// The addresses that an object holds, each with its network.
fn addresses(object: &AnyStored) -> Vec<(&Name, IpAddr)> {
    match object {
        AnyStored::Namespace(_)
        | AnyStored::PortForward(_)
        | AnyStored::Route(_)
        | AnyStored::Link(_)
        | AnyStored::Policy(_) => Vec::new(),
        AnyStored::Network(network) => {
            let subnets = network.alloc.subnets.iter();
            subnets.map(|subnet| (&network.meta.name, subnet.gateway)).collect()
        }
        AnyStored::Attachment(attachment) => {
            let addresses = attachment.alloc.addresses.iter();
            addresses.map(|address| (&attachment.spec.network, address.0.addr())).collect()
        }
        AnyStored::Reservation(kept) => vec![(&kept.spec.network, kept.alloc.address)],
    }
}

/// The host devices that an object holds.
fn devices(object: &AnyStored) -> Vec<&IfName> {
    match object {
        AnyStored::Network(network) => vec![&network.alloc.device],
        AnyStored::Attachment(attachment) => vec![&attachment.alloc.host_device],
        AnyStored::Link(link) => {
            let on_host = link.spec.ends.iter().filter(|end| end.is_on_host());
            on_host.map(|end| &end.interface).collect()
        }
        AnyStored::Namespace(_)
        | AnyStored::PortForward(_)
        | AnyStored::Reservation(_)
        | AnyStored::Route(_)
        | AnyStored::Policy(_) => Vec::new(),
    }
}

/// The place that a route takes.
fn place(object: &AnyStored) -> Option<(&Name, u32, Prefix, u32)> {
    match object {
        AnyStored::Route(route) => {
            let spec = &route.spec;
            Some((&spec.namespace, spec.table(), spec.destination, spec.metric()))
        }
        AnyStored::Namespace(_)
        | AnyStored::Network(_)
        | AnyStored::Attachment(_)
        | AnyStored::PortForward(_)
        | AnyStored::Reservation(_)
        | AnyStored::Link(_)
        | AnyStored::Policy(_) => None,
    }
}

fn event_row(event: &Event) -> impl Serialize {
    let Event { seq, time, type_, kind, name, uid, generation, actor, request_id, reason, message, object } =
        event;
    (seq, time.as_micros(), type_, kind, name, uid, generation, actor, request_id, reason, message, object)
}

fn request_row(request: &RequestRecord) -> impl Serialize {
    let RequestRecord { actor, key, hash, kind, name, uid, time } = request;
    (actor, key, hash, kind, name, uid, time.as_micros())
}
