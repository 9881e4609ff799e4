//! What the daemon has given up, as the kernel tells it, and that nothing of what it keeps is too much.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use netloom_server::kernel::{confine::NEEDED, meddle, netns::Namespaces, testhost::Workload};
use nix::unistd::{Gid, Uid, chown};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, HOME, netloomd, on_host},
    rest::Rest,
};

/// What everything that needs a capability answers, or why it does not.
type Worked = Result<(), String>;

/// A directory of somebody else's, with the name of a namespace in it.
const FOREIGN: &str = "/run/foreign";
/// What the daemon has to say.
const LOG: &str = "/run/netloom-test/log";

fn kept() -> u64 {
    NEEDED.iter().fold(0, |set, (capability, _)| set | 1 << capability.0)
}

#[test]
fn every_thread_of_the_daemon_has_what_it_needs_and_no_way_to_more() {
    on_host(async || {
        let daemon = Daemon::start().await;
        daemon.rest().post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        let mut threads = 0;
        for task in fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.trim().to_owned()
            };
            let set = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
            assert_eq!(
                (set("CapEff:"), set("CapPrm:"), set("CapBnd:")),
                (kept(), kept(), kept()),
                "{status}"
            );
            assert_eq!((set("CapInh:"), set("CapAmb:")), (0, 0), "{status}");
            assert_eq!((&*field("NoNewPrivs:"), &*field("Seccomp:")), ("1", "2"), "{status}");
            threads += 1;
        }
        assert!(threads > 2, "{threads}");
        // Nobody but root sees what it remembers.
        let _ = fs::metadata(format!("/proc/{}/mem", daemon.pid())).unwrap();
    });
}

/// A daemon without one of its capabilities, or with all.
struct Less {
    child: std::process::Child,
    socket: PathBuf,
}

impl Less {
    /// None if it does not become ready.
    async fn start(without: Option<u32>) -> Option<Self> {
        let socket = PathBuf::from(HOME).join("netloom.sock");
        fs::create_dir_all(HOME).unwrap();
        let config = format!("{HOME}/netloomd.toml");
        fs::write(&config, format!("socket_group = \"adm\"\nadopt_root = [\"{FOREIGN}\"]\n")).unwrap();
        let mut command = netloomd(&socket);
        command.args(["--config", &config, "--log", "off,netloom_server::kernel::host::inside=debug"]);
        command
            .stdout(fs::File::create(LOG).unwrap())
            .stderr(fs::File::options().append(true).open(LOG).unwrap());
        if let Some(number) = without {
            command.env("NETLOOM_FAULTS", format!("without={number}"));
        }
        let mut less = Less { child: command.spawn().unwrap(), socket };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if less.child.try_wait().unwrap().is_some() {
                return None;
            }
            if less.rest().get("/readyz").await.is_ok_and(|reply| reply.status == 200) {
                return Some(less);
            }
            // As in `Daemon::ready`.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    fn rest(&self) -> Rest {
        Rest::new(&self.socket)
    }

    /// Makes an object, which becomes ready.
    async fn makes(&self, kind: &str, body: Value) -> Worked {
        let reply = self.rest().post(&format!("/v1/{kind}"), &body).await;
        let ready = &reply.body["status"]["conditions"][0]["status"];
        if reply.status == 201 && ready == "True" { Ok(()) } else { Err(format!("{kind} {:#}", reply.body)) }
    }
}

