//! The same over REST and gRPC: equal objects, equal errors.

use netloom_api::{Allocation, ApplyResponse, Event, EventPage, ListPage, Object, Path, Problem, pb};
use serde::de::DeserializeOwned;
use tonic::Status;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::*;
use pb::allocation_service_client::AllocationServiceClient;
use pb::attachment_service_client::AttachmentServiceClient;
use pb::control_service_client::ControlServiceClient;
use pb::link_service_client::LinkServiceClient;
use pb::namespace_service_client::NamespaceServiceClient;
use pb::network_service_client::NetworkServiceClient;
use pb::policy_service_client::PolicyServiceClient;
use pb::port_forward_service_client::PortForwardServiceClient;
use pb::reservation_service_client::ReservationServiceClient;
use pb::route_service_client::RouteServiceClient;

const LESSON: &str = r#"{"objects": [
    {"kind": "PortForward", "name": "web", "spec":
        {"protocol": "tcp", "listen": {"port": 8080}, "target": {"attachment": "blue0", "port": 80}}},
    {"kind": "Attachment", "name": "blue0", "labels": {"role": "web"}, "spec":
        {"namespace": "blue", "network": "v-net-0", "addresses": ["192.168.15.2"]}},
    {"kind": "Link", "name": "cable", "spec": {"ends": [
        {"namespace": "blue", "interface": "up", "addresses": ["10.1.1.2/24", "fd00:1::2/64"]},
        {"namespace": "host", "interface": "to-blue", "addresses": ["10.1.1.1/24"]}]}},
    {"kind": "Namespace", "name": "blue"},
    {"kind": "Network", "name": "v-net-0", "spec": {"kind": {"bridge": {"device": "v-net-0"}}, "egress": {"nat": {}},
        "subnets": [{"cidr": "192.168.15.0/24", "gateway": "192.168.15.5"}]}},
    {"kind": "Reservation", "name": "vip", "spec": {"network": "v-net-0", "address": "192.168.15.77"}},
    {"kind": "Route", "name": "lan", "spec":
        {"namespace": "blue", "destination": "192.168.1.0/24", "via": "192.168.15.5"}},
    {"kind": "Policy", "name": "db", "spec": {"selector": {"labels": {"role": "web"}, "network": "v-net-0"},
        "directions": ["ingress", "egress"],
        "ingress": [{"peers": [{"labels": {"role": "app"}}, {"network": "v-net-0"}, {}],
            "ports": [{"protocol": "tcp", "port": 80, "end_port": 90}, {"protocol": "icmp", "type": 8, "code": 0}]}, {}],
        "egress": [{"peers": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "fd00::/8"}]}], "log": true}}
], "owner": "ci-7"}"#;

fn no_wait() -> Option<pb::WriteOptions> {
    Some(pb::WriteOptions { wait: Some(prost_types::Duration::default()), ..pb::WriteOptions::default() })
}

async fn rest<T: DeserializeOwned>(house: &House, path: &str) -> T {
    let reply = house.get(path).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    serde_json::from_str(&reply.text).unwrap()
}

fn read<M, T: netloom_api::FromPb<M>>(message: M) -> T {
    T::from_pb(message, &Path::root()).unwrap()
}

