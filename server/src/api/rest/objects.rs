//! The five verbs of every noun.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ETAG, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use netloom_api::{Action, Draft, Etag, ListPage, Name, Object, Owner};
use utoipa::ToSchema as _;
use utoipa::openapi::{
    ObjectBuilder,
    path::HttpMethod,
    schema::{AdditionalProperties, SchemaType, Type},
};
use utoipa_axum::router::OpenApiRouter;

use super::body::{Body as _, MergePatch, Named, Sent, Who};
use super::operation::{NamedSchema, Op, called, named, written};
use super::query::{Asked, Nothing, Param, Said, Shape, Words};
use crate::api::door::{Door, DoorNoun, Written};
use crate::api::problem::Refused;
use crate::api::words;
use crate::controller::{Change, Delete, ListQuery, Patch, WriteOptions};
use crate::error::Result;

type Answer = std::result::Result<Response, Refused>;

/// The paths of one noun.
pub(super) fn routes<N: DoorNoun>() -> OpenApiRouter<Door> {
    let (kind, word, many) = (N::KIND, N::WORD, N::WORDS);
    let (all, one) = (format!("/v1/{}", kind.plural()), format!("/v1/{}/{{name}}", kind.plural()));
    let op = |id: String, summary: String| Op::new(id, kind.plural(), summary);
    let name = format!("The {kind}'s name.");
    let vowel = kind.as_str().starts_with(['A', 'E', 'I', 'O', 'U']);
    let one_of_it = format!("{} {kind}", if vowel { "an" } else { "a" });
    let object = named::<Object<N>>();
    let tagged = &["ETag"];
    let list = op(format!("list_{many}"), format!("List {kind}s in the order of their names"))
        .asks::<Listing<N>>()
        .answers(200, &page_of::<N>(), "A page.", &[]);
    let get = op(format!("get_{word}"), format!("Get {one_of_it}"))
        .named(&name)
        .answers(200, &object, "The object.", tagged)
        .refuses(&[404]);
    let create = op(format!("create_{word}"), format!("Create {one_of_it}"))
        .asks::<Writing>()
        .sends(Draft::<N>::TYPES, &named::<Draft<N>>(), "The object as it shall be.")
        .answers(
            200,
            &object,
            "An earlier request with this key made it, or nothing was kept of a dry run.",
            tagged,
        )
        .answers(201, &object, "It was created.", &["ETag", "Location"])
        .refuses(&[404, 409, 422]);
    let patch = op(format!("update_{word}"), format!("Change {one_of_it}"))
        .about("A JSON merge patch: fields merge, null removes, lists are replaced whole.")
        .named(&name)
        .asks::<Patching>()
        .sends(MergePatch::TYPES, &merge_patch(), "The fields that change.")
        .answers(200, &object, "The object after the change.", tagged)
        .answers(201, &object, "It did not exist and was created.", &["ETag", "Location"])
        .refuses(&[404, 409, 412, 422]);
    let delete = op(format!("delete_{word}"), format!("Delete {one_of_it}"))
        .named(&name)
        .asks::<Deleting>()
        .answers(200, &object, "The object as it was, or as it is while it goes.", tagged)
        .answers_nothing(204, "It did not exist, and that was allowed.")
        .refuses(&[404, 409, 412, 422]);
    OpenApiRouter::default()
        .routes(list.at(HttpMethod::Get, &all, self::list::<N>))
        .routes(create.at(HttpMethod::Post, &all, self::create::<N>))
        .routes(get.at(HttpMethod::Get, &one, self::get::<N>))
        .routes(patch.at(HttpMethod::Patch, &one, self::patch::<N>))
        .routes(delete.at(HttpMethod::Delete, &one, self::delete::<N>))
}

async fn list<N: DoorNoun>(
    State(door): State<Door>,
    Who(caller): Who,
    Asked(asked): Asked<Listing<N>>,
) -> Answer {
    Ok(Json(door.controller.list::<N>(&asked.query, &caller.rights)?).into_response())
}

async fn get<N: DoorNoun>(
    State(door): State<Door>,
    Who(caller): Who,
    Named(name): Named,
    Asked(Nothing): Asked<Nothing>,
) -> Answer {
    shown(StatusCode::OK, &door.controller.get::<N>(&name, &caller.rights)?)
}

