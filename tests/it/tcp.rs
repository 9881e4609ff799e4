//! TCP: never without a token, never in the clear beyond this host, and only for whoever means this daemon.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, path::PathBuf};

use netloom_api::{Draft, Namespace, NamespaceSpec};
use netloom_client::{Client, ClientError, ConnectOptions, ErrorReason, ListOptions, WriteOptions};
use netloom_server::api::auth::{Access, token_line};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;

use crate::{
    host::{Daemon, HOME, netloomd, on_host},
    netloom::{Netloom, Told},
    rest::Rest,
};

const FULL: &str = "a-token-with-all-rights-0123456789";
const READ: &str = "a-token-that-only-reads-0123456789";
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
    let lines = [("ci", FULL, Access::Full), ("eye", READ, Access::Read)]
        .map(|(name, token, access)| token_line(name, token, access).unwrap());
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
