//! Every subcommand of `netloom` against a real daemon: what it does, how it prints, how it ends.

use std::io::{BufRead as _, BufReader};

use serde_json::Value;

use crate::{
    host::{Daemon, on_host},
    netloom::{Netloom, Told},
};

/// The lesson by hand, as a person types it.
const LESSON: [&str; 7] = [
    "ns add red --label role=client",
    "ns add blue --owner ci-7",
    "net add v-net-0 --subnet 192.168.15.0/24 --gateway 192.168.15.5 --egress nat --device v-net-0",
    "attach red v-net-0 --name red0 --address 192.168.15.1",
    "attach blue v-net-0 --interface veth-blue",
    "publish 8080:blue0:80 --name web",
    "reservations add vip v-net-0 --address 192.168.15.77 --note later",
];

async fn lesson() -> (Daemon, Netloom) {
    let daemon = Daemon::start().await;
    let netloom = Netloom::at(&daemon.socket);
    for line in LESSON {
        netloom.run(line).ok();
    }
    (daemon, netloom)
}

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn the_lesson_is_made_shown_and_unmade_by_hand() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let netloom = Netloom::at(&daemon.socket);
        for (line, said) in LESSON.into_iter().zip([
            "namespace red: /run/netns/red, ready",
            "namespace blue: /run/netns/blue, ready",
            "network v-net-0: 192.168.15.0/24 with gateway 192.168.15.5 on v-net-0, ready",
            "attachment red0: 192.168.15.1/24 on eth0, ready",
            "attachment blue0: 192.168.15.2/24 on veth-blue, ready",
            "forward web: *:8080/tcp to blue0:80, ready",
            "reservation vip: 192.168.15.77 of v-net-0, ready",
        ]) {
            assert_eq!(netloom.run(line).ok(), format!("{said}\n"), "{line}");
        }
        let table = netloom.run("attachments ls").ok();
        let rows = words(&table);
        assert_eq!(rows[0], ["NAME", "NAMESPACE", "NETWORK", "ADDRESSES", "INTERFACE", "READY", "AGE"]);
        assert_eq!(rows[1][..6], ["blue0", "blue", "v-net-0", "192.168.15.2/24", "veth-blue", "yes"]);
        assert_eq!(rows.len(), 3);
        assert!(netloom.run("ns show red").ok().contains("role=client"));
        assert!(netloom.run("net show v-net-0").ok().contains("192.168.15.5"));
        assert!(netloom.run("forwards show web").ok().contains("blue0:80"));
        let state = netloom.run("ns state red").ok();
        assert!(state.contains("192.168.15.1/24") && state.contains("default"), "{state}");
        assert_eq!(netloom.run("state red").ok(), state);
        assert!(netloom.run("state host").ok().contains("v-net-0"));
        let status = netloom.run("status").ok();
        assert!(words(&status).contains(&vec!["attachments", "2", "2"]), "{status}");
        let allocations = netloom.run("allocations --network v-net-0").ok();
        assert!(words(&allocations)[4].starts_with(&["v-net-0", "192.168.15.77", "Reservation/vip"]));

        for (line, said) in [
            ("unpublish web", "forward web: deleted"),
            ("detach blue v-net-0", "attachment blue0: deleted"),
            ("detach red0", "attachment red0: deleted"),
            ("reservations rm vip", "reservation vip: deleted"),
            ("net rm v-net-0", "network v-net-0: deleted"),
            ("ns rm red", "namespace red: deleted"),
            ("ns rm blue", "namespace blue: deleted"),
        ] {
            assert_eq!(netloom.run(line).ok(), format!("{said}\n"), "{line}");
        }
        for list in
            ["ns ls", "net ls", "attachments ls", "forwards ls", "reservations ls", "allocations", "export"]
        {
            assert_eq!(netloom.run(list).ok(), "", "{list}");
        }
    });
}

