//! A member reaches itself and its neighbours by every published address, and is seen as the gateway.

use super::{
    call::{Tcp, Udp, by, call},
    modes, on_site,
};

const ADDRESSES: [&str; 5] = ["192.0.2.1", "192.0.2.2", "198.51.100.1", "10.1.0.1", "10.2.0.1"];
const ADDRESSES6: [&str; 4] = ["2001:db8::1", "2001:db8:1::1", "fd01::1", "fd02::1"];

#[test]
fn a_member_reaches_itself_and_its_neighbour_by_every_published_address() {
    on_site(async |site| {
        site.serve("a1", &[80, 53, 20000, 22004]);
        site.serve("c1", &[80]);
        for mode in modes() {
            site.bridge_netfilter(mode);
            for caller in ["a1", "a2"] {
                let mut rows = Vec::new();
                for to in ADDRESSES {
                    rows.push(call(caller, Tcp, &format!("{to}:8080"), by("a1:80", "10.1.0.1")));
                    rows.push(call(caller, Udp, &format!("{to}:5353"), by("a1:53", "10.1.0.1")));
                    rows.push(call(caller, Tcp, &format!("{to}:20000"), by("a1:20000", "10.1.0.1")));
                    rows.push(call(caller, Udp, &format!("{to}:21004"), by("a1:22004", "10.1.0.1")));
                }
                for to in ADDRESSES6 {
                    rows.push(call(caller, Tcp, &format!("[{to}]:8080"), by("a1:80", "fd01::1")));
                    rows.push(call(caller, Udp, &format!("[{to}]:5353"), by("a1:53", "fd01::1")));
                    rows.push(call(caller, Udp, &format!("[{to}]:20000"), by("a1:20000", "fd01::1")));
                }
                rows.push(call(caller, Tcp, "192.0.2.1:8081", by("a1:80", "10.1.0.1")));
                rows.push(call(caller, Udp, "192.0.2.1:8081", by("a1:80", "10.1.0.1")));
                rows.push(call(caller, Tcp, "[2001:db8::1]:8084", by("a1:80", "fd01::1")));
                site.calls("by published addresses", &rows);
            }
            let isolated = ["c1", "c2"].map(|caller| {
                [
                    call(caller, Tcp, "192.0.2.1:8091", by("c1:80", "10.3.0.1")),
                    call(caller, Tcp, "10.3.0.1:8091", by("c1:80", "10.3.0.1")),
                    call(caller, Tcp, "[2001:db8::1]:8091", by("c1:80", "fd03::1")),
                ]
            });
            site.calls("between members that are kept apart", isolated.as_flattened());
        }
    });
}
