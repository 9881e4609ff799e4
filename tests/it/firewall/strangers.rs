//! The host forwards for its members and for nobody else, unless somebody else has made it a router.

use super::{
    Site,
    call::{Nothing, Tcp, Udp, by, call},
    modes, on_site,
    packet::{echo, syn, udp},
    volley::{Shot, nobody, only},
};

pub(super) fn through(site: &Site, open: bool) -> Vec<Shot> {
    let mut rows = Vec::new();
    for (from, to, own, other, own6, other6) in [
        ("peer", "far", "192.0.2.100", "198.51.100.100", "2001:db8::100", "2001:db8:1::100"),
        ("hostile", "far", "192.0.2.66", "198.51.100.100", "2001:db8::66", "2001:db8:1::100"),
        ("far", "peer", "198.51.100.100", "192.0.2.100", "2001:db8:1::100", "2001:db8::100"),
    ] {
        let expected = || if open { only([to]) } else { nobody() };
        for (says, packet) in [
            ("a datagram to another LAN", udp(own, &format!("{other}:900"))),
            ("a SYN to another LAN", syn(own, &format!("{other}:900"))),
            ("an echo request to another LAN", echo(own, other)),
            ("a datagram to another LAN over IPv6", udp(own6, &format!("[{other6}]:900"))),
            ("a SYN to another LAN over IPv6", syn(own6, &format!("[{other6}]:900"))),
            ("an echo request to another LAN over IPv6", echo(own6, other6)),
        ] {
            rows.push(Shot::new(from, says, site.to_gateway(from, &packet), expected()));
        }
    }
    rows
}

#[test]
fn strangers_are_not_routed_through_the_host_until_somebody_else_makes_it_a_router() {
    on_site(async |site| {
        site.serve("far", &[900]);
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = through(site, false);
            site.volley("strangers", &rows);
            site.calls(
                "strangers",
                &[
                    call("peer", Tcp, "198.51.100.100:900", Nothing),
                    call("peer", Udp, "[2001:db8:1::100]:900", Nothing),
                    call("a1", Tcp, "198.51.100.100:900", by("far:900", "198.51.100.1")),
                ],
            );
        }
        // As Docker, say, would when it starts.
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        // The daemon looks at the host's own switches when it looks at everything: at its start, and every few minutes.
        site.daemon.crash_and_restart().await;
        for mode in modes() {
            site.bridge_netfilter(mode);
            let rows = through(site, true);
            site.volley("strangers of a router", &rows);
            site.calls(
                "strangers of a router",
                &[
                    call("peer", Tcp, "198.51.100.100:900", by("far:900", "192.0.2.100")),
                    call("peer", Udp, "[2001:db8:1::100]:900", by("far:900", "2001:db8::100")),
                    call("a1", Tcp, "198.51.100.100:900", by("far:900", "198.51.100.1")),
                ],
            );
            // Members are kept as before.
            let unpublished = site.to_gateway("hostile", &syn("192.0.2.66", "10.1.0.11:80"));
            let routed = site.to_gateway("hostile", &syn("2001:db8::66", "[fd04::11]:80"));
            let rows = [
                Shot::new("hostile", "a SYN to a member", unpublished, nobody()),
                Shot::new("hostile", "a SYN to a routed member", routed, nobody()),
            ];
            site.volley("members behind a router", &rows);
        }
    });
}
