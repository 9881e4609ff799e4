//! What is in `deploy/`, and what the package is made of.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use netloom_server::{kernel::Kernel, reconcile::Host as _};
use serde_json::json;

use crate::{
    host::{Daemon, HOME, lan, netloomd, on_host},
    netloom::Told,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The directives of the unit, as `Key=value`.
fn unit() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("deploy/netloomd.service")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Each gives the service a mount namespace of its own (systemd.exec), or keeps it from making namespaces.
const HIDES: [&str; 23] = [
    "ProtectSystem",
    "ProtectHome",
    "PrivateTmp",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateUsers",
    "PrivateNetwork",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectProc",
    "ProcSubset",
    "ProtectHostname",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "InaccessiblePaths",
    "ExecPaths",
    "NoExecPaths",
    "TemporaryFileSystem",
    "BindPaths",
    "MountFlags",
    "RestrictNamespaces",
];

#[test]
fn the_unit_gives_the_daemon_no_mounts_of_its_own() {
    let unit = unit();
    for (key, _) in &unit {
        assert!(
            !HIDES.contains(&key.as_str()),
            "{key} would hide the namespaces under /run/netns from the host"
        );
    }
    let has = |key: &str, value: &str| unit.contains(&(key.to_owned(), value.to_owned()));
    for (key, value) in [
        ("Type", "notify"),
        ("NoNewPrivileges", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("SystemCallArchitectures", "native"),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET"),
        ("StateDirectoryMode", "0700"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
    ] {
        assert!(has(key, value), "the unit does not say {key}={value}");
    }
}

#[test]
fn every_file_of_the_package_is_there() {
    let manifest = fs::read_to_string(root().join("server/Cargo.toml")).unwrap();
    let deb = manifest.split("[package.metadata.deb]").nth(1).unwrap();
    let mut found = BTreeSet::new();
    for line in deb.lines().filter(|line| line.trim_start().starts_with("[\"")) {
        let words: Vec<&str> = line.split('"').collect();
        let (from, to) = (words[1], words[3]);
        if let Some(program) = from.strip_prefix("target/release/") {
            assert!(["netloomd", "netloom"].contains(&program), "{from}");
        } else {
            assert!(root().join("server").join(from).exists(), "{from} is not there");
        }
        found.insert(to.to_owned());
    }
    for needed in [
        "usr/lib/systemd/system/netloomd.service",
        "usr/lib/sysusers.d/netloom.conf",
        "usr/lib/tmpfiles.d/netloom.conf",
        "etc/netloom/netloomd.toml",
    ] {
        assert!(found.contains(needed), "the package has no {needed}");
    }
    for file in fs::read_dir(root().join("deploy")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "Containerfile" || deb.contains(&format!("../deploy/{name}")),
            "{name} is in no package"
        );
    }
}

#[test]
fn installed_used_stopped_and_purged_nothing_is_left() {
    on_host(async || {
        let _lan = lan();
        let kernel = || Kernel::open().unwrap().observe().unwrap().to_string();
        let before = kernel();
        // The example, as the package installs it.
        let config = root().join("deploy/netloomd.toml");
        let options = ["--config", config.to_str().unwrap()];
        let told = Told::from(
            netloomd(&Path::new(HOME).join("s")).args(options).arg("check-config").output().unwrap(),
        );
        assert_eq!(told.ok(), "the configuration is good\n");
        let mut daemon = Daemon::start_with(&options).await;
        let objects = json!([
            {"kind": "Namespace", "name": "red"},
            {"kind": "Namespace", "name": "blue"},
            {"kind": "Network", "name": "net", "spec": {"egress": {"nat": {}}}},
            {"kind": "Attachment", "name": "red0", "spec": {"namespace": "red", "network": "net"}},
            {"kind": "Link", "name": "cable", "spec": {"ends": [
                {"namespace": "red", "interface": "c0", "addresses": ["10.1.1.1/24"]},
                {"namespace": "blue", "interface": "c1", "addresses": ["10.1.1.2/24"]}]}},
            {"kind": "PortForward", "name": "web", "spec":
                {"protocol": "tcp", "listen": {"port": 80}, "target": {"attachment": "red0"}}},
        ]);
        daemon.rest().post("/v1/apply", &json!({"objects": objects})).await.ok();
        assert!(kernel().contains("10.1.1") || kernel() != before);
        daemon.stop();
        let told = Told::from(netloomd(&daemon.socket).args(options).arg("purge").output().unwrap());
        assert!(told.ok().ends_with(" removed\n"));
        assert_eq!(kernel(), before);
        let left = |path: &str| -> Vec<_> {
            fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(left("/run/netns"), Vec::<std::ffi::OsString>::new());
        // The database is the user's; it is all that stays.
        assert_eq!(left(HOME), ["state"]);
    });
}
