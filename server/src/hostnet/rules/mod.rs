//! The firewall as values: the sets and maps that grow, and their elements.
//!
//! Beside them there are the chains of policies ([`Chain`]). Everything else of the firewall is constant text and belongs
//! to the kernel's room. An [`Element`] can only be made by its set's own constructor, so that key and data always fit
//! the set.

mod chain;
mod element;
mod judge;
mod set;

use std::collections::{BTreeMap, BTreeSet};

pub use chain::{
    Body, CHAIN_PREFIX, Chain, ChainName, Flowing, LOG_GROUP, LOGGED_BYTES, LOGGED_PER_SECOND, Line, Numbers,
    Peers, Permit, PolicySet, RuleMark, RuleTag, Service, TAGGED_RULES,
};
pub use element::{Data, Element, Member, Part, Transport};
pub use judge::{Flow, Judge};
pub use set::{DataType, Family, Field, SetId, Shape};

/// The constant part of the firewall: tables, chains, rules and empty sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Skeleton {
    /// It is not there.
    #[default]
    Absent,
    /// It is there, but not as this netloom makes it, or something of it is missing.
    Outdated,
    /// It is there, and right, but anybody may change it: whoever made it is gone.
    Unowned,
    /// It is there, and right.
    Present,
}

/// The firewall, whole or as much of it as a scope asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The constant part.
    pub skeleton: Skeleton,
    /// The part that grows.
    pub elements: BTreeSet<Element>,
    /// The chains of policies.
    pub chains: BTreeMap<ChainName, Chain>,
}

/// A change of the firewall, in the order in which it is to be made: new chains, then everything else in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Chains that come, or do something else.
    pub put: Vec<(ChainName, Chain)>,
    /// Elements that go. One whose data changes goes and comes: the kernel refuses a key that exists with other data.
    pub remove: Vec<Element>,
    /// Elements that come.
    pub add: Vec<Element>,
    /// Chains that go.
    pub drop: Vec<ChainName>,
}

/// What turns the one firewall into the other.
pub fn diff(have: &Rules, want: &Rules) -> Edit {
    let put = want.chains.iter().filter(|(name, chain)| have.chains.get(*name) != Some(*chain));
    let drop = have.chains.keys().filter(|name| !want.chains.contains_key(*name));
    Edit {
        put: put.map(|(name, chain)| (name.clone(), chain.clone())).collect(),
        remove: have.elements.difference(&want.elements).cloned().collect(),
        add: want.elements.difference(&have.elements).cloned().collect(),
        drop: drop.cloned().collect(),
    }
}

/// Whether the element marks an uplink whose forwarding netloom switched on.
pub fn is_notransit(element: &Element) -> bool {
    element.set() == SetId::Notransit
}
