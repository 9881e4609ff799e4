//! A Namespace wants to be pinned, and to bear its mark.

use netloom_api::Namespace;

use crate::{
    hostnet::{HostNet, Mark},
    world::Stored,
};

pub(super) fn want(namespace: &Stored<Namespace>, net: &mut HostNet) {
    net.namespaces.insert(namespace.meta.name.clone(), Mark::Object(namespace.meta.uid));
}
