//! Reading: get, list, allocations, export, state. All from the World; only `state` asks the kernel.

use std::net::IpAddr;

use netloom_api::{
    Allocation, AnyDraft, AnyObject, Attachment, ConditionStatus, ErrorReason, Event, EventPage, EventType,
    Export, KIND_NAMES, Kind, Labels, Link, ListPage, Name, Namespace, NamespaceState, Network, Object,
    Owner, Policy, PortForward, Reservation, Route, Version,
};

use super::{
    Controller, Rights, Verb,
    render::{self, Render},
};
use crate::{
    error::{Error, Result},
    hostnet::Stack,
    kernel::OpenError,
    store::{EventQuery, Snapshot},
    world::{Stored, World, WorldNoun},
};

/// A page holds so many objects when nothing is said.
pub const PAGE_DEFAULT: usize = 100;
/// A page holds at most so many.
pub const PAGE_MAX: usize = 1000;

/// Which objects a list asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListQuery {
    /// 1 to 1 000.
    pub page_size: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
    /// Only of this owner.
    pub owner: Option<Owner>,
    /// Only with all of these.
    pub labels: Labels,
    /// Only of this Namespace.
    pub namespace: Option<Name>,
    /// Only of this Network.
    pub network: Option<Name>,
}

/// Which events are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFilter {
    /// None: all.
    pub kinds: Vec<Kind>,
    /// None: all.
    pub types: Vec<EventType>,
    /// Only of objects with this name.
    pub name: Option<Name>,
    /// Only of what this caller asked for.
    pub actor: Option<String>,
}

impl EventFilter {
    /// Whether an event passes.
    pub fn admits(&self, event: &Event) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.types.is_empty() || self.types.contains(&event.type_))
            && self.name.as_ref().is_none_or(|name| *name == event.name)
            && (self.actor.is_none() || self.actor == event.actor)
    }
}

/// A noun that can be asked for by the Namespace or Network it belongs to.
pub trait Belongs: WorldNoun {
    /// Its Namespace, or its Namespaces.
    fn namespaces<'w>(object: &'w Stored<Self>, world: &'w World) -> Vec<&'w Name>;
    /// Its Network.
    fn network<'w>(object: &'w Stored<Self>, world: &'w World) -> Option<&'w Name>;
}

impl Controller {
    /// One object; what the rights do not show is not there.
    pub fn get<N: Render>(&self, name: &Name, rights: &Rights) -> Result<Object<N>> {
        let world = self.intent.committed();
        let shown = |object: &&std::sync::Arc<Stored<N>>| {
            rights.allow(Verb::Read, N::KIND, object.meta.owner.as_ref())
        };
        let object = world.get::<N>(name).filter(shown).ok_or_else(|| Error::not_found(N::KIND, name))?;
        Ok(render::object(object, &world, &self.board))
    }

    /// A page of objects in the order of their names, of those that the rights show.
    pub fn list<N: Render + Belongs>(
        &self,
        query: &ListQuery,
        rights: &Rights,
    ) -> Result<ListPage<Object<N>>> {
        let size = page_size(query.page_size)?;
        let after = query.page_token.as_deref().map(token_name).transpose()?;
        let Snapshot { world, seq, .. } = self.intent.store().snapshot();
        let passes = |object: &&std::sync::Arc<Stored<N>>| {
            let of = |wanted: &Option<Name>, has: &[&Name]| {
                wanted.as_ref().is_none_or(|wanted| has.contains(&wanted))
            };
            rights.allow(Verb::Read, N::KIND, object.meta.owner.as_ref())
                && query.owner.as_ref().is_none_or(|owner| object.meta.owner.as_ref() == Some(owner))
                && object.meta.labels.contain(&query.labels)
                && of(&query.namespace, &N::namespaces(object, &world))
                && of(&query.network, N::network(object, &world).as_slice())
        };
        let mut found = world.after::<N>(after.as_ref()).filter(passes);
        let items: Vec<Object<N>> =
            found.by_ref().take(size).map(|object| render::object(object, &world, &self.board)).collect();
        let next_page_token = found.next().and_then(|_| items.last().map(|last| name_token(&last.meta.name)));
        Ok(ListPage { items, next_page_token, seq })
    }

