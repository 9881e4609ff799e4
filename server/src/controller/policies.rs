//! What a Policy may name, and that what it selects is who it says it is.

use netloom_api::{Attachment, ErrorReason, Kind, Name, Network, Policy, PolicyProtocol, PolicySpec, Uid};

use super::{
    claims::{Claims, reference},
    edit::{Context, Edit},
};
use crate::{
    error::{Error, Result},
    world::{Nothing, Stored, World},
};

impl Claims for Policy {
    fn check_immutable(_old: &PolicySpec, _new: &PolicySpec) -> Result<()> {
        Ok(())
    }

    fn claim(
        edit: &mut Edit,
        name: &Name,
        _uid: Uid,
        spec: &PolicySpec,
        _old: Option<&Nothing>,
        context: &Context,
    ) -> Result<Nothing> {
        // A peer that went by force since it was named means nobody; that is no reason to refuse another change.
        let before = edit.before.get::<Policy>(name);
        let dangles = |network: &Name| {
            let named = |before: &Stored<Policy>| before.spec.networks().any(|(_, had)| had == network);
            edit.before.get::<Network>(network).is_none() && before.is_some_and(|before| named(before))
        };
        for (field, network) in spec.networks() {
            if field == "spec.selector.network" || !dangles(network) {
                reference::<Network>(&edit.world, &field, network)?;
            }
        }
        if !context.sctp {
            check_sctp(spec)?;
        }
        Ok(Nothing {})
    }
}

/// Where SCTP is not tracked its ports are not known.
fn check_sctp(spec: &PolicySpec) -> Result<()> {
    for direction in netloom_api::Direction::ALL {
        for (rule, one) in spec.rules(direction).iter().enumerate() {
            let by_port =
                |port: &netloom_api::PolicyPort| port.protocol == PolicyProtocol::Sctp && port.port.is_some();
            if let Some(port) = one.ports.iter().position(by_port) {
                let detail = "this kernel does not track SCTP (CONFIG_NF_CT_PROTO_SCTP), so it does not know its \
                    ports; leave the port out to allow all of it";
                let field = format!("spec.{direction}[{rule}].ports[{port}].port");
                return Err(Error::new(ErrorReason::Unsupported, detail).at(field));
            }
        }
    }
    Ok(())
}

/// The Policies that name a Network only as a peer. They can be without it: it is nobody then.
pub(super) fn namers(world: &World, kind: Kind, name: &Name) -> Vec<(Kind, Name)> {
    if kind != Kind::Network {
        return Vec::new();
    }
    let selects = |policy: &&Name| {
        let policy = world.get::<Policy>(policy);
        policy.is_some_and(|policy| policy.spec.selector.network.as_ref() == Some(name))
    };
    let naming = world.policies_naming(name).filter(|policy| !selects(policy));
    naming.map(|policy| (Kind::Policy, policy.clone())).collect()
}

/// Whoever a Policy selects must not be able to pose as another: the spoof guard of its Network is on. Looked at from
/// whatever of the three has changed.
pub(super) fn check_guarded(world: &World, kind: Kind, name: &Name) -> Result<()> {
    let found = match kind {
        Kind::Policy => {
            let Some(policy) = world.get::<Policy>(name) else { return Ok(()) };
            let mut selected = world.selected(policy).into_iter();
            selected.find(|one| !is_guarded(world, one)).map(|one| (&**policy, &**one, "spec.selector"))
        }
        Kind::Attachment => {
            let one = world.get::<Attachment>(name).filter(|one| !is_guarded(world, one));
            one.and_then(|one| Some((&***world.policies_of(one).first()?, &**one, "spec.network")))
        }
        Kind::Network if world.get::<Network>(name).is_some_and(|network| !network.spec.spoof_guard()) => {
            let members = world.attachments_on(name).filter_map(|name| world.get::<Attachment>(name));
            let mut living = members.filter(|one| one.meta.delete_time.is_none());
            living.find_map(|one| Some((&***world.policies_of(one).first()?, &**one, "spec.spoof_guard")))
        }
        Kind::Network
        | Kind::Namespace
        | Kind::PortForward
        | Kind::Reservation
        | Kind::Route
        | Kind::Link => None,
    };
    found.map_or(Ok(()), |(policy, attachment, field)| Err(unguarded(policy, attachment).at(field)))
}

fn is_guarded(world: &World, attachment: &Stored<Attachment>) -> bool {
    world.get::<Network>(&attachment.spec.network).is_none_or(|network| network.spec.spoof_guard())
}

fn unguarded(policy: &Stored<Policy>, attachment: &Stored<Attachment>) -> Error {
    let (policy, member, network) = (&policy.meta.name, &attachment.meta.name, &attachment.spec.network);
    let detail = format!(
        "Policy {policy} selects Attachment {member}, and the spoof guard of its Network {network} is off, so members can \
         pose as others; switch `spoof_guard` on, or have the Policy select others"
    );
    let error = Error::new(ErrorReason::SpoofGuardOff, detail).with("policy", policy);
    error.with("attachment", member).with("network", network)
}
