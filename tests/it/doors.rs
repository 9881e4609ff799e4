//! Both doors have the same verbs: the paths of the OpenAPI document and the methods of the proto files are walked, and a verb
//! that one door has and the other has not is named. That their results are equal, `server/src/api/tests/equal.rs` tests.

use std::collections::BTreeSet;

use netloom_api::pb;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::Value;

/// What gRPC has in its own standard services, or cannot have: health, metrics, the description of REST itself.
const REST_ALONE: [&str; 4] = ["get_health", "get_readiness", "get_metrics", "get_openapi"];
/// In REST the same path as the page of events: who accepts `text/event-stream` watches.
const GRPC_ALONE: [&str; 1] = ["watch_events"];

fn rest() -> BTreeSet<String> {
    let document: Value = serde_json::from_str(include_str!("../../proto/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    operations.filter_map(|operation| operation["operationId"].as_str()).map(str::to_owned).collect()
}

fn grpc() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap().file;
    let services = files.iter().filter(|file| file.package() == "netloom.v1").flat_map(|file| &file.service);
    services.flat_map(|service| &service.method).map(|method| snake_case(method.name())).collect()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[test]
fn every_verb_is_behind_both_doors() {
    let (mut rest, mut grpc) = (rest(), grpc());
    for alone in REST_ALONE {
        assert!(rest.remove(alone), "REST has no {alone} any more");
    }
    for alone in GRPC_ALONE {
        assert!(grpc.remove(alone), "gRPC has no {alone} any more");
    }
    assert!(rest.len() > 40, "{rest:?}");
    let missing: Vec<&String> = rest.symmetric_difference(&grpc).collect();
    assert!(missing.is_empty(), "behind one door only: {missing:?}");
}
