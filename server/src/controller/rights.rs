//! What a caller may do: verbs × kinds × owner.
//!
//! Full rights are as much as being root on this host. All others are a list of scopes, and what none of them allows is
//! refused. A scope with an owner reaches only that owner's objects, and what they are in: nobody puts an interface into
//! a Namespace of somebody else's. What reaches beyond netloom's own objects (namespaces that exist, the host's own
//! stack, bridges of the user's own) takes full rights.
//!
//! Pure. Written as `full`, `read`, or `VERBS:KINDS[@OWNER]`, e.g. `read:*`, `create,delete:attachments@ci-7`.

use std::{fmt, str::FromStr, sync::Arc};

use netloom_api::{AnyDraft, ErrorReason, KIND_NAMES, Kind, Name, NetworkKind, Owner};

use super::edit::{Change, Edit, draft_of};
use crate::{
    error::{Error, Result},
    world::{AnyStored, World},
};

/// What is done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// To see it.
    Read,
    /// To make it.
    Create,
    /// To change it.
    Update,
    /// To remove it.
    Delete,
}

/// What a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything.
    Full,
    /// What one of these allows.
    Scopes(Arc<[Scope]>),
}

/// Some verbs, on some kinds, of one owner or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    verbs: Vec<Verb>,
    kinds: Vec<Kind>,
    owner: Option<Owner>,
}

const VERBS: [(Verb, &str); 4] =
    [(Verb::Read, "read"), (Verb::Create, "create"), (Verb::Update, "update"), (Verb::Delete, "delete")];

impl Rights {
    /// All that changes nothing.
    pub fn read() -> Self {
        Rights::Scopes(Arc::new([Scope { verbs: vec![Verb::Read], kinds: all_kinds(), owner: None }]))
    }

    /// The rights that these words give together.
    pub fn parse<'w>(words: impl Iterator<Item = &'w str>) -> std::result::Result<Self, String> {
        let (mut scopes, mut full) = (Vec::new(), false);
        for word in words {
            match word {
                "full" => full = true,
                word => scopes.push(word.parse()?),
            }
        }
        Ok(if full { Rights::Full } else { Rights::Scopes(scopes.into()) })
    }

    /// Whether nothing is refused.
    pub fn is_full(&self) -> bool {
        *self == Rights::Full
    }

    /// Whether an object of this kind and owner may be treated so.
    pub fn allow(&self, verb: Verb, kind: Kind, owner: Option<&Owner>) -> bool {
        self.some(verb, kind, |scope| scope.owner.is_none() || scope.owner.as_ref() == owner)
    }

    /// Whether some objects of this kind may be treated so.
    pub fn reach(&self, verb: Verb, kind: Kind) -> bool {
        self.some(verb, kind, |_| true)
    }

    /// Whether everything may be seen, also what is of no one kind.
    pub fn read_all(&self) -> bool {
        KIND_NAMES.iter().all(|(kind, _)| self.some(Verb::Read, *kind, |scope| scope.owner.is_none()))
    }

    /// Whether anything may be changed.
    pub fn write(&self) -> bool {
        let writes = |verb| KIND_NAMES.iter().any(|(kind, _)| self.reach(verb, *kind));
        [Verb::Create, Verb::Update, Verb::Delete].into_iter().any(writes)
    }

    fn some(&self, verb: Verb, kind: Kind, fits: impl Fn(&Scope) -> bool) -> bool {
        match self {
            Rights::Full => true,
            Rights::Scopes(scopes) => scopes
                .iter()
                .any(|scope| scope.verbs.contains(&verb) && scope.kinds.contains(&kind) && fits(scope)),
        }
    }

    /// Refuses a change of what is somebody else's, before anything else is said about it.
    pub(super) fn check_targets(&self, before: &World, changes: &[Change]) -> Result<()> {
        if self.is_full() {
            return Ok(());
        }
        for change in changes {
            let (kind, name) = change.target();
            let old = before.get_any(kind, &name);
            let verb = match (change, &old) {
                (Change::Delete(_), _) => Verb::Delete,
                (Change::Create(_), _) | (Change::Put(_) | Change::Patch(_), None) => Verb::Create,
                (Change::Put(_) | Change::Patch(_), Some(_)) => Verb::Update,
            };
            // That a name is taken is no secret: whoever makes an object learns it.
            let owner = old.as_ref().filter(|_| verb != Verb::Create).map(|old| old.meta().owner.clone());
            let allowed = match owner {
                Some(owner) => self.allow(verb, kind, owner.as_ref()),
                None => self.reach(verb, kind),
            };
            if !allowed {
                return Err(refused(verb, kind, &name));
            }
            // Before anything is looked for on the host.
            if let Some(AnyDraft::Namespace(draft)) = draft_of(before, change).as_deref()
                && draft.spec.adopted().is_some()
            {
                return Err(beyond(kind, &name));
            }
        }
        Ok(())
    }

    /// Refuses what the changes make, take away or drag along beyond the rights.
    pub(super) fn check_edit(&self, edit: &Edit) -> Result<()> {
        if self.is_full() {
            return Ok(());
        }
        for object in &edit.puts {
            let (kind, meta) = (object.kind(), object.meta());
            let old = edit.before.get_any(kind, &meta.name).filter(|old| old.meta().uid == meta.uid);
            let verb = match (&old, meta.delete_time) {
                (_, Some(_)) => Verb::Delete,
                (Some(_), None) => Verb::Update,
                (None, None) => Verb::Create,
            };
            let was_allowed = old.is_none_or(|old| self.allow(verb, kind, old.meta().owner.as_ref()));
            if !was_allowed || !self.allow(verb, kind, meta.owner.as_ref()) {
                return Err(refused(verb, kind, &meta.name));
            }
            if verb != Verb::Delete {
                self.check_reach(verb, object, &edit.world)?;
            }
        }
        for object in &edit.removes {
            if !self.allow(Verb::Delete, object.kind(), object.meta().owner.as_ref()) {
                return Err(refused(Verb::Delete, object.kind(), &object.meta().name));
            }
        }
        Ok(())
    }

    /// What an object is in must be of the same owner, unless the scope has none.
    fn check_reach(&self, verb: Verb, object: &AnyStored, world: &World) -> Result<()> {
        let (kind, owner) = (object.kind(), object.meta().owner.as_ref());
        let places = match reach(object) {
            Reach::Places(places) => places,
            Reach::Anybody if self.some(verb, kind, |scope| scope.owner.is_none()) => return Ok(()),
            Reach::Anybody => return Err(refused(verb, kind, &object.meta().name)),
            Reach::Beyond => return Err(beyond(kind, &object.meta().name)),
        };
        for (place, name) in places {
            let holder = world.get_any(place, name).and_then(|place| place.meta().owner.clone());
            let fits = |scope: &Scope| match &scope.owner {
                None => true,
                Some(own) => owner == Some(own) && holder.as_ref() == Some(own),
            };
            if !self.some(verb, kind, fits) {
                return Err(
                    refused(verb, kind, &object.meta().name).with("inside", format!("{place}/{name}"))
                );
            }
        }
        Ok(())
    }
}