#[test]
fn every_list_is_a_table_json_yaml_or_names() {
    on_host(async || {
        let (_daemon, netloom) = lesson().await;
        for (line, names) in [
            ("ns ls", "blue\nred\n"),
            ("net ls", "v-net-0\n"),
            ("attachments ls", "blue0\nred0\n"),
            ("attachments ls --namespace red", "red0\n"),
            ("forwards ls", "web\n"),
            ("forwards ls --network v-net-0", "web\n"),
            ("reservations ls", "vip\n"),
            ("ns ls --owner ci-7", "blue\n"),
            ("ns ls --label role=client", "red\n"),
            ("ns list", "blue\nred\n"),
        ] {
            assert_eq!(netloom.run(&format!("{line} -o name")).ok(), names, "{line}");
            let json = netloom.run(&format!("{line} -o json")).json();
            let listed = json["items"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap());
            assert_eq!(listed.collect::<Vec<_>>(), names.lines().collect::<Vec<_>>(), "{line}");
            let yaml = netloom.run(&format!("{line} -o yaml")).ok();
            assert!(yaml.starts_with("items:\n") && yaml.contains("\nseq: "), "{yaml}");
            let table = netloom.run(line).ok();
            assert_eq!(words(&table).len(), names.lines().count() + 1, "{table}");
        }
        let allocations = netloom.run("allocations -o name").ok();
        assert_eq!(allocations.lines().next(), Some("v-net-0@192.168.15.1"));
        assert_eq!(netloom.run("status -o json").json()["not_ready"], Value::Array(Vec::new()));
        assert_eq!(netloom.run("state red -o name").ok(), "lo\neth0\n");
        let wrong = netloom.run("ns ls -o xml");
        assert_eq!(wrong.code, Some(2), "{wrong:#?}");
    });
}

#[test]
fn json_is_as_rest_answers_it_for_every_noun() {
    on_host(async || {
        let (daemon, netloom) = lesson().await;
        let rest = daemon.rest();
        for (line, path) in [
            ("ns show red", "/v1/namespaces/red"),
            ("net show v-net-0", "/v1/networks/v-net-0"),
            ("attachments show blue0", "/v1/attachments/blue0"),
            ("forwards show web", "/v1/port-forwards/web"),
            ("reservations show vip", "/v1/reservations/vip"),
            ("ns ls", "/v1/namespaces"),
            ("allocations", "/v1/allocations"),
            ("export", "/v1/export"),
            ("export --owner ci-7", "/v1/export?owner=ci-7"),
        ] {
            let mut json = netloom.run(&format!("{line} -o json")).json();
            let mut over_rest = rest.get(path).await.unwrap().ok();
            // The position in the log goes on as statuses are written.
            for reply in [&mut json, &mut over_rest] {
                reply.as_object_mut().unwrap().remove("seq");
            }
            assert_eq!(json, over_rest, "{line}");
        }
    });
}

#[test]
fn what_is_exported_is_applied_again_without_a_change_and_onto_nothing() {
    on_host(async || {
        let (daemon, netloom) = lesson().await;
        for format in ["yaml", "json"] {
            let export = netloom.run(&format!("export -o {format}")).ok();
            let said = netloom.input("apply -f -", &export).ok();
            assert_eq!(said.lines().count(), 7, "{said}");
            assert!(said.lines().all(|line| line.ends_with(": unchanged, ready")), "{said}");
        }
        let export = netloom.run("export -o yaml").ok();
        for line in ["net rm v-net-0 --force", "ns rm red", "ns rm blue"] {
            let told = netloom.run(line);
            assert_eq!(told.code, Some(0), "{told:#?}");
        }
        assert_eq!(netloom.run("export -o name").ok(), "PortForward/web\n", "a forward outlives its target");
        let plan = netloom.input("apply -f - --dry-run", &export).ok();
        assert!(
            plan.contains("Namespace red: would be created") && plan.contains("ip netns add red"),
            "{plan}"
        );
        assert_eq!(netloom.run("ns ls").ok(), "");
        let said = netloom.input("apply -f -", &export).ok();
        assert!(said.contains("Attachment red0: created, ready"), "{said}");
        assert_eq!(netloom.run("export -o yaml").ok(), export);
        drop(daemon);
    });
}

