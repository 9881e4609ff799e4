//! TLS on TCP.

use rcgen::{CertificateParams, CertifiedKey, KeyPair, generate_simple_self_signed};
use sha2::Digest as _;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::*;
use crate::api::auth::Callers;
use crate::api::listen::papers::{Gate, Tls};
use crate::api::listen::{ListenError, tcp};

/// A certificate of `netloom.example` in files of `dir`.
fn certificate(dir: &Path) -> (TlsFiles, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["netloom.example".to_owned()]).unwrap();
    let files = TlsFiles { cert: dir.join("cert.pem"), key: dir.join("key.pem"), client_ca: None };
    std::fs::write(&files.cert, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    (files, cert.der().clone())
}

/// A client's certificate and key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    /// Signed by nobody else.
    fn alone(name: &str) -> Self {
        Self::until(name, 2049)
    }

    fn until(name: &str, year: i32) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        let cert = params.self_signed(&key).unwrap();
        Identity { chain: vec![cert.der().clone()], key: key.serialize_der().into() }
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Who signs certificates of clients.
struct Authority {
    cert: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = params("authority");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.extended_key_usages.clear();
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Authority { cert, issuer: rcgen::Issuer::new(params, key) }
    }

    fn signs(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let cert = params(name).signed_by(&key, &self.issuer).unwrap();
        Identity { chain: vec![cert.der().clone()], key: key.serialize_der().into() }
    }
}

/// More callers in the file of a configuration.
fn add_lines(config: &mut Config, lines: &str) {
    let path = config.token_file.clone().unwrap();
    let text = std::fs::read_to_string(&path).unwrap() + lines;
    std::fs::write(&path, text).unwrap();
}

/// In TLS 1.3 a client learns only afterwards that its certificate was not taken.
async fn dies(mut stream: Box<dyn Stream>) -> bool {
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: netloom.example\r\n\r\n").await;
    let mut answer = [0; 64];
    matches!(timeout(LONG, stream.read(&mut answer)).await.unwrap(), Ok(0) | Err(_))
}

async fn connect(
    daemon: &Daemon,
    cert: &CertificateDer<'static>,
    identity: Option<&Identity>,
    alpn: &[u8],
) -> std::io::Result<Box<dyn Stream>> {
    handshake(daemon, cert, identity, alpn, &TLS13).await
}

