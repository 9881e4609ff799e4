//! The log and the requests: what is read with SQL, and what is pruned.

use std::sync::atomic::{AtomicI64, Ordering};

use netloom_api::{Event, EventPage, EventType, Kind, RequestId, Timestamp};
use serde::Serialize;
use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    EventQuery, RequestRecord, StoreError,
    load::{column, json, parsed},
};
use crate::{
    config::EventRetention,
    fault::{self, Effect},
};

/// A page has at most so many events.
const PAGE_EVENTS: u32 = 1_000;
/// So much is pruned at once: about a millisecond's work, since commits wait for it.
const PRUNE_ROWS: i64 = 500;
/// How long requests are known again.
const REQUESTS_MICROS: i64 = 24 * 3600 * 1_000_000;

/// A page of the log, which ends at `seq`.
pub(super) async fn events(
    readers: &SqlitePool,
    query: &EventQuery,
    seq: i64,
) -> Result<EventPage, StoreError> {
    const SQL: &str = "SELECT * FROM events WHERE seq > ? AND seq <= ? \
        AND (? IS NULL OR kind IN (SELECT value FROM json_each(?))) \
        AND (? IS NULL OR type IN (SELECT value FROM json_each(?))) \
        AND (? IS NULL OR name = ?) AND (? IS NULL OR actor = ?) ORDER BY seq LIMIT ?";
    let EventQuery { after, until, kinds, types, name, actor, limit } = query;
    let after = after.unwrap_or(0);
    let until = until.map_or(seq, |until| until.min(seq));
    let limit = (*limit).clamp(1, PAGE_EVENTS);
    let (kinds, types) = (filter(kinds)?, filter(types)?);
    let name = name.as_ref().map(|name| name.as_str());
    let query = sqlx::query(SQL).bind(after).bind(until);
    read()?;
    let query = query.bind(&kinds).bind(&kinds).bind(&types).bind(&types).bind(name).bind(name);
    let rows = query.bind(actor).bind(actor).bind(limit).fetch_all(readers).await?;
    let items = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
    // A full page ends with its last event. Otherwise all up to the end has been looked at.
    let full = items.len() == limit as usize;
    let end = items.last().filter(|_| full).map_or(until.max(after), |last| last.seq);
    Ok(EventPage { items, seq: end })
}

/// Before the database is read.
fn read() -> Result<(), StoreError> {
    fault::request(Effect::Read).map_or(Ok(()), |fault| Err(StoreError::Unavailable(fault.to_string())))
}

/// A list to filter by, as JSON; none for an empty one.
fn filter<T: Serialize>(values: &[T]) -> Result<Option<String>, StoreError> {
    let json = (!values.is_empty()).then(|| serde_json::to_string(values)).transpose();
    json.map_err(|error| StoreError::Guard(error.to_string()))
}

fn event(row: &SqliteRow) -> Result<Event, StoreError> {
    let read = || -> Result<Event, String> {
        let object: Option<&str> = column(row, "object")?;
        Ok(Event {
            seq: column(row, "seq")?,
            time: Timestamp::from_micros(column(row, "time")?),
            type_: parsed::<EventType>(row, "type")?,
            kind: parsed::<Kind>(row, "kind")?,
            name: parsed(row, "name")?,
            uid: parsed(row, "uid")?,
            generation: column(row, "generation")?,
            actor: column(row, "actor")?,
            request_id: column(row, "request_id")?,
            reason: column(row, "reason")?,
            message: column(row, "message")?,
            object: object.map(|_| json(row, "object")).transpose()?,
        })
    };
    read().map_err(|detail| {
        let seq = row.try_get::<i64, _>("seq").unwrap_or_default();
        StoreError::Guard(format!("event {seq} cannot be read: {detail}"))
    })
}

/// What an earlier request did.
pub(super) async fn request(
    readers: &SqlitePool,
    actor: &str,
    key: &RequestId,
) -> Result<Option<RequestRecord>, StoreError> {
    const SQL: &str = "SELECT hash, kind, name, uid, time FROM requests WHERE actor = ? AND key = ?";
    read()?;
    let row = sqlx::query(SQL).bind(actor).bind(key.as_str()).fetch_optional(readers).await?;
    let record = row.map(|row| -> Result<RequestRecord, String> {
        Ok(RequestRecord {
            actor: actor.to_owned(),
            key: key.clone(),
            hash: column(&row, "hash")?,
            kind: parsed(&row, "kind")?,
            name: parsed(&row, "name")?,
            uid: parsed(&row, "uid")?,
            time: Timestamp::from_micros(column(&row, "time")?),
        })
    });
    record.transpose().map_err(|detail| StoreError::Guard(format!("request {key} cannot be read: {detail}")))
}

/// Deletes a chunk of the oldest events that are beyond the retention, and of the requests that are; whether there may
/// be more. On error a transaction may be open.
pub(super) async fn prune(
    connection: &mut SqliteConnection,
    pruned: &AtomicI64,
    retention: EventRetention,
    seq: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    const OLDEST: &str = "SELECT max(seq), count(*) FROM (SELECT seq, time FROM events ORDER BY seq LIMIT ?) \
        WHERE seq <= ? OR time < ?";
    const DELETE: &str = "BEGIN IMMEDIATE; DELETE FROM events WHERE seq <= ?; UPDATE meta SET pruned = ?; \
        DELETE FROM requests WHERE (actor, key) IN \
        (SELECT actor, key FROM requests WHERE time < ? ORDER BY time LIMIT ?); COMMIT";
    let age = i64::try_from(retention.age.as_micros()).unwrap_or(i64::MAX);
    let beyond = seq.saturating_sub(i64::try_from(retention.count).unwrap_or(i64::MAX));
    let before = now.as_micros().saturating_sub(age);
    let oldest = sqlx::query_as(OLDEST).bind(PRUNE_ROWS).bind(beyond).bind(before);
    let (last, count): (Option<i64>, i64) = oldest.fetch_one(&mut *connection).await?;
    let last = last.unwrap_or(0).max(pruned.load(Ordering::Acquire));
    // Said before it is true: a reader that misses these events must learn why.
    pruned.store(last, Ordering::Release);
    if let Some(fault) = fault::before(Effect::Transaction) {
        return Err(StoreError::Unavailable(fault.to_string()));
    }
    let delete = sqlx::query(DELETE).bind(last).bind(last);
    delete.bind(now.as_micros().saturating_sub(REQUESTS_MICROS)).bind(PRUNE_ROWS).execute(connection).await?;
    fault::after(Effect::Transaction);
    Ok(count == PRUNE_ROWS)
}
