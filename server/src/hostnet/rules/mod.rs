//! The firewall as values: the sets and maps that grow, and their elements.
//!
//! Everything else of the firewall is constant text and belongs to the kernel's room. An [`Element`] can only be made
//! by its set's own constructor, so that key and data always fit the set.

mod element;
mod set;

use std::collections::BTreeSet;

pub use element::{Data, Element, Member, Part, Transport};
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
}

/// What to remove and what to add. An element whose data changes is in both: the kernel refuses a key that exists with
/// other data, so the two belong into one transaction.
pub fn diff(have: &Rules, want: &Rules) -> (Vec<Element>, Vec<Element>) {
    let remove = have.elements.difference(&want.elements).cloned().collect();
    let add = want.elements.difference(&have.elements).cloned().collect();
    (remove, add)
}

/// Whether the element marks an uplink whose forwarding netloom switched on.
pub fn is_notransit(element: &Element) -> bool {
    element.set() == SetId::Notransit
}