async fn handshake(
    daemon: &Daemon,
    cert: &CertificateDer<'static>,
    identity: Option<&Identity>,
    alpn: &[u8],
    version: &'static SupportedProtocolVersion,
) -> std::io::Result<Box<dyn Stream>> {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(one) => config.with_client_auth_cert(one.chain.clone(), one.key.clone_key().into()).unwrap(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(daemon.tcp.unwrap()).await.unwrap();
    let name = ServerName::try_from("netloom.example").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    Ok(Box::new(stream))
}

fn who(uri: &str) -> Request {
    let builder = Request::get(uri).header("authorization", format!("Bearer {FULL}"));
    let builder = if uri.starts_with('/') { builder.header("host", "netloom.example") } else { builder };
    builder.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn both_versions_of_http_get_an_answer() {
    let keys = tempfile::tempdir().unwrap();
    let (files, cert) = certificate(keys.path());
    let daemon = Daemon::with(|config| config.tls = Some(files));
    let stream = connect(&daemon, &cert, None, b"http/1.1").await.unwrap();
    assert_eq!(exchange(stream, Protocol::Http1, who("/who")).await.json()["actor"], "token:ci");
    let stream = connect(&daemon, &cert, None, b"h2").await.unwrap();
    let uri = "https://netloom.example/who";
    assert_eq!(exchange(stream, Protocol::Http2, who(uri)).await.json()["actor"], "token:ci");
}

#[tokio::test]
async fn nothing_older_than_tls_1_3_is_spoken() {
    let keys = tempfile::tempdir().unwrap();
    let (files, cert) = certificate(keys.path());
    let daemon = Daemon::with(|config| config.tls = Some(files));
    let error = handshake(&daemon, &cert, None, b"h2", &TLS12).await.err().unwrap().to_string();
    assert!(error.contains("ProtocolVersion") || error.contains("protocol version"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_says_who_calls_by_its_hash_or_by_a_signed_name() {
    let keys = tempfile::tempdir().unwrap();
    let (mut files, cert) = certificate(keys.path());
    let authority = Authority::new();
    files.client_ca = Some(keys.path().join("clients.pem"));
    std::fs::write(keys.path().join("clients.pem"), authority.cert.pem()).unwrap();
    let (pinned, signed, nobody) =
        (Identity::alone("x"), authority.signs("ci.example"), authority.signs("nobody"));
    let hash: String =
        sha2::Sha256::digest(&pinned.chain[0]).iter().map(|byte| format!("{byte:02X}:")).collect();
    let lines = format!("pin cert:{} full\nnamed cn:ci.example read:networks\n", hash.trim_end_matches(':'));
    let daemon = Daemon::with(|config| {
        config.tls = Some(files);
        add_lines(config, &lines);
    });
    let ask = async |identity: Option<&Identity>, token: Option<&str>| {
        let stream = connect(&daemon, &cert, identity, b"http/1.1").await.unwrap();
        let mut request = Request::get("/v1/networks").header("host", "netloom.example");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        exchange(stream, Protocol::Http1, request.body(Body::empty()).unwrap()).await
    };
    let who = async |identity: &Identity| {
        let stream = connect(&daemon, &cert, Some(identity), b"http/1.1").await.unwrap();
        let request = Request::get("/who").header("host", "netloom.example").body(Body::empty()).unwrap();
        exchange(stream, Protocol::Http1, request).await
    };
    // What passes the rim finds no such path.
    assert_eq!(ask(Some(&pinned), None).await.status, 404);
    assert_eq!(who(&pinned).await.json()["actor"], "cert:pin");
    assert_eq!(ask(Some(&signed), None).await.status, 404);
    assert_eq!(who(&signed).await.refusal(), (403, "access".to_owned()), "its rights are narrow");
    // Signed, and of no name that is known: nobody, but for a token.
    assert_eq!(ask(Some(&nobody), None).await.status, 401);
    assert_eq!(ask(Some(&nobody), Some(FULL)).await.status, 404);
    assert_eq!(ask(None, None).await.status, 401);
    // A wrong token is not made good by a certificate.
    assert_eq!(ask(Some(&pinned), Some("wrong-wrong-wrong-wrong-wrong")).await.status, 401);
    // Signed by nobody, and not named, also with the right name in it.
    let stranger = Identity::alone("ci.example");
    let stream = connect(&daemon, &cert, Some(&stranger), b"http/1.1").await.unwrap();
    assert!(dies(stream).await, "the daemon takes a certificate of nobody's");
    // What is taken out of the file is nobody's, also over connections that are there.
    let mut stream = connect(&daemon, &cert, Some(&pinned), b"http/1.1").await.unwrap();
    assert!(says(&mut stream).await.starts_with("HTTP/1.1 200"));
    let tokens = daemon.path("tokens");
    std::fs::write(&tokens, token_line("ci", FULL, &Rights::Full, None).unwrap()).unwrap();
    daemon.papers.clone().unwrap().reload().unwrap();
    assert!(says(&mut stream).await.starts_with("HTTP/1.1 401"));
}

/// The head of the answer to one more request on this connection.
async fn says(stream: &mut Box<dyn Stream>) -> String {
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: netloom.example\r\n\r\n").await.unwrap();
    let mut answer = [0; 4096];
    let read = timeout(LONG, stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn a_certificate_that_has_run_out_is_nobody_s_even_if_it_is_named() {
    let keys = tempfile::tempdir().unwrap();
    let (files, cert) = certificate(keys.path());
    let old = Identity::until("x", 2001);
    let hash: String = sha2::Sha256::digest(&old.chain[0]).iter().map(|byte| format!("{byte:02x}")).collect();
    let daemon = Daemon::with(|config| {
        config.tls = Some(files);
        add_lines(config, &format!("old cert:{hash} full\n"));
    });
    let stream = connect(&daemon, &cert, Some(&old), b"http/1.1").await.unwrap();
    let request = Request::get("/who").header("host", "netloom.example").body(Body::empty()).unwrap();
    assert_eq!(exchange(stream, Protocol::Http1, request).await.status, 401);
}

#[tokio::test]
async fn certificate_and_key_are_read_again_on_demand() {
    let keys = tempfile::tempdir().unwrap();
    let (files, old) = certificate(keys.path());
    let daemon = Daemon::with(|config| config.tls = Some(files));
    let papers = daemon.papers.clone().unwrap();
    let (_, new) = certificate(keys.path());
    assert!(connect(&daemon, &new, None, b"h2").await.is_err());
    papers.reload().unwrap();
    assert!(connect(&daemon, &new, None, b"h2").await.is_ok());
    assert!(connect(&daemon, &old, None, b"h2").await.is_err());
    std::fs::write(keys.path().join("key.pem"), "nonsense").unwrap();
    assert!(papers.reload().is_err());
    assert!(connect(&daemon, &new, None, b"h2").await.is_ok());
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
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, token_line("ci", FULL, &Rights::Full, None).unwrap()).unwrap();
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    let gate = Arc::new(Gate::new(Callers::load(&tokens).unwrap(), &[]));
    let tls = Arc::new(Tls::new(tcp::tls(&files, &gate).unwrap()));
    let refused = tcp::open("127.0.0.1:0".parse().unwrap(), Some(tls), None).unwrap_err();
    assert!(matches!(refused, ListenError::Unsafe { .. }), "{refused}");
    let refused = tcp::open("0.0.0.0:0".parse().unwrap(), None, Some(gate)).unwrap_err();
    assert!(refused.to_string().contains("clear text"), "{refused}");
}

#[tokio::test]
async fn a_bad_certificate_or_an_exposed_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (files, _) = certificate(dir.path());
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, token_line("ci", FULL, &Rights::Full, None).unwrap()).unwrap();
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
    let gate = Arc::new(Gate::new(Callers::load(&tokens).unwrap(), &[]));
    let fault = |files: &TlsFiles| tcp::tls(files, &gate).unwrap_err().to_string();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(fault(&files).contains("every user could use the private key"));
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let swapped = TlsFiles { cert: files.key.clone(), key: files.cert.clone(), client_ca: None };
    assert!(fault(&swapped).contains("key.pem"));
    std::fs::remove_file(&files.cert).unwrap();
    assert!(fault(&files).contains("cert.pem"));
}
