use std::fs;

use crate::kernel::netns::own_cookie;
use crate::kernel::private;
use crate::kernel::testhost::{on_private_host, on_private_host_of_ordinary_user};

fn empty_host() {
    assert_eq!(fs::read_dir("/run").unwrap().count(), 0, "/run is empty");
    assert!(nix::unistd::Uid::effective().is_root(), "root of the inside");
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert_eq!(devices.lines().skip(2).count(), 1, "only lo: {devices}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    assert_ne!(own_cookie().unwrap(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in mounts.lines() {
        assert!(!line.contains(" shared:") && !line.contains(" master:"), "not private: {line}");
    }
}

#[test]
fn a_private_host_is_empty_and_its_tests_are_its_root() {
    on_private_host(empty_host);
}

#[test]
fn an_ordinary_user_gets_a_private_host_too() {
    on_private_host_of_ordinary_user(empty_host);
}

#[test]
fn processes_inside_are_numbered_anew_and_seen_alone() {
    on_private_host(|| {
        // 1 waits, 2 is the program.
        assert_eq!(std::process::id(), 2);
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.unwrap().file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        });
        assert_eq!(numbers.collect::<Vec<_>>().len(), 2);
    });
}

#[test]
fn a_process_with_threads_is_refused_in_words() {
    // The test runner has threads.
    let refused = private::enter().unwrap_err();
    assert_eq!(refused.errno, nix::errno::Errno::EBUSY);
    assert!(refused.to_string().contains("before any thread starts"), "{refused}");
}

#[test]
#[should_panic(expected = "this is expected to be seen outside")]
fn a_failure_inside_is_a_failure_outside() {
    on_private_host(|| panic!("this is expected to be seen outside"));
}
