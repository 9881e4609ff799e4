//! What a Route may be: its place is free, its gateway can be reached, and it does not cut the host off unawares.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netloom_api::{ErrorReason, IfName, Kind, Name, Namespace, Route, RouteSpec, RouteType, TABLE_MAIN, Uid};

use super::{
    claims::{Claims, reference},
    edit::{Context, Edit},
};
use crate::{
    error::{Error, Result},
    hostnet::HostView,
    want::{NoWay, no_gateway_text, way},
    world::{RouteAlloc, World},
};

impl Claims for Route {
    fn check_immutable(old: &RouteSpec, new: &RouteSpec) -> Result<()> {
        for (field, differs) in [
            ("spec.namespace", old.namespace != new.namespace),
            ("spec.destination", old.destination != new.destination),
            ("spec.table", old.table() != new.table()),
        ] {
            if differs {
                return Err(Error::immutable(field, Kind::Route));
            }
        }
        Ok(())
    }

    fn claim(
        edit: &mut Edit,
        name: &Name,
        _uid: Uid,
        spec: &RouteSpec,
        old: Option<&RouteAlloc>,
        context: &Context,
    ) -> Result<RouteAlloc> {
        if !spec.is_of_host() {
            reference::<Namespace>(&edit.world, "spec.namespace", &spec.namespace)?;
        }
        if let Some((kind, holder)) = edit.world.route_holder(name, spec) {
            return Err(taken(spec, kind, &holder));
        }
        // What was allowed once stays so: a change of labels must not fail because a gateway is away just now.
        let same = edit.before.get::<Route>(name).is_some_and(|before| before.spec == *spec);
        if let Some(old) = old.filter(|_| same) {
            return Ok(old.clone());
        }
        let alloc = match context.inside.views.get(&spec.namespace) {
            Some(view) => RouteAlloc { device: device_of_others(&edit.world, spec, &view.clone()?)? },
            // The World knows all of a namespace that netloom has made.
            None => RouteAlloc::default(),
        };
        way(&edit.world, spec, &alloc).map_err(|why| no_way(spec, why))?;
        match danger(&edit.world, spec, context) {
            Some(why) if !context.force => {
                let detail = format!("{why}; if that is meant, force it");
                Err(Error::new(ErrorReason::NeedsForce, detail).at("spec.destination"))
            }
            Some(_) | None => Ok(alloc),
        }
    }
}

/// The Route that is a default route of these families (IPv4, IPv6) with this metric.
pub(super) fn default_route_holder<'w>(
    world: &'w World,
    namespace: &Name,
    (v4, v6): (bool, bool),
    metric: u32,
) -> Option<&'w Name> {
    let v4 = v4.then(|| IpNet::V4(Ipv4Net::default()));
    let v6 = v6.then(|| IpNet::V6(Ipv6Net::default()));
    v4.into_iter().chain(v6).find_map(|net| world.default_route_holder(namespace, net, metric))
}

fn taken(spec: &RouteSpec, kind: Kind, holder: &Name) -> Error {
    let RouteSpec { namespace, destination, .. } = spec;
    let metric = spec.metric();
    let whose = match kind {
        Kind::Attachment => format!("is the default route of Attachment {holder}"),
        _ => format!("is {kind} {holder}"),
    };
    let detail =
        format!("a route of {namespace} to {destination} with metric {metric} {whose}; say another metric");
    Error::new(ErrorReason::RouteTaken, detail).with("conflict", format!("{kind}/{holder}")).at("spec.metric")
}

fn no_way(spec: &RouteSpec, why: NoWay) -> Error {
    let detail = why.to_string();
    match why {
        NoWay::Namespace => Error::new(ErrorReason::ReferenceNotFound, detail).at("spec.namespace"),
        NoWay::Interface(_) => Error::new(ErrorReason::ReferenceNotFound, detail).at("spec.interface"),
        NoWay::Itself(_) => Error::new(ErrorReason::InvalidArgument, detail).at("spec.via"),
        NoWay::Gateway(_, subnets) => unreachable_gateway(spec, detail, &subnets),
    }
}

