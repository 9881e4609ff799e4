//! TCP: never without a token, never in the clear beyond this host, and only for whoever means this daemon.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, path::PathBuf};

use netloom_api::{Draft, Namespace, NamespaceSpec};
use netloom_client::{Client, ClientError, ConnectOptions, ErrorReason, ListOptions, WriteOptions};
use netloom_server::{api::auth::token_line, controller::Rights};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;

use crate::{
    host::{Daemon, HOME, netloomd, on_host},
    netloom::{Netloom, Told},
    rest::Rest,
};

const FULL: &str = "a-token-with-all-rights-0123456789";
const READ: &str = "a-token-that-only-reads-0123456789";
const PART: &str = "a-token-with-some-rights-0123456789";
/// Its networks are others', its namespaces and what is in them its own.
const PART_RIGHTS: &str = "read:networks *:namespaces,attachments,port-forwards,links,routes@ci-7";
const WRONG: &str = "a-token-that-nobody-has-0123456789";
const NAME: &str = "netloom.example";
const AT: &str = "127.0.0.1:7070";

/// Certificate, key and tokens of a daemon, in files.
struct Papers {
    certificate: PathBuf,
    key: PathBuf,
    tokens: PathBuf,
}

fn papers() -> Papers {
    std::fs::create_dir_all(HOME).unwrap();
    let file = |name: &str, text: String| {
        let path = PathBuf::from(HOME).join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let names = [NAME.to_owned(), "127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let lines = [("ci", FULL, "full"), ("eye", READ, "read"), ("part", PART, PART_RIGHTS)].map(
        |(name, token, words)| {
            token_line(name, token, &Rights::parse(words.split(' ')).unwrap(), None).unwrap()
        },
    );
    Papers {
        certificate: file("cert.pem", cert.pem()),
        key: file("key.pem", signing_key.serialize_pem()),
        tokens: file("tokens", lines.join("\n") + "\n"),
    }
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// A daemon with TLS on loopback that is also called `netloom.example`.
async fn tls_daemon(papers: &Papers) -> Daemon {
    let Papers { certificate, key, tokens } = papers;
    let tls = ["--tls-cert", text(certificate), "--tls-key", text(key)];
    let options = ["--listen", AT, "--token-file", text(tokens), "--allowed-host", NAME];
    Daemon::start_with(&[&tls[..], &options[..]].concat()).await
}

/// A daemon that listens on loopback in the clear.
async fn plain_daemon(papers: &Papers) -> Daemon {
    Daemon::start_with(&["--listen", AT, "--token-file", text(&papers.tokens)]).await
}

fn at() -> SocketAddr {
    AT.parse().unwrap()
}

#[test]
fn over_tls_rest_answers_who_has_a_token_as_much_as_the_token_allows() {
    on_host(async || {
        let papers = papers();
        let _daemon = tls_daemon(&papers).await;
        let rest = Rest::tls(at(), NAME, &papers.certificate);
        for stranger in [rest.clone(), rest.token(WRONG), rest.token("")] {
            let refused = stranger.get("/v1/namespaces").await.unwrap();
            assert_eq!((refused.status, &refused.body["reason"]), (401, &json!("UNAUTHENTICATED")));
            assert_eq!(refused.headers["www-authenticate"], "Bearer");
            assert_eq!(stranger.get("/healthz").await.unwrap().status, 200, "alive is no secret");
            for secret in ["/readyz", "/metrics", "/v1/version", "/v1/openapi.json", "/docs/", "/v1/nothing"]
            {
                assert_eq!(stranger.get(secret).await.unwrap().status, 401, "{secret}");
            }
        }
        let made = rest.token(FULL).post("/v1/namespaces", &json!({"name": "red"})).await;
        assert_eq!(made.status, 201, "{made:#?}");
        let reader = rest.token(READ);
        assert_eq!(reader.get("/v1/namespaces/red").await.unwrap().ok()["name"], "red");
        let refused = reader.delete("/v1/namespaces/red").await;
        assert_eq!((refused.status, &refused.body["reason"]), (403, &json!("PERMISSION_DENIED")));
        let events = reader.get("/v1/events").await.unwrap().ok();
        assert_eq!(events["items"][0]["actor"], "token:ci");
    });
}

#[test]
fn over_tls_grpc_answers_who_has_a_token_as_much_as_the_token_allows() {
    on_host(async || {
        let papers = papers();
        let daemon = tls_daemon(&papers).await;
        let client = async |token: Option<&str>| {
            let options = ConnectOptions::parse(&format!("https://{AT}")).unwrap();
            let options = options.ca_file(&papers.certificate).unwrap();
            let token = token.map(|token| token.parse().unwrap());
            Client::connect(&ConnectOptions { token, ..options }).await.unwrap()
        };
        let create = async |client: &Client, name: &str| {
            let draft = Draft::<Namespace>::new(name.parse().unwrap(), NamespaceSpec::default());
            client.create(draft, WriteOptions::default()).await
        };
        let reason = |error: ClientError| error.reason;
        for token in [None, Some(WRONG)] {
            let refused = client(token).await.version().await.unwrap_err();
            assert_eq!(reason(refused), Some(ErrorReason::Unauthenticated));
        }
        let full = client(Some(FULL)).await;
        create(&full, "red").await.unwrap();
        let reader = client(Some(READ)).await;
        let refused = create(&reader, "blue").await.unwrap_err();
        assert_eq!(reason(refused), Some(ErrorReason::PermissionDenied));
        let seen = reader.list::<Namespace>(ListOptions::default()).await.unwrap().items;
        assert_eq!(json!(seen), daemon.rest().get("/v1/namespaces").await.unwrap().body["items"]);
    });
}

#[test]
fn a_client_believes_only_a_certificate_that_it_knows() {
    on_host(async || {
        let papers = papers();
        let _daemon = tls_daemon(&papers).await;
        let other = PathBuf::from(HOME).join("other.pem");
        let stranger = generate_simple_self_signed([NAME.to_owned(), "127.0.0.1".to_owned()]).unwrap();
        std::fs::write(&other, stranger.cert.pem()).unwrap();
        let rest = Rest::tls(at(), NAME, &other).token(FULL);
        assert!(rest.get("/v1/version").await.unwrap_err().contains("certificate"));
        let options = ConnectOptions::parse(&format!("https://{AT}")).unwrap().ca_file(&other).unwrap();
        let options = ConnectOptions { token: Some(FULL.parse().unwrap()), ..options };
        assert!(Client::connect(&options).await.is_err());
    });
}

#[test]
fn in_the_clear_there_is_loopback_with_a_token_and_a_host_that_is_ours() {
    on_host(async || {
        let papers = papers();
        let _daemon = plain_daemon(&papers).await;
        let rest = Rest::tcp(at());
        assert_eq!(rest.get("/healthz").await.unwrap().status, 200);
        assert_eq!(rest.get("/v1/version").await.unwrap().status, 401);
        let rest = rest.token(FULL);
        for host in [AT, "127.0.0.1", "localhost:7070", "[::1]:7070", "LOCALHOST."] {
            assert_eq!(rest.host(host).get("/v1/version").await.unwrap().status, 200, "{host}");
        }
        for host in ["evil.example", "netloom.example:7070", "127.0.0.1.evil.example", "10.0.0.1:7070", ""] {
            let refused = rest.host(host).get("/v1/version").await.unwrap();
            assert_eq!(
                (refused.status, &refused.body["reason"]),
                (403, &json!("PERMISSION_DENIED")),
                "{host}"
            );
            assert_eq!(refused.body["metadata"]["guard"], "host", "{host}");
            assert_eq!(rest.host(host).get("/healthz").await.unwrap().status, 403, "{host}");
        }
        let options = ConnectOptions::parse(&format!("http://{AT}")).unwrap();
        let client = Client::connect(&ConnectOptions { token: Some(FULL.parse().unwrap()), ..options }).await;
        assert_eq!(client.unwrap().version().await.unwrap().api, "v1");
    });
}

#[test]
fn a_daemon_that_would_show_tokens_or_need_none_does_not_start_and_says_what_to_do() {
    on_host(async || {
        let papers = papers();
        let socket = PathBuf::from(HOME).join("netloom.sock");
        let start = |options: &[&str]| Told::from(netloomd(&socket).args(options).output().unwrap());
        let tokens = text(&papers.tokens);
        for (options, fix) in [
            (vec!["--listen", "192.0.2.1:7070", "--token-file", tokens], "set tls_cert and tls_key"),
            (vec!["--listen", "0.0.0.0:7070", "--token-file", tokens], "set tls_cert and tls_key"),
            (vec!["--listen", AT], "set token_file"),
            (
                vec!["--listen", AT, "--token-file", tokens, "--tls-cert", text(&papers.certificate)],
                "set tls_key",
            ),
        ] {
            let told = start(&options);
            assert_eq!(told.code, Some(64), "{told:#?}");
            assert!(told.err.contains(fix), "{told:#?}");
        }
        std::fs::set_permissions(&papers.tokens, std::fs::Permissions::from_mode(0o644)).unwrap();
        let told = start(&["--listen", AT, "--token-file", tokens]);
        assert!(told.code == Some(1) && told.err.contains("chmod 0600"), "{told:#?}");
    });
}

#[test]
fn the_reading_socket_refuses_writes_at_both_doors() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let socket = daemon.socket.with_file_name("read.sock");
        daemon.rest().post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        let rest = Rest::new(&socket);
        assert_eq!(rest.get("/v1/namespaces/red").await.unwrap().ok()["name"], "red");
        for refused in [
            rest.post("/v1/namespaces", &json!({"name": "blue"})).await,
            rest.post("/v1/apply?dry_run=true", &json!({"objects": []})).await,
            rest.patch("/v1/namespaces/red", &json!({"labels": {"a": "b"}})).await,
            rest.delete("/v1/namespaces/red").await,
        ] {
            assert_eq!((refused.status, &refused.body["reason"]), (403, &json!("PERMISSION_DENIED")));
        }
        let client = Client::connect(&ConnectOptions::parse(text(&socket)).unwrap()).await.unwrap();
        let draft = Draft::<Namespace>::new("blue".parse().unwrap(), NamespaceSpec::default());
        let refused = client.create(draft, WriteOptions::default()).await.unwrap_err();
        assert_eq!(refused.reason, Some(ErrorReason::PermissionDenied));
        let netloom = Netloom::at(&socket);
        assert_eq!(netloom.run("ns ls -o name").ok(), "red\n");
        let said = netloom.run("ns rm red").failed(1);
        assert!(said.contains("hint: a read-only socket or token cannot write"), "{said}");
    });
}

