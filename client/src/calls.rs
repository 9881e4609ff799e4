//! The verbs: one method per call of the API, generic over the nouns.

use std::time::Duration;

use netloom_api::{
    Allocation, AnyDraft, ApplyRequest, ApplyResponse, DiagnoseRequest, DiagnoseResponse, Draft, Event,
    EventPage, Export, FromPb, ListPage, Name, NamespaceState, Object, Owner, Path, PlanResponse, ToPb as _,
    Topology, Version, Violations, pb,
};
use pb::{allocation_service_client::AllocationServiceClient, control_service_client::ControlServiceClient};

use crate::{
    endpoint::ConnectOptions,
    error::ClientError,
    nouns::{Callable, sealed::Answer},
    options::{
        AllocationQuery, DeleteOptions, EventQuery, ListOptions, UpdateOptions, WatchOptions, WriteOptions,
    },
    transport::{self, REPLY_MAX, Transport},
    watch::EventStream,
};

/// How long the daemon waits for an object to become Ready when nothing is said.
const WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// A connection to a daemon. Clones share it.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    call_timeout: Duration,
}

impl Client {
    /// Connects to the daemon; that it is netloomd is known with the first reply.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ClientError> {
        Ok(Self { transport: transport::connect(options).await?, call_timeout: options.call_timeout })
    }

    /// A page of objects in the order of their names.
    pub async fn list<N: Callable>(&self, options: ListOptions) -> Result<ListPage<Object<N>>, ClientError> {
        let asked = [("namespace", options.namespace.is_some()), ("network", options.network.is_some())];
        if let Some((filter, _)) = asked.iter().find(|(filter, asked)| *asked && !N::FILTERS.contains(filter))
        {
            return Err(ClientError::options(format!(
                "a list of {} has no filter {filter}",
                N::KIND.plural()
            )));
        }
        let (items, next, seq) = self.ask(N::list(self.transport.clone(), options)).await?;
        Ok(ListPage { items, next_page_token: token(next), seq })
    }

    /// All objects in the order of their names, page by page. `seq` is the first page's: a watch after it misses nothing.
    pub async fn list_all<N: Callable>(
        &self,
        mut options: ListOptions,
    ) -> Result<ListPage<Object<N>>, ClientError> {
        let mut all = self.list::<N>(options.clone()).await?;
        while let Some(next) = all.next_page_token.take() {
            options.page_token = Some(next);
            let page = self.list::<N>(options.clone()).await?;
            all.items.extend(page.items);
            all.next_page_token = page.next_page_token;
        }
        Ok(all)
    }

    /// One object.
    pub async fn get<N: Callable>(&self, name: &Name) -> Result<Object<N>, ClientError> {
        self.ask(N::get(self.transport.clone(), name.clone())).await
    }

    /// Makes an object; a name that exists is an error.
    pub async fn create<N: Callable>(
        &self,
        draft: Draft<N>,
        options: WriteOptions,
    ) -> Result<Object<N>, ClientError> {
        let wait = options.wait;
        self.write(wait, N::create(self.transport.clone(), draft, options)).await
    }

    /// Changes what the mask names, or else what is set; lists are replaced whole.
    pub async fn update<N: Callable>(
        &self,
        draft: Draft<N>,
        options: UpdateOptions,
    ) -> Result<Object<N>, ClientError> {
        let wait = options.write.wait;
        self.write(wait, N::update(self.transport.clone(), draft, options)).await
    }

    /// Deletes an object and returns what it was; none when it did not exist and that was allowed.
    pub async fn delete<N: Callable>(
        &self,
        name: &Name,
        options: DeleteOptions,
    ) -> Result<Option<Object<N>>, ClientError> {
        let wait = options.write.wait;
        self.write(wait, N::delete(self.transport.clone(), name.clone(), options)).await
    }

    /// Makes the named objects be as given, in any order.
    pub async fn apply(
        &self,
        request: ApplyRequest,
        options: WriteOptions,
    ) -> Result<ApplyResponse, ClientError> {
        let request = pb::ApplyRequest { options: Some(options.to_pb()), ..request.to_pb() };
        let reply = async { read(self.control().apply(request).await?) };
        self.write(options.wait, reply).await
    }

    /// What an apply of the same request would do; nothing changes.
    pub async fn plan(&self, request: ApplyRequest) -> Result<PlanResponse, ClientError> {
        let request: pb::PlanRequest = request.to_pb();
        self.ask(async { read(self.control().plan(request).await?) }).await
    }

    /// All intent, or that of one owner, sorted by kind and name; `pinned`: with what netloom chose.
    pub async fn export(&self, owner: Option<Owner>, pinned: bool) -> Result<Export, ClientError> {
        let request = pb::ExportRequest { owner: owner.map(String::from), pinned };
        let pb::ExportResponse { version, objects } =
            self.ask(async { Ok(self.control().export(request).await?.into_inner()) }).await?;
        let here = Path::root().field("objects");
        let drafts =
            objects.into_iter().enumerate().map(|(index, one)| AnyDraft::from_pb(one, &here.item(index)));
        let objects = drafts.map(|draft| draft.map(|draft| draft.to_export())).collect::<Result<_, _>>()?;
        Ok(Export { version, objects })
    }

    /// What the kernel has for a Namespace, or for `host`, now.
    pub async fn state(&self, name: &Name) -> Result<NamespaceState, ClientError> {
        let request = pb::GetNamespaceStateRequest { name: name.to_string() };
        self.ask(async { read(self.control().get_namespace_state(request).await?) }).await
    }

    /// What stands and how it hangs together, as a graph.
    pub async fn topology(&self) -> Result<Topology, ClientError> {
        self.ask(async { read(self.control().get_topology(pb::GetTopologyRequest {}).await?) }).await
    }

    /// Why a packet does not arrive, or that it does.
    pub async fn diagnose(&self, request: DiagnoseRequest) -> Result<DiagnoseResponse, ClientError> {
        let request = request.to_pb();
        self.ask(async { read(self.control().diagnose(request).await?) }).await
    }

    /// A page of the event log; the next one is after its `seq`.
    pub async fn events(&self, query: EventQuery) -> Result<EventPage, ClientError> {
        let request = query.to_pb();
        let reply = self.ask(async { Ok(self.control().list_events(request).await?.into_inner()) }).await?;
        let here = Path::root().field("items");
        let items =
            reply.items.into_iter().enumerate().map(|(index, one)| Event::from_pb(one, &here.item(index)));
        Ok(EventPage { items: items.collect::<Result<_, _>>()?, seq: reply.seq })
    }

    /// Follows the event log, through restarts of the daemon and without gaps; see [`EventStream`].
    pub async fn watch(&self, options: WatchOptions) -> Result<EventStream, ClientError> {
        EventStream::open(self.clone(), options).await
    }

    /// What runs there.
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.ask(async { read(self.control().get_version(pb::GetVersionRequest {}).await?) }).await
    }

    /// A page of used addresses in the order of networks and addresses.
    pub async fn allocations(&self, query: AllocationQuery) -> Result<ListPage<Allocation>, ClientError> {
        let AllocationQuery { page_size, page_token, network } = query;
        let request = pb::ListAllocationsRequest {
            page_size: page_size.map(i32::from),
            page_token,
            network: network.map(String::from),
        };
        let mut service =
            AllocationServiceClient::new(self.transport.clone()).max_decoding_message_size(REPLY_MAX);
        let reply = self.ask(async { Ok(service.list_allocations(request).await?.into_inner()) }).await?;
        let here = Path::root().field("items");
        let items = reply
            .items
            .into_iter()
            .enumerate()
            .map(|(index, one)| Allocation::from_pb(one, &here.item(index)));
        let items = items.collect::<Result<_, _>>()?;
        Ok(ListPage { items, next_page_token: token(reply.next_page_token), seq: reply.seq })
    }

    /// One used address, by `<network>@<address>`.
    pub async fn allocation(&self, name: &str) -> Result<Allocation, ClientError> {
        let request = pb::GetAllocationRequest { name: name.to_owned() };
        let mut service = AllocationServiceClient::new(self.transport.clone());
        self.ask(async { read(service.get_allocation(request).await?) }).await
    }

    pub(crate) fn control(&self) -> ControlServiceClient<Transport> {
        ControlServiceClient::new(self.transport.clone()).max_decoding_message_size(REPLY_MAX)
    }

    /// A call that does not wait for the kernel.
    pub(crate) async fn ask<T>(&self, call: impl Future<Output = Answer<T>>) -> Result<T, ClientError> {
        within(self.call_timeout, call).await
    }

    /// A call whose reply may wait, beside the time that any reply takes.
    async fn write<T>(
        &self,
        wait: Option<Duration>,
        call: impl Future<Output = Answer<T>>,
    ) -> Result<T, ClientError> {
        within(self.call_timeout.saturating_add(wait.unwrap_or(WAIT_DEFAULT)), call).await
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Answer<T>>) -> Result<T, ClientError> {
    let reply = tokio::time::timeout(limit, call).await;
    reply.unwrap_or_else(|_| Err(ClientError::timed_out(format!("no reply within {limit:?}"))))
}

fn read<M, T: FromPb<M>>(reply: tonic::Response<M>) -> Answer<T> {
    T::from_pb(reply.into_inner(), &Path::root()).map_err(|violations: Violations| violations.into())
}

/// On the wire the last page has an empty token.
fn token(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
