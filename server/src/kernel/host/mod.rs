//! The host as the kernel has it: apply steps, observe, and answer questions about its state.

mod apply;
mod cables;
mod drops;
mod dump;
mod facts;
mod flows;
#[cfg(test)]
mod fuzz;
mod inside;
mod link;
mod look;
mod message;
mod namespace;
mod observe;
mod outcome;
mod port;
mod reap;
#[cfg(test)]
mod route_tests;
mod rules;
mod settings;
mod state;
mod tc;
#[cfg(test)]
mod tests;
mod view;
mod watch;
mod watch_names;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use netloom_api::{
    AdoptedSource, DiagnoseProtocol, Name, Namespace, NamespaceState, ProcessState, SysctlKey, Sysctls, Uid,
};

use super::{
    adopt::{self, AdoptError, FindError},
    netns::{self, Namespaces, NetnsError},
    nflog::Logged,
    nft::NftError,
    probe,
    socket::RouteSocket,
};
use crate::{
    diagnose::{ProbePlan, seen::Seen},
    hostnet::{
        Features, HostNet, HostView, Mark, Outcome, Part, Stack, Step,
        rules::{Rules, SetId},
    },
    reconcile::Host,
    want::{HostFacts, HostLinks},
    world::{Adoption, Stored, World},
};
use flows::FlowForgetter;
use rules::RulesWriter;
pub use settings::{Place, SettingsError};

/// Messages about losses that are told and not yet taken.
const LOSSES: usize = 64;
/// How long a probe waits for an answer.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

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
    others: OnceLock<Others>,
}

/// How namespaces of others' are found.
struct Others {
    roots: Vec<PathBuf>,
    world: Box<dyn Fn() -> Arc<World> + Send + Sync>,
}