    /// A page of used addresses in the order of networks and addresses.
    pub fn allocations(&self, query: &ListQuery) -> Result<ListPage<Allocation>> {
        let size = page_size(query.page_size)?;
        let after = query
            .page_token
            .as_deref()
            .map(|token| allocation_key(token).ok_or_else(bad_token))
            .transpose()?;
        let Snapshot { world, seq, .. } = self.intent.store().snapshot();
        let passes = |one: &Allocation| query.network.as_ref().is_none_or(|network| *network == one.network);
        let mut found = world.allocations_after(after).filter(passes);
        let items: Vec<Allocation> = found.by_ref().take(size).collect();
        let next_page_token = found.next().and_then(|_| items.last().map(|last| last.name.clone()));
        Ok(ListPage { items, next_page_token, seq })
    }

    /// One used address, by `<network>@<address>`.
    pub fn allocation(&self, name: &str) -> Result<Allocation> {
        let none = || Error::new(ErrorReason::NotFound, format!("there is no Allocation called {name}"));
        let (network, address) = allocation_key(name).ok_or_else(none)?;
        let world = self.intent.committed();
        let used = world.user_of(&network, address).ok_or_else(none)?;
        Ok(Allocation {
            name: name.to_owned(),
            network,
            address,
            holder: used.holder.clone(),
            since: used.since,
        })
    }

    /// All intent, sorted by kind and name; what is being deleted is no longer intent. `pinned`: see [`pin`](super::pin::pin).
    pub fn export(&self, owner: Option<&Owner>, pinned: bool) -> Export {
        let objects = self.drafts(owner, pinned).iter().map(AnyDraft::to_export).collect();
        Export { version: "v1".into(), objects }
    }

    /// All intent as drafts, in the same order.
    pub fn drafts(&self, owner: Option<&Owner>, pinned: bool) -> Vec<AnyDraft> {
        let world = self.intent.committed();
        let all = KIND_NAMES.iter().flat_map(|(kind, _)| world.all_of(*kind));
        let mine = all.filter(|object| {
            let meta = object.meta();
            meta.delete_time.is_none() && owner.is_none_or(|owner| meta.owner.as_ref() == Some(owner))
        });
        mine.map(|object| if pinned { super::pin::pin(&object) } else { object.to_draft() }).collect()
    }

    /// What the kernel has for a Namespace, or for `host`, now.
    pub async fn state(&self, name: &Name) -> Result<NamespaceState> {
        let stack = if name.as_str() == "host" {
            Stack::Host
        } else {
            self.get::<Namespace>(name, &Rights::Full)?;
            Stack::Namespace(name.clone())
        };
        let kernel = self.kernel.clone();
        let world = self.intent.committed();
        let read = tokio::task::spawn_blocking(move || kernel.state(&stack, &world)).await;
        let read = read.map_err(|error| Error::internal(error.to_string()))?;
        read.map_err(|why| {
            Error::new(ErrorReason::KernelError, format!("the state of {name} cannot be read: {why}"))
        })
    }

    /// Opens a Namespace, managed or adopted; blocks.
    pub fn open_namespace(&self, name: &Name) -> std::result::Result<std::os::fd::OwnedFd, OpenError> {
        self.kernel.namespace(name)
    }

    /// A page of the log.
    pub async fn events(&self, query: EventQuery) -> Result<EventPage> {
        Ok(self.intent.store().events(query).await?)
    }

    /// Every object as it is, and the position of the log that this is of.
    pub fn everything(&self) -> (Vec<AnyObject>, i64) {
        fn of<N: Render>(world: &World, board: &crate::reconcile::board::Board, into: &mut Vec<AnyObject>)
        where
            AnyObject: From<Object<N>>,
        {
            into.extend(world.all::<N>().map(|object| render::object(object, world, board).into()));
        }
        let Snapshot { world, seq, .. } = self.intent.store().snapshot();
        let mut all = Vec::new();
        of::<Namespace>(&world, &self.board, &mut all);
        of::<Network>(&world, &self.board, &mut all);
        of::<Attachment>(&world, &self.board, &mut all);
        of::<PortForward>(&world, &self.board, &mut all);
        of::<Reservation>(&world, &self.board, &mut all);
        of::<Route>(&world, &self.board, &mut all);
        of::<Link>(&world, &self.board, &mut all);
        of::<Policy>(&world, &self.board, &mut all);
        (all, seq)
    }

    /// Tells of every object whether it is ready, without making it up for the doors.
    pub fn each_ready(&self, mut tell: impl FnMut(Kind, ConditionStatus)) {
        for object in self.intent.committed().objects() {
            let meta = object.meta();
            let said = self.board.status(&meta.uid).unwrap_or(ConditionStatus::Unknown);
            let leaves = meta.delete_time.is_some() && said == ConditionStatus::True;
            tell(object.kind(), if leaves { ConditionStatus::False } else { said });
        }
    }

