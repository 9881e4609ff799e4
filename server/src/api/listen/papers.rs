//! What the TCP listeners ask for: who calls, and under which name the daemon is meant. Read anew on demand, whole or
//! not at all: a file that has become unreadable changes nothing, and the old callers stay.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use tokio_rustls::TlsAcceptor;

use super::clients::Clients;
use super::{ListenError, tcp};
use crate::api::auth::{Caller, Callers, Certificate, Shown, bearer};
use crate::config::{Config, TlsFiles};

/// The callers of the TCP listeners, and the names of the daemon.
#[derive(Debug)]
pub(super) struct Gate {
    callers: RwLock<Arc<Callers>>,
    hosts: Vec<String>,
}

/// The daemon's side of TLS.
#[derive(Debug)]
pub(super) struct Tls(RwLock<Handshake>);

/// What one handshake needs.
#[derive(Clone)]
pub(super) struct Handshake {
    pub(super) acceptor: TlsAcceptor,
    pub(super) clients: Arc<Clients>,
}

/// The files that callers, certificate and key come from.
#[derive(Debug)]
pub struct Papers {
    callers: PathBuf,
    tls: Option<(TlsFiles, Arc<Tls>)>,
    gate: Arc<Gate>,
}

impl Papers {
    /// Reads the files of a configuration; none if it names no callers.
    pub(super) fn load(config: &Config) -> Result<Option<Self>, ListenError> {
        let Some(path) = &config.token_file else { return Ok(None) };
        let gate = Arc::new(Gate::new(Callers::load(path)?, &config.allowed_hosts));
        let tls = match &config.tls {
            None => None,
            Some(files) => {
                let handshake = tcp::tls(files, &gate)?;
                Some((files.clone(), Arc::new(Tls(RwLock::new(handshake)))))
            }
        };
        Ok(Some(Papers { callers: path.clone(), tls, gate }))
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.as_ref().map(|(_, tls)| tls.clone())
    }

    /// Reads all files again. Connections that are there stay; what they may do is looked up with each request.
    pub fn reload(&self) -> Result<(), ListenError> {
        let callers = Arc::new(Callers::load(&self.callers)?);
        if let Some((files, tls)) = &self.tls {
            let handshake = tcp::tls(files, &self.gate)?;
            *tls.0.write().unwrap_or_else(PoisonError::into_inner) = handshake;
        }
        *self.gate.callers.write().unwrap_or_else(PoisonError::into_inner) = callers;
        Ok(())
    }
}

impl Tls {
    #[cfg(test)]
    pub(super) fn new(handshake: Handshake) -> Self {
        Tls(RwLock::new(handshake))
    }

    pub(super) fn handshake(&self) -> Handshake {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Handshake {
    /// `TlsAcceptor` has none.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handshake")
    }
}

impl Gate {
    pub(super) fn new(callers: Callers, hosts: &[String]) -> Self {
        Gate { callers: RwLock::new(Arc::new(callers)), hosts: hosts.to_vec() }
    }

    pub(super) fn callers(&self) -> Arc<Callers> {
        self.callers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who sends a request. A token says it alone: a wrong one is not made good by a certificate.
    pub(super) fn caller(&self, headers: &HeaderMap, certificate: Option<&Certificate>) -> Option<Caller> {
        match bearer(headers) {
            Shown::Token(token) => self.callers().by_token(token),
            Shown::Nothing => self.callers().by_certificate(certificate?),
            Shown::Nonsense => None,
        }
    }

    /// Every name that the request gives has to be ours: a loopback name, the address that was connected to, or one
    /// that is configured. A page that rebound its own name to our address says that name.
    pub(super) fn is_addressed(&self, uri: &Uri, headers: &HeaderMap, to: IpAddr) -> bool {
        let mut named =
            headers.get_all(HOST).iter().map(|host| Authority::try_from(host.as_bytes()).ok()).peekable();
        if uri.authority().is_none() && named.peek().is_none() {
            return false;
        }
        let known = |authority: &Authority| {
            let host = authority.host().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
            let address = host.parse::<IpAddr>().map(|ip| ip.to_canonical());
            host == "localhost"
                || address.is_ok_and(|ip| ip.is_loopback() || ip == to.to_canonical())
                || self.hosts.contains(&host)
        };
        uri.authority().is_none_or(known) && named.all(|host| host.as_ref().is_some_and(known))
    }
}