#[test]
fn files_are_applied_labs_in_them_are_skipped_and_a_wrong_one_is_named() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let netloom = Netloom::at(&daemon.socket);
        let file = format!("{}/../examples/red-blue.yaml", env!("CARGO_MANIFEST_DIR"));
        let told = netloom.run(&format!("apply -f {file} --owner lesson"));
        assert_eq!(told.code, Some(0), "{told:#?}");
        assert!(told.err.contains("note: skipped 1 `kind: Lab` document"), "{told:#?}");
        assert!(told.out.contains("PortForward web: created, ready"), "{told:#?}");
        assert_eq!(netloom.run("ns ls --owner lesson -o name").ok(), "blue\nred\n");
        let said = netloom.input("apply -f -", "kind: Network\nname: n\nspec: {mtu: 12}\n").failed(2);
        assert!(said.contains("standard input, document 1 (Network n): spec.mtu"), "{said}");
        let said = netloom.run("apply -f /nonexistent.yaml").failed(2);
        assert!(said.contains("cannot read /nonexistent.yaml"), "{said}");
        let refused = "kind: Attachment\nname: a\nspec: {namespace: nobody, network: v-net-0}\n";
        let said = netloom.input("apply -f -", refused).failed(4);
        assert!(said.contains("Attachment a: ") && said.contains("REFERENCE_NOT_FOUND"), "{said}");
    });
}

#[test]
fn exit_codes_are_as_the_help_says_and_errors_come_with_a_hint() {
    on_host(async || {
        let (mut daemon, netloom) = lesson().await;
        for (line, code, parts) in [
            ("ns show green", 3, vec!["green", "NOT_FOUND"]),
            ("ns rm green", 3, vec!["NOT_FOUND"]),
            ("detach red nowhere", 3, vec!["red is not attached to nowhere"]),
            ("ns add red", 4, vec!["ALREADY_EXISTS"]),
            ("net rm v-net-0", 4, vec!["HAS_DEPENDENTS", "red0", "hint: --force deletes them too"]),
            ("net add twice --subnet 192.168.15.128/25", 4, vec!["OVERLAP", "hint: leave the subnet out"]),
            ("publish 8081:red0:81 --name web", 4, vec!["ALREADY_EXISTS"]),
            ("publish 8080:red0:81", 4, vec!["PORT_TAKEN", "hint: `ss -lntup`"]),
            (
                "attach red v-net-0 --address 192.168.15.77",
                4,
                vec!["ADDRESS_TAKEN", "hint: `netloom allocations`"],
            ),
            ("attach red nowhere", 4, vec!["REFERENCE_NOT_FOUND"]),
            ("apply -f -", 2, vec!["there are no objects"]),
            ("ns ls --dry-run", 2, vec!["are for commands that change something"]),
            ("attach red v-net-0 --request-id k", 2, vec!["--request-id needs --name"]),
            ("ns exec red -- /nonexistent", 127, vec!["cannot run /nonexistent"]),
            ("ns exec red -- /etc", 126, vec!["cannot run /etc"]),
        ] {
            let told = netloom.run(line);
            let said = without_note(&told).failed(code);
            for part in parts {
                assert!(said.contains(part), "{line}: {part:?} is not in {said}");
            }
        }
        for line in
            ["", "ns", "nonsense", "ns add", "ns add Red", "attach red", "publish 8080", "--wait 5x ns ls"]
        {
            let told = netloom.run(line);
            assert_eq!((told.code, told.out.as_str()), (Some(2), ""), "{line}: {told:#?}");
        }
        for line in ["ns rm green --if-exists", "detach red nowhere --if-exists"] {
            let told = netloom.run(line);
            assert!(told.code == Some(0) && told.err.starts_with("note: "), "{told:#?}");
        }
        daemon.stop();
        let said = netloom.run("ns ls").failed(5);
        assert!(
            said.contains("cannot reach netloomd") && said.contains("hint: is netloomd running?"),
            "{said}"
        );
    });
}

