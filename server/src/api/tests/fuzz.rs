//! Whatever a caller sends, the doors answer it; nothing that comes in makes the daemon fail.

use bytes::{BufMut as _, BytesMut};
use netloom_api::pb;
use netloom_fuzz::{withstands, withstands_text};
use prost::Message;

use super::*;

/// Requests as text: method, path, body.
const REQUESTS: &[&str] = &[
    "GET /v1/namespaces?page_size=2&label=a=b&owner=lesson\n",
    "GET /v1/attachments?namespace=red&network=v-net-0&page_token=726564\n",
    "GET /v1/events?after=3&page_size=10&kind=Namespace&name=red\n",
    "GET /v1/allocations?network=v-net-0&page_token=v-net-0@192.168.15.1\n",
    "GET /v1/namespaces/red/state\n",
    "GET /v1/export?owner=lesson&pinned=true\n",
    "GET /v1/topology?format=dot\n",
    "POST /v1/namespaces?wait=0&request_id=once\n{\"name\": \"red\", \"labels\": {\"a\": \"b\"}}",
    "POST /v1/networks?wait=0\n{\"name\": \"v-net-0\", \"spec\": {\"subnets\": [{\"cidr\": \"192.168.15.0/24\"}], \"egress\": {\"nat\": {}}}}",
    "POST /v1/attachments?wait=0\n{\"name\": \"red0\", \"spec\": {\"namespace\": \"red\", \"network\": \"v-net-0\", \"mac\": \"02:00:00:00:00:01\"}}",
    "POST /v1/port-forwards?wait=0&dry_run=true\n{\"name\": \"web\", \"spec\": {\"protocol\": \"tcp\", \"listen\": {\"port\": 8080}, \"target\": {\"attachment\": \"red0\", \"port\": 80}}}",
    "POST /v1/reservations?wait=0\n{\"name\": \"vip\", \"spec\": {\"network\": \"v-net-0\", \"address\": \"192.168.15.77\"}}",
    "POST /v1/routes?wait=0\n{\"name\": \"lan\", \"spec\": {\"namespace\": \"red\", \"destination\": \"192.168.1.0/24\", \"via\": \"192.168.15.5\"}}",
    "POST /v1/links?wait=0\n{\"name\": \"cable\", \"spec\": {\"ends\": [{\"namespace\": \"red\", \"interface\": \"veth-red\"}, {\"namespace\": \"host\", \"interface\": \"to-red\"}]}}",
    "POST /v1/policies?wait=0\n{\"name\": \"db\", \"spec\": {\"selector\": {\"labels\": {\"role\": \"db\"}, \"network\": \"v-net-0\"}, \"directions\": [\"ingress\"], \"ingress\": [{\"peers\": [{\"labels\": {}}, {\"cidr\": \"10.0.0.0/8\", \"except\": [\"10.1.0.0/16\"]}], \"ports\": [{\"protocol\": \"tcp\", \"port\": 80, \"end_port\": 90}, {\"protocol\": \"icmp\", \"type\": 8}]}]}}",
    "GET /v1/policies?network=v-net-0\n",
    "PATCH /v1/networks/v-net-0?wait=0&allow_missing=true\n{\"spec\": {\"mtu\": 1400, \"isolation\": {\"members\": true}, \"egress\": {\"routed\": {}}}}",
    "PATCH /v1/namespaces/red?wait=0\n{\"owner\": null, \"annotations\": {\"x\": \"y\"}, \"spec\": {\"sysctls\": {\"net.ipv4.ip_forward\": \"1\"}}}",
    "DELETE /v1/attachments/red0?wait=0&force=true&allow_missing=true\n",
    "POST /v1/apply?dry_run=true&wait=0\n{\"objects\": [{\"kind\": \"Namespace\", \"name\": \"red\"}], \"owner\": \"lesson\", \"prune\": true}",
    "POST /v1/plan\n{\"objects\": [], \"expect_revision\": 3}",
];

/// The daemon's own failure, which no input may cause.
fn is_own_fault(status: StatusCode) -> bool {
    matches!(status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::NOT_IMPLEMENTED)
}

fn on_both_sides<F: Fn(&tokio::runtime::Runtime, &House)>(test: F) {
    on_private_host(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let house = runtime.block_on(House::open());
        house.become_ready();
        test(&runtime, &house);
    });
}

#[test]
fn whatever_is_sent_over_rest_is_read_or_refused() {
    on_both_sides(|runtime, house| {
        withstands_text(REQUESTS, |text| {
            let (line, body) = text.split_once('\n').unwrap_or((text, ""));
            let Some((method, path)) = line.split_once(' ') else { return };
            let Ok(method) = method.parse::<Method>() else { return };
            if path.parse::<axum::http::Uri>().is_err() || !path.starts_with('/') {
                return;
            }
            // A stream would not end.
            if path.starts_with("/v1/events:") || path.contains("wait=") && !path.contains("wait=0") {
                return;
            }
            let reply = runtime.block_on(house.call(method, path, &["content-type: application/json"], body));
            assert!(!is_own_fault(reply.status), "{reply:?}");
        });
    });
}

#[test]
fn whatever_is_sent_over_grpc_is_read_or_refused() {
    let network = pb::Network {
        name: "v-net-0".into(),
        spec: Some(pb::NetworkSpec {
            subnets: vec![pb::Subnet { cidr: Some("192.168.15.0/24".into()), ..pb::Subnet::default() }],
            ..pb::NetworkSpec::default()
        }),
        ..pb::Network::default()
    };
    let options = Some(pb::WriteOptions { dry_run: Some(true), ..pb::WriteOptions::default() });
    let create = pb::CreateNetworkRequest { network: Some(network.clone()), options: options.clone() };
    let update = pb::UpdateNetworkRequest {
        network: Some(network),
        update_mask: Some(prost_types::FieldMask { paths: vec!["spec.egress".into(), "labels".into()] }),
        options,
        ..pb::UpdateNetworkRequest::default()
    };
    let list = pb::ListNetworksRequest { page_size: Some(3), ..pb::ListNetworksRequest::default() };
    let calls = ["CreateNetwork", "UpdateNetwork", "ListNetworks", "DeleteNetwork"];
    let examples = [create.encode_to_vec(), update.encode_to_vec(), list.encode_to_vec()];
    on_both_sides(|runtime, house| {
        withstands(&examples, |message| {
            for call in calls {
                let mut framed = BytesMut::new();
                framed.put_u8(0);
                framed.put_u32(message.len() as u32);
                framed.extend_from_slice(message);
                let request = Request::post(format!("/netloom.v1.NetworkService/{call}"))
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(Body::from(framed.freeze()))
                    .unwrap();
                let (parts, trailers) = runtime.block_on(async {
                    let response = house.router.clone().oneshot(request).await.unwrap();
                    let (parts, body) = response.into_parts();
                    (parts, body.collect().await.unwrap().trailers().cloned().unwrap_or_default())
                });
                let status = parts.headers.get("grpc-status").or(trailers.get("grpc-status")).cloned();
                let status = status.map(|status| status.to_str().unwrap().to_owned());
                // INTERNAL and UNKNOWN of grpc's status codes; what cannot be decoded is tonic's INTERNAL.
                let message = parts.headers.get("grpc-message").map(|text| text.to_str().unwrap().to_owned());
                let is_undecodable = message.as_ref().is_some_and(|text| text.contains("decode"));
                assert!(
                    is_undecodable || !matches!(status.as_deref(), Some("2" | "13") | None),
                    "{call}: {status:?} {message:?}"
                );
            }
        });
    });
}