fn unreachable_gateway(spec: &RouteSpec, detail: String, subnets: &[IpNet]) -> Error {
    let subnets: Vec<String> = subnets.iter().map(ToString::to_string).collect();
    let field = if spec.via.is_some() { "spec.via" } else { "spec.interface" };
    Error::new(ErrorReason::GatewayUnreachable, detail).with("subnets", subnets.join(",")).at(field)
}

/// The stranger's link that a route goes through, on the host or in an adopted namespace; none where the World knows the
/// way.
fn device_of_others(world: &World, spec: &RouteSpec, view: &HostView) -> Result<Option<IfName>> {
    if spec.type_() != RouteType::Unicast {
        return Ok(None);
    }
    let ours = world.on_link(&spec.namespace);
    if let Some(interface) = &spec.interface {
        let is_ours = ours.iter().any(|one| one.interface == *interface);
        if !is_ours && !view.links.contains(interface) {
            let detail = format!("{} has no interface {interface}", spec.namespace);
            return Err(Error::new(ErrorReason::ReferenceNotFound, detail).at("spec.interface"));
        }
        if is_ours {
            return Ok(None);
        }
    }
    let Some(via) = spec.via else { return Ok(None) };
    if let Some((own, link)) = view.addresses.iter().find(|(own, _)| own.addr() == via) {
        let detail = format!("{} is {}'s own address on {link}", own.addr(), spec.namespace);
        return Err(Error::new(ErrorReason::InvalidArgument, detail).at("spec.via"));
    }
    let fits = |link: &IfName| spec.interface.as_ref().is_none_or(|wanted| wanted == link);
    let strangers = || view.addresses.iter().filter(|(_, link)| fits(link));
    if let Some((_, link)) = strangers().find(|(net, _)| net.contains(&via)) {
        return Ok(spec.interface.is_none().then(|| link.clone()));
    }
    let is_link_local = matches!(via, IpAddr::V6(via) if via.is_unicast_link_local());
    if spec.interface.is_some() && is_link_local {
        return Ok(None);
    }
    let of_ours = ours.iter().map(|one| (&one.address, &one.interface)).filter(|(_, link)| fits(link));
    let all = strangers().map(|(net, _)| net).chain(of_ours.map(|(net, _)| net));
    if spec.interface.is_none() && ours.iter().any(|one| one.address.contains(&via)) {
        return Ok(None);
    }
    let mut subnets: Vec<IpNet> =
        all.filter(|net| net.addr().is_ipv4() == via.is_ipv4()).map(IpNet::trunc).collect();
    subnets.sort();
    subnets.dedup();
    Err(unreachable_gateway(spec, no_gateway_text(spec, &subnets), &subnets))
}

/// What a route on the host would take away from it.
fn danger(world: &World, spec: &RouteSpec, context: &Context) -> Option<String> {
    let net = spec.destination.net();
    if !spec.is_of_host() || spec.table() != TABLE_MAIN {
        return None;
    }
    let Some(Ok(HostView { links: _, addresses, defaults })) = context.inside.views.get(&spec.namespace)
    else {
        return None;
    };
    let own = world.on_link(&spec.namespace);
    let on_link = addresses.iter().map(|(net, link)| (net.trunc(), link));
    let mut on_link = on_link.chain(own.iter().map(|one| (one.address.trunc(), &one.interface)));
    if let Some((subnet, link)) = on_link.find(|(subnet, _)| subnet.contains(&net)) {
        return Some(format!("{net} is in {subnet}, which the host has on its link {link}"));
    }
    let mut theirs = defaults.iter().filter(|(v4, _)| *v4 == net.addr().is_ipv4());
    match net.prefix_len() {
        0 => {
            let (_, metric) = theirs.find(|(_, metric)| *metric >= spec.metric())?;
            let ours = spec.metric();
            Some(format!("with metric {ours} it goes before the host's default route of metric {metric}"))
        }
        1 if theirs.next().is_some() => Some(format!("{net} goes before the host's default route")),
        _ => {
            let listens =
                |address: &IpAddr| context.api.iter().any(|api| api == address || api.is_unspecified());
            let mut hosts = addresses.iter().map(|(net, _)| net.addr()).filter(listens);
            let address = hosts.find(|address| net.contains(address))?;
            Some(format!("callers of the API at {address} may be in {net}"))
        }
    }
}