#[test]
fn the_command_works_over_tls_with_a_token_and_says_what_is_missing() {
    on_host(async || {
        let papers = papers();
        let _daemon = tls_daemon(&papers).await;
        let token = PathBuf::from(HOME).join("token");
        std::fs::write(&token, format!("{FULL}\n")).unwrap();
        let endpoint = format!("https://{AT}");
        let trusting = ["--endpoint", &endpoint, "--ca-file", text(&papers.certificate)];
        let netloom = Netloom::with(&[&trusting[..], &["--token-file", text(&token)]].concat());
        netloom.run("ns add red").ok();
        assert_eq!(netloom.run("ns show red -o json").json()["name"], "red");
        let said = netloom.run("ns exec red -- true").failed(2);
        assert!(said.contains("on another host"), "{said}");
        netloom.run("ns rm red").ok();
        let said = Netloom::with(&trusting).run("ns ls").failed(1);
        assert!(said.contains("UNAUTHENTICATED") && said.contains("hint: --token-file"), "{said}");
        std::fs::write(&token, format!("{WRONG}\n")).unwrap();
        let said = netloom.run("ns ls").failed(1);
        assert!(said.contains("UNAUTHENTICATED"), "{said}");
        let said = Netloom::with(&["--endpoint", &endpoint]).run("ns ls").failed(2);
        assert!(said.contains("ca"), "{said}");
        let said = Netloom::with(&["--endpoint", "http://192.0.2.1:7070"]).run("ns ls");
        assert!(said.code == Some(2) && said.err.contains("plain http goes to this host only"), "{said:#?}");
    });
}