#[test]
fn what_rest_applied_is_read_alike_through_both_doors() {
    in_house(async |house| {
        let applied = house.post("/v1/apply?wait=0", LESSON).await;
        assert_eq!(applied.status, StatusCode::OK, "{applied:?}");
        let applied: ApplyResponse = serde_json::from_str(&applied.text).unwrap();
        assert_eq!(applied.objects.len(), 8);

        macro_rules! compare {
            ($client:ident $get:ident $get_request:ident $list:ident $list_request:ident $path:literal $name:literal) => {
                let mut client = $client::new(house.router.clone());
                let one = client.$get(pb::$get_request { name: $name.to_owned() }).await.unwrap();
                let one: Object<_> = read(one.into_inner());
                assert_eq!(one, rest(&house, concat!("/v1/", $path, "/", $name)).await);
                let page = client.$list(pb::$list_request::default()).await.unwrap().into_inner();
                let over_rest: ListPage<Object<_>> = rest(&house, concat!("/v1/", $path)).await;
                assert_eq!(page.seq, over_rest.seq);
                let items: Vec<Object<_>> = page.items.into_iter().map(read).collect();
                assert_eq!(items, over_rest.items);
                assert_eq!(items, [one]);
            };
        }
        compare!(NamespaceServiceClient get_namespace GetNamespaceRequest list_namespaces ListNamespacesRequest "namespaces" "blue");
        compare!(NetworkServiceClient get_network GetNetworkRequest list_networks ListNetworksRequest "networks" "v-net-0");
        compare!(AttachmentServiceClient get_attachment GetAttachmentRequest list_attachments ListAttachmentsRequest "attachments" "blue0");
        compare!(PortForwardServiceClient get_port_forward GetPortForwardRequest list_port_forwards ListPortForwardsRequest "port-forwards" "web");
        compare!(ReservationServiceClient get_reservation GetReservationRequest list_reservations ListReservationsRequest "reservations" "vip");
        compare!(RouteServiceClient get_route GetRouteRequest list_routes ListRoutesRequest "routes" "lan");
        compare!(LinkServiceClient get_link GetLinkRequest list_links ListLinksRequest "links" "cable");
        compare!(PolicyServiceClient get_policy GetPolicyRequest list_policies ListPoliciesRequest "policies" "db");

        let mut allocations = AllocationServiceClient::new(house.router.clone());
        let page = allocations.list_allocations(pb::ListAllocationsRequest::default()).await.unwrap();
        let items: Vec<Allocation> = page.into_inner().items.into_iter().map(read).collect();
        assert_eq!(items, rest::<ListPage<Allocation>>(&house, "/v1/allocations").await.items);
        assert_eq!(items.len(), 3);
        let encoded = house.get("/v1/allocations/v-net-0%40192.168.15.2").await;
        assert_eq!(encoded.json()["holder"]["name"], "blue0");

        let mut control = ControlServiceClient::new(house.router.clone());
        let page = control.list_events(pb::ListEventsRequest::default()).await.unwrap().into_inner();
        let items: Vec<Event> = page.items.into_iter().map(read).collect();
        assert_eq!(items, rest::<EventPage>(&house, "/v1/events").await.items);
        let topology = control.get_topology(pb::GetTopologyRequest {}).await.unwrap().into_inner();
        let topology: netloom_api::Topology = read(topology);
        assert_eq!(topology, rest(&house, "/v1/topology").await);
        assert_eq!((topology.nodes.len(), topology.edges.len()), (4, 5), "{topology:#?}");
        let exported = house.get("/v1/export?owner=ci-7").await;
        let again = house.post("/v1/apply?wait=0", &exported.text).await;
        let again: ApplyResponse = serde_json::from_str(&again.text).unwrap();
        assert!(again.changes.iter().all(|change| change.action == netloom_api::Action::Unchanged));
    });
}

#[test]
fn an_update_over_grpc_changes_what_its_mask_names() {
    in_house(async |house| {
        house.post("/v1/apply?wait=0", LESSON).await;
        let mut client = NetworkServiceClient::new(house.router.clone());
        let mut update = async |spec: pb::NetworkSpec, paths: &[&str]| {
            let network = pb::Network { name: "v-net-0".into(), spec: Some(spec), ..pb::Network::default() };
            let paths = paths.iter().map(|path| (*path).to_owned()).collect();
            let request = pb::UpdateNetworkRequest {
                network: Some(network),
                update_mask: Some(prost_types::FieldMask { paths }),
                options: no_wait(),
                ..pb::UpdateNetworkRequest::default()
            };
            client.update_network(request).await.map(|reply| reply.into_inner().spec.unwrap())
        };
        let mode = Some(pb::egress::Mode::Routed(pb::RoutedEgress {}));
        let routed = pb::NetworkSpec { egress: Some(pb::Egress { mode }), ..pb::NetworkSpec::default() };
        let spec = update(routed.clone(), &[]).await.unwrap();
        assert_eq!((&spec.egress, spec.subnets.len()), (&routed.egress, 1));
        let spec = update(pb::NetworkSpec::default(), &["spec.egress"]).await.unwrap();
        assert_eq!((&spec.egress, spec.subnets.len()), (&None, 1));
        let refused = update(pb::NetworkSpec::default(), &["spec.colour"]).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert_eq!(
            refused.get_error_details().bad_request().unwrap().field_violations[0].field,
            "update_mask"
        );
    });
}

