//! The host as the kernel has it: apply steps, observe, and answer questions about its state.

use std::sync::Arc;

use ipnet::IpNet;
use netloom_api::NamespaceState;

use crate::{
    hostnet::{Features, HostNet, Outcome, Stack, Step},
    reconcile::Host,
    want::HostFacts,
    world::World,
};

/// The kernel; cheap to clone.
#[derive(Clone)]
pub struct Kernel(Arc<Inner>);

struct Inner {
    features: Features,
    release: String,
}

impl Kernel {
    /// What the kernel can do.
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// The kernel's release, as `uname -r` says.
    pub fn release(&self) -> &str {
        &self.0.release
    }
}

impl Host for Kernel {
    fn apply(&self, steps: &[Step]) -> Vec<Outcome> {
        steps.iter().map(|_| Outcome::Skipped).collect()
    }

    fn observe(&self) -> Result<HostNet, String> {
        Err("not yet".into())
    }

    fn facts(&self) -> Result<HostFacts, String> {
        Err("not yet".into())
    }
}

impl Kernel {
    /// The prefixes of the host's own links.
    pub fn on_link(&self) -> Result<Vec<(IpNet, String)>, String> {
        Err("not yet".into())
    }

    /// What one stack has, now.
    pub fn state(&self, _stack: &Stack, _world: &World) -> Result<NamespaceState, String> {
        Err("not yet".into())
    }
}
