//! More events than anybody can hear; and connections of others, which go on whatever is repaired.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use netloom_server::{
    kernel::{
        Kernel,
        echo::{EchoServer, serve_tcp},
        meddle,
        netns::own,
        probe,
        stranger::{self, Change},
    },
    reconcile::Host as _,
};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{WITHIN, back, inside, repaired, repairs, wide::build_small};
use crate::{
    host::{Daemon, on_host},
    rest::Rest,
};

/// A connection between two members of a network of their own.
pub struct Bystander {
    _server: EchoServer,
    stream: TcpStream,
}

impl Bystander {
    /// Makes network, members and connection.
    pub async fn open(rest: &Rest) -> Self {
        let objects = json!([
            {"kind": "Namespace", "name": "by1"},
            {"kind": "Namespace", "name": "by2"},
            {"kind": "Network", "name": "by", "spec": {"subnets": [{"cidr": "192.168.99.0/24"}], "isolation": {"members": false}}},
            {"kind": "Attachment", "name": "by1-0", "spec": {"namespace": "by1", "network": "by", "addresses": ["192.168.99.11"]}},
            {"kind": "Attachment", "name": "by2-0", "spec": {"namespace": "by2", "network": "by", "addresses": ["192.168.99.12"]}},
        ]);
        rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
        let address = "192.168.99.12:7".parse().unwrap();
        let server = serve_tcp(inside("by2"), address, "by").unwrap();
        let mut stream = probe::tcp_open(inside("by1"), address, Duration::from_secs(5)).unwrap().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // The greeting.
        while read_one(&mut stream) != b'\n' {}
        Self { _server: server, stream }
    }

    /// The same connection still carries.
    pub fn goes_on(mut self) {
        self.stream.write_all(b"x").unwrap();
        assert_eq!(read_one(&mut self.stream), b'x');
    }
}

fn read_one(stream: &mut TcpStream) -> u8 {
    let mut one = [0];
    stream.read_exact(&mut one).unwrap();
    one[0]
}

#[test]
fn after_more_events_than_can_be_heard_everything_is_looked_at() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        build_small(&rest, 2).await;
        let bystander = Bystander::open(&rest).await;
        let kernel = Kernel::open().unwrap();
        let before = kernel.observe().unwrap().to_string();
        // A link of a stranger's makes the noise, while the daemon does not get to run.
        meddle::add_cable(own().unwrap(), "noise", "noise1").unwrap();
        let with_noise = kernel.observe().unwrap().to_string();
        daemon.signal(Signal::SIGSTOP);
        for index in 0..20_000 {
            stranger::change("noise", Change::Mtu(1000 + index % 400)).unwrap();
        }
        stranger::change("noise", Change::Mtu(1500)).unwrap();
        meddle::delete_link(inside("m0"), "eth0").unwrap();
        meddle::set_down(inside("m1"), "eth0").unwrap();
        assert_ne!(kernel.observe().unwrap().to_string(), with_noise);
        let begun = Instant::now();
        daemon.signal(Signal::SIGCONT);
        let took = back(&kernel, &with_noise, begun).await;
        println!("repair: after an overrun: {} ms", took.as_millis());
        assert!(took < 5 * WITHIN, "{took:?}");
        let begun = Instant::now();
        while repaired(&rest).await.len() < 2 {
            assert!(begun.elapsed() < WITHIN, "{:#?}", repaired(&rest).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let names: Vec<_> = repaired(&rest).await.iter().map(|event| event["name"].clone()).collect();
        assert_eq!((names, repairs(&rest).await), (vec![json!("m0-0"), json!("m1-0")], 2));
        meddle::delete_link(own().unwrap(), "noise").unwrap();
        assert_eq!(kernel.observe().unwrap().to_string(), before);
        bystander.goes_on();
    });
}
