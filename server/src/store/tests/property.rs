//! Whatever is written, the World that comes back is the one that was published.

use std::sync::Arc;

use netloom_api::{
    Attachment, Kind, Link, Namespace, Network, Policy, PortForward, Reservation, Route, Timestamp,
};
use proptest::prelude::*;

use super::fixtures::*;
use crate::{
    store::Receipt,
    world::{AnyStored, World},
};

/// One wish: of which noun, which of its few names, where it hangs, and whether it shall go.
#[derive(Clone, Debug)]
struct Wish {
    kind: Kind,
    which: u8,
    at: (u8, u8, u8),
    gone: bool,
}

fn wish() -> impl Strategy<Value = Wish> {
    let kind = prop::sample::select(netloom_api::KIND_NAMES.map(|(kind, _)| kind).to_vec());
    (kind, 0u8..4, (0u8..3, 0u8..3, 2u8..6), prop::bool::weighted(0.3))
        .prop_map(|(kind, which, at, gone)| Wish { kind, which, at, gone })
}

fn called(kind: Kind, which: u8) -> String {
    format!("{}{which}", kind.plural())
}

/// The object that is wished for, if the World lets it be: the controller's checks in small.
fn allowed(world: &World, wish: &Wish) -> Option<AnyStored> {
    let of = called(wish.kind, wish.which);
    let (ns, net) = (called(Kind::Namespace, wish.at.0), called(Kind::Network, wish.at.1));
    let (n, host) = (wish.at.1, wish.at.2);
    let address = format!("10.{n}.0.{host}").parse().unwrap();
    let fits = world.get::<Network>(&name(&net)).is_some() && world.user_of(&name(&net), address).is_none();
    let free_interface = |other: &Arc<crate::world::Stored<Attachment>>| {
        (other.spec.namespace != name(&ns) || other.alloc.interface.as_str() != format!("eth{host}"))
            && other.alloc.mac.to_string() != format!("02:00:00:00:{n:02x}:{host:02x}")
    };
    let free_of_links = |ns: &netloom_api::Name, hosts: &[u8]| {
        let links = world.links_in(ns).filter_map(|link| world.get::<Link>(link));
        let taken: Vec<String> =
            links.flat_map(|link| link.spec.ends.iter().map(|end| end.interface.to_string())).collect();
        !hosts
            .iter()
            .any(|host| taken.contains(&format!("eth{host}")) || taken.contains(&format!("cable{host}")))
    };
    match wish.kind {
        Kind::Namespace => Some(namespace(&of)),
        Kind::Network => Some(network(&of, wish.which)),
        Kind::Attachment => {
            let inside = world.get::<Namespace>(&name(&ns)).is_some();
            let free = world.all::<Attachment>().all(free_interface) && free_of_links(&name(&ns), &[host]);
            (fits && inside && free).then(|| attachment(&of, &ns, &net, n, host))
        }
        Kind::PortForward => {
            let AnyStored::PortForward(new) = forward(&of, None, 80 + u16::from(wish.at.0), Some(81)) else {
                return None;
            };
            let sound = new.spec.listen.port <= 81;
            let free =
                world.listen_conflict(&name(&of), new.spec.protocol, &new.listen(), |_| false).is_none();
            (sound && free).then_some(AnyStored::PortForward(new))
        }
        Kind::Reservation => fits.then(|| reservation(&of, &net, n, host)),
        Kind::Route => {
            let (ns, inside) = match wish.at.0 {
                0 => ("host".to_owned(), true),
                _ => (ns.clone(), world.get::<Namespace>(&name(&ns)).is_some()),
            };
            let new = route(&of, &ns, n, u32::from(host));
            let AnyStored::Route(one) = &new else { return None };
            (inside && world.route_holder(&name(&of), &one.spec).is_none()).then_some(new)
        }
        Kind::Link => {
            // Which one of three is the host.
            let other = if n == 0 { "host".to_owned() } else { called(Kind::Namespace, n - 1) };
            let there = |of: &str| of == "host" || world.get::<Namespace>(&name(of)).is_some();
            let free = world.all::<Attachment>().all(free_interface)
                && free_of_links(&name(&ns), &[host])
                && free_of_links(&name(&other), &[host]);
            (there(&ns) && there(&other) && free).then(|| link(&of, &ns, &other, host))
        }
        Kind::Policy => world.get::<Network>(&name(&net)).is_some().then(|| policy(&of, &net, host)),
    }
}

