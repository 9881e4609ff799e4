//! TLS on TCP.

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::*;
use crate::api::listen::{ListenError, tcp};

/// A certificate of `netloom.example` in files of `dir`.
fn certificate(dir: &Path) -> (TlsFiles, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["netloom.example".to_owned()]).unwrap();
    let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    std::fs::write(&files.cert, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    (files, cert.der().clone())
}

async fn connect(
    daemon: &Daemon,
    cert: &CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
    alpn: &[u8],
) -> Box<dyn Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(daemon.tcp.unwrap()).await.unwrap();
    let name = ServerName::try_from("netloom.example").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    Box::new(stream)
}

fn who(uri: &str) -> Request {
    let builder = Request::get(uri).header("authorization", format!("Bearer {FULL}"));
    let builder = if uri.starts_with('/') { builder.header("host", "netloom.example") } else { builder };
    builder.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn both_versions_of_tls_and_of_http_get_an_answer() {
    let keys = tempfile::tempdir().unwrap();
    let (files, cert) = certificate(keys.path());
    let daemon = Daemon::with(|config| config.tls = Some(files));
    for version in [&TLS12, &TLS13] {
        let stream = connect(&daemon, &cert, version, b"http/1.1").await;
        assert_eq!(exchange(stream, Protocol::Http1, who("/who")).await.json()["actor"], "token:ci");
        let stream = connect(&daemon, &cert, version, b"h2").await;
        let uri = "https://netloom.example/who";
        assert_eq!(exchange(stream, Protocol::Http2, who(uri)).await.json()["actor"], "token:ci");
    }
}

#[tokio::test]
async fn a_tls_listener_says_nothing_in_clear_text() {
    let keys = tempfile::tempdir().unwrap();
    let (files, _) = certificate(keys.path());
    let daemon = Daemon::with(|config| config.tls = Some(files));
    let answer = daemon.raw(At::Tcp, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(!answer.contains("HTTP/1.1"), "{answer}");
}

#[tokio::test]
async fn a_client_that_stops_in_the_handshake_is_cut() {
    let keys = tempfile::tempdir().unwrap();
    let (files, _) = certificate(keys.path());
    let limits = Limits { header_timeout: Duration::from_millis(200), ..Limits::default() };
    let daemon = Daemon::with(|config| {
        config.tls = Some(files);
        config.limits = limits;
    });
    // The first bytes of a client hello.
    assert_eq!(daemon.raw(At::Tcp, &[0x16, 3, 1, 2, 0, 1]).await, "");
}

#[tokio::test]
async fn tcp_without_credentials_or_in_clear_text_beyond_loopback_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (files, _) = certificate(dir.path());
    let tls = tcp::tls(&files).unwrap();
    let refused = tcp::open("127.0.0.1:0".parse().unwrap(), Some(tls), None).unwrap_err();
    assert!(matches!(refused, ListenError::Unsafe { .. }), "{refused}");
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, token_line("ci", FULL, Access::Full).unwrap()).unwrap();
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    let gate = crate::api::listen::rim::Gate::new(crate::api::auth::Tokens::load(&tokens).unwrap(), &[]);
    let refused = tcp::open("0.0.0.0:0".parse().unwrap(), None, Some(Arc::new(gate))).unwrap_err();
    assert!(refused.to_string().contains("clear text"), "{refused}");
}

#[tokio::test]
async fn a_bad_certificate_or_an_exposed_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (files, _) = certificate(dir.path());
    let fault = |files: &TlsFiles| tcp::tls(files).unwrap_err().to_string();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(fault(&files).contains("every user could use the private key"));
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let swapped = TlsFiles { cert: files.key.clone(), key: files.cert.clone() };
    assert!(fault(&swapped).contains("key.pem"));
    std::fs::remove_file(&files.cert).unwrap();
    assert!(fault(&files).contains("cert.pem"));
}
