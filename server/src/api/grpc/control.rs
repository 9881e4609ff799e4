//! What is not about one object: apply, export, state, events, allocations.

use std::pin::Pin;

use futures_util::stream::{self, Stream};
use netloom_api::{ApplyRequest, DiagnoseRequest, FromPb as _, Path, ToPb as _, pb};
use tonic::service::RoutesBuilder;
use tonic::{Request, Status, async_trait};

use super::{Answer, answer, each, maybe, open, options};
use crate::api::door::Door;
use crate::api::{problem, words};
use crate::controller::{EventFilter, ListQuery, PAGE_DEFAULT};
use crate::error::Result;
use crate::events::{self, Follower};
use crate::store::EventQuery;

/// Both services.
pub(super) fn add(routes: &mut RoutesBuilder, door: &Door) {
    use pb::allocation_service_server::AllocationServiceServer;
    use pb::control_service_server::ControlServiceServer;
    routes
        .add_service(AllocationServiceServer::new(door.clone()))
        .add_service(ControlServiceServer::new(door.clone()).max_decoding_message_size(usize::MAX));
}

#[async_trait]
impl pb::control_service_server::ControlService for Door {
    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Answer<pb::ApplyResponse> {
        let applied = async {
            let (caller, mut message) = open(request)?;
            let options = options(message.options.take())?;
            let request = ApplyRequest::from_pb(message, &Path::root())?;
            Ok(self.apply(request, &options, &caller).await?.to_pb())
        };
        answer(applied.await)
    }

    async fn plan(&self, request: Request<pb::PlanRequest>) -> Answer<pb::PlanResponse> {
        let planned = async {
            let (caller, message) = open(request)?;
            let request = ApplyRequest::from_pb(message, &Path::root())?;
            Ok(self.plan(request, &caller).await?.to_pb())
        };
        answer(planned.await)
    }

    async fn export(&self, request: Request<pb::ExportRequest>) -> Answer<pb::ExportResponse> {
        let pb::ExportRequest { owner, pinned } = request.into_inner();
        let drafts = maybe(owner, "owner").map(|owner| self.controller.drafts(owner.as_ref(), pinned));
        answer(drafts.map(|drafts| pb::ExportResponse {
            version: "v1".to_owned(),
            objects: drafts.iter().map(|draft| draft.to_pb()).collect(),
        }))
    }

    async fn get_namespace_state(
        &self,
        request: Request<pb::GetNamespaceStateRequest>,
    ) -> Answer<pb::NamespaceState> {
        let pb::GetNamespaceStateRequest { name } = request.into_inner();
        let state = async { self.controller.state(&words::parsed(&name, "name")?).await };
        answer(state.await.map(|state| state.to_pb()))
    }

    async fn get_topology(&self, _request: Request<pb::GetTopologyRequest>) -> Answer<pb::Topology> {
        answer(Ok(self.controller.topology().to_pb()))
    }

    async fn diagnose(&self, request: Request<pb::DiagnoseRequest>) -> Answer<pb::DiagnoseResponse> {
        let found = async {
            let (caller, message) = open(request)?;
            let request = DiagnoseRequest::from_pb(message, &Path::root())?;
            Ok(self.controller.diagnose(request, &caller).await?.to_pb())
        };
        answer(found.await)
    }

    async fn list_events(&self, request: Request<pb::ListEventsRequest>) -> Answer<pb::ListEventsResponse> {
        let page = async {
            let query = event_query(request.into_inner())?;
            let page = events::page(&self.controller, query).await?;
            let items = page.items.iter().map(|event| event.to_pb()).collect();
            Ok(pb::ListEventsResponse { items, seq: page.seq })
        };
        answer(page.await)
    }

    type WatchEventsStream = Pin<Box<dyn Stream<Item = std::result::Result<pb::Event, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let follower = async {
            let pb::WatchEventsRequest { after, kinds, name, types, initial, actor } = request.into_inner();
            let filter = event_filter(&kinds, name, &types, actor)?;
            Follower::begin(self.controller.clone(), filter, words::start(after, initial)?).await
        };
        let counted = self.metrics.follows();
        answer(follower.await.map(|follower| {
            let events = stream::unfold((follower, counted), async |(mut follower, counted)| {
                let told = follower.next().await?;
                Some((told.map(|told| told.event.to_pb()).map_err(problem::status), (follower, counted)))
            });
            Box::pin(events) as Self::WatchEventsStream
        }))
    }

    async fn get_version(&self, _request: Request<pb::GetVersionRequest>) -> Answer<pb::Version> {
        answer(Ok(self.controller.version().to_pb()))
    }
}

#[async_trait]
impl pb::allocation_service_server::AllocationService for Door {
    async fn list_allocations(
        &self,
        request: Request<pb::ListAllocationsRequest>,
    ) -> Answer<pb::ListAllocationsResponse> {
        let page =
            allocation_query(request.into_inner()).and_then(|query| self.controller.allocations(&query));
        answer(page.map(|page| pb::ListAllocationsResponse {
            items: page.items.iter().map(|one| one.to_pb()).collect(),
            next_page_token: page.next_page_token.unwrap_or_default(),
            seq: page.seq,
        }))
    }

    async fn get_allocation(&self, request: Request<pb::GetAllocationRequest>) -> Answer<pb::Allocation> {
        let pb::GetAllocationRequest { name } = request.into_inner();
        answer(self.controller.allocation(&name).map(|one| one.to_pb()))
    }
}

fn allocation_query(request: pb::ListAllocationsRequest) -> Result<ListQuery> {
    let pb::ListAllocationsRequest { page_size, page_token, network } = request;
    Ok(ListQuery {
        page_size: page_size.map(|size| words::page_size(size.into())).transpose()?,
        page_token: page_token.filter(|token| !token.is_empty()),
        network: maybe(network, "network")?,
        ..ListQuery::default()
    })
}

fn event_query(request: pb::ListEventsRequest) -> Result<EventQuery> {
    let pb::ListEventsRequest { after, page_size, kinds, name, types, actor } = request;
    let EventFilter { kinds, types, name, actor } = event_filter(&kinds, name, &types, actor)?;
    let size = page_size.map(|size| words::page_size(size.into())).transpose()?.unwrap_or(PAGE_DEFAULT);
    let after = after.map(|seq| words::position(seq, "after")).transpose()?;
    let limit = u32::try_from(size).unwrap_or(u32::MAX);
    Ok(EventQuery { after, until: None, kinds, types, name, actor, limit })
}

fn event_filter(
    kinds: &[String],
    name: Option<String>,
    types: &[String],
    actor: Option<String>,
) -> Result<EventFilter> {
    let (kinds, types) = (each(kinds, "kinds")?, each(types, "types")?);
    Ok(EventFilter { kinds, types, name: maybe(name, "name")?, actor })
}
