//! A caller of the REST door: over a unix socket, TCP or TLS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

/// Opens a connection per call.
#[derive(Clone)]
pub struct Rest {
    at: At,
    token: Option<String>,
    key: Option<String>,
    etag: Option<String>,
    host: String,
}

#[derive(Clone)]
enum At {
    Unix(PathBuf),
    Tcp(SocketAddr),
    Tls(SocketAddr, ServerName<'static>, Arc<ClientConfig>),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: Value,
}

impl Reply {
    /// The body of a success.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:#?}");
        self.body
    }
}

impl Rest {
    pub fn new(socket: &Path) -> Self {
        Self {
            at: At::Unix(socket.to_path_buf()),
            token: None,
            key: None,
            etag: None,
            host: "localhost".into(),
        }
    }

    /// In clear text.
    pub fn tcp(at: SocketAddr) -> Self {
        Self { at: At::Tcp(at), token: None, key: None, etag: None, host: at.to_string() }
    }

    /// Over TLS, to a server that has this name by a certificate of this file.
    pub fn tls(at: SocketAddr, name: &str, certificate: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerName::try_from(name.to_owned()).unwrap();
        Self { at: At::Tls(at, server, config.into()), token: None, key: None, etag: None, host: name.into() }
    }

    /// The same, with a token.
    pub fn token(&self, token: &str) -> Self {
        Self { token: Some(token.into()), ..self.clone() }
    }

    /// The same, with a key that makes a retry safe.
    pub fn key(&self, key: &str) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    /// The same, for this version alone.
    pub fn if_match(&self, etag: &str) -> Self {
        Self { etag: Some(format!("\"{etag}\"")), ..self.clone() }
    }

    /// Opens a connection, to speak over it by hand.
    pub async fn unix(&self) -> UnixStream {
        match &self.at {
            At::Unix(path) => UnixStream::connect(path).await.unwrap(),
            At::Tcp(_) | At::Tls(..) => panic!("it is not at a unix socket"),
        }
    }

    /// The same, meant for another host.
    pub fn host(&self, host: &str) -> Self {
        Self { host: host.into(), ..self.clone() }
    }

    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match &self.at {
            At::Unix(path) => Box::new(UnixStream::connect(path).await?),
            At::Tcp(at) => Box::new(TcpStream::connect(at).await?),
            At::Tls(at, server, config) => {
                let stream = TcpStream::connect(at).await?;
                Box::new(TlsConnector::from(config.clone()).connect(server.clone(), stream).await?)
            }
        })
    }

    pub async fn get(&self, path: &str) -> Result<Reply, String> {
        self.send("GET", path, "", Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, "application/json", body.to_string().into()).await.unwrap()
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send("PATCH", path, "application/merge-patch+json", body.to_string().into()).await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, "", Bytes::new()).await.unwrap()
    }

    /// Any request, also one that no client would send.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Reply, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let stream = self.connect().await.map_err(|error| text(&error))?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(key) = &self.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(etag) = &self.etag {
            request = request.header("if-match", etag);
        }
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Full::new(body)).map_err(|error| text(&error))?;
        let reply = sender.send_request(request).await.map_err(|error| text(&error))?;
        let (parts, body) = reply.into_parts();
        let body = body.collect().await.map_err(|error| text(&error))?.to_bytes();
        driver.abort();
        let body = match serde_json::from_slice(&body) {
            Ok(value) => value,
            Err(_) => Value::String(String::from_utf8_lossy(&body).into_owned()),
        };
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}
