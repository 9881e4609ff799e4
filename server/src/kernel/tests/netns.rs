use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::kernel::netns::*;
use crate::kernel::process::pids_in;
use crate::kernel::socket::RouteSocket;
use crate::kernel::testhost::{Workload, cannot_run, on_private_host, on_private_host_of_ordinary_user};
use crate::kernel::thread;

fn names(spaces: &Namespaces) -> Vec<(String, EntryKind)> {
    spaces.list().unwrap().into_iter().map(|entry| (entry.name, entry.kind)).collect()
}

fn made_listed_and_deleted() {
    let spaces = Namespaces::default();
    assert_eq!(names(&spaces), []);
    let red = spaces.create("red").unwrap();
    let blue = spaces.create("blue").unwrap();
    assert_ne!(red.cookie, blue.cookie);
    assert_ne!(red.cookie, own_cookie().unwrap());
    let listed = [("blue".to_owned(), EntryKind::Namespace), ("red".to_owned(), EntryKind::Namespace)];
    assert_eq!(names(&spaces), listed);
    assert_eq!(cookie(spaces.open("red").unwrap()).unwrap(), red.cookie);

    let links = thread::run(&red.fd, "look", || {
        RouteSocket::open().unwrap().dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap()
    });
    let names_inside = links.unwrap().into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        }
        _ => None,
    });
    assert_eq!(names_inside.collect::<Vec<_>>(), ["lo"]);

    spaces.delete("red").unwrap();
    spaces.delete("red").unwrap();
    assert!(matches!(spaces.open("red"), Err(NetnsError::Missing(_))));
    assert_eq!(names(&spaces), [("blue".to_owned(), EntryKind::Namespace)]);
    spaces.delete("blue").unwrap();
    assert_eq!(fs::read_dir(SYSTEM_ROOT).unwrap().count(), 0);
}

#[test]
fn a_namespace_is_made_listed_and_deleted_without_a_trace() {
    on_private_host(made_listed_and_deleted);
}

#[test]
fn an_ordinary_user_makes_and_deletes_namespaces_on_a_private_host() {
    on_private_host_of_ordinary_user(made_listed_and_deleted);
}

#[test]
fn ip_netns_sees_what_we_make_and_we_see_what_it_makes() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        spaces.create("ours").unwrap();
        let Some(listed) = ip(&["netns", "list"]) else { return cannot_run("there is no `ip`") };
        assert_eq!(listed.trim(), "ours");
        ip(&["netns", "add", "theirs"]).unwrap();
        spaces.create("after").unwrap();
        assert_eq!(names(&spaces).len(), 3);
        ip(&["netns", "exec", "ours", "ip", "link", "set", "lo", "up"]).unwrap();
        ip(&["netns", "del", "ours"]).unwrap();
        spaces.delete("theirs").unwrap();
        assert_eq!(ip(&["netns", "list"]).unwrap().trim(), "after");
        // Both bind the directory onto itself when it is no mount yet; once is enough.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let on_root = mounts.lines().filter(|line| line.split(' ').nth(4) == Some(SYSTEM_ROOT));
        assert_eq!(on_root.count(), 1, "{mounts}");
        assert!(mounts.lines().any(|line| line.contains(" /run/netns ") && line.contains(" shared:")));
    });
}

#[test]
fn what_is_done_inside_is_done_before_the_name_shows_a_namespace() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        let inside = || {
            let seen = spaces.open("red").map(drop);
            own_cookie().map(|cookie| (cookie, matches!(seen, Err(NetnsError::Unpinned(_)))))
        };
        let (red, (cookie, unnamed)) = spaces.create_with("red", inside).unwrap();
        assert_eq!(cookie, red.cookie);
        assert!(unnamed);
        assert!(spaces.open("red").is_ok());
    });
}

#[test]
fn a_namespace_whose_preparation_fails_leaves_no_name() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        let refused = spaces.create_with("red", || Err::<(), _>("no mark")).unwrap_err();
        assert_eq!(refused.to_string(), "preparing the network namespace \"red\": no mark");
        let panicked = spaces.create_with("red", || -> Result<(), String> { panic!("a bug") }).unwrap_err();
        assert!(matches!(panicked, NetnsError::Thread(_)), "{panicked}");
        assert_eq!(names(&spaces), []);
    });
}

