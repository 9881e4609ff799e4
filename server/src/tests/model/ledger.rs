//! What is written down of a sequence: every uid and version that there was. By it the answers are judged.

use std::collections::{BTreeMap, BTreeSet};

use netloom_api::{Attachment, ErrorReason, Etag, IfName, Reservation, Uid};

use super::{
    call::{Call, Id, Tag, id, name},
    reference::{Held, Reference},
};
use crate::world::{AnyStored, World};

#[derive(Default)]
pub(super) struct Ledger {
    versions: BTreeMap<Id, Vec<Etag>>,
    /// Of objects that are gone.
    buried: BTreeSet<Uid>,
    /// As it was before the last call.
    reference: Reference,
    clock: i64,
}

impl Ledger {
    /// The next moment.
    pub(super) fn tick(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    /// The version that a caller means.
    pub(super) fn etag(&self, world: &World, id: Id, tag: Tag) -> Option<Etag> {
        let current = world.get_any(id.0, &name(id)).map(|object| object.meta().etag());
        match tag {
            Tag::Any => None,
            // One that is right for nothing, if there is none.
            Tag::Current => current.or(Some(Etag { uid: Uid::generate(), revision: 1 })),
            Tag::Old => {
                let earlier = self.versions.get(&id).into_iter().flatten().rev();
                let earlier = earlier.copied().find(|etag| Some(*etag) != current);
                earlier.or(Some(Etag { uid: Uid::generate(), revision: 1 }))
            }
        }
    }

    /// Whether the answer is as it should be.
    pub(super) fn judge_answer(&self, reference: &Reference, call: &Call, answer: Result<(), ErrorReason>) {
        match (&reference.refusal, answer) {
            (None, Ok(())) => {}
            (Some(reasons), Err(reason)) if reasons.contains(&reason) => {}
            (expected, answer) => panic!("{call:?}\nwas answered {answer:?}, and should be {expected:?}"),
        }
    }

    /// Whether what became of identities and versions is as it should be.
    pub(super) fn judge_versions_of(&mut self, before: &World, after: &World, reference: &Reference) {
        let moved = after.revision - before.revision;
        assert!(moved == 0 || reference.refusal.is_none(), "a refusal changes nothing");
        let newest = after.objects().map(|object| object.meta().revision).max().unwrap_or(0);
        assert!(newest <= after.revision);
        for object in after.objects() {
            let (kind, meta) = (object.kind(), object.meta());
            let which = id(kind, &meta.name);
            assert!(!self.buried.contains(&meta.uid), "{which:?} has the uid of one that is gone");
            let is_new = meta.revision == before.revision + 1;
            match before.get_any(kind, &meta.name) {
                None => assert!(is_new && meta.generation == 1, "{which:?} is new: {meta:?}"),
                Some(old) => {
                    let was = old.meta();
                    assert_eq!((was.uid, was.create_time), (meta.uid, meta.create_time), "{which:?}");
                    self.judge_versions(which, &old, &object, is_new, reference);
                }
            }
            let versions = self.versions.entry(which).or_default();
            if versions.last() != Some(&meta.etag()) {
                assert!(!versions.contains(&meta.etag()), "{which:?} has a version that there was before");
                versions.push(meta.etag());
            }
        }
        let are_same = before
            .objects()
            .map(|object| object.meta().etag())
            .eq(after.objects().map(|object| object.meta().etag()));
        assert!((moved == 0) == are_same, "the count of intent moves if and only if something changes");
    }

    /// A version is new if and only if something is; a generation, if that is in the spec or in what follows from it.
    fn judge_versions(
        &self,
        which: Id,
        old: &AnyStored,
        new: &AnyStored,
        is_new: bool,
        reference: &Reference,
    ) {
        let (was, is) = (old.meta(), new.meta());
        assert_eq!(was.revision != is.revision, is_new, "{which:?}: {was:?} and {is:?}");
        if is.delete_time.is_some() {
            assert_eq!(was.generation, is.generation, "{which:?}");
            return;
        }
        let (Some(was_to_be), Some(is_to_be)) =
            (self.reference.objects.get(&which), reference.objects.get(&which))
        else {
            panic!("{which:?} is there, and should not be");
        };
        let differs = (&was_to_be.spec, &was_to_be.held) != (&is_to_be.spec, &is_to_be.held);
        assert_eq!(
            is.generation,
            was.generation + i64::from(differs),
            "{which:?}: {was_to_be:?}, {is_to_be:?}"
        );
        assert_eq!(was_to_be != is_to_be, is_new, "{which:?}: {was_to_be:?}, {is_to_be:?}");
    }

    /// Whether exactly those objects exist that should, and hold what they should.
    pub(super) fn agrees(&self, world: &World, reference: &Reference) {
        let there: BTreeSet<Id> =
            world.objects().map(|object| id(object.kind(), &object.meta().name)).collect();
        let expected: BTreeSet<Id> = reference.objects.keys().copied().collect();
        assert_eq!(there, expected, "what is there, and what should be");
        for (which, object) in &reference.objects {
            let stored = world.get_any(which.0, &name(*which)).unwrap();
            assert!(stored.meta().delete_time.is_none(), "{which:?} is still being deleted");
            assert_eq!(held(&stored), object.held, "what {which:?} holds");
            let owner = stored.meta().owner.as_ref().map(ToString::to_string);
            assert_eq!(owner, object.owner.map(|owner| format!("owner{owner}")), "whose {which:?} is");
        }
        let mut used = BTreeSet::new();
        for allocation in world.allocations_after(None) {
            let (network, address) = (allocation.network, allocation.address);
            assert!(used.insert((network.clone(), address)), "{address} of {network} is given twice");
            assert!(world.find(&allocation.holder.uid).is_some(), "{address} of {network} is nobody's");
        }
    }

    /// The next call is made from here.
    pub(super) fn remember(&mut self, world: &World, reference: &Reference) {
        self.reference = reference.clone();
        for (which, versions) in &self.versions {
            let uid = world.get_any(which.0, &name(*which)).map(|object| object.meta().uid);
            self.buried.extend(versions.iter().map(|version| version.uid).filter(|one| Some(*one) != uid));
        }
    }
}

fn held(object: &AnyStored) -> Held {
    match object {
        AnyStored::Attachment(object) => of_attachment(object),
        AnyStored::Reservation(object) => of_reservation(object),
        AnyStored::Namespace(_)
        | AnyStored::Network(_)
        | AnyStored::PortForward(_)
        | AnyStored::Route(_)
        | AnyStored::Link(_)
        | AnyStored::Policy(_) => Held::default(),
    }
}

fn last_part(address: std::net::IpAddr) -> u64 {
    match address {
        std::net::IpAddr::V4(address) => u64::from(address.octets()[3]),
        std::net::IpAddr::V6(address) => address.to_bits() as u64,
    }
}

fn of_attachment(object: &crate::world::Stored<Attachment>) -> Held {
    let alloc = &object.alloc;
    let part = |v4: bool| {
        let mut all = alloc.addresses.iter().map(|address| address.0.addr());
        all.find(|address| address.is_ipv4() == v4).map(last_part)
    };
    Held {
        v4: part(true).map(|part| part as u8),
        v6: part(false),
        interface: Some(IfName::to_string(&alloc.interface)),
        default_route: alloc.default_route,
        metric: alloc.metric,
    }
}

fn of_reservation(object: &crate::world::Stored<Reservation>) -> Held {
    Held { v4: Some(last_part(object.alloc.address) as u8), ..Held::default() }
}