/// An error as both doors say it: reason, text, values, fields.
fn facts(status: &Status) -> (String, String, Vec<(String, String)>, Vec<String>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    let mut metadata: Vec<_> = info.metadata.clone().into_iter().collect();
    metadata.sort();
    let fields = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let fields = fields.into_iter().map(|one| format!("{} {}", one.field, one.description)).collect();
    (info.reason.clone(), status.message().to_owned(), metadata, fields)
}

#[track_caller]
fn same<T: std::fmt::Debug>(over_rest: &Reply, over_grpc: Result<tonic::Response<T>, Status>) {
    let problem: Problem = serde_json::from_str(&over_rest.text).unwrap();
    let status = over_grpc.unwrap_err();
    assert_eq!(status.code(), problem.reason.grpc_code());
    let fields = problem.violations.iter().map(|one| format!("{} {}", one.field, one.description)).collect();
    let metadata = problem.metadata.into_iter().collect();
    assert_eq!(facts(&status), (problem.reason.as_str().to_owned(), problem.detail, metadata, fields));
}

#[test]
fn the_same_mistake_gets_the_same_error_at_both_doors() {
    in_house(async |house| {
        house.post("/v1/apply?wait=0", LESSON).await;
        let mut namespaces = NamespaceServiceClient::new(house.router.clone());
        let named = |name: &str| Some(pb::Namespace { name: name.to_owned(), ..pb::Namespace::default() });

        let get = namespaces.get_namespace(pb::GetNamespaceRequest { name: "Red".into() }).await;
        same(&house.get("/v1/namespaces/Red").await, get);
        let get = namespaces.get_namespace(pb::GetNamespaceRequest { name: "green".into() }).await;
        same(&house.get("/v1/namespaces/green").await, get);

        let create = pb::CreateNamespaceRequest { namespace: named("blue"), options: no_wait() };
        same(
            &house.post("/v1/namespaces?wait=0", r#"{"name": "blue"}"#).await,
            namespaces.create_namespace(create).await,
        );
        let wait = prost_types::Duration { seconds: 61, nanos: 0 };
        let options = Some(pb::WriteOptions { wait: Some(wait), ..pb::WriteOptions::default() });
        let create = pb::CreateNamespaceRequest { namespace: named("green"), options };
        same(
            &house.post("/v1/namespaces?wait=61s", r#"{"name": "green"}"#).await,
            namespaces.create_namespace(create).await,
        );

        let delete =
            pb::DeleteNamespaceRequest { name: "blue".into(), ..pb::DeleteNamespaceRequest::default() };
        same(&house.delete("/v1/namespaces/blue").await, namespaces.delete_namespace(delete).await);
        let list =
            pb::ListNamespacesRequest { page_size: Some(1001), ..pb::ListNamespacesRequest::default() };
        same(&house.get("/v1/namespaces?page_size=1001").await, namespaces.list_namespaces(list).await);

        let mut control = ControlServiceClient::new(house.router.clone());
        let watch = pb::WatchEventsRequest { after: Some(999), ..pb::WatchEventsRequest::default() };
        same(&house.get("/v1/events?after=999").await, control.watch_events(watch).await);
        let watch = pb::WatchEventsRequest { after: Some(-1), ..pb::WatchEventsRequest::default() };
        same(&house.get("/v1/events?after=-1").await, control.watch_events(watch).await);
    });
}

#[test]
fn grpc_follows_the_log_and_knows_when_the_daemon_is_ready() {
    in_house(async |house| {
        house.post("/v1/apply?wait=0", LESSON).await;
        let mut control = ControlServiceClient::new(house.router.clone());
        let watch =
            pb::WatchEventsRequest { initial: true, kinds: vec!["Network".into()], ..Default::default() };
        let mut events = control.watch_events(watch).await.unwrap().into_inner();
        let first = events.message().await.unwrap().unwrap();
        assert_eq!((first.r#type.as_str(), first.name.as_str()), ("created", "v-net-0"));
        house.post("/v1/networks?wait=0", r#"{"name": "second"}"#).await;
        let next = events.message().await.unwrap().unwrap();
        assert_eq!((next.name.as_str(), next.seq > first.seq), ("second", true));

        let mut health = HealthClient::new(house.router.clone());
        let request = tonic_health::pb::HealthCheckRequest::default();
        let mut watch = health.watch(request.clone()).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        house.become_ready();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        assert_eq!(health.check(request).await.unwrap().into_inner().status(), ServingStatus::Serving);
    });
}

#[test]
fn a_missing_object_may_be_deleted_over_grpc_with_an_empty_reply() {
    in_house(async |house| {
        let mut namespaces = NamespaceServiceClient::new(house.router.clone());
        let delete =
            pb::DeleteNamespaceRequest { name: "no".into(), allow_missing: true, ..Default::default() };
        assert_eq!(namespaces.delete_namespace(delete).await.unwrap().into_inner(), pb::Namespace::default());
    });
}

#[test]
fn reflection_names_every_service_in_both_of_its_versions() {
    in_house(async |house| {
        macro_rules! services {
            ($version:ident) => {{
                use tonic_reflection::pb::$version::{
                    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
                };
                let message_request = Some(MessageRequest::ListServices(String::new()));
                let request = ServerReflectionRequest { host: String::new(), message_request };
                let mut client = ServerReflectionClient::new(house.router.clone());
                let replies = client.server_reflection_info(futures_util::stream::iter([request])).await;
                let reply = replies.unwrap().into_inner().message().await.unwrap().unwrap();
                let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
                    panic!("no list of services")
                };
                list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
            }};
        }
        let (v1, v1alpha) = (services!(v1), services!(v1alpha));
        for name in ["netloom.v1.ControlService", "netloom.v1.PortForwardService", "grpc.health.v1.Health"] {
            assert!(
                v1.iter().any(|other| other == name) && v1alpha.iter().any(|other| other == name),
                "{name}"
            );
        }
    });
}

#[test]
fn an_unknown_service_is_unimplemented_and_says_why() {
    in_house(async |house| {
        let headers = ["content-type: application/grpc"];
        let reply = house.call(Method::POST, "/netloom.v9.NoService/Call", &headers, "").await;
        assert_eq!((reply.status, reply.header("grpc-status")), (StatusCode::OK, "12"));
        let status = Status::from_header_map(&reply.headers).unwrap();
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "NO_SUCH_METHOD");
    });
}

#[test]
fn a_reader_that_is_too_slow_is_cut_at_both_doors_and_told_to_begin_again() {
    in_house(async |house| {
        let mut control = ControlServiceClient::new(house.router.clone());
        let mut events = control.watch_events(pb::WatchEventsRequest::default()).await.unwrap().into_inner();
        let request = Request::get("/v1/events").header("accept", "text/event-stream");
        let stream = house.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        // More than a follower may lag behind, in one write.
        let objects: Vec<_> = (0..1100)
            .map(|index| serde_json::json!({"kind": "Namespace", "name": format!("n{index}")}))
            .collect();
        let applied =
            house.post("/v1/apply?wait=0", &serde_json::json!({"objects": objects}).to_string()).await;
        assert_eq!(applied.status, StatusCode::OK);
        let text = stream.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert!(text.starts_with("event: resync") && text.contains("SLOW_READER"), "{text}");
        let status = events.message().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(facts(&status).0, "SLOW_READER");
        let metrics = house.get("/metrics").await.text;
        let line = r#"netloom_requests_total{door="grpc",method="POST",path="/netloom.v1.ControlService/WatchEvents",status="8"} 1"#;
        assert!(metrics.lines().any(|other| other == line), "{metrics}");
        assert!(metrics.contains(r#"netloom_objects{kind="Namespace",ready="unknown"} 1100"#), "{metrics}");
    });
}