/// What an object reaches.
enum Reach<'a> {
    /// What is in these objects, or what they are.
    Places(Vec<(Kind, &'a Name)>),
    /// Objects of anybody's.
    Anybody,
    /// More than netloom's own objects.
    Beyond,
}

fn reach(object: &AnyStored) -> Reach<'_> {
    match object {
        AnyStored::Namespace(one) if one.spec.adopted().is_some() => Reach::Beyond,
        AnyStored::Namespace(_) | AnyStored::Reservation(_) => Reach::Places(Vec::new()),
        AnyStored::Network(one) => match &one.spec.kind {
            Some(NetworkKind::Bridge(bridge)) if bridge.existing == Some(true) => Reach::Beyond,
            Some(NetworkKind::Bridge(_)) | None => Reach::Places(Vec::new()),
        },
        AnyStored::Attachment(one) => inside(&[&one.spec.namespace]),
        AnyStored::PortForward(one) => Reach::Places(vec![(Kind::Attachment, &one.spec.target.attachment)]),
        AnyStored::Route(one) => inside(&[&one.spec.namespace]),
        AnyStored::Link(one) => {
            let [first, second] = &one.spec.ends;
            inside(&[&first.namespace, &second.namespace])
        }
        // It selects by labels, and whoever has them.
        AnyStored::Policy(_) => Reach::Anybody,
    }
}

/// In Namespaces, of which the host is none.
fn inside<'a>(namespaces: &[&'a Name]) -> Reach<'a> {
    if namespaces.iter().any(|name| name.as_str() == HOST) {
        return Reach::Beyond;
    }
    Reach::Places(namespaces.iter().map(|name| (Kind::Namespace, *name)).collect())
}

/// The built-in Namespace.
const HOST: &str = "host";

fn denied(detail: String) -> Error {
    Error::new(ErrorReason::PermissionDenied, detail).with("guard", "scope")
}

