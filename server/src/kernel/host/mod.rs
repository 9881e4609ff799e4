//! The host as the kernel has it: apply steps, observe, and answer questions about its state.

mod apply;
mod dump;
mod facts;
mod flows;
mod inside;
mod link;
mod message;
mod namespace;
mod observe;
mod outcome;
mod port;
mod reap;
mod rules;
mod state;
mod tc;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use netloom_api::NamespaceState;

use super::{netns::Namespaces, nft::NftError, socket::RouteSocket};
use crate::{
    hostnet::{Features, HostNet, Outcome, Stack, Step},
    reconcile::Host,
    want::HostFacts,
    world::World,
};
use flows::FlowForgetter;
use rules::RulesWriter;

/// The kernel; cheap to clone. Its calls block; make them on threads that may.
#[derive(Clone)]
pub struct Kernel(Arc<Inner>);

struct Inner {
    features: Features,
    release: String,
    namespaces: Namespaces,
    /// Sockets in the host's namespace that nobody uses now.
    sockets: Mutex<Vec<RouteSocket>>,
    reapers: Arc<reap::Seats>,
    rules: RulesWriter,
    flows: FlowForgetter,
}

/// The kernel cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelOpenError {
    /// No nf_tables.
    #[error("nf_tables cannot be used; netloom needs CAP_NET_ADMIN and CONFIG_NF_TABLES")]
    Nft(#[from] NftError),
    /// No route netlink.
    #[error("route netlink cannot be used")]
    Socket(#[from] super::socket::SocketError),
    /// No thread.
    #[error("a thread of the firewall cannot be started")]
    Thread(#[source] std::io::Error),
}

impl Kernel {
    /// Opens what is needed, in the network namespace of the calling thread, which is the host.
    pub fn open() -> Result<Self, KernelOpenError> {
        let exists = |path: &str| std::path::Path::new(path).exists();
        let features = Features {
            ipv6: exists("/proc/sys/net/ipv6/conf"),
            force_forwarding: exists("/proc/sys/net/ipv6/conf/all/force_forwarding"),
            // The switches are there as soon as the kernel's conntrack is, which the firewall needs anyway.
            sctp: exists("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established"),
        };
        let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        Ok(Self(Arc::new(Inner {
            features,
            release: release.unwrap_or_default(),
            namespaces: Namespaces::default(),
            sockets: Mutex::new(vec![RouteSocket::open()?]),
            reapers: Arc::default(),
            rules: RulesWriter::start()?,
            flows: FlowForgetter::start()?,
        })))
    }

    /// What the kernel can do.
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// The kernel's release, as `uname -r` says.
    pub fn release(&self) -> &str {
        &self.0.release
    }

    /// The prefixes of the host's own links.
    pub fn on_link(&self) -> Result<Vec<(ipnet::IpNet, String)>, String> {
        facts::on_link(&self.0)
    }

    /// What one stack has, now.
    pub fn state(&self, stack: &Stack, world: &World) -> Result<NamespaceState, String> {
        state::state(&self.0, stack, world)
    }

    /// Removes everything that bears our marks, and nothing else; tells what, in the words of `ip` and `nft`.
    pub fn purge(&self, dry_run: bool) -> Result<Vec<String>, String> {
        let have = observe::observe(&self.0)?;
        let nothing = HostNet::default();
        let mut bare = have.clone();
        bare.rules.elements.clear();
        let steps = crate::plan::plan(&bare, &nothing).steps;
        let mut lines: Vec<String> = steps.iter().map(ToString::to_string).collect();
        let has_tables = have.rules.skeleton != crate::hostnet::rules::Skeleton::Absent;
        if has_tables {
            lines.insert(0, "nft delete table inet netloom".into());
            lines.insert(1, "nft delete table bridge netloom".into());
        }
        if dry_run {
            return Ok(lines);
        }
        if has_tables {
            self.0.rules.remove_tables().map_err(|error| error.to_string())?;
        }
        for (step, outcome) in steps.iter().zip(self.apply(&steps)) {
            if let Outcome::Failed(failure) = outcome {
                return Err(format!("{step}: {}", failure.message));
            }
        }
        Ok(lines)
    }
}

impl Host for Kernel {
    fn apply(&self, steps: &[Step]) -> Vec<Outcome> {
        apply::apply(&self.0, steps)
    }

    fn observe(&self) -> Result<HostNet, String> {
        observe::observe(&self.0)
    }

    fn facts(&self) -> Result<HostFacts, String> {
        facts::facts(&self.0)
    }
}

impl Inner {
    /// Works with a socket of the host's namespace. One that failed is dropped.
    fn with_socket<T, E>(&self, work: impl FnOnce(&mut RouteSocket) -> Result<T, E>) -> Result<T, E>
    where
        E: From<super::socket::SocketError>,
    {
        let spare = self.sockets.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut socket = match spare {
            Some(socket) => socket,
            None => RouteSocket::open()?,
        };
        let result = work(&mut socket);
        if socket.is_sound() {
            self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        }
        result
    }
}