/// A status and the reason, of both doors for the same call.
async fn refused(rest: &Rest, method: &str, path: &str, body: serde_json::Value) -> (u16, String) {
    let reply = match method {
        "POST" => rest.post(path, &body).await,
        "PATCH" => rest.patch(path, &body).await,
        "DELETE" => rest.delete(path).await,
        _ => rest.get(path).await.unwrap(),
    };
    (reply.status, reply.body["reason"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_token_with_scopes_reaches_its_own_objects_and_no_others() {
    on_host(async || {
        let papers = papers();
        let daemon = plain_daemon(&papers).await;
        let root = daemon.rest();
        for (path, body) in [
            ("networks", json!({"name": "net", "spec": {"subnets": [{"cidr": "10.9.0.0/24"}]}})),
            ("namespaces", json!({"name": "theirs", "owner": "other"})),
            (
                "attachments",
                json!({"name": "their0", "owner": "other", "spec": {"namespace": "theirs", "network": "net"}}),
            ),
        ] {
            root.post(&format!("/v1/{path}"), &body).await.ok();
        }
        let part = Rest::tcp(at()).token(PART);
        let mine = json!({"name": "mine", "owner": "ci-7"});
        part.post("/v1/namespaces", &mine).await.ok();
        let attach = |name: &str, namespace: &str, owner: &str| json!({"name": name, "owner": owner, "spec": {"namespace": namespace, "network": "net"}});
        part.post("/v1/attachments", &attach("my0", "mine", "ci-7")).await.ok();
        part.patch("/v1/attachments/my0", &json!({"labels": {"a": "b"}})).await.ok();
        let forward = |name: &str, target: &str| json!({"name": name, "owner": "ci-7", "spec": {"protocol": "tcp", "listen": {"port": if name == "web" { 8080 } else { 8081 }}, "target": {"attachment": target}}});
        part.post("/v1/port-forwards", &forward("web", "my0")).await.ok();
        let denied = (403, "PERMISSION_DENIED".to_owned());
        for (method, path, body) in [
            // Of nobody, of others, for others.
            ("POST", "/v1/namespaces", json!({"name": "red"})),
            ("POST", "/v1/namespaces", json!({"name": "red", "owner": "other"})),
            ("DELETE", "/v1/namespaces/theirs?force=true", json!({})),
            ("DELETE", "/v1/attachments/their0", json!({})),
            ("PATCH", "/v1/attachments/their0", json!({"labels": {"a": "b"}})),
            ("PATCH", "/v1/attachments/their0", json!({"owner": "ci-7"})),
            ("PATCH", "/v1/attachments/my0", json!({"owner": "other"})),
            // Into what is others', or opening it.
            ("POST", "/v1/attachments", attach("my1", "theirs", "ci-7")),
            ("POST", "/v1/port-forwards", forward("peek", "their0")),
            (
                "POST",
                "/v1/routes",
                json!({"name": "r", "owner": "ci-7", "spec": {"namespace": "theirs", "destination": "10.1.0.0/16", "via": "10.9.0.1"}}),
            ),
            // Beyond netloom's own objects.
            (
                "POST",
                "/v1/routes",
                json!({"name": "r", "owner": "ci-7", "spec": {"namespace": "host", "destination": "10.1.0.0/16", "type": "blackhole"}}),
            ),
            (
                "POST",
                "/v1/namespaces",
                json!({"name": "red", "owner": "ci-7", "spec": {"source": {"adopted": {"pid": 1}}}}),
            ),
            // Other verbs and kinds.
            ("POST", "/v1/networks", json!({"name": "n2", "owner": "ci-7"})),
            ("DELETE", "/v1/networks/net?force=true", json!({})),
            ("POST", "/v1/apply", json!({"objects": [{"kind": "Network", "name": "n2", "owner": "ci-7"}]})),
            ("POST", "/v1/plan", json!({"objects": [{"kind": "Network", "name": "n2", "owner": "ci-7"}]})),
            ("POST", "/v1/apply", json!({"owner": "other", "prune": true, "objects": []})),
            ("GET", "/v1/export", json!({})),
            ("GET", "/v1/events", json!({})),
            ("GET", "/v1/topology", json!({})),
            ("GET", "/v1/reservations", json!({})),
            ("GET", "/v1/namespaces/mine/state", json!({})),
            ("GET", "/metrics", json!({})),
        ] {
            assert_eq!(refused(&part, method, path, body.clone()).await, denied, "{method} {path} {body}");
        }
        // What it may not see is not there.
        assert_eq!(part.get("/v1/namespaces/theirs").await.unwrap().status, 404);
        let names = |reply: serde_json::Value| -> Vec<String> {
            reply["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["name"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(names(part.get("/v1/namespaces").await.unwrap().ok()), ["mine"]);
        assert_eq!(names(part.get("/v1/networks").await.unwrap().ok()), ["net"]);
        assert_eq!(names(part.get("/v1/attachments?page_size=1").await.unwrap().ok()), ["my0"]);
        // gRPC says the same.
        let options = ConnectOptions::parse(&format!("http://{AT}")).unwrap();
        let client =
            Client::connect(&ConnectOptions { token: Some(PART.parse().unwrap()), ..options }).await.unwrap();
        let seen = client.list::<Namespace>(ListOptions::default()).await.unwrap().items;
        assert_eq!(seen.iter().map(|one| one.meta.name.as_str()).collect::<Vec<_>>(), ["mine"]);
        let draft = Draft::<Namespace>::new("red".parse().unwrap(), NamespaceSpec::default());
        let error = client.create(draft, WriteOptions::default()).await.unwrap_err();
        assert_eq!(error.reason, Some(ErrorReason::PermissionDenied));
        assert_eq!(
            client.get::<Namespace>(&"theirs".parse().unwrap()).await.unwrap_err().reason,
            Some(ErrorReason::NotFound)
        );
        // Its own goes.
        part.delete("/v1/namespaces/mine?force=true").await.ok();
    });
}

#[test]
fn who_did_what_and_who_was_refused_can_be_asked_for() {
    on_host(async || {
        let papers = papers();
        let daemon = plain_daemon(&papers).await;
        let (full, read, nobody) =
            (Rest::tcp(at()).token(FULL), Rest::tcp(at()).token(READ), Rest::tcp(at()));
        full.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        assert_eq!(full.post("/v1/namespaces", &json!({"name": "red"})).await.status, 409);
        assert_eq!(full.post("/v1/namespaces?dry_run=true", &json!({"name": "red"})).await.status, 409);
        assert_eq!(read.delete("/v1/namespaces/red").await.status, 403);
        assert_eq!(nobody.delete("/v1/namespaces/red").await.status, 401);
        assert_eq!(daemon.rest().delete("/v1/namespaces/blue").await.status, 404);
        let ask = async |query: &str| daemon.rest().get(&format!("/v1/events?{query}")).await.unwrap().ok();
        // They are written while the answer is on its way.
        let mut refusals = Vec::new();
        while refusals.len() < 4 {
            refusals = ask("type=audit").await["items"].as_array().unwrap().clone();
        }
        let words: Vec<_> = refusals
            .iter()
            .map(|one| [&one["kind"], &one["name"], &one["reason"]].map(|word| word.as_str().unwrap()))
            .collect();
        assert_eq!(
            words,
            [
                ["Namespace", "red", "ALREADY_EXISTS"],
                ["Namespace", "host", "PERMISSION_DENIED"],
                ["Namespace", "host", "UNAUTHENTICATED"],
                ["Namespace", "blue", "NOT_FOUND"],
            ]
        );
        assert_eq!(refusals[0]["actor"], "token:ci");
        assert!(refusals[0]["message"].as_str().unwrap().starts_with("create refused: "), "{}", refusals[0]);
        assert!(refusals[1]["message"].as_str().unwrap().starts_with("DELETE /v1/namespaces/red refused: "));
        assert!(refusals[2]["actor"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert!(!refusals[1]["request_id"].as_str().unwrap().is_empty());
        let types: Vec<_> = ask("actor=token:ci").await["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["type"].clone())
            .collect();
        assert_eq!(types, ["created", "audit"]);
        let query = netloom_client::EventQuery { actor: Some("token:eye".into()), ..Default::default() };
        let page = daemon.client().await.events(query).await.unwrap();
        assert_eq!(page.items.len(), 1);
        // A flood of refusals does not push out what happened.
        for _ in 0..300 {
            nobody.delete("/v1/namespaces/red").await;
        }
        let all = ask("type=audit&page_size=1000").await["items"].as_array().unwrap().len();
        assert!(all < 40, "{all}");
    });
}

#[test]
fn tokens_are_read_again_when_the_daemon_is_told_to_and_bad_ones_change_nothing() {
    on_host(async || {
        let papers = papers();
        let daemon = plain_daemon(&papers).await;
        let status =
            async |token: &str| Rest::tcp(at()).token(token).get("/v1/version").await.unwrap().status;
        let becomes = async |token: &str, wanted: u16| {
            let start = std::time::Instant::now();
            // The daemon reads when the signal reaches it.
            while status(token).await != wanted {
                assert!(
                    start.elapsed() < std::time::Duration::from_secs(10),
                    "{token} does not become {wanted}"
                );
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        assert_eq!((status(FULL).await, status(WRONG).await), (200, 401));
        std::fs::write(&papers.tokens, token_line("new", WRONG, &Rights::Full, None).unwrap()).unwrap();
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        becomes(WRONG, 200).await;
        assert_eq!(status(FULL).await, 401);
        std::fs::write(&papers.tokens, "nonsense").unwrap();
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        // Two rounds through the daemon: it has seen the signal by then, or will with no other result.
        for _ in 0..2 {
            assert_eq!(status(WRONG).await, 200);
        }
    });
}