/// The note about `/sys` is a matter of where the test runs.
fn without_note(told: &Told) -> Told {
    let lines = told.err.lines().filter(|line| !line.starts_with("note: /sys"));
    Told { err: lines.map(|line| format!("{line}\n")).collect(), ..told.clone() }
}

#[test]
fn what_is_written_but_not_ready_in_time_ends_with_six_unless_nobody_waits() {
    on_host(async || {
        let (_daemon, netloom) = lesson().await;
        // A forward to an attachment that goes away is kept and not ready.
        netloom.run("detach blue0 --force").ok();
        let line = "publish 9000:red0:80 --wait 0";
        assert_eq!(netloom.run(line).code, Some(0));
        let told = netloom.input("apply -f -", "kind: PortForward\nname: lost\nspec:\n  protocol: tcp\n  listen: {port: 9999}\n  target: {attachment: gone0}\n");
        assert!(matches!(told.code, Some(4 | 6)), "{told:#?}");
    });
}

#[test]
fn a_command_runs_inside_a_namespace_with_its_own_rights_and_exit_code() {
    on_host(async || {
        let (_daemon, netloom) = lesson().await;
        let told = without_note(&netloom.run("ns exec red -- cat /proc/net/dev"));
        let shown = told.ok();
        assert!(shown.contains("eth0:") && !shown.contains("v-net-0:"), "{shown}");
        let told = netloom.run("ns exec red -- false");
        assert_eq!(told.code, Some(1), "{told:#?}");
    });
}

#[test]
fn events_are_told_and_followed_through_a_restart() {
    on_host(async || {
        let (mut daemon, netloom) = lesson().await;
        let told = netloom.run("events --kind Attachment --name red0 --type created").ok();
        assert!(told.lines().count() == 1 && told.contains("Attachment/red0"), "{told}");
        let json = netloom.run("events --kind Network -o json").ok();
        let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!((&first["type"], &first["name"]), (&"created".into(), &"v-net-0".into()));
        let last = netloom.run("events -o json").ok();
        let last: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();

        let mut command =
            netloom.command(&format!("events -f --type created -o name --after {}", last["seq"]));
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        netloom.run("ns add green").ok();
        assert_eq!(lines.next().unwrap().unwrap(), "Namespace/green");
        daemon.crash_and_restart().await;
        netloom.run("ns add yellow").ok();
        assert_eq!(lines.next().unwrap().unwrap(), "Namespace/yellow");
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_dry_run_shows_the_steps_and_does_nothing_and_a_key_makes_a_repeat_safe() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let netloom = Netloom::at(&daemon.socket);
        let said = netloom.run("ns add red --dry-run").ok();
        assert!(said.contains("would be created") && said.contains("ip netns add red"), "{said}");
        netloom.run("ns show red").failed(3);
        let first = netloom.run("ns add red --request-id k -o json").json();
        let again = netloom.run("ns add red --request-id k -o json").json();
        assert_eq!(first["uid"], again["uid"]);
        let said = netloom.run("ns add blue --request-id k").failed(1);
        assert!(said.contains("IDEMPOTENCY_MISMATCH"), "{said}");
        let said = netloom.run("ns rm red --dry-run").ok();
        assert!(said.contains("would be deleted"), "{said}");
        netloom.run("ns show red").ok();
    });
}

#[test]
fn the_endpoint_may_come_from_the_environment_and_a_closed_pipe_ends_quietly() {
    on_host(async || {
        let (daemon, netloom) = lesson().await;
        let mut command = Netloom::with(&[]).command("ns ls -o name");
        command.env("NETLOOM_ENDPOINT", format!("unix://{}", daemon.socket.display()));
        assert_eq!(Told::from(command.output().unwrap()).ok(), "blue\nred\n");
        let mut child = netloom.command("events").spawn().unwrap();
        drop(child.stdout.take());
        let told = Told::from(child.wait_with_output().unwrap());
        assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:#?}");
    });
}