/// A namespace that may be adopted.
#[derive(Debug)]
pub struct Adoptable {
    /// Which it is.
    pub adoption: Adoption,
    /// The object whose mark it bears: then it is managed.
    pub managed_by: Option<Uid>,
    /// The names of its interfaces.
    pub interfaces: Vec<String>,
    /// What routes in it are judged by.
    pub view: HostView,
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
            others: OnceLock::new(),
        })))
    }

    /// Tells once where namespaces may be adopted from, and how to ask for the World as it is committed: it says which
    /// Namespaces are adopted. Before, none is.
    pub fn follow(&self, roots: Vec<PathBuf>, world: impl Fn() -> Arc<World> + Send + Sync + 'static) {
        let others = Others { roots, world: Box::new(world) };
        if self.0.others.set(others).is_err() {
            tracing::error!("the kernel was told twice whom to follow; the first word stands");
        }
    }

    /// Finds a namespace that is to be adopted.
    pub fn adoptable(&self, source: &AdoptedSource) -> Result<Adoptable, AdoptError> {
        let (fd, adoption) = adopt::adopt(source, self.0.roots())?;
        let look = namespace::look(&fd).map_err(AdoptError::Unknown)?;
        let managed_by = match look.mark {
            Mark::Object(uid) => Some(uid),
            Mark::Group | Mark::Foreign => None,
        };
        let view = view::view_of(&fd).map_err(AdoptError::Unknown)?;
        Ok(Adoptable { adoption, managed_by, interfaces: look.interfaces, view })
    }

    /// The names of the interfaces in a Namespace; none when it is gone.
    pub fn interfaces(&self, name: &Name) -> Result<Vec<String>, String> {
        match self.0.open(name) {
            Ok(fd) => namespace::look(&fd).map(|look| look.interfaces),
            Err(OpenError::Gone(_)) => Ok(Vec::new()),
            Err(error @ OpenError::Failed(_)) => Err(error.to_string()),
        }
    }

    /// Opens a Namespace, managed or adopted.
    pub fn namespace(&self, name: &Name) -> Result<OwnedFd, OpenError> {
        self.0.open(name)
    }

    /// The processes inside of a Namespace, in the order of their pids, at most so many; and how many there are.
    pub fn processes(&self, name: &Name, most: usize) -> Result<(Vec<ProcessState>, usize), String> {
        match self.0.open(name) {
            Ok(fd) => state::processes(&fd, most),
            Err(OpenError::Gone(_)) => Ok((Vec::new(), 0)),
            Err(error @ OpenError::Failed(_)) => Err(error.to_string()),
        }
    }

    /// Tries settings out in a namespace that goes away at once, and tells what they are now, before they are set: in the
    /// Namespace of this name, or in one that is to be adopted, or in a new one.
    pub fn try_settings(
        &self,
        place: &Place,
        settings: &Sysctls,
    ) -> Result<BTreeMap<SysctlKey, String>, SettingsError> {
        settings::try_out(&self.0, place, settings)
    }

    /// What the kernel can do.
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// The kernel's release, as `uname -r` says.
    pub fn release(&self) -> &str {
        &self.0.release
    }

    /// What of the host choices depend on.
    pub fn links(&self) -> Result<HostLinks, String> {
        facts::links(&self.0)
    }

    /// What a route is judged by where the World does not know everything: on `host`, and in an adopted Namespace. One
    /// that is gone has nothing.
    pub fn view(&self, namespace: &Name) -> Result<HostView, String> {
        if namespace.as_str() == "host" {
            return view::host_view(&self.0);
        }
        match self.0.open(namespace) {
            Ok(fd) => view::view_of(&fd),
            Err(OpenError::Gone(_)) => Ok(HostView::default()),
            Err(error @ OpenError::Failed(_)) => Err(error.to_string()),
        }
    }

    /// What is lost from now on, of all that bears our marks. Where the kernel does not let us listen there is nothing to
    /// hear, and the full pass has to do.
    pub fn losses(&self) -> tokio::sync::mpsc::Receiver<Vec<crate::hostnet::Loss>> {
        let (tell, losses) = tokio::sync::mpsc::channel(LOSSES);
        let links = watch::start(tell.clone()).map_err(|error| error.to_string());
        let names = watch_names::start(tell.clone());
        let rules = self.0.rules.watch(tell);
        for (what, heard) in [("links", links), ("names of namespaces", names), ("the firewall", rules)] {
            if let Err(error) = heard {
                tracing::warn!(%error, "events of {what} cannot be heard; what others break is seen every few minutes");
            }
        }
        losses
    }

    /// What policies drop from now on and tell of. Where the kernel does not let us listen, drops are counted alone.
    pub fn drops(&self) -> tokio::sync::mpsc::Receiver<Vec<Logged>> {
        let (tell, told) = tokio::sync::mpsc::channel(LOSSES);
        if let Err(error) = drops::start(tell) {
            tracing::warn!(%error, "drops by policies cannot be heard of; they are counted all the same");
        }
        told
    }

    /// How many packets each chain of policies has dropped since it was made, by its name.
    pub fn denied(&self) -> Result<Vec<(String, u64)>, String> {
        self.0.rules.counts(SetId::Denied).map_err(|error| error.to_string())
    }

    /// How many frames the spoof guard has dropped at each port, by the port's name.
    pub fn spoofed(&self) -> Result<Vec<(String, u64)>, String> {
        self.0.rules.counts(SetId::Spoofed).map_err(|error| error.to_string())
    }

    /// What one stack has, now.
    pub fn state(&self, stack: &Stack, world: &World) -> Result<NamespaceState, String> {
        state::state(&self.0, stack, world)
    }

    /// Everything in these stacks that may matter to a packet.
    pub fn look(&self, stacks: &BTreeSet<Stack>) -> Result<Seen, String> {
        look::look(&self.0, stacks)
    }

    /// Sends what a diagnosis wants to know, and says what came of it.
    pub fn try_out(&self, plan: &ProbePlan) -> Result<probe::Verdict, String> {
        let namespace = match &plan.stack {
            Stack::Host => netns::own().map_err(|error| error.to_string())?,
            Stack::Namespace(name) => self.0.open(name).map_err(|error| error.to_string())?,
        };
        let to = |port| std::net::SocketAddr::new(plan.target, port);
        let tried = match (plan.protocol, plan.port) {
            (DiagnoseProtocol::Tcp, Some(port)) => {
                probe::tcp_exchange_from(&namespace, plan.source, to(port), PROBE_PATIENCE)
            }
            (DiagnoseProtocol::Udp, Some(port)) => {
                probe::udp_exchange_from(&namespace, plan.source, to(port), PROBE_PATIENCE)
            }
            (_, _) => probe::ping(&namespace, plan.target, PROBE_PATIENCE),
        };
        tried.map_err(|error| error.to_string())
    }

    /// Removes everything that bears our marks, and nothing else; tells what, in the words of `ip` and `nft`.
    pub fn purge(&self, dry_run: bool) -> Result<Vec<String>, String> {
        let have = observe::observe(&self.0, None)?;
        let nothing = HostNet::default();
        let mut bare = have.clone();
        bare.rules.elements.clear();
        bare.rules.chains.clear();
        // There is nothing to remove about a namespace of others' itself.
        bare.adopted.clear();
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
        observe::observe(&self.0, None)
    }

    fn observe_part(&self, part: &Part) -> Result<HostNet, String> {
        observe::observe(&self.0, Some(part))
    }

    fn rules(&self) -> Result<Rules, String> {
        self.0.rules.dump().map_err(|error| error.to_string())
    }

    fn facts(&self) -> Result<HostFacts, String> {
        facts::facts(&self.0)
    }
}

/// Why a Namespace was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none.
    #[error("{0}")]
    Gone(String),
    /// It cannot be told.
    #[error("{0}")]
    Failed(String),
}

impl Inner {
    fn roots(&self) -> &[PathBuf] {
        self.others.get().map_or(&[], |others| &others.roots)
    }

    /// The Namespace of this name as it is committed.
    fn known(&self, name: &Name) -> Option<Arc<Stored<Namespace>>> {
        (self.others.get()?.world)().get::<Namespace>(name).cloned()
    }

    /// The World as it is committed.
    fn world(&self) -> Arc<World> {
        self.others.get().map(|others| (others.world)()).unwrap_or_default()
    }

    /// Opens a Namespace; an adopted one is the one that was adopted.
    fn open(&self, name: &Name) -> Result<OwnedFd, OpenError> {
        match self.known(name).and_then(|known| known.alloc.adopted.clone()) {
            Some(adoption) => adopt::find(&adoption, self.roots()).map_err(|error| match error {
                FindError::Gone(why) => OpenError::Gone(why),
                FindError::Unknown(why) => OpenError::Failed(why),
            }),
            None => self.namespaces.open(name.as_str()).map_err(|error| match error {
                NetnsError::Missing(_) | NetnsError::Unpinned(_) => OpenError::Gone(error.to_string()),
                error => OpenError::Failed(error.to_string()),
            }),
        }
    }

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
