//! One HTTP/2 connection to the daemon, made again when it breaks, with the caller's token on every call.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint as Wire},
};

use crate::{
    endpoint::{ConnectOptions, Endpoint, Token},
    error::ClientError,
};

/// What all calls go through.
pub(crate) type Transport = InterceptedService<Channel, Credentials>;

/// A reply may be this large: a page of a thousand objects, or an export of all.
pub(crate) const REPLY_MAX: usize = 256 << 20;

/// A connection on which a reply is awaited is tried this often, and given up when nothing comes back for as long.
const PING: Duration = Duration::from_secs(10);

/// Puts the token on every call.
#[derive(Clone)]
pub struct Credentials(Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// Connects, so that a daemon that is not there is known at once.
pub(crate) async fn connect(options: &ConnectOptions) -> Result<Transport, ClientError> {
    let credentials = credentials(options.token.as_ref())?;
    let wire = wire(options)?;
    let connecting = async {
        match &options.endpoint {
            Endpoint::Unix(path) => {
                let path = path.clone();
                let open = move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                };
                wire.connect_with_connector(tower::service_fn(open)).await
            }
            Endpoint::Http { .. } | Endpoint::Https { .. } => wire.connect().await,
        }
    };
    let limit = options.connect_timeout;
    let channel = tokio::time::timeout(limit, connecting).await.map_err(|_| {
        ClientError::timed_out(format!("no connection to {} within {limit:?}", options.endpoint))
    })?;
    let channel = channel.map_err(|error| {
        let mut error = ClientError::connect(error);
        error.detail = format!("{}: {}", options.endpoint, error.detail);
        error
    })?;
    Ok(InterceptedService::new(channel, credentials))
}

fn wire(options: &ConnectOptions) -> Result<Wire, ClientError> {
    let uri = match &options.endpoint {
        // HTTP/2 wants an authority; a path is none, and h2 refuses it even when it is percent-encoded.
        Endpoint::Unix(_) => "http://localhost".to_owned(),
        endpoint @ (Endpoint::Http { .. } | Endpoint::Https { .. }) => endpoint.to_string(),
    };
    let wrong = |error: tonic::transport::Error| {
        ClientError::options(format!("cannot use {}: {error}", options.endpoint)).because(error)
    };
    let wire = Wire::from_shared(uri)
        .and_then(|wire| wire.user_agent(concat!("netloom-client/", env!("CARGO_PKG_VERSION"))))
        .map_err(wrong)?
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    match &options.endpoint {
        Endpoint::Unix(_) | Endpoint::Http { .. } => Ok(wire),
        Endpoint::Https { host, .. } => {
            let authority = authority(options.ca.as_deref())?;
            wire.tls_config(authority.domain_name(host).timeout(options.connect_timeout)).map_err(wrong)
        }
    }
}

/// The certificates that the server's must be signed by; none at all would only fail later, and less clearly.
fn authority(ca: Option<&[u8]>) -> Result<ClientTlsConfig, ClientError> {
    let pem = ca.ok_or_else(|| {
        let detail = "https needs the CA file of the server's certificate; \
            for a public one that is often /etc/ssl/certs/ca-certificates.crt";
        ClientError::options(detail)
    })?;
    let mut certificates = CertificateDer::pem_slice_iter(pem).peekable();
    if certificates.peek().is_none() || certificates.any(|certificate| certificate.is_err()) {
        return Err(ClientError::options("the CA file does not hold certificates in PEM form"));
    }
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

fn credentials(token: Option<&Token>) -> Result<Credentials, ClientError> {
    let Some(token) = token else { return Ok(Credentials(None)) };
    let mut header = MetadataValue::try_from(format!("Bearer {}", token.as_str()))
        .map_err(|_| ClientError::options("the token cannot be sent in a header"))?;
    header.set_sensitive(true);
    Ok(Credentials(Some(header)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn https_without_a_ca_file_or_with_a_bad_one_is_refused_before_connecting() {
        let mut options = ConnectOptions::parse("https://net.example:8443").unwrap();
        let error = connect(&options).await.err().unwrap();
        assert!(error.to_string().contains("CA file"), "{error}");
        options.ca = Some(b"no certificate".to_vec());
        let error = connect(&options).await.err().unwrap();
        assert!(error.to_string().contains("PEM"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_an_error_of_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let options = ConnectOptions::new(Endpoint::Unix(dir.path().join("none.sock")));
        let error = connect(&options).await.err().unwrap();
        assert_eq!(error.kind, crate::ErrorKind::Connect);
        assert_eq!(error.io_kind(), Some(std::io::ErrorKind::NotFound));
    }

    #[tokio::test]
    async fn a_listener_that_says_nothing_does_not_hold_the_first_call_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mute.sock");
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        let mut options = ConnectOptions::new(Endpoint::Unix(path));
        options.call_timeout = Duration::from_millis(20);
        let client = crate::Client::connect(&options).await.unwrap();
        assert_eq!(client.version().await.err().unwrap().kind, crate::ErrorKind::TimedOut);
    }
}