#[test]
fn a_lock_that_somebody_keeps_is_an_error_and_not_a_hang() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        spaces.create("red").unwrap();
        let root = fs::File::open(SYSTEM_ROOT).unwrap();
        root.lock().unwrap();
        let refused = spaces.create("blue").unwrap_err();
        assert!(matches!(refused, NetnsError::System { operation: "flock", .. }), "{refused}");
        drop(root);
        spaces.create("blue").unwrap();
    });
}

#[test]
fn a_directory_that_others_unmount_is_shared_again() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        spaces.create("red").unwrap();
        let detach = nix::mount::MntFlags::MNT_DETACH;
        nix::mount::umount2(SYSTEM_ROOT, detach).unwrap();
        spaces.create("blue").unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let shared = |path: &str| mounts.lines().any(|m| m.contains(path) && m.contains(" shared:"));
        assert!(shared(" /run/netns ") && shared(" /run/netns/blue "), "{mounts}");
    });
}

#[test]
fn a_taken_name_is_an_error_of_its_own_and_leaves_the_holder_alone() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        let red = spaces.create("red").unwrap();
        assert!(matches!(spaces.create("red"), Err(NetnsError::Exists(name)) if name == "red"));
        assert_eq!(cookie(spaces.open("red").unwrap()).unwrap(), red.cookie);
    });
}

#[test]
fn a_symbolic_link_is_neither_opened_nor_deleted_nor_followed() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        let red = spaces.create("red").unwrap();
        symlink("red", spaces.path("alias")).unwrap();
        symlink("/proc/self/ns/net", spaces.path("host")).unwrap();
        for name in ["alias", "host"] {
            assert!(matches!(spaces.open(name), Err(NetnsError::Symlink(_))), "{name}");
            assert!(matches!(spaces.delete(name), Err(NetnsError::Symlink(_))), "{name}");
            assert!(spaces.path(name).is_symlink());
        }
        // `ip netns del alias` would have taken the namespace from under its name.
        assert_eq!(cookie(spaces.open("red").unwrap()).unwrap(), red.cookie);
        let kinds: Vec<_> = names(&spaces).into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(kinds, [EntryKind::Foreign, EntryKind::Foreign, EntryKind::Namespace]);
    });
}

#[test]
fn leftovers_are_told_apart_and_go_on_delete() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        spaces.create("red").unwrap();
        nix::mount::umount2(&spaces.path("red"), nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert!(matches!(spaces.open("red"), Err(NetnsError::Unpinned(_))));
        assert_eq!(names(&spaces), [("red".to_owned(), EntryKind::Unpinned)]);
        assert!(matches!(spaces.create("red"), Err(NetnsError::Exists(_))));
        spaces.delete("red").unwrap();
        spaces.create("red").unwrap();
    });
}

#[test]
fn a_name_with_several_mounts_on_it_is_deleted_whole() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        spaces.create("red").unwrap();
        let (source, none) = ("/proc/thread-self/ns/net", None::<&str>);
        for _ in 0..3 {
            let bind = nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(Some(source), &spaces.path("red"), none, bind, none).unwrap();
        }
        spaces.delete("red").unwrap();
        assert_eq!(names(&spaces), []);
    });
}

#[test]
fn other_things_are_not_namespaces() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        spaces.create("red").unwrap();
        fs::create_dir(spaces.path("directory")).unwrap();
        fs::write(spaces.path("mnt"), "").unwrap();
        let (source, none) = ("/proc/self/ns/uts", None::<&str>);
        nix::mount::mount(Some(source), &spaces.path("mnt"), none, nix::mount::MsFlags::MS_BIND, none)
            .unwrap();
        for name in ["directory", "mnt"] {
            assert!(matches!(spaces.open(name), Err(NetnsError::NotANamespace(_))), "{name}");
        }
        assert!(matches!(spaces.delete("directory"), Err(NetnsError::NotANamespace(_))));
        for name in ["", ".", "..", "a/b", "../netns/red", "a\nb", &"x".repeat(256)] {
            assert!(matches!(spaces.open(name), Err(NetnsError::BadName(_))), "{name:?}");
            assert!(matches!(spaces.create(name), Err(NetnsError::BadName(_))), "{name:?}");
            assert!(matches!(spaces.delete(name), Err(NetnsError::BadName(_))), "{name:?}");
        }
    });
}

