//! Secrets are seen by nobody but their owners: not in the log, whatever its level, not in answers, not in what others see
//! of the process.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Stdio};

use netloom_api::{Draft, Namespace, NamespaceSpec};
use netloom_client::{Client, ConnectOptions, WriteOptions};
use netloom_server::{api::auth::token_line, controller::Rights};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;

use crate::{
    host::{HOME, netloomd, on_host},
    rest::Rest,
};

const AT: &str = "127.0.0.1:7070";
const RIGHT: &str = "the-right-token-0123456789-abcdef";
const WRONG: &str = "the-wrong-token-0123456789-abcdef";

#[test]
fn tokens_their_hashes_and_keys_are_in_no_log_and_no_answer() {
    on_host(async || {
        fs::create_dir_all(HOME).unwrap();
        let file = |name: &str, text: &str| {
            let path = PathBuf::from(HOME).join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let line = token_line("ci", RIGHT, &Rights::Full, None).unwrap();
        let key = signing_key.serialize_pem();
        let (certificate, key_file) = (file("cert.pem", &cert.pem()), file("key.pem", &key));
        let tokens = file("tokens", &line);
        let log = PathBuf::from(HOME).join("log");
        let mut child = netloomd(&PathBuf::from(HOME).join("netloom.sock"))
            .args(["--log", "trace", "--listen", AT, "--tls-cert"])
            .args([
                &certificate,
                &PathBuf::from("--tls-key"),
                &key_file,
                &PathBuf::from("--token-file"),
                &tokens,
            ])
            .stdout(Stdio::from(fs::File::create(&log).unwrap()))
            .stderr(Stdio::from(fs::File::options().append(true).open(&log).unwrap()))
            .spawn()
            .unwrap();
        let rest = Rest::tls(AT.parse().unwrap(), "127.0.0.1", &certificate);
        while rest.get("/healthz").await.is_err() {
            assert!(child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&log).unwrap());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let mut said = String::new();
        for rest in [rest.token(RIGHT), rest.token(WRONG)] {
            said += &format!("{:?}", rest.post("/v1/namespaces", &json!({"name": "red"})).await);
            said += &format!("{:?}", rest.post("/v1/namespaces", &json!({"name": 1})).await);
            said += &format!("{:?}", rest.delete("/v1/networks/none").await);
            for path in [
                "/v1/export",
                "/metrics",
                "/v1/events",
                "/v1/nothing",
                "/v1/namespaces?wait=x",
                "/v1/version",
            ] {
                said += &format!("{:?}", rest.get(path).await);
            }
        }
        for token in [RIGHT, WRONG] {
            let options =
                ConnectOptions::parse(&format!("https://{AT}")).unwrap().ca_file(&certificate).unwrap();
            let options = ConnectOptions { token: Some(token.parse().unwrap()), ..options };
            if let Ok(client) = Client::connect(&options).await {
                let draft = Draft::<Namespace>::new("red".parse().unwrap(), NamespaceSpec::default());
                said += &format!("{:?}", client.create(draft, WriteOptions::default()).await);
            }
        }
        let pid = child.id();
        let process =
            ["cmdline", "environ"].map(|name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default());
        said += &String::from_utf8_lossy(&process.concat());
        child.kill().unwrap();
        child.wait().unwrap();
        let log = fs::read_to_string(&log).unwrap();
        assert!(log.contains("TRACE") && log.contains("request"), "the log is not at its finest: {log}");
        let hash = line.split(' ').nth(1).unwrap();
        let secrets =
            [RIGHT, WRONG, hash].into_iter().chain(key.lines().filter(|line| !line.starts_with('-')));
        for secret in secrets {
            for (place, text) in [("the log", &log), ("an answer", &said)] {
                let shown = text.lines().find(|line| line.contains(secret));
                assert!(shown.is_none(), "{place} shows a secret: {shown:?}");
            }
        }
        let debug = format!("{:?}", RIGHT.parse::<netloom_client::Token>());
        assert!(!debug.contains(RIGHT), "{debug}");
    });
}