async fn create<N: DoorNoun>(
    State(door): State<Door>,
    Who(caller): Who,
    Asked(Writing(options)): Asked<Writing>,
    Sent(draft): Sent<Draft<N>>,
) -> Answer {
    let written = door.write(Change::Create(N::draft(draft)), &options, &caller).await?;
    written_as::<N>(written)
}

async fn patch<N: DoorNoun>(
    State(door): State<Door>,
    Who(caller): Who,
    Named(name): Named,
    Asked(Patching { options, etag, allow_missing }): Asked<Patching>,
    Sent(MergePatch(patch)): Sent<MergePatch>,
) -> Answer {
    let patch = Patch { kind: N::KIND, name, patches: vec![patch], etag, allow_missing };
    let written = door.write(Change::Patch(patch), &options, &caller).await?;
    written_as::<N>(written)
}

async fn delete<N: DoorNoun>(
    State(door): State<Door>,
    Who(caller): Who,
    Named(name): Named,
    Asked(Deleting { options, etag, allow_missing }): Asked<Deleting>,
) -> Answer {
    let force = options.force;
    let delete = Delete { kind: N::KIND, name, etag, force, allow_missing };
    match door.write::<N>(Change::Delete(delete), &options, &caller).await?.object {
        Some(object) => shown(StatusCode::OK, &object),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// 201 exactly when this request made the object.
fn written_as<N: DoorNoun>(written: Written<N>) -> Answer {
    let created = written.action == Action::Created;
    let object = written.object()?;
    let mut response = shown(if created { StatusCode::CREATED } else { StatusCode::OK }, &object)?;
    if created {
        let path = format!("/v1/{}/{}", N::KIND.plural(), object.meta.name);
        response.headers_mut().insert(LOCATION, header(&path)?);
    }
    Ok(response)
}

fn shown<N: DoorNoun>(status: StatusCode, object: &Object<N>) -> Answer {
    let etag = header(&format!("\"{}\"", object.meta.etag()))?;
    Ok((status, [(ETAG, etag)], Json(object)).into_response())
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|error| crate::error::Error::internal(error.to_string()))
}

fn page_of<N: DoorNoun>() -> NamedSchema {
    called::<ListPage<Object<N>>>(&format!("{}List", Object::<N>::name()))
}

fn merge_patch() -> NamedSchema {
    let about = "A JSON merge patch (RFC 7396) of labels, annotations, owner and spec.";
    let object = ObjectBuilder::new().schema_type(SchemaType::new(Type::Object)).description(Some(about));
    written("MergePatch", object.additional_properties(Some(AdditionalProperties::FreeForm(true))))
}

/// Which objects a list asks for.
struct Listing<N> {
    query: ListQuery,
    noun: PhantomData<N>,
}

/// A name.
pub(super) const OF_NAME: Shape = Shape::Formed(Name::PATTERN, 63);
const OF_OWNER: Shape = Shape::Formed(Owner::PATTERN, 63);

pub(super) const PAGE_SIZE: Param =
    Param { name: "page_size", about: "At most so many; 100 if unset.", shape: Shape::Number(1, 1000) };
pub(super) const PAGE_TOKEN: Param =
    Param { name: "page_token", about: "`next_page_token` of the page before.", shape: Shape::Text };
pub(super) const OWNER: Param =
    Param { name: "owner", about: "Only objects of this owner.", shape: OF_OWNER };
pub(super) const NETWORK: Param =
    Param { name: "network", about: "Only what belongs to this Network.", shape: OF_NAME };
const NAMESPACE: Param =
    Param { name: "namespace", about: "Only what belongs to this Namespace.", shape: OF_NAME };
const LABEL: Param =
    Param { name: "label", about: "Only objects with this label, as `key=value`.", shape: Shape::Many };

impl<N: DoorNoun> Words for Listing<N> {
    fn params() -> Vec<Param> {
        let filters = [NAMESPACE, NETWORK].into_iter().filter(|param| N::FILTERS.contains(&param.name));
        [PAGE_SIZE, PAGE_TOKEN, OWNER, LABEL].into_iter().chain(filters).collect()
    }

    fn read(said: &Said<'_>) -> Result<Self> {
        let query = ListQuery {
            page_size: said.number("page_size")?.map(words::page_size).transpose()?,
            page_token: said.one("page_token").map(str::to_owned),
            owner: said.parsed("owner")?,
            labels: words::labels(labels(said)?, "label")?,
            namespace: said.parsed("namespace")?,
            network: said.parsed("network")?,
        };
        Ok(Self { query, noun: PhantomData })
    }
}

fn labels(said: &Said<'_>) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for text in said.all("label") {
        let pair = text.split_once('=');
        let (key, value) =
            pair.ok_or_else(|| words::invalid("label", format!("{text:?} is not of the form key=value")))?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some_and(|other| other != value) {
            return Err(words::invalid("label", format!("{key} cannot have two values")));
        }
    }
    Ok(labels)
}

