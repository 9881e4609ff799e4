//! Who calls, from where, and what that allows; in the words of both doors.

use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;

use super::*;

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
    let mut builder = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Body::empty()).unwrap()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Calls a method that no service has: what passes the rim is unimplemented.
async fn grpc_call(channel: Channel, path: &'static str, token: Option<&str>) -> Status {
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", bearer(token).parse().unwrap());
    }
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = axum::http::uri::PathAndQuery::from_static(path);
    client.unary(request, path, codec).await.unwrap_err()
}

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const HEALTHZ: &str = "/healthz";
const LIST: &str = "/netloom.v1.NetworkService/ListNetworks";
const CREATE: &str = "/netloom.v1.NetworkService/CreateNetwork";

#[tokio::test]
async fn a_unix_socket_knows_its_caller_by_uid_and_its_right_by_path() {
    let daemon = Daemon::start(Limits::default());
    let uid = format!("uid:{}", nix::unistd::geteuid());
    let main = daemon.get(At::Main, "/who").await.json();
    assert_eq!((&main["actor"], &main["rights"]), (&json!(uid), &json!("full")));
    let read = daemon.get(At::ReadSock, "/who").await.json();
    assert_eq!(read["actor"], json!(uid));
    assert_eq!(Rights::parse(read["rights"].as_str().unwrap().split(' ')), Ok(Rights::read()));
}

#[tokio::test]
async fn the_caller_is_seen_by_grpc_services_alike() {
    let daemon = Daemon::start(Limits::default());
    for (at, status) in [(At::Main, ServingStatus::Serving), (At::ReadSock, ServingStatus::NotServing)] {
        let mut client = HealthClient::new(daemon.grpc(at).await);
        let reply = client.check(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(reply.status(), status, "{at:?}");
    }
}

#[tokio::test]
async fn a_token_names_its_caller_on_both_protocols() {
    let daemon = Daemon::start(Limits::default());
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (token, actor, access) in [(FULL, "token:ci", Rights::Full), (READ, "token:eye", Rights::read())]
        {
            let headers = [("authorization", bearer(token))];
            let headers = [("host", "localhost"), (headers[0].0, headers[0].1.as_str())];
            let uri = match protocol {
                Protocol::Http1 => "/who",
                Protocol::Http2 => "http://localhost/who",
            };
            let headers = if matches!(protocol, Protocol::Http2) { &headers[1..] } else { &headers[..] };
            let reply = daemon.call(At::Tcp, protocol, request("GET", uri, headers)).await.json();
            assert_eq!((&reply["actor"], &reply["rights"]), (&json!(actor), &json!(access.to_string())));
        }
    }
}

