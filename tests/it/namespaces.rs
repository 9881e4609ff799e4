//! Namespaces: adopted ones, settings inside, and who is in them.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::symlink,
    },
    path::Path,
    time::Duration,
};

use netloom_api::{AdoptedSource, Draft, Namespace, NamespaceSource, NamespaceSpec};
use netloom_client::WriteOptions;
use netloom_server::kernel::{
    lan::{Lan, LanSpec, PeerSpec, add_lan},
    netns::{Namespaces, cookie, own},
    probe,
    testhost::Workload,
    thread,
};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, on_host},
    rest::Rest,
};

const PATIENCE: Duration = Duration::from_secs(2);

fn reaches(from: impl AsFd, to: &str) -> bool {
    probe::ping(from, to.parse().unwrap(), PATIENCE).unwrap().reached()
}

/// A LAN with a machine that is named under /run/netns, as a container would be: it has an interface, an address and a
/// route of its own.
fn lan_with_container() -> Lan {
    let peer = PeerSpec { pinned: true, ..PeerSpec::new("foreign", ["192.168.1.3/24".parse().unwrap()]) };
    add_lan(&LanSpec { peers: vec![peer], ..LanSpec::default() }).unwrap()
}

fn adopt(name: &str, source: Value) -> Value {
    json!({"name": name, "spec": {"source": {"adopted": source}}})
}

async fn network(rest: &Rest) {
    let spec = json!({"subnets": [{"cidr": "192.168.15.0/24"}]});
    rest.post("/v1/networks", &json!({"name": "net", "spec": spec})).await.ok();
}

async fn attach(rest: &Rest, name: &str, namespace: &str, more: Value) -> crate::rest::Reply {
    let mut spec = json!({"namespace": namespace, "network": "net"});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rest.post("/v1/attachments", &json!({"name": name, "spec": spec})).await
}

fn ready(object: &Value) -> (&str, &str) {
    let condition = &object["status"]["conditions"][0];
    (condition["status"].as_str().unwrap(), condition["reason"].as_str().unwrap())
}