/// What every write may ask for.
pub(super) struct Writing(pub WriteOptions);

impl Words for Writing {
    fn params() -> Vec<Param> {
        vec![
            Param {
                name: "wait",
                about: "How long the reply may wait until the object is Ready or has failed, such as `5s`, `500ms` \
                    or `0`; 5 s if unset, at most 60 s. That the time is over is no error.",
                shape: Shape::Formed(
                    "^(0|0*([0-9]|[1-5][0-9]|60)s|0*[01]m|0*([0-9]{1,4}|[1-5][0-9]{4}|60000)ms)$",
                    32,
                ),
            },
            Param {
                name: "dry_run",
                about: "Check and plan, keep nothing; the reply carries the plan.",
                shape: Shape::Flag,
            },
            Param {
                name: "force",
                about: "Write a route that may cut the host off; delete what depends on a deleted object too.",
                shape: Shape::Flag,
            },
            Param {
                name: "Idempotency-Key",
                about: "Makes a retry safe: the same caller, key and request answer with the object of the first call.",
                shape: Shape::HeaderFormed("^[!-~]+$", 128),
            },
        ]
    }

    fn read(said: &Said<'_>) -> Result<Self> {
        let key = said.header("Idempotency-Key")?;
        Ok(Writing(WriteOptions {
            request_id: key.map(|key| words::request_id(key, "Idempotency-Key")).transpose()?,
            wait: words::wait(said.parsed("wait")?)?,
            dry_run: said.flag("dry_run")?,
            force: said.flag("force")?,
            ..WriteOptions::default()
        }))
    }
}

struct Patching {
    options: WriteOptions,
    etag: Option<Etag>,
    allow_missing: bool,
}

const IF_MATCH: Param = Param {
    name: "If-Match",
    about: "Refuse when the object's ETag is another.",
    shape: Shape::HeaderFormed(
        "^\"?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\\.[0-9]{1,18}\"?$",
        80,
    ),
};

impl Words for Patching {
    fn params() -> Vec<Param> {
        let about = "Create the object when it does not exist.";
        let own = [Param { name: "allow_missing", about, shape: Shape::Flag }, IF_MATCH];
        Writing::params().into_iter().chain(own).collect()
    }

    fn read(said: &Said<'_>) -> Result<Self> {
        let Writing(options) = Writing::read(said)?;
        Ok(Self { options, etag: if_match(said)?, allow_missing: said.flag("allow_missing")? })
    }
}

struct Deleting {
    options: WriteOptions,
    etag: Option<Etag>,
    allow_missing: bool,
}

impl Words for Deleting {
    fn params() -> Vec<Param> {
        let about = "Succeed when it does not exist.";
        let own = [Param { name: "allow_missing", about, shape: Shape::Flag }, IF_MATCH];
        Writing::params().into_iter().chain(own).collect()
    }

    fn read(said: &Said<'_>) -> Result<Self> {
        let Writing(options) = Writing::read(said)?;
        Ok(Self { options, etag: if_match(said)?, allow_missing: said.flag("allow_missing")? })
    }
}

fn if_match(said: &Said<'_>) -> Result<Option<Etag>> {
    said.header("If-Match")?.map(|text| words::etag(text, "If-Match")).transpose()
}
