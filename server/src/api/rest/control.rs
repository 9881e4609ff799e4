//! What is not about one object: apply, export, allocations, the state of a namespace.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use netloom_api::{
    Allocation, ApplyRequest, ApplyResponse, DiagnoseRequest, DiagnoseResponse, Export, ListPage,
    NamespaceState, Owner, PlanResponse, Topology,
};
use utoipa::openapi::path::HttpMethod;
use utoipa_axum::router::OpenApiRouter;

use super::body::{Body as _, Named, NamedText, Sent, Who};
use super::objects::{NETWORK, OWNER, PAGE_SIZE, PAGE_TOKEN, Writing};
use super::operation::{Op, called, named};
use super::query::{Asked, Nothing, Param, Said, Shape, Words};
use crate::api::door::Door;
use crate::api::problem::Refused;
use crate::api::words;
use crate::controller::ListQuery;
use crate::error::Result;

type Answer = std::result::Result<Response, Refused>;

/// The paths.
pub(super) fn routes() -> OpenApiRouter<Door> {
    let apply = Op::new("apply", "control", "Make the named objects be as given")
        .about("One transaction, in any order: spec, labels and annotations of each object are replaced.")
        .asks::<Writing>()
        .sends(ApplyRequest::TYPES, &named::<ApplyRequest>(), "The objects; an export will do.")
        .answers(200, &named::<ApplyResponse>(), "What became of them.", &[])
        .refuses(&[409, 412, 422]);
    let plan = Op::new("plan", "control", "See what an apply of the same request would do")
        .about("The dry run of an apply: what becomes of each object, and the kernel steps. Nothing changes.")
        .sends(ApplyRequest::TYPES, &named::<ApplyRequest>(), "As for an apply.")
        .answers(200, &named::<PlanResponse>(), "What would change.", &[])
        .refuses(&[409, 412, 422]);
    let export = Op::new("export", "control", "Get all intent in a form that apply takes")
        .asks::<Exporting>()
        .answers(200, &named::<Export>(), "Sorted by kind and name.", &[]);
    let state = Op::new(
        "get_namespace_state",
        "control",
        "Get what the kernel has for a Namespace, or for `host`, now",
    )
    .named("A Namespace, or `host`.")
    .answers(200, &named::<NamespaceState>(), "The kernel's own words.", &[])
    .refuses(&[404, 422]);
    let topology = Op::new(
        "get_topology",
        "control",
        "Get what stands and how it hangs together, as a graph",
    )
    .answers(200, &named::<Topology>(), "Nodes and edges, sorted.", &[]);
    let diagnose = Op::new("diagnose", "control", "Say why a packet does not arrive, or that it does")
        .about("Walks the way from the sender outward. It reads, unless a probe is asked for, which needs the right to write.")
        .sends(DiagnoseRequest::TYPES, &named::<DiagnoseRequest>(), "Who sends, and who shall receive.")
        .answers(200, &named::<DiagnoseResponse>(), "What was looked at, and what was found.", &[])
        .refuses(&[422]);
    let allocations = Op::new("list_allocations", "allocations", "List used addresses")
        .asks::<Allocations>()
        .answers(200, &called::<ListPage<Allocation>>("AllocationList"), "A page.", &[]);
    let allocation = Op::new("get_allocation", "allocations", "Get a used address")
        .named("`<network>@<address>`.")
        .answers(200, &named::<Allocation>(), "The address and who has it.", &[])
        .refuses(&[404]);
    OpenApiRouter::default()
        .routes(apply.at(HttpMethod::Post, "/v1/apply", self::apply))
        .routes(plan.at(HttpMethod::Post, "/v1/plan", self::plan))
        .routes(export.at(HttpMethod::Get, "/v1/export", self::export))
        .routes(state.at(HttpMethod::Get, "/v1/namespaces/{name}/state", self::state))
        .routes(topology.at(HttpMethod::Get, "/v1/topology", self::topology))
        .routes(diagnose.at(HttpMethod::Post, "/v1/diagnose", self::diagnose))
        .routes(allocations.at(HttpMethod::Get, "/v1/allocations", self::allocations))
        .routes(allocation.at(HttpMethod::Get, "/v1/allocations/{name}", self::allocation))
}

async fn apply(
    State(door): State<Door>,
    Who(caller): Who,
    Asked(Writing(options)): Asked<Writing>,
    Sent(request): Sent<ApplyRequest>,
) -> Answer {
    Ok(Json(door.apply(request, &options, &caller).await?).into_response())
}

async fn plan(
    State(door): State<Door>,
    Who(caller): Who,
    Asked(Nothing): Asked<Nothing>,
    Sent(request): Sent<ApplyRequest>,
) -> Answer {
    Ok(Json(door.plan(request, &caller).await?).into_response())
}

async fn export(State(door): State<Door>, Asked(Exporting { owner, pinned }): Asked<Exporting>) -> Answer {
    Ok(Json(door.controller.export(owner.as_ref(), pinned)).into_response())
}

async fn state(State(door): State<Door>, Named(name): Named, Asked(Nothing): Asked<Nothing>) -> Answer {
    Ok(Json(door.controller.state(&name).await?).into_response())
}

async fn topology(State(door): State<Door>, Asked(Nothing): Asked<Nothing>) -> Answer {
    Ok(Json(door.controller.topology()).into_response())
}

async fn diagnose(
    State(door): State<Door>,
    Who(caller): Who,
    Asked(Nothing): Asked<Nothing>,
    Sent(request): Sent<DiagnoseRequest>,
) -> Answer {
    Ok(Json(door.controller.diagnose(request, &caller).await?).into_response())
}

async fn allocations(State(door): State<Door>, Asked(Allocations(query)): Asked<Allocations>) -> Answer {
    Ok(Json(door.controller.allocations(&query)?).into_response())
}

async fn allocation(
    State(door): State<Door>,
    NamedText(name): NamedText,
    Asked(Nothing): Asked<Nothing>,
) -> Answer {
    Ok(Json(door.controller.allocation(&name)?).into_response())
}

struct Exporting {
    owner: Option<Owner>,
    pinned: bool,
}

impl Words for Exporting {
    fn params() -> Vec<Param> {
        let about = "With what netloom chose where the intent leaves it open.";
        vec![OWNER, Param { name: "pinned", about, shape: Shape::Flag }]
    }

    fn read(said: &Said<'_>) -> Result<Self> {
        Ok(Self { owner: said.parsed("owner")?, pinned: said.flag("pinned")? })
    }
}

struct Allocations(ListQuery);

impl Words for Allocations {
    fn params() -> Vec<Param> {
        vec![PAGE_SIZE, PAGE_TOKEN, NETWORK]
    }

    fn read(said: &Said<'_>) -> Result<Self> {
        Ok(Self(ListQuery {
            page_size: said.number("page_size")?.map(words::page_size).transpose()?,
            page_token: said.one("page_token").map(str::to_owned),
            network: said.parsed("network")?,
            ..ListQuery::default()
        }))
    }
}
