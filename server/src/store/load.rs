//! Rows into the World. A row that cannot be read stops the start: a World with a hole would make the loop delete things.

use std::{collections::BTreeSet, fmt::Display, net::IpAddr, path::Path, str::FromStr, sync::Arc};

use netloom_api::{
    Attachment, Cidr, Link, Meta, Name, Namespace, Network, Policy, PortForward, Reservation, Route,
    Timestamp,
};
use serde::de::DeserializeOwned;
use sqlx::{AssertSqlSafe, Row, SqliteConnection, sqlite::SqliteRow};

use super::{
    OpenError,
    group::{SPEC_VERSION, table},
    open::database,
};
use crate::world::{Stored, World, WorldNoun};

/// All that the database knows.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) world: World,
    pub(super) seq: i64,
    pub(super) pruned: i64,
}

/// Reads everything but the log.
pub(super) async fn load(connection: &mut SqliteConnection, path: &Path) -> Result<Loaded, OpenError> {
    let mut loader = Loader { connection, path, world: World::default() };
    loader.objects::<Namespace>().await?;
    loader.objects::<Network>().await?;
    loader.objects::<Attachment>().await?;
    loader.objects::<PortForward>().await?;
    loader.objects::<Reservation>().await?;
    loader.objects::<Route>().await?;
    loader.objects::<Link>().await?;
    loader.objects::<Policy>().await?;
    loader.cursors().await?;
    let (revision, seq, pruned) = loader.meta().await?;
    loader.world.revision = revision;
    loader.compare_allocations().await?;
    Ok(Loaded { world: loader.world, seq, pruned })
}

struct Loader<'a> {
    connection: &'a mut SqliteConnection,
    path: &'a Path,
    world: World,
}

impl Loader<'_> {
    async fn rows(&mut self, sql: String) -> Result<Vec<SqliteRow>, OpenError> {
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *self.connection).await;
        rows.map_err(database(self.path))
    }

    fn undecodable(&self, table: &'static str, row: impl ToString, detail: impl ToString) -> OpenError {
        let (row, detail) = (row.to_string(), detail.to_string());
        OpenError::Undecodable { path: self.path.to_owned(), table, row, detail }
    }

    async fn objects<N: WorldNoun>(&mut self) -> Result<(), OpenError> {
        let table = table(N::KIND);
        let sql = format!(
            "SELECT uid, name, labels, annotations, owner, generation, revision, create_time, update_time, \
             delete_time, spec_version, spec, alloc FROM {table}"
        );
        for row in self.rows(sql).await? {
            let object = decode::<N>(&row).map_err(|detail| {
                let name = row.try_get::<String, _>("name").unwrap_or_else(|error| error.to_string());
                self.undecodable(table, name, detail)
            })?;
            self.world.put(N::any(Arc::new(object)));
        }
        Ok(())
    }

    async fn cursors(&mut self) -> Result<(), OpenError> {
        for row in self.rows("SELECT network, subnet, address FROM cursors".into()).await? {
            let cursor = || -> Result<(Name, Cidr, IpAddr), String> {
                Ok((parsed(&row, "network")?, parsed(&row, "subnet")?, parsed(&row, "address")?))
            };
            let (network, subnet, address) = cursor().map_err(|detail| {
                let network = row.try_get::<String, _>("network").unwrap_or_else(|error| error.to_string());
                self.undecodable("cursors", network, detail)
            })?;
            self.world.set_cursor(&network, &subnet, address);
        }
        Ok(())
    }

    async fn meta(&mut self) -> Result<(i64, i64, i64), OpenError> {
        let row =
            sqlx::query_as("SELECT revision, seq, pruned FROM meta").fetch_one(&mut *self.connection).await;
        row.map_err(database(self.path))
    }

    /// The used addresses are kept twice, in their holders and in a table that guards them; both must say the same.
    async fn compare_allocations(&mut self) -> Result<(), OpenError> {
        const SQL: &str = "SELECT networks.name || '@' || address, holder_kind, holder_uid \
            FROM allocations JOIN networks ON networks.uid = network_uid";
        let kept: Vec<(String, String, String)> =
            sqlx::query_as(SQL).fetch_all(&mut *self.connection).await.map_err(database(self.path))?;
        let kept: BTreeSet<_> = kept.into_iter().collect();
        let held: BTreeSet<_> = self
            .world
            .allocations_after(None)
            .map(|used| (used.name, used.holder.kind.to_string(), used.holder.uid.to_string()))
            .collect();
        match kept.symmetric_difference(&held).next() {
            None => Ok(()),
            Some((address, kind, uid)) => Err(self.undecodable(
                "allocations",
                address,
                format!("table and objects do not agree on whether {kind} {uid} holds it"),
            )),
        }
    }
}

fn decode<N: WorldNoun>(row: &SqliteRow) -> Result<Stored<N>, String> {
    let version: i64 = column(row, "spec_version")?;
    if version != SPEC_VERSION {
        return Err(format!("spec_version is {version}, and only {SPEC_VERSION} is known"));
    }
    let time = |name| Ok::<_, String>(Timestamp::from_micros(column(row, name)?));
    let meta = Meta {
        name: parsed(row, "name")?,
        labels: json(row, "labels")?,
        annotations: json(row, "annotations")?,
        owner: column::<Option<String>>(row, "owner")?.map(TryInto::try_into).transpose()?,
        uid: parsed(row, "uid")?,
        generation: column(row, "generation")?,
        revision: column(row, "revision")?,
        create_time: time("create_time")?,
        update_time: time("update_time")?,
        delete_time: column::<Option<i64>>(row, "delete_time")?.map(Timestamp::from_micros),
    };
    Ok(Stored { meta, spec: json(row, "spec")?, alloc: json(row, "alloc")? })
}

/// A column's value; the error names the column.
pub(super) fn column<'r, T>(row: &'r SqliteRow, name: &str) -> Result<T, String>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    // sqlx names the column in its error.
    row.try_get(name).map_err(|error| error.to_string())
}

/// A column's text as a checked value.
pub(super) fn parsed<T: FromStr<Err: Display>>(row: &SqliteRow, name: &str) -> Result<T, String> {
    let text: &str = column(row, name)?;
    text.parse().map_err(|error| format!("{name} {text:?} {error}"))
}

/// A column's JSON as a checked value.
pub(super) fn json<T: DeserializeOwned>(row: &SqliteRow, name: &str) -> Result<T, String> {
    let text: &str = column(row, name)?;
    serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))
}