#[test]
fn paths_below_a_root_are_opened_without_leaving_it() {
    on_private_host(|| {
        let root = std::path::Path::new("/run/adopt");
        let spaces = Namespaces::at("/run/adopt/inner");
        fs::create_dir(root).unwrap();
        let red = spaces.create("red").unwrap();
        let open = |path: &str| open_beneath(root, std::path::Path::new(path));
        assert_eq!(cookie(open("inner/red").unwrap()).unwrap(), red.cookie);
        symlink("inner", "/run/adopt/link").unwrap();
        assert!(matches!(open("link/red"), Err(NetnsError::Symlink(_))));
        assert!(matches!(open("../adopt/inner/red"), Err(NetnsError::NotANamespace(_))));
        assert!(matches!(open("/run/adopt/inner/red"), Err(NetnsError::NotANamespace(_))));
    });
}

#[test]
fn a_namespace_held_by_a_descriptor_gets_a_name_later() {
    on_private_host(|| {
        let held = fresh().unwrap();
        let spaces = Namespaces::default();
        assert_eq!(names(&spaces), []);
        spaces.pin("late", &held.fd).unwrap();
        assert_eq!(cookie(spaces.open("late").unwrap()).unwrap(), held.cookie);
    });
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    on_private_host(|| {
        let spaces = Namespaces::default();
        std::thread::scope(|threads| {
            for worker in 0..4 {
                let spaces = &spaces;
                threads.spawn(move || {
                    for turn in 0..8 {
                        let name = format!("ns-{worker}-{turn}");
                        spaces.create(&name).unwrap();
                        spaces.delete(&name).unwrap();
                        spaces.create(&name).unwrap();
                        // One winner of a race for a name.
                        let _ = spaces.create(&format!("shared-{turn}"));
                    }
                });
            }
        });
        assert_eq!(names(&spaces).iter().filter(|(_, kind)| *kind == EntryKind::Namespace).count(), 40);
    });
}

#[test]
fn a_namespace_gets_one_nsid_and_keeps_it() {
    on_private_host(|| {
        let (red, blue) = (fresh().unwrap(), fresh().unwrap());
        let mut socket = RouteSocket::open().unwrap();
        assert_eq!(nsid(&mut socket, &red.fd).unwrap(), None);
        let id = assign_nsid(&mut socket, &red.fd).unwrap();
        assert!(id.is_some());
        assert_eq!(assign_nsid(&mut socket, &red.fd).unwrap(), id);
        assert_ne!(assign_nsid(&mut socket, &blue.fd).unwrap(), id);
    });
}

#[allow(clippy::disallowed_methods, reason = "compares with the real tool")]
fn ip(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new("ip").args(arguments).output().ok()?;
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
#[ignore = "prints numbers: cargo test -p netloom-server -- --ignored --nocapture how_long_it_takes_to_see"]
fn how_long_it_takes_to_see_who_is_inside() {
    on_private_host(|| {
        let red = Namespaces::default().create("red").unwrap();
        let inside = Workload::start_in(red.fd.try_clone().unwrap()).unwrap();
        let inode = fs::File::from(red.fd.try_clone().unwrap()).metadata().unwrap().ino();
        let mut others = Vec::new();
        for count in [0, 100, 500] {
            others.extend((others.len()..count).map(|_| Workload::start_in(own().unwrap()).unwrap()));
            let mut times: Vec<_> = (0..50)
                .map(|_| {
                    let start = std::time::Instant::now();
                    assert_eq!(pids_in(inode).unwrap(), [inside.pid()]);
                    start.elapsed()
                })
                .collect();
            times.sort();
            println!("among {count} other processes: {:?} at best, {:?} median of 50", times[0], times[25]);
        }
    });
}
