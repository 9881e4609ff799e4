//! What stands, as a tree.

use netloom_api::{Attachment, Egress, Namespace, Network, PortForward};

use crate::controller::{Controller, ListQuery, PAGE_MAX};

/// The networks with their members and published ports, then what is attached nowhere.
pub(super) fn show(controller: &Controller) -> String {
    let everything = ListQuery { page_size: Some(PAGE_MAX), ..ListQuery::default() };
    // A lab holds a page of each; an error here would be one of ours, and the tree is only for reading.
    let networks = controller.list::<Network>(&everything).map(|page| page.items).unwrap_or_default();
    let attachments = controller.list::<Attachment>(&everything).map(|page| page.items).unwrap_or_default();
    let forwards = controller.list::<PortForward>(&everything).map(|page| page.items).unwrap_or_default();
    let namespaces = controller.list::<Namespace>(&everything).map(|page| page.items).unwrap_or_default();
    let mut lines = vec!["host".to_owned()];
    for (index, network) in networks.iter().enumerate() {
        let last = index + 1 == networks.len();
        let status = &network.status.noun;
        let subnets: Vec<String> = status
            .subnets
            .iter()
            .map(|subnet| format!("{} gateway {}", subnet.cidr, subnet.gateway))
            .collect();
        let egress = match network.spec.egress() {
            Egress::Nat(_) => "nat",
            Egress::Routed(_) => "routed",
            Egress::None(_) => "no egress",
        };
        let device = status.device.as_ref().map(|device| format!(" bridge {device}")).unwrap_or_default();
        let branch = if last { "└─" } else { "├─" };
        lines.push(format!("{branch} {}{device}  {}  {egress}", network.meta.name, subnets.join(", ")));
        let members: Vec<_> =
            attachments.iter().filter(|one| one.spec.network == network.meta.name).collect();
        for (index, member) in members.iter().enumerate() {
            let stem = if last { "   " } else { "│  " };
            let branch = if index + 1 == members.len() { "└─" } else { "├─" };
            lines.push(format!("{stem}{branch} {}", member_line(member, &forwards)));
        }
    }
    let attached = |name| attachments.iter().any(|one| one.spec.namespace == name);
    for namespace in namespaces.iter().filter(|one| !attached(one.meta.name.clone())) {
        lines.push(format!("{}  attached nowhere", namespace.meta.name));
    }
    lines.join("\n") + "\n"
}

fn member_line(
    member: &netloom_api::Object<Attachment>,
    forwards: &[netloom_api::Object<PortForward>],
) -> String {
    let status = &member.status.noun;
    let addresses: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
    let interface = status.interface.as_ref().map(ToString::to_string).unwrap_or_default();
    let published: Vec<String> = forwards
        .iter()
        .filter(|forward| forward.spec.target.attachment == member.meta.name)
        .map(|forward| {
            let spec = &forward.spec;
            let on = spec.listen.address.map_or_else(|| "host".to_owned(), |address| address.to_string());
            // With the port that was chosen.
            let port = forward.status.noun.listen.first().map_or(spec.listen.port, |range| range.port);
            let target = spec.target.port.unwrap_or(port);
            format!("{on}:{port} → :{target}/{}", spec.protocol)
        })
        .collect();
    let published = if published.is_empty() { String::new() } else { format!("  {}", published.join(", ")) };
    format!("{} {interface}  {}{published}", member.spec.namespace, addresses.join(", "))
}