#[tokio::test]
async fn a_stranger_learns_nothing_but_that_the_daemon_lives() {
    let daemon = Daemon::start(Limits::default());
    for path in ["/who", "/v1/version", "/readyz", "/metrics", "/v1/openapi.json", "/docs", "/"] {
        for authorization in ["", "Bearer wrong-wrong-wrong-wrong", "Basic cm9vdDpyb290"] {
            let headers = [("host", "localhost"), ("authorization", authorization)];
            let reply = daemon.call(At::Tcp, Protocol::Http1, request("GET", path, &headers)).await;
            assert_eq!(reply.refusal(), (401, "UNAUTHENTICATED".to_owned()), "{path}");
            assert_eq!(reply.header("www-authenticate"), "Bearer");
            let words = format!("{:?} {}", reply.headers, reply.body).to_lowercase();
            assert!(!words.contains("version") && !words.contains(env!("CARGO_PKG_VERSION")), "{words}");
            assert!(!words.contains("server\""), "{words}");
        }
    }
    assert_eq!(daemon.get(At::Tcp, "/healthz").await.body, "ok");
    // gRPC has no call for strangers: its health tells services by their names, its reflection everything.
    for call in [HEALTH, REFLECTION, HEALTHZ] {
        assert_eq!(
            grpc_call(daemon.grpc(At::Tcp).await, call, None).await.code(),
            Code::Unauthenticated,
            "{call}"
        );
    }
    assert_eq!(grpc_call(daemon.grpc(At::Tcp).await, LIST, None).await.code(), Code::Unauthenticated);
    let wrong = grpc_call(daemon.grpc(At::Tcp).await, LIST, Some("wrong")).await;
    assert_eq!(wrong.get_details_error_info().unwrap().reason, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_reader_may_not_write_at_either_door() {
    let daemon = Daemon::start(Limits::default());
    for method in ["POST", "PATCH", "DELETE", "PUT"] {
        let reply =
            daemon.call(At::ReadSock, Protocol::Http1, request(method, "/who", &[("host", "x")])).await;
        assert_eq!(reply.refusal(), (403, "access".to_owned()));
        let headers = [("host", "localhost"), ("authorization", &bearer(READ))];
        let reply = daemon.call(At::Tcp, Protocol::Http1, request(method, "/who", &headers)).await;
        assert_eq!(reply.refusal(), (403, "access".to_owned()));
    }
    let main = daemon.call(At::Main, Protocol::Http1, request("POST", "/who", &[("host", "x")])).await;
    assert_eq!(main.status, 200);
    let code = async |at, path, token| grpc_call(daemon.grpc(at).await, path, token).await.code();
    assert_eq!(code(At::ReadSock, LIST, None).await, Code::Unimplemented);
    assert_eq!(code(At::ReadSock, CREATE, None).await, Code::PermissionDenied);
    assert_eq!(code(At::Tcp, LIST, Some(READ)).await, Code::Unimplemented);
    assert_eq!(code(At::Tcp, CREATE, Some(READ)).await, Code::PermissionDenied);
    assert_eq!(code(At::Tcp, CREATE, Some(FULL)).await, Code::Unimplemented);
    assert_eq!(code(At::Main, CREATE, None).await, Code::Unimplemented);
}

#[tokio::test]
async fn only_known_hosts_are_served_over_tcp() {
    let daemon = Daemon::start(Limits::default());
    let port = daemon.tcp.unwrap().port();
    let token = bearer(FULL);
    let ask = async |protocol, uri: &str, host: Option<&str>| {
        let mut headers = vec![("authorization", token.as_str())];
        headers.extend(host.map(|host| ("host", host)));
        daemon.call(At::Tcp, protocol, request("GET", uri, &headers)).await
    };
    for host in
        ["localhost", "LOCALHOST.", "127.0.0.1", "[::1]:9", "netloom.example", &format!("127.0.0.1:{port}")]
    {
        assert_eq!(ask(Protocol::Http1, "/who", Some(host)).await.status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "192.0.2.1", "", "netloom.example@evil.example"] {
        let refusal = ask(Protocol::Http1, "/who", Some(host)).await.refusal();
        assert_eq!(refusal, (403, "host".to_owned()), "{host}");
    }
    assert_eq!(ask(Protocol::Http1, "/who", None).await.refusal().0, 403);
    // HTTP/2 says the host as :authority; a header beside it must not say another one.
    assert_eq!(ask(Protocol::Http2, "http://netloom.example/who", None).await.status, 200);
    assert_eq!(ask(Protocol::Http2, "http://evil.example/who", None).await.refusal().0, 403);
    assert_eq!(ask(Protocol::Http2, "http://localhost/who", Some("evil.example")).await.refusal().0, 403);
    // On a unix socket there is no host to be mistaken about.
    let unix =
        daemon.call(At::Main, Protocol::Http1, request("GET", "/who", &[("host", "evil.example")])).await;
    assert_eq!(unix.status, 200);
}

#[tokio::test]
async fn a_web_page_is_refused_even_with_a_token() {
    let daemon = Daemon::start(Limits::default());
    let headers = [("host", "localhost"), ("authorization", &bearer(FULL)), ("origin", "http://localhost")];
    for at in [At::Tcp, At::Main] {
        for method in ["GET", "POST"] {
            let reply = daemon.call(at, Protocol::Http1, request(method, "/who", &headers)).await;
            assert_eq!(reply.refusal(), (403, "origin".to_owned()));
        }
    }
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_another_is_replaced() {
    let daemon = Daemon::start(Limits::default());
    let ask = async |id: &str| {
        let headers = [("host", "x"), ("x-request-id", id)];
        daemon.call(At::Main, Protocol::Http1, request("GET", "/who", &headers)).await
    };
    let kept = ask("ci-7/42").await;
    assert_eq!((kept.header("x-request-id"), &kept.json()["id"]), ("ci-7/42", &json!("ci-7/42")));
    for bad in ["", "a b", "\"", &"x".repeat(129)] {
        let made = ask(bad).await;
        let id = made.header("x-request-id");
        assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
        assert_eq!(made.json()["id"], id);
    }
}

#[tokio::test]
async fn each_door_has_its_own_not_found() {
    let daemon = Daemon::start(Limits::default());
    assert_eq!(daemon.get(At::Main, LIST).await.status, 404);
    let web = [("host", "x"), ("content-type", "application/grpc-web")];
    assert_eq!(daemon.call(At::Main, Protocol::Http1, request("POST", LIST, &web)).await.status, 404);
    let grpc = [("host", "x"), ("content-type", "application/grpc+proto")];
    let reply = daemon.call(At::Main, Protocol::Http1, request("POST", "/who", &grpc)).await;
    assert_eq!((reply.status, reply.header("grpc-status")), (200, "12"));
}

#[tokio::test]
async fn a_panic_in_a_handler_is_one_failed_request() {
    let daemon = Daemon::start(Limits::default());
    assert_eq!(daemon.get(At::Main, "/panic").await.refusal(), (500, "INTERNAL".to_owned()));
    assert_eq!(daemon.get(At::Main, "/who").await.status, 200);
}

#[tokio::test]
async fn writes_that_are_refused_at_the_rim_are_told_and_reads_are_not() {
    let daemon = Daemon::start(Limits::default());
    let ask = async |at, method: &str, token: Option<&str>| {
        let token = token.map(bearer);
        let mut headers = vec![("host", "localhost"), ("x-request-id", "one")];
        headers.extend(token.as_deref().map(|token| ("authorization", token)));
        daemon.call(at, Protocol::Http1, request(method, "/who", &headers)).await.status
    };
    assert_eq!(ask(At::ReadSock, "DELETE", None).await, 403);
    assert_eq!(ask(At::Tcp, "POST", None).await, 401);
    assert_eq!(ask(At::Tcp, "POST", Some(READ)).await, 403);
    assert_eq!(ask(At::Tcp, "GET", None).await, 401);
    assert_eq!(ask(At::Main, "POST", None).await, 200);
    let told: Vec<_> = std::mem::take(&mut *daemon.denied.lock().unwrap());
    let uid = format!("uid:{}", nix::unistd::geteuid());
    let words: Vec<_> = told.iter().map(|one| (one.known, one.what.as_str(), one.error.reason)).collect();
    use netloom_api::ErrorReason::{PermissionDenied, Unauthenticated};
    let expected = [
        (true, "DELETE /who", PermissionDenied),
        (false, "POST /who", Unauthenticated),
        (true, "POST /who", PermissionDenied),
    ];
    assert_eq!(words, expected);
    assert_eq!((&*told[0].actor, &*told[2].actor, &*told[2].request_id), (&*uid, "token:eye", "one"));
    assert!(told[1].actor.starts_with("127.0.0.1:"), "{:?}", told[1]);
}

#[tokio::test]
async fn tokens_are_read_again_on_demand_and_a_bad_file_changes_nothing() {
    let daemon = Daemon::start(Limits::default());
    let ask = async |token: &str| {
        let headers = [("host", "localhost"), ("authorization", &*bearer(token))];
        daemon.call(At::Tcp, Protocol::Http1, request("GET", "/who", &headers)).await.status
    };
    const NEW: &str = "new-new-new-new-new-new-new-new";
    let papers = daemon.papers.clone().unwrap();
    let file = daemon.path("tokens");
    std::fs::write(&file, "ci nonsense").unwrap();
    assert!(papers.reload().is_err());
    assert_eq!((ask(FULL).await, ask(NEW).await), (200, 401));
    std::fs::write(&file, token_line("ci", NEW, &Rights::Full, None).unwrap()).unwrap();
    papers.reload().unwrap();
    assert_eq!((ask(FULL).await, ask(NEW).await), (401, 200));
}
