//! A daemon that ends, in order or not, and starts again on what it left does nothing to it, and is soon ready.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use netloom_server::{
    kernel::{
        Kernel,
        echo::serve_udp,
        monitor::{ALL_GROUPS, Change, Heard, Hears, Monitor, RECEIVE_BUFFER},
        netns::Namespaces,
        nft::Nft,
        thread,
    },
    reconcile::Host as _,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::{
    crash::scene::same,
    drift::storm::Bystander,
    host::{Daemon, lan, on_host},
    reboot::{address, members, populate},
};

/// A ping of UDP every millisecond, from one member to another: how many there were, and how many got no answer.
struct Pings {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u32, u32)>,
}

impl Pings {
    fn start(from: &str, to: SocketAddr) -> Self {
        let from = Namespaces::default().open(from).unwrap();
        let socket = thread::run(from, "pings", || UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut sent, mut lost, mut buffer) = (0, 0, [0; 256]);
            while !stopped.load(Ordering::Relaxed) {
                sent += 1;
                let is_answered = socket.send(b"x").is_ok() && socket.recv(&mut buffer).is_ok();
                lost += u32::from(!is_answered);
                std::thread::sleep(Duration::from_millis(1));
            }
            (sent, lost)
        });
        Self { stop, thread }
    }

    fn stop(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Everything that is said of links, addresses, routes and switches since; but not what a bridge says of its ports by itself.
fn heard(monitor: &mut Monitor) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        match monitor.receive().unwrap() {
            Heard::Notices(notices) => {
                let of_others = notices.iter().filter(|notice| !is_of_a_bridge(&notice.change));
                all.extend(of_others.map(|notice| format!("{notice:?}")));
            }
            Heard::Overrun => panic!("too much happened"),
            Heard::Nothing => {
                // Link-local addresses and the ports of a bridge have clocks of their own in the kernel.
                all.retain(|notice| {
                    !notice.contains("fe80::") && !notice.contains("interface_family: Bridge")
                });
                return all;
            }
        }
    }
}

fn is_of_a_bridge(change: &Change) -> bool {
    match change {
        Change::Message(RouteNetlinkMessage::NewLink(link)) => {
            link.header.interface_family == AddressFamily::Bridge
        }
        Change::Message(_) | Change::Forwarding(..) | Change::Unreadable(_) => false,
    }
}

#[test]
fn a_restart_touches_nothing_loses_no_packet_and_is_soon_over() {
    on_host(async || {
        let _lan = lan();
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        let made = populate(&rest, members()).await;
        println!("{} attachments made in {} ms", members(), made.as_millis());
        let bystander = Bystander::open(&rest).await;
        let target: SocketAddr = format!("{}:7", address(1)).parse().unwrap();
        let server = serve_udp(Namespaces::default().open("ns1").unwrap(), target, "echo").unwrap();
        // Who was asked for its address is asked once more before long; that is no part of this.
        let pings = Pings::start("ns0", target);
        let before = Kernel::open().unwrap().observe().unwrap();
        let mut monitor = Monitor::open(&ALL_GROUPS, Hears::AllNamespaces, RECEIVE_BUFFER).unwrap();
        let mut nft = Nft::open().unwrap();
        for crash in [true, false] {
            let generation = nft.generation().unwrap();
            drop(heard(&mut monitor));
            let begun = Instant::now();
            if crash {
                daemon.crash_and_restart().await;
            } else {
                daemon.stop();
                println!("stopped in {} ms", begun.elapsed().as_millis());
                let begun = Instant::now();
                daemon.start_again().await;
                println!("ready {} ms after the start", begun.elapsed().as_millis());
            }
            println!("crash: {crash}, ready after {} ms", begun.elapsed().as_millis());
            let changes = heard(&mut monitor);
            assert!(changes.is_empty(), "crash: {crash}: {changes:#?}");
            // Each of the tables gets its owner back, in one transaction.
            let later = nft.generation().unwrap();
            assert!(later - generation <= 1 + u32::from(nft.features().owner), "{generation} {later}");
            let after = Kernel::open().unwrap().observe().unwrap();
            same(&after.to_string(), &before.to_string(), "after a restart");
            assert_eq!(after, before);
        }
        let (sent, lost) = pings.stop();
        println!("{sent} pings, {lost} lost");
        assert!(sent > 20 && lost == 0, "{lost} of {sent}");
        bystander.goes_on();
        drop(server);
    });
}
