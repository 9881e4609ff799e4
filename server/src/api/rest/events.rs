//! The event log: a page of it, or a stream that follows it (server-sent events).

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, Stream};
use netloom_api::EventPage;
use utoipa::openapi::path::HttpMethod;
use utoipa_axum::router::OpenApiRouter;

use super::objects::{OF_NAME, PAGE_SIZE};
use super::operation::{Op, named};
use super::query::{Param, Said, Shape, Words};
use crate::api::auth;
use crate::api::door::Door;
use crate::api::problem::Refused;
use crate::api::words;
use crate::controller::{EventFilter, PAGE_DEFAULT};
use crate::error::Error;
use crate::error::Result;
use crate::events::{self, Follower, Start, Told};
use crate::store::EventQuery;

/// A comment so often, so that everybody on the way knows that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The path.
pub(super) fn routes() -> OpenApiRouter<Door> {
    let op = Op::new("list_events", "events", "Read the event log, or follow it")
        .about(
            "With `Accept: text/event-stream` the reply is a stream of server-sent events: `id` is the position, `event` \
             the type, `data` the Event as JSON. It goes on after `Last-Event-ID`. A reader that is too slow gets a last \
             event `resync`, whose data is the problem, and begins again.",
        )
        .asks::<Both>()
        .answers_text("text/event-stream", "A page, or a stream.", Some(&named::<EventPage>()))
        .refuses(&[410]);
    OpenApiRouter::default().routes(op.at(HttpMethod::Get, "/v1/events", self::events))
}

async fn events(State(door): State<Door>, request: Request) -> std::result::Result<Response, Refused> {
    let (uri, headers) = (request.uri(), request.headers());
    if auth::wants_events(headers) {
        let Following { filter, start } = Following::read(&Said::of(uri, headers, &Following::params())?)?;
        let follower = Follower::begin(door.controller.clone(), filter, start).await?;
        let id = words::trace(request.extensions()).to_owned();
        return Ok(stream(door, follower, id).into_response());
    }
    let Paging(query) = Paging::read(&Said::of(uri, headers, &Paging::params())?)?;
    Ok(Json(events::page(&door.controller, query).await?).into_response())
}

fn stream(
    door: Door,
    follower: Follower,
    request_id: String,
) -> Sse<impl Stream<Item = std::result::Result<sse::Event, Infallible>>> {
    let counted = door.metrics.follows();
    let events = stream::unfold((follower, counted, request_id), async |(mut follower, counted, id)| {
        let told = follower.next().await?;
        Some((Ok(spoken(told, &id)), (follower, counted, id)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn spoken(told: Result<Told>, request_id: &str) -> sse::Event {
    let resync = |error: Error| {
        let problem = serde_json::to_string(&error.to_problem(request_id)).unwrap_or_default();
        sse::Event::default().event("resync").data(problem)
    };
    let Told { event, resumes } = match told {
        Ok(told) => told,
        Err(error) => return resync(error),
    };
    let spoken = sse::Event::default().event(event.type_.as_str()).json_data(&event);
    match spoken {
        Ok(spoken) if resumes => spoken.id(event.seq.to_string()),
        Ok(spoken) => spoken,
        Err(error) => resync(Error::internal(error.to_string())),
    }
}

const AFTER: Param =
    Param { name: "after", about: "Only events after this position.", shape: Shape::Number(0, i64::MAX) };
const KINDS: &[&str] =
    &["Namespace", "Network", "Attachment", "PortForward", "Reservation", "Route", "Link", "Policy"];
const KIND: Param = Param { name: "kind", about: "Only of these kinds.", shape: Shape::ManyOf(KINDS) };
const NAME: Param = Param { name: "name", about: "Only of objects with this name.", shape: OF_NAME };
const TYPES: &[&str] = &["created", "updated", "deleted", "status", "drift_repaired", "policy_drop", "audit"];
const TYPE: Param = Param { name: "type", about: "Only of these types.", shape: Shape::ManyOf(TYPES) };
const ACTOR: Param = Param {
    name: "actor",
    about: "Only of what this caller asked for, e.g. `token:ci`.",
    shape: Shape::Text,
};
const INITIAL: Param = Param {
    name: "initial",
    about: "Of a stream: first one `created` event per object that exists, then what follows.",
    shape: Shape::Flag,
};
const LAST_EVENT_ID: Param = Param {
    name: "Last-Event-ID",
    about: "Of a stream: go on after this position; weighs more than `after` and `initial`.",
    shape: Shape::Header,
};

/// For the document: what either form may say.
struct Both;

impl Words for Both {
    fn params() -> Vec<Param> {
        vec![AFTER, PAGE_SIZE, KIND, NAME, TYPE, ACTOR, INITIAL, LAST_EVENT_ID]
    }

    fn read(_said: &Said<'_>) -> Result<Self> {
        Ok(Both)
    }
}

struct Paging(EventQuery);

impl Words for Paging {
    fn params() -> Vec<Param> {
        vec![AFTER, PAGE_SIZE, KIND, NAME, TYPE, ACTOR]
    }

    fn read(said: &Said<'_>) -> Result<Self> {
        let EventFilter { kinds, types, name, actor } = filter(said)?;
        let size = said.number("page_size")?.map(words::page_size).transpose()?.unwrap_or(PAGE_DEFAULT);
        let after = said.number("after")?.map(|seq| words::position(seq, "after")).transpose()?;
        let limit = u32::try_from(size).unwrap_or(u32::MAX);
        Ok(Self(EventQuery { after, until: None, kinds, types, name, actor, limit }))
    }
}

struct Following {
    filter: EventFilter,
    start: Start,
}

impl Words for Following {
    fn params() -> Vec<Param> {
        vec![AFTER, KIND, NAME, TYPE, ACTOR, INITIAL, LAST_EVENT_ID]
    }

    fn read(said: &Said<'_>) -> Result<Self> {
        let after = said.number("after")?.map(|seq| words::position(seq, "after")).transpose()?;
        let initial = said.flag("initial")?;
        let start = match said.header("Last-Event-ID")?.filter(|id| !id.is_empty()) {
            Some(id) => Start::After(last_event_id(id)?),
            None => words::start(after, initial)?,
        };
        Ok(Self { filter: filter(said)?, start })
    }
}

fn last_event_id(text: &str) -> Result<i64> {
    let seq = text.parse().map_err(|_| words::invalid("Last-Event-ID", "is not the id of an event"))?;
    words::position(seq, "Last-Event-ID")
}

fn filter(said: &Said<'_>) -> Result<EventFilter> {
    Ok(EventFilter {
        kinds: said.each("kind")?,
        types: said.each("type")?,
        name: said.parsed("name")?,
        actor: said.one("actor").map(str::to_owned),
    })
}