fn refused(verb: Verb, kind: Kind, name: &Name) -> Error {
    let verb = word(verb);
    denied(format!("this caller may not {verb} {kind} {name}")).with("verb", verb).with("kind", kind)
}

fn beyond(kind: Kind, name: &Name) -> Error {
    denied(format!("{kind} {name} reaches beyond netloom's own objects, which takes full rights"))
        .with("kind", kind)
}

fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Read => "read",
        Verb::Create => "create",
        Verb::Update => "update",
        Verb::Delete => "delete",
    }
}

fn all_kinds() -> Vec<Kind> {
    KIND_NAMES.iter().map(|(kind, _)| *kind).collect()
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = if text == "read" { "read:*" } else { text };
        let (verbs, rest) = text.split_once(':').ok_or("a right is full, read, or VERBS:KINDS[@OWNER]")?;
        let (kinds, owner) = match rest.split_once('@') {
            Some((kinds, owner)) => (kinds, Some(owner.parse().map_err(|why| format!("the owner {why}"))?)),
            None => (rest, None),
        };
        let mut scope = Scope { verbs: Vec::new(), kinds: Vec::new(), owner };
        for verb in verbs.split(',') {
            match verb {
                "*" => scope.verbs.extend(VERBS.map(|(verb, _)| verb)),
                "write" => scope.verbs.extend([Verb::Create, Verb::Update, Verb::Delete]),
                verb => {
                    let known = VERBS.iter().find(|(_, word)| *word == verb);
                    scope.verbs.push(known.ok_or("a verb is read, create, update, delete, write or *")?.0);
                }
            }
        }
        for kind in kinds.split(',') {
            if kind == "*" {
                scope.kinds.extend(all_kinds());
                continue;
            }
            let known = KIND_NAMES.iter().find(|(known, _)| known.plural() == kind);
            scope.kinds.push(known.ok_or("a kind is * or a word like port-forwards")?.0);
        }
        Ok(scope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verbs: Vec<_> = self.verbs.iter().map(|verb| word(*verb)).collect();
        let kinds: Vec<_> = self.kinds.iter().map(|kind| kind.plural()).collect();
        write!(f, "{}:{}", verbs.join(","), kinds.join(","))?;
        self.owner.as_ref().map_or(Ok(()), |owner| write!(f, "@{owner}"))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rights::Full => f.write_str("full"),
            Rights::Scopes(scopes) => {
                let words: Vec<_> = scopes.iter().map(ToString::to_string).collect();
                f.write_str(&words.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(text: &str) -> Rights {
        Rights::parse(text.split(' ')).unwrap()
    }

    #[test]
    fn what_no_scope_allows_is_refused() {
        let (ci, other) = ("ci-7".parse::<Owner>().unwrap(), "other".parse::<Owner>().unwrap());
        let some = rights("create,delete:attachments,links@ci-7 read:networks");
        assert!(some.allow(Verb::Create, Kind::Attachment, Some(&ci)));
        assert!(some.allow(Verb::Delete, Kind::Link, Some(&ci)));
        assert!(some.allow(Verb::Read, Kind::Network, None));
        for (verb, kind, owner) in [
            (Verb::Update, Kind::Attachment, Some(&ci)),
            (Verb::Create, Kind::Attachment, Some(&other)),
            (Verb::Create, Kind::Attachment, None),
            (Verb::Create, Kind::Network, Some(&ci)),
            (Verb::Read, Kind::Attachment, Some(&ci)),
        ] {
            assert!(!some.allow(verb, kind, owner), "{verb:?} {kind} {owner:?}");
        }
        assert!(some.write() && !some.read_all() && !some.is_full());
        assert!(rights("read").read_all() && !rights("read").write());
        assert!(!rights("read:*@ci-7").read_all());
        assert!(!Rights::parse(std::iter::empty()).unwrap().reach(Verb::Read, Kind::Network));
    }

    #[test]
    fn full_is_everything_whatever_stands_beside_it() {
        assert_eq!(rights("read full"), Rights::Full);
        assert!(rights("full").allow(Verb::Delete, Kind::Namespace, None) && rights("full").read_all());
    }

    #[test]
    fn words_that_are_no_rights_are_refused() {
        for bad in
            ["root", "", "read:", ":networks", "read:pods", "fly:networks", "read:*@", "read:*@a b", "full:*"]
        {
            assert!(Rights::parse(std::iter::once(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn rights_are_written_as_they_are_read() {
        for text in ["full", "read", "write:port-forwards@ci-7", "*:*", "read:networks update:links"] {
            let read = rights(text);
            assert_eq!(rights(&read.to_string()), read, "{text}");
        }
    }
}