impl Drop for Less {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the groups of this host can be given things; in the namespace of an ordinary user there are none.
fn has_groups() -> bool {
    fs::read_to_string("/proc/self/gid_map").unwrap().split_whitespace().nth(2) != Some("1")
}

/// Does with the daemon what its capabilities are for.
async fn everything(without: Option<u32>) -> Worked {
    let namespaces = Namespaces::at(Path::new(FOREIGN));
    fs::create_dir_all(FOREIGN).unwrap();
    drop(namespaces.create("named").unwrap());
    if has_groups() {
        chown(FOREIGN, Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534))).unwrap();
        fs::set_permissions(FOREIGN, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let daemon = Less::start(without).await.ok_or("it is not ready")?;
    if has_groups() && fs::metadata(&daemon.socket).unwrap().gid() == 0 {
        return Err("the socket belongs to no group".to_owned());
    }
    daemon.makes("networks", json!({"name": "net", "spec": {"egress": {"nat": {}}}})).await?;
    for name in ["red", "blue"] {
        daemon.makes("namespaces", json!({"name": name})).await?;
        daemon
            .makes("attachments", json!({"name": name, "spec": {"namespace": name, "network": "net"}}))
            .await?;
    }
    let port = json!({"protocol": "tcp", "listen": {"port": 80}, "target": {"attachment": "red"}});
    daemon.makes("port-forwards", json!({"name": "web", "spec": port})).await?;
    let source = json!({"source": {"adopted": {"path": format!("{FOREIGN}/named")}}});
    daemon.makes("namespaces", json!({"name": "named", "spec": source})).await?;
    // A process with more capabilities than the daemon.
    let workload = Workload::start().unwrap();
    let source = json!({"source": {"adopted": {"pid": workload.pid()}}});
    daemon.makes("namespaces", json!({"name": "worker", "spec": source})).await?;
    let state = daemon.rest().get("/v1/namespaces/worker/state").await.unwrap().ok();
    if state["processes"].as_array().is_none_or(Vec::is_empty) {
        return Err(format!("nobody is inside: {state:#}"));
    }
    // What others break inside of a namespace is heard.
    let address: IpNet = daemon.rest().get("/v1/attachments/red").await.unwrap().ok()["status"]["addresses"]
        [0]
    .as_str()
    .unwrap()
    .parse()
    .unwrap();
    meddle::delete_address(Namespaces::default().open("red").unwrap(), "eth0", address).unwrap();
    let start = Instant::now();
    while daemon.rest().get("/v1/events?type=drift_repaired").await.unwrap().ok()["items"] == json!([]) {
        if start.elapsed() > Duration::from_secs(3) {
            return Err("nobody heard that an address is gone".to_owned());
        }
        // As in `Daemon::ready`.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if fs::read_to_string(LOG).unwrap().contains("not announced") {
        return Err("an address was not announced".to_owned());
    }
    let probe = json!({"from": {"attachment": "red"}, "to": {"attachment": "blue"}, "probe": true});
    let found = daemon.rest().post("/v1/diagnose", &probe).await.ok();
    if found["verdict"] != "reachable" { Err(format!("{found:#}")) } else { Ok(()) }
}

#[test]
fn with_all_of_them_everything_works() {
    on_host(async || assert_eq!(everything(None).await, Ok(())));
}

/// One test for each: each is on a host of its own.
macro_rules! needed {
    ($($test:ident $name:literal;)*) => {
        const TRIED: &[&str] = &[$($name),*];

        $(#[test]
        fn $test() {
            on_host(async || without($name).await);
        })*
    };
}

async fn without(name: &str) {
    let (capability, reason) = NEEDED.iter().find(|(capability, _)| capability.1 == name).unwrap();
    // Files of others, and groups, are there on a host of root's only.
    if !has_groups() && ["CAP_CHOWN", "CAP_DAC_OVERRIDE"].contains(&name) {
        return println!("NOT RUN: in the namespace of an ordinary user nothing belongs to anybody else");
    }
    let worked = everything(Some(capability.0)).await;
    assert!(worked.is_err(), "everything works without {name}, which is kept for: {reason}");
    println!("without {name}: {}", worked.unwrap_err());
}

needed! {
    it_needs_to_give_files_away "CAP_CHOWN";
    it_needs_to_look_into_directories_of_others "CAP_DAC_OVERRIDE";
    it_needs_to_bind_low_ports "CAP_NET_BIND_SERVICE";
    it_needs_to_hear_all_namespaces "CAP_NET_BROADCAST";
    it_needs_to_change_the_network "CAP_NET_ADMIN";
    it_needs_to_make_frames "CAP_NET_RAW";
    it_needs_to_see_where_processes_are "CAP_SYS_PTRACE";
    it_needs_to_make_namespaces_and_mounts "CAP_SYS_ADMIN";
}

#[test]
fn each_that_is_kept_is_tried() {
    let kept: Vec<&str> = NEEDED.iter().map(|(capability, _)| capability.1).collect();
    let mut tried = TRIED.to_vec();
    tried.sort_by_key(|name| kept.iter().position(|kept| kept == name));
    assert_eq!(tried, kept);
}