fn interfaces(state: &Value) -> Vec<&str> {
    state["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

/// A setting inside of a namespace.
fn setting(namespace: &OwnedFd, path: &str) -> String {
    let read = || fs::read_to_string(Path::new("/proc/sys").join(path)).unwrap();
    thread::run(namespace, "read", read).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn an_adopted_namespace_gets_interfaces_and_is_left_as_it_was() {
    on_host(async || {
        let lan = lan_with_container();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        let mine =
            rest.post("/v1/namespaces", &adopt("mine", json!({"path": "/run/netns/foreign"}))).await.ok();
        assert_eq!(ready(&mine), ("True", "Programmed"), "{mine:#}");
        assert_eq!(mine["status"]["path"], "/run/netns/foreign");
        let foreign = Namespaces::default().open("foreign").unwrap();
        assert_eq!(mine["status"]["cookie"], cookie(&foreign).unwrap());
        let over_grpc = daemon.client().await.get::<Namespace>(&"mine".parse().unwrap()).await.unwrap();
        assert_eq!(json!(over_grpc), mine);

        rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        network(&rest).await;
        attach(&rest, "red0", "red", json!({})).await.ok();
        let refused = attach(&rest, "mine0", "mine", json!({"interface": "eth0"})).await;
        assert_eq!((refused.status, &refused.body["reason"]), (409, &json!("DEVICE_TAKEN")), "{refused:#?}");
        assert!(refused.body["detail"].as_str().unwrap().contains("eth0"), "{refused:#?}");
        assert_eq!(refused.body["violations"][0]["field"], "spec.interface");
        let attached = attach(&rest, "mine0", "mine", json!({})).await.ok();
        assert_eq!(ready(&attached), ("True", "Programmed"), "{attached:#}");
        assert_eq!(attached["status"]["interface"], "eth1", "eth0 is the namespace's own");
        let red = Namespaces::default().open("red").unwrap();
        let address = attached["status"]["addresses"][0].as_str().unwrap().split('/').next().unwrap();
        assert!(reaches(&red, address), "red reaches what was adopted");
        assert!(reaches(&foreign, "192.168.1.2"), "its own network goes on");

        let refused = rest.delete("/v1/namespaces/mine").await;
        assert_eq!(refused.body["reason"], "HAS_DEPENDENTS");
        rest.delete("/v1/namespaces/mine?force=true").await.ok();
        assert_eq!(rest.get("/v1/attachments/mine0").await.unwrap().status, 404);
        assert!(Path::new("/run/netns/foreign").exists());
        let again =
            rest.post("/v1/namespaces", &adopt("again", json!({"path": "/run/netns/foreign"}))).await.ok();
        assert_eq!(again["status"]["cookie"], mine["status"]["cookie"], "it is the same namespace");
        let state = rest.get("/v1/namespaces/again/state").await.unwrap().ok();
        assert_eq!(interfaces(&state), ["lo", "eth0"]);
        assert!(reaches(lan.peer("foreign").unwrap(), "192.168.1.2"));
    });
}

#[test]
fn only_a_network_namespace_below_a_root_that_nobody_has_is_adopted() {
    on_host(async || {
        let _lan = lan_with_container();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        rest.post("/v1/namespaces", &adopt("mine", json!({"path": "/run/netns/foreign"}))).await.ok();
        let foreign = Namespaces::default().open("foreign").unwrap();
        fs::create_dir_all("/run/elsewhere").unwrap();
        Namespaces::at("/run/elsewhere").pin("foreign", &foreign).unwrap();
        fs::create_dir_all("/run/netns/below").unwrap();
        Namespaces::at("/run/netns/below").create("deep").unwrap();
        symlink("/run/netns/foreign", "/run/netns/link").unwrap();
        symlink("/run/netns/below", "/run/netns/linked").unwrap();
        fs::write("/run/netns/plain", "").unwrap();
        Namespaces::default().pin("host-itself", own().unwrap()).unwrap();
        fs::write("/run/netns/uts", "").unwrap();
        nix::mount::mount(
            Some("/proc/self/ns/uts"),
            "/run/netns/uts",
            None::<&str>,
            nix::mount::MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        let before = rest.get("/v1/export").await.unwrap().ok();
        let (path, pid) = (|path: &str| json!({"path": path}), |pid: u32| json!({"pid": pid}));
        for (source, status, reason, field) in [
            (path("/run/netns/none"), 409, "REFERENCE_NOT_FOUND", "path"),
            (path("/run/netns/foreign/x"), 409, "REFERENCE_NOT_FOUND", "path"),
            (path("/run/elsewhere/foreign"), 400, "INVALID_ARGUMENT", "path"),
            (path("/run/netns"), 400, "INVALID_ARGUMENT", "path"),
            (path("/run/netns/below"), 400, "INVALID_ARGUMENT", "path"),
            (path("/run/netns/link"), 400, "INVALID_ARGUMENT", "path"),
            (path("/run/netns/linked/deep"), 400, "INVALID_ARGUMENT", "path"),
            (path("/run/netns/plain"), 400, "INVALID_ARGUMENT", "path"),
            (path("/run/netns/uts"), 400, "INVALID_ARGUMENT", "path"),
            (path("/run/netns/../netns/foreign"), 400, "INVALID_ARGUMENT", "path"),
            (path("/proc/1/ns/net"), 400, "INVALID_ARGUMENT", "path"),
            (path("/run/netns/host-itself"), 409, "NAMESPACE_TAKEN", "path"),
            (path("/run/netns/red"), 409, "NAMESPACE_TAKEN", "path"),
            (path("/run/netns/foreign"), 409, "NAMESPACE_TAKEN", "path"),
            (path("/var/run/netns/foreign"), 409, "NAMESPACE_TAKEN", "path"),
            (pid(std::process::id()), 409, "NAMESPACE_TAKEN", "pid"),
            (pid(4_194_304), 409, "REFERENCE_NOT_FOUND", "pid"),
            (pid(0), 400, "INVALID_ARGUMENT", "pid"),
        ] {
            let reply = rest.post("/v1/namespaces", &adopt("other", source.clone())).await;
            assert_eq!(
                (reply.status, &reply.body["reason"]),
                (status, &json!(reason)),
                "{source} {reply:#?}"
            );
            assert_eq!(
                reply.body["violations"][0]["field"],
                format!("spec.source.adopted.{field}"),
                "{reply:#?}"
            );
        }
        assert_eq!(rest.get("/v1/export").await.unwrap().ok(), before);
        let two = json!({"objects": [{"kind": "Namespace", "name": "one", "spec": {"source": {"adopted": {"path": "/run/netns/below/deep"}}}},
            {"kind": "Namespace", "name": "two", "spec": {"source": {"adopted": {"path": "/run/netns/below/deep"}}}}]});
        assert_eq!(rest.post("/v1/apply", &two).await.body["reason"], "NAMESPACE_TAKEN");
        let deep = rest.post("/v1/namespaces", &adopt("deep", path("/var/run/netns/below/deep"))).await.ok();
        assert_eq!(ready(&deep).0, "True", "{deep:#}");
    });
}

#[test]
fn the_source_of_a_namespace_cannot_change() {
    on_host(async || {
        let _lan = lan_with_container();
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        rest.post("/v1/namespaces", &adopt("mine", json!({"path": "/run/netns/foreign"}))).await.ok();
        rest.post("/v1/namespaces", &json!({"name": "red", "spec": {"source": {"managed": {}}}})).await.ok();
        for (name, source) in [
            ("mine", json!({"adopted": {"pid": 1}})),
            ("mine", json!({"adopted": {"path": "/run/netns/other"}})),
            ("mine", json!({"managed": {}})),
            ("mine", json!(null)),
            ("red", json!({"adopted": {"path": "/run/netns/foreign"}})),
        ] {
            let reply =
                rest.patch(&format!("/v1/namespaces/{name}"), &json!({"spec": {"source": source}})).await;
            assert_eq!(
                (reply.status, &reply.body["reason"]),
                (422, &json!("IMMUTABLE_FIELD")),
                "{source} {reply:#?}"
            );
            assert_eq!(reply.body["violations"][0]["field"], "spec.source");
        }
        let same =
            json!({"labels": {"a": "b"}, "spec": {"source": {"adopted": {"path": "/run/netns/foreign"}}}});
        rest.patch("/v1/namespaces/mine", &same).await.ok();
        rest.patch("/v1/namespaces/red", &json!({"spec": {"source": null}})).await.ok();
    });
}

#[test]
fn after_a_restart_the_same_namespace_is_found_and_another_in_its_place_is_not_taken_for_it() {
    on_host(async || {
        let lan = lan_with_container();
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        network(&rest).await;
        rest.post("/v1/namespaces", &adopt("mine", json!({"path": "/run/netns/foreign"}))).await.ok();
        attach(&rest, "mine0", "mine", json!({})).await.ok();
        daemon.crash_and_restart().await;
        let mine = daemon.rest().get("/v1/namespaces/mine").await.unwrap().ok();
        assert_eq!(ready(&mine), ("True", "Programmed"), "{mine:#}");
        assert!(reaches(own().unwrap(), "192.168.15.2"));

        // Its owner removes it, and makes another of the name.
        Namespaces::default().delete("foreign").unwrap();
        drop(lan);
        let other = Namespaces::default().create("foreign").unwrap();
        daemon.crash_and_restart().await;
        let rest = daemon.rest();
        for path in ["/v1/namespaces/mine", "/v1/attachments/mine0"] {
            let object = rest.get(path).await.unwrap().ok();
            assert_eq!(ready(&object), ("False", "NamespaceGone"), "{object:#}");
        }
        let events = rest.get("/v1/events?page_size=1000").await.unwrap().ok();
        let told = |kind: &str| {
            let events = events["items"].as_array().unwrap();
            events
                .iter()
                .any(|one| one["kind"] == kind && one["type"] == "status" && one["reason"] == "NamespaceGone")
        };
        assert!(told("Namespace") && told("Attachment"), "{events:#}");
        let networks = rest.get("/v1/networks/net").await.unwrap().ok();
        assert_eq!(ready(&networks).0, "True", "the rest goes on");
        let inside =
            rest.post("/v1/namespaces", &adopt("new", json!({"path": "/run/netns/foreign"}))).await.ok();
        assert_eq!(inside["status"]["cookie"], other.cookie);
        let state = rest.get("/v1/namespaces/new/state").await.unwrap().ok();
        assert_eq!(interfaces(&state), ["lo"], "nothing was made in the other one");
        rest.delete("/v1/namespaces/mine?force=true").await.ok();
        assert_eq!(rest.get("/v1/namespaces/mine").await.unwrap().status, 404);
    });
}

#[test]
fn the_namespace_of_a_process_is_found_again_and_goes_with_it() {
    on_host(async || {
        let container = Workload::start().unwrap();
        let mut daemon = Daemon::start().await;
        let client = daemon.client().await;
        let source = NamespaceSource::Adopted(AdoptedSource::Pid(container.pid()));
        let spec = NamespaceSpec { source: Some(source), ..NamespaceSpec::default() };
        let draft = Draft::<Namespace>::new("web".parse().unwrap(), spec);
        let web = client.create(draft, WriteOptions::default()).await.unwrap();
        assert_eq!(json!(web), daemon.rest().get("/v1/namespaces/web").await.unwrap().ok());
        assert_eq!((ready(&json!(web)).0, web.status.noun.path), ("True", None));
        network(&daemon.rest()).await;
        let attached = attach(&daemon.rest(), "web0", "web", json!({"interface": "eth7"})).await.ok();
        assert_eq!(ready(&attached).0, "True", "{attached:#}");
        daemon.crash_and_restart().await;
        let rest = daemon.rest();
        assert_eq!(ready(&rest.get("/v1/namespaces/web").await.unwrap().ok()).0, "True");
        assert!(reaches(own().unwrap(), "192.168.15.2"));
        // Another process in the same namespace: it is found by whoever is in it.
        let inside: OwnedFd = fs::File::open(format!("/proc/{}/ns/net", container.pid())).unwrap().into();
        let second = Workload::start_in(inside).unwrap();
        drop(container);
        daemon.crash_and_restart().await;
        let rest = daemon.rest();
        assert_eq!(ready(&rest.get("/v1/namespaces/web").await.unwrap().ok()).0, "True");
        assert!(reaches(own().unwrap(), "192.168.15.2"));
        drop(second);
        daemon.crash_and_restart().await;
        let rest = daemon.rest();
        for path in ["/v1/namespaces/web", "/v1/attachments/web0"] {
            assert_eq!(ready(&rest.get(path).await.unwrap().ok()), ("False", "NamespaceGone"));
        }
        rest.delete("/v1/namespaces/web?force=true").await.ok();
    });
}

#[test]
fn a_namespace_in_use_is_not_deleted_unless_forced_and_its_state_names_the_processes() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        let red = Namespaces::default().open("red").unwrap();
        let sleeper = Workload::start_in(red).unwrap();
        let state = rest.get("/v1/namespaces/red/state").await.unwrap().ok();
        let process = json!([{"pid": sleeper.pid(), "inside_pid": sleeper.pid(), "command": "sleep"}]);
        assert_eq!(state["processes"], process);
        let over_grpc = daemon.client().await.state(&"red".parse().unwrap()).await.unwrap();
        assert_eq!(json!(over_grpc)["processes"], process);
        for path in ["/v1/namespaces/red", "/v1/namespaces/red?dry_run=true"] {
            let refused = rest.delete(path).await;
            assert_eq!(
                (refused.status, &refused.body["reason"]),
                (409, &json!("NAMESPACE_IN_USE")),
                "{refused:#?}"
            );
            assert_eq!(refused.body["metadata"]["processes"], format!("{} sleep", sleeper.pid()));
            assert_eq!(refused.body["metadata"]["count"], "1");
        }
        rest.delete("/v1/namespaces/red?force=true").await.ok();
        assert!(!Path::new("/run/netns/red").exists());

        rest.post("/v1/namespaces", &json!({"name": "blue"})).await.ok();
        drop(Workload::start_in(Namespaces::default().open("blue").unwrap()).unwrap());
        rest.delete("/v1/namespaces/blue").await.ok();

        // A container has pids of its own.
        let container = Workload::start().unwrap();
        rest.post("/v1/namespaces", &adopt("web", json!({"pid": container.pid()}))).await.ok();
        let state = rest.get("/v1/namespaces/web/state").await.unwrap().ok();
        let processes = state["processes"].as_array().unwrap();
        let first = processes.iter().find(|one| one["inside_pid"] == 1).unwrap();
        assert_eq!(first["command"], "sleep");
        assert_ne!(first["pid"], 1);
        rest.delete("/v1/namespaces/web").await.ok();
        assert_eq!(rest.get("/v1/namespaces/host/state").await.unwrap().ok()["processes"], json!([]));
    });
}

#[test]
fn settings_are_made_changed_and_taken_back() {
    on_host(async || {
        let _lan = lan_with_container();
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        network(&rest).await;
        let spec = json!({"sysctls": {"net.ipv4.ip_forward": "1", "net/ipv4/ip_local_port_range": "1024  2048",
            "net.ipv4.conf.eth0.log_martians": "1", "net.ipv4.conf.all.send_redirects": "0"}});
        let red = rest.post("/v1/namespaces", &json!({"name": "red", "spec": spec})).await.ok();
        assert_eq!(ready(&red).0, "True", "{red:#}");
        assert_eq!(red["spec"]["sysctls"]["net.ipv4.ip_local_port_range"], "1024 2048");
        let fd = Namespaces::default().open("red").unwrap();
        assert_eq!(setting(&fd, "net/ipv4/ip_forward"), "1");
        assert_eq!(setting(&fd, "net/ipv4/ip_local_port_range"), "1024 2048");
        attach(&rest, "red0", "red", json!({})).await.ok();
        assert_eq!(setting(&fd, "net/ipv4/conf/eth0/log_martians"), "1");
        let patch = json!({"spec": {"sysctls": {"net.ipv4.ip_forward": "0", "net.ipv4.ip_local_port_range": null,
            "net.ipv4.conf.eth0.log_martians": null, "net.ipv4.conf.eth0.rp_filter": "2"}}});
        let red = rest.patch("/v1/namespaces/red", &patch).await.ok();
        assert_eq!(ready(&red).0, "True", "{red:#}");
        assert_eq!(setting(&fd, "net/ipv4/ip_forward"), "0");
        assert_eq!(setting(&fd, "net/ipv4/ip_local_port_range"), "32768 60999");
        assert_eq!(setting(&fd, "net/ipv4/conf/eth0/log_martians"), "0");
        assert_eq!(setting(&fd, "net/ipv4/conf/eth0/rp_filter"), "2");

        // What others change is put right by a full pass.
        let write = || fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        thread::run(&fd, "write", write).unwrap();
        daemon.crash_and_restart().await;
        assert_eq!(setting(&fd, "net/ipv4/ip_forward"), "0");

        // An adopted one is left with what it had.
        let rest = daemon.rest();
        let foreign = Namespaces::default().open("foreign").unwrap();
        let had = setting(&foreign, "net/ipv4/ip_default_ttl");
        let mut mine = adopt("mine", json!({"path": "/run/netns/foreign"}));
        mine["spec"]["sysctls"] =
            json!({"net.ipv4.ip_default_ttl": "33", "net.ipv4.conf.eth0.rp_filter": "1"});
        let mine = rest.post("/v1/namespaces", &mine).await.ok();
        assert_eq!(ready(&mine).0, "True", "{mine:#}");
        assert_eq!(setting(&foreign, "net/ipv4/ip_default_ttl"), "33");
        assert_eq!(setting(&foreign, "net/ipv4/conf/eth0/rp_filter"), "1");
        rest.delete("/v1/namespaces/mine").await.ok();
        assert_eq!(setting(&foreign, "net/ipv4/ip_default_ttl"), had);
        assert_eq!(setting(&foreign, "net/ipv4/conf/eth0/rp_filter"), "0");
    });
}

#[test]
fn settings_of_an_interface_hold_on_the_end_of_a_link_as_on_an_attachment() {
    on_host(async || {
        let _lan = lan_with_container();
        let mut daemon = Daemon::start().await;
        let rest = daemon.rest();
        let settings = |filter: &str| json!({"net.ipv4.conf.cable.rp_filter": filter, "net.ipv4.conf.cable.log_martians": "1"});
        let mut mine = adopt("mine", json!({"path": "/run/netns/foreign"}));
        mine["spec"]["sysctls"] = settings("1");
        rest.post("/v1/namespaces", &mine).await.ok();
        rest.post("/v1/namespaces", &json!({"name": "red", "spec": {"sysctls": settings("2")}})).await.ok();
        let (red, foreign) =
            (Namespaces::default().open("red").unwrap(), Namespaces::default().open("foreign").unwrap());
        let ends = ["red", "mine"].map(|name| json!({"namespace": name, "interface": "cable"}));
        let made = rest.post("/v1/links", &json!({"name": "cable", "spec": {"ends": ends}})).await.ok();
        assert_eq!(ready(&made), ("True", "Programmed"), "{made:#}");
        let filters = || [&red, &foreign].map(|fd| setting(fd, "net/ipv4/conf/cable/rp_filter"));
        assert_eq!(filters(), ["2", "1"]);
        assert_eq!(setting(&foreign, "net/ipv4/conf/cable/log_martians"), "1");
        // Changed and taken back while the cable is there.
        for name in ["red", "mine"] {
            let patch = json!({"spec": {"sysctls": {"net.ipv4.conf.cable.rp_filter": "0", "net.ipv4.conf.cable.log_martians": null}}});
            let patched = rest.patch(&format!("/v1/namespaces/{name}"), &patch).await.ok();
            assert_eq!(ready(&patched), ("True", "Programmed"), "{patched:#}");
        }
        assert_eq!(filters(), ["0", "0"]);
        assert_eq!(setting(&foreign, "net/ipv4/conf/cable/log_martians"), "0");
        // What others change is put right by a full pass.
        let write = || fs::write("/proc/sys/net/ipv4/conf/cable/rp_filter", "1").unwrap();
        thread::run(&red, "write", write).unwrap();
        daemon.crash_and_restart().await;
        assert_eq!(filters(), ["0", "0"]);
    });
}

#[test]
fn settings_that_cannot_be_are_refused_before_anything_is_made() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        rest.post("/v1/namespaces", &json!({"name": "red"})).await.ok();
        for (key, value) in [
            ("net.ipv4.no_such_setting", "1"),
            ("net.ipv4.ip_forward", "yes"),
            ("net.ipv4.ip_default_ttl", "0"),
            ("net.ipv4.ip_local_reserved_ports", "8080,8081"),
            ("net.ipv4.route.flush", "1"),
        ] {
            let spec = json!({"sysctls": {key: value}});
            let field = format!("spec.sysctls.{key}");
            for reply in [
                rest.post("/v1/namespaces", &json!({"name": "blue", "spec": spec})).await,
                rest.patch("/v1/namespaces/red", &json!({"spec": spec})).await,
            ] {
                assert_eq!(
                    (reply.status, &reply.body["reason"]),
                    (400, &json!("INVALID_ARGUMENT")),
                    "{reply:#?}"
                );
                assert_eq!(reply.body["violations"][0]["field"], field);
            }
        }
        assert_eq!(rest.get("/v1/namespaces").await.unwrap().ok()["items"].as_array().unwrap().len(), 1);
    });
}
