//! The five calls of every noun, written once.

use netloom_api::{
    Attachment, Draft, Link, Name, Namespace, Network, Noun as _, Object, Policy, PortForward, Reservation,
    Route, ToPb as _, pb,
};
use tonic::service::RoutesBuilder;
use tonic::{Request, async_trait};

use super::{Answer, answer, etag, mask, maybe, open, options, sent};
use crate::api::door::{Door, DoorNoun};
use crate::api::words;
use crate::controller::{Caller, Change, Delete, ListQuery, Patch};
use crate::error::Result;

/// The services of all nouns.
pub(super) fn add(routes: &mut RoutesBuilder, door: &Door) {
    use pb::{
        attachment_service_server::AttachmentServiceServer, link_service_server::LinkServiceServer,
        namespace_service_server::NamespaceServiceServer, network_service_server::NetworkServiceServer,
        policy_service_server::PolicyServiceServer, port_forward_service_server::PortForwardServiceServer,
        reservation_service_server::ReservationServiceServer, route_service_server::RouteServiceServer,
    };
    // The rim has its own limit of a body, which is the only one.
    routes
        .add_service(NamespaceServiceServer::new(door.clone()).max_decoding_message_size(usize::MAX))
        .add_service(NetworkServiceServer::new(door.clone()).max_decoding_message_size(usize::MAX))
        .add_service(AttachmentServiceServer::new(door.clone()).max_decoding_message_size(usize::MAX))
        .add_service(PortForwardServiceServer::new(door.clone()).max_decoding_message_size(usize::MAX))
        .add_service(ReservationServiceServer::new(door.clone()).max_decoding_message_size(usize::MAX))
        .add_service(RouteServiceServer::new(door.clone()).max_decoding_message_size(usize::MAX))
        .add_service(LinkServiceServer::new(door.clone()).max_decoding_message_size(usize::MAX))
        .add_service(PolicyServiceServer::new(door.clone()).max_decoding_message_size(usize::MAX));
}

/// A list's request, as all nouns have it.
struct Listing {
    page_size: Option<i32>,
    page_token: Option<String>,
    owner: Option<String>,
    labels: std::collections::BTreeMap<String, String>,
    namespace: Option<String>,
    network: Option<String>,
}

impl Listing {
    fn read(self) -> Result<ListQuery> {
        let Self { page_size, page_token, owner, labels, namespace, network } = self;
        Ok(ListQuery {
            page_size: page_size.map(|size| words::page_size(size.into())).transpose()?,
            // An empty token is that of a last page, and of a first one.
            page_token: page_token.filter(|token| !token.is_empty()),
            owner: maybe(owner, "owner")?,
            labels: words::labels(labels, "labels")?,
            namespace: maybe(namespace, "namespace")?,
            network: maybe(network, "network")?,
        })
    }
}

fn get<N: DoorNoun>(door: &Door, name: &str, caller: &Caller) -> Result<Object<N>> {
    door.controller.get::<N>(&words::parsed::<Name>(name, "name")?, &caller.rights)
}