    /// What runs here.
    pub fn version(&self) -> Version {
        Version {
            version: env!("CARGO_PKG_VERSION").into(),
            api: "v1".into(),
            kernel: self.kernel.release().to_owned(),
        }
    }
}

fn page_size(wanted: Option<usize>) -> Result<usize> {
    match wanted {
        None => Ok(PAGE_DEFAULT),
        Some(size) if (1..=PAGE_MAX).contains(&size) => Ok(size),
        Some(size) => {
            let detail = format!("{size} is not 1 to {PAGE_MAX}");
            Err(Error::new(ErrorReason::InvalidArgument, detail).at("page_size"))
        }
    }
}

/// Tokens are opaque to callers: hex of the last name.
fn name_token(name: &Name) -> String {
    name.as_str().bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn token_name(token: &str) -> Result<Name> {
    let bytes = token.as_bytes().chunks(2).map(|pair| {
        std::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.len() == 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    });
    let text = bytes.collect::<Option<Vec<u8>>>().and_then(|bytes| String::from_utf8(bytes).ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(bad_token)
}

fn bad_token() -> Error {
    Error::new(ErrorReason::InvalidArgument, "was not given by a list; start again without it")
        .at("page_token")
}

fn allocation_key(name: &str) -> Option<(Name, IpAddr)> {
    let (network, address) = name.split_once('@')?;
    Some((network.parse().ok()?, address.parse().ok()?))
}

impl Belongs for Namespace {
    fn namespaces<'w>(object: &'w Stored<Self>, _world: &'w World) -> Vec<&'w Name> {
        vec![&object.meta.name]
    }
    fn network<'w>(_object: &'w Stored<Self>, _world: &'w World) -> Option<&'w Name> {
        None
    }
}

impl Belongs for Network {
    fn namespaces<'w>(_object: &'w Stored<Self>, _world: &'w World) -> Vec<&'w Name> {
        Vec::new()
    }
    fn network<'w>(object: &'w Stored<Self>, _world: &'w World) -> Option<&'w Name> {
        Some(&object.meta.name)
    }
}

impl Belongs for Attachment {
    fn namespaces<'w>(object: &'w Stored<Self>, _world: &'w World) -> Vec<&'w Name> {
        vec![&object.spec.namespace]
    }
    fn network<'w>(object: &'w Stored<Self>, _world: &'w World) -> Option<&'w Name> {
        Some(&object.spec.network)
    }
}

impl Belongs for PortForward {
    fn namespaces<'w>(object: &'w Stored<Self>, world: &'w World) -> Vec<&'w Name> {
        world
            .get::<Attachment>(&object.spec.target.attachment)
            .map(|target| &target.spec.namespace)
            .into_iter()
            .collect()
    }
    fn network<'w>(object: &'w Stored<Self>, world: &'w World) -> Option<&'w Name> {
        world.get::<Attachment>(&object.spec.target.attachment).map(|target| &target.spec.network)
    }
}

impl Belongs for Reservation {
    fn namespaces<'w>(_object: &'w Stored<Self>, _world: &'w World) -> Vec<&'w Name> {
        Vec::new()
    }
    fn network<'w>(object: &'w Stored<Self>, _world: &'w World) -> Option<&'w Name> {
        Some(&object.spec.network)
    }
}

impl Belongs for Route {
    fn namespaces<'w>(object: &'w Stored<Self>, _world: &'w World) -> Vec<&'w Name> {
        vec![&object.spec.namespace]
    }
    fn network<'w>(_object: &'w Stored<Self>, _world: &'w World) -> Option<&'w Name> {
        None
    }
}

impl Belongs for Link {
    fn namespaces<'w>(object: &'w Stored<Self>, _world: &'w World) -> Vec<&'w Name> {
        object.spec.ends.iter().map(|end| &end.namespace).collect()
    }
    fn network<'w>(_object: &'w Stored<Self>, _world: &'w World) -> Option<&'w Name> {
        None
    }
}

impl Belongs for Policy {
    fn namespaces<'w>(_object: &'w Stored<Self>, _world: &'w World) -> Vec<&'w Name> {
        Vec::new()
    }
    fn network<'w>(object: &'w Stored<Self>, _world: &'w World) -> Option<&'w Name> {
        object.spec.selector.network.as_ref()
    }
}