/// The same object with other labels, a generation more, and on its way out now and then.
fn touched(object: &AnyStored, at: (u8, u8, u8)) -> AnyStored {
    let mut meta = object.meta().clone();
    meta.generation += 1;
    meta.labels = std::collections::BTreeMap::from([("at".into(), at.0.to_string())]).try_into().unwrap();
    meta.owner = (at.1 == 1).then(|| "ci-7".parse().unwrap());
    meta.delete_time = (at.2 == 2).then(|| Timestamp::from_micros(1_700_000_000_000_002));
    object.with_meta(meta)
}

/// The object with all that hangs on it.
fn with_children(world: &World, object: AnyStored) -> Vec<AnyStored> {
    let of = object.meta().name.clone();
    let attachments =
        |names: Vec<_>| names.into_iter().map(|of| world.get_any(Kind::Attachment, of).unwrap());
    let mut all: Vec<AnyStored> = match object.kind() {
        Kind::Namespace => {
            let routes = world.routes_in(&of).map(|of| world.get_any(Kind::Route, of).unwrap());
            let links = world.links_in(&of).map(|of| world.get_any(Kind::Link, of).unwrap());
            routes.chain(links).chain(attachments(world.attachments_in(&of).collect())).collect()
        }
        Kind::Network => {
            let kept = world.reservations_on(&of).map(|of| world.get_any(Kind::Reservation, of).unwrap());
            let policies = world.policies_on(&of).map(|of| world.get_any(Kind::Policy, of).unwrap());
            attachments(world.attachments_on(&of).collect()).chain(kept).chain(policies).collect()
        }
        Kind::Attachment
        | Kind::PortForward
        | Kind::Reservation
        | Kind::Route
        | Kind::Link
        | Kind::Policy => Vec::new(),
    };
    all.push(object);
    all
}

fn submit(head: &mut Head, wish: &Wish) -> Option<Receipt> {
    let there = head.world.get_any(wish.kind, &name(&called(wish.kind, wish.which)));
    match there {
        Some(object) if wish.gone => {
            let removes = with_children(&head.world, object);
            Some(head.submit(vec![], removes))
        }
        Some(object) => Some(head.submit(vec![touched(&object, wish.at)], vec![])),
        None if wish.gone => None,
        None => {
            let new = allowed(&head.world, wish)?;
            let subnet = format!("10.{}.0.0/24", wish.at.1).parse().unwrap();
            let (net, address) = (name(&called(Kind::Network, wish.at.1)), format!("10.{}.0.9", wish.at.1));
            let moves = new.kind() == Kind::Attachment;
            if moves {
                head.world.set_cursor(&net, &subnet, address.parse().unwrap());
            }
            let mut batch = head.batch(vec![new], vec![]);
            batch.cursors.extend(moves.then(|| (net, subnet, address.parse().unwrap())));
            Some(head.store.submit(batch).unwrap())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_world_comes_back_as_it_was_published(wishes in prop::collection::vec(wish(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = temp();
            let store = open(dir.path()).await;
            let mut head = Head::of(&store);
            let receipts: Vec<_> = wishes.iter().filter_map(|wish| submit(&mut head, wish)).collect();
            for receipt in receipts {
                receipt.written.await.unwrap();
            }
            assert_eq!(*store.snapshot().world, head.world);
            store.close().await;
            assert_eq!(*open(dir.path()).await.snapshot().world, head.world);
        });
    }
}

#[test]
fn the_wishes_reach_every_noun() {
    let mut world = World::default();
    for (kind, _) in netloom_api::KIND_NAMES {
        let at = match kind {
            Kind::Reservation => (0, 0, 3),
            Kind::Link => (0, 0, 4),
            Kind::Namespace
            | Kind::Network
            | Kind::Attachment
            | Kind::PortForward
            | Kind::Route
            | Kind::Policy => (0, 0, 2),
        };
        world.put(allowed(&world, &Wish { kind, which: 0, at, gone: false }).unwrap());
    }
    let others = world.count::<Route>() + world.count::<Link>() + world.count::<Policy>();
    assert_eq!(world.count::<PortForward>() + world.count::<Reservation>() + others, 5);
}