/// Implements the service of one noun.
macro_rules! service {
    (
        $noun:ident $field:ident in $module:ident::$service:ident;
        $list:ident $list_request:ident $list_response:ident by [$($filter:ident),*] not [$($not:ident),*];
        $get:ident $get_request:ident;
        $create:ident $create_request:ident;
        $update:ident $update_request:ident;
        $delete:ident $delete_request:ident;
    ) => {
        #[async_trait]
        impl pb::$module::$service for Door {
            async fn $list(&self, request: Request<pb::$list_request>) -> Answer<pb::$list_response> {
                let page = open(request).and_then(|(caller, request)| {
                    let pb::$list_request { page_size, page_token, owner, labels, $($filter,)* } = request;
                    let listing = Listing { page_size, page_token, owner, labels, $($filter,)* $($not: None,)* };
                    self.controller.list::<$noun>(&listing.read()?, &caller.rights)
                });
                answer(page.map(|page| pb::$list_response {
                    items: page.items.iter().map(Object::to_pb).collect(),
                    next_page_token: page.next_page_token.unwrap_or_default(),
                    seq: page.seq,
                }))
            }

            async fn $get(&self, request: Request<pb::$get_request>) -> Answer<pb::$noun> {
                let object = open(request).and_then(|(caller, request)| {
                    let pb::$get_request { name } = request;
                    get::<$noun>(self, &name, &caller)
                });
                answer(object.map(|object| object.to_pb()))
            }

            async fn $create(&self, request: Request<pb::$create_request>) -> Answer<pb::$noun> {
                answer(async {
                    let (caller, pb::$create_request { $field, options: how }) = open(request)?;
                    let options = options(how)?;
                    let draft: Draft<$noun> = sent($field, stringify!($field))?;
                    let change = Change::Create(<$noun as DoorNoun>::draft(draft));
                    Ok(self.write::<$noun>(change, &options, &caller).await?.object()?.to_pb())
                }.await)
            }

            async fn $update(&self, request: Request<pb::$update_request>) -> Answer<pb::$noun> {
                answer(async {
                    let (caller, request) = open(request)?;
                    let pb::$update_request { $field, update_mask, allow_missing, etag: tag, options: how } = request;
                    let (options, etag) = (options(how)?, etag(tag)?);
                    let message = $field.ok_or_else(|| words::invalid(stringify!($field), "is required"))?;
                    let name = words::parsed(&message.name, "name")?;
                    let sent = mask::Sent {
                        labels: message.labels,
                        annotations: message.annotations,
                        owner: message.owner,
                        spec: message.spec,
                    };
                    let patches = mask::patches($noun::KIND, sent, update_mask)?;
                    let change = Change::Patch(Patch { kind: $noun::KIND, name, patches, etag, allow_missing });
                    Ok(self.write::<$noun>(change, &options, &caller).await?.object()?.to_pb())
                }.await)
            }

            async fn $delete(&self, request: Request<pb::$delete_request>) -> Answer<pb::$noun> {
                answer(async {
                    let (caller, request) = open(request)?;
                    let pb::$delete_request { name, etag: tag, force, allow_missing, options: how } = request;
                    let (options, etag) = (options(how)?, etag(tag)?);
                    let force = force || options.force;
                    let name = words::parsed(&name, "name")?;
                    let change = Change::Delete(Delete { kind: $noun::KIND, name, etag, force, allow_missing });
                    let object = self.write::<$noun>(change, &options, &caller).await?.object;
                    Ok(object.map(|object| object.to_pb()).unwrap_or_default())
                }.await)
            }
        }
    };
}

service! {
    Namespace namespace in namespace_service_server::NamespaceService;
    list_namespaces ListNamespacesRequest ListNamespacesResponse by [] not [namespace, network];
    get_namespace GetNamespaceRequest;
    create_namespace CreateNamespaceRequest;
    update_namespace UpdateNamespaceRequest;
    delete_namespace DeleteNamespaceRequest;
}

service! {
    Network network in network_service_server::NetworkService;
    list_networks ListNetworksRequest ListNetworksResponse by [] not [namespace, network];
    get_network GetNetworkRequest;
    create_network CreateNetworkRequest;
    update_network UpdateNetworkRequest;
    delete_network DeleteNetworkRequest;
}

service! {
    Attachment attachment in attachment_service_server::AttachmentService;
    list_attachments ListAttachmentsRequest ListAttachmentsResponse by [namespace, network] not [];
    get_attachment GetAttachmentRequest;
    create_attachment CreateAttachmentRequest;
    update_attachment UpdateAttachmentRequest;
    delete_attachment DeleteAttachmentRequest;
}

service! {
    PortForward port_forward in port_forward_service_server::PortForwardService;
    list_port_forwards ListPortForwardsRequest ListPortForwardsResponse by [namespace, network] not [];
    get_port_forward GetPortForwardRequest;
    create_port_forward CreatePortForwardRequest;
    update_port_forward UpdatePortForwardRequest;
    delete_port_forward DeletePortForwardRequest;
}

service! {
    Reservation reservation in reservation_service_server::ReservationService;
    list_reservations ListReservationsRequest ListReservationsResponse by [network] not [namespace];
    get_reservation GetReservationRequest;
    create_reservation CreateReservationRequest;
    update_reservation UpdateReservationRequest;
    delete_reservation DeleteReservationRequest;
}

service! {
    Route route in route_service_server::RouteService;
    list_routes ListRoutesRequest ListRoutesResponse by [namespace] not [network];
    get_route GetRouteRequest;
    create_route CreateRouteRequest;
    update_route UpdateRouteRequest;
    delete_route DeleteRouteRequest;
}

service! {
    Link link in link_service_server::LinkService;
    list_links ListLinksRequest ListLinksResponse by [namespace] not [network];
    get_link GetLinkRequest;
    create_link CreateLinkRequest;
    update_link UpdateLinkRequest;
    delete_link DeleteLinkRequest;
}

service! {
    Policy policy in policy_service_server::PolicyService;
    list_policies ListPoliciesRequest ListPoliciesResponse by [network] not [namespace];
    get_policy GetPolicyRequest;
    create_policy CreatePolicyRequest;
    update_policy UpdatePolicyRequest;
    delete_policy DeletePolicyRequest;
}
