//! TCP listeners: never without credentials, in clear text only on loopback.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpSocket;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::accept::Socket;
use super::clients::Clients;
use super::papers::{Gate, Handshake, Tls};
use super::unix::BACKLOG;
use super::{ListenError, Listener};
use crate::config::TlsFiles;

/// Listens on `address`. The configuration was checked already; this is where it would hurt, so it is checked again.
pub(super) fn open(
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    gate: Option<Arc<Gate>>,
) -> Result<Listener, ListenError> {
    let Some(gate) = gate else {
        return Err(ListenError::Unsafe { address, reason: "TCP needs a token file" });
    };
    if tls.is_none() && !address.ip().to_canonical().is_loopback() {
        return Err(ListenError::Unsafe { address, reason: "tokens would cross the network in clear text" });
    }
    let listener = bind(address).map_err(|source| ListenError::Io { place: address.to_string(), source })?;
    Ok(Listener(Socket::Tcp { listener, tls, gate }))
}

fn bind(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted daemon does not wait for the last connections of its predecessor.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG.unsigned_abs())
}

/// Loads certificate, key and the authority of clients: TLS 1.3, HTTP/2 and HTTP/1.1.
pub(super) fn tls(files: &TlsFiles, gate: &Arc<Gate>) -> Result<Handshake, ListenError> {
    let certs = certificates(&files.cert)?;
    let mode = std::fs::metadata(&files.key).map_err(fault(&files.key))?.mode();
    if mode & 0o007 != 0 {
        return Err(fault(&files.key)("every user could use the private key; chmod 0600"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(fault(&files.key))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let authority = files.client_ca.as_deref().map(|path| authority(path, &provider)).transpose()?;
    let clients = Arc::new(Clients::new(provider.clone(), authority, gate));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(fault(&files.cert))?
        .with_client_cert_verifier(clients.clone())
        .with_single_cert(certs, key)
        .map_err(fault(&files.cert))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Handshake { acceptor: TlsAcceptor::from(Arc::new(config)), clients })
}

/// Who signs the certificates of clients.
fn authority(
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, ListenError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(fault(path))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    verifier.build().map_err(fault(path))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ListenError> {
    let certs: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(path).and_then(|certs| certs.collect()).map_err(fault(path))?;
    if certs.is_empty() {
        return Err(fault(path)("it holds no certificate"));
    }
    Ok(certs)
}

fn fault<E: ToString>(path: &Path) -> impl Fn(E) -> ListenError {
    move |error| ListenError::Tls { path: path.to_owned(), reason: error.to_string() }
}
