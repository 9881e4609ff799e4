//! What becomes of everything when the database cannot be written, cannot be read, or is not what it was. Whatever it is,
//! the kernel keeps what it has.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use netloom_server::{kernel::Kernel, reconcile::Host as _};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::{
    host::{Daemon, HOME, netloomd, on_host},
    netloom::Told,
    rest::Rest,
};

/// Long enough for any start, on a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

fn state() -> PathBuf {
    Path::new(HOME).join("state")
}

fn database() -> PathBuf {
    state().join("netloom.db")
}

/// A state directory of its own file system, with this much room.
fn small_disk(bytes: usize) {
    fs::create_dir_all(state()).unwrap();
    let options = format!("size={bytes},mode=0700");
    mount(Some("state"), &state(), Some("tmpfs"), MsFlags::empty(), Some(&*options)).unwrap();
}

fn remount(flags: MsFlags) {
    mount(None::<&str>, &state(), None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>).unwrap();
}

/// Two namespaces on a network, with a published port.
async fn make(rest: &Rest) {
    let objects = json!([
        {"kind": "Namespace", "name": "red"},
        {"kind": "Namespace", "name": "blue"},
        {"kind": "Network", "name": "v-net-0", "spec": {"egress": {"nat": {}}, "subnets": [{"cidr": "192.168.15.0/24"}]}},
        {"kind": "Attachment", "name": "red0", "spec": {"namespace": "red", "network": "v-net-0"}},
        {"kind": "Attachment", "name": "blue0", "spec": {"namespace": "blue", "network": "v-net-0"}},
        {"kind": "PortForward", "name": "web", "spec":
            {"protocol": "tcp", "listen": {"port": 8080}, "target": {"attachment": "blue0", "port": 80}}},
    ]);
    rest.post("/v1/apply", &json!({"objects": objects})).await.ok();
}

/// The whole kernel.
fn kernel() -> String {
    Kernel::open().unwrap().observe().unwrap().to_string()
}

/// Fills the disk to the last byte.
fn fill() -> PathBuf {
    let path = state().join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 16, 1 << 12, 1 << 8, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}

/// A start that has to fail; what it says.
async fn refused(daemon: &Daemon) -> String {
    let mut command = netloomd(&daemon.socket);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    let told = Told::from(tokio::time::timeout(ENDS_WITHIN, ended).await.unwrap().unwrap());
    assert_ne!(told.code, Some(0), "{told:?}");
    told.err
}

#[test]
fn on_a_full_disk_writes_are_refused_reads_go_on_and_room_is_all_it_takes() {
    on_host(async || {
        small_disk(4 << 20);
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        make(&rest).await;
        let before = (kernel(), rest.get("/v1/export").await.unwrap().ok());
        let filler = fill();
        // What SQLite has room for in its log is written all the same.
        let mut refused = None;
        for number in 0..2_000 {
            let labels = json!({"filling": format!("{number}{}", "x".repeat(60))});
            let reply = rest.patch("/v1/namespaces/red", &json!({"labels": labels})).await;
            if reply.status != 200 {
                refused = Some(reply);
                break;
            }
        }
        let refused = refused.expect("the disk never became full");
        assert_eq!((refused.status, &refused.body["reason"]), (503, &"UNAVAILABLE".into()), "{refused:?}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("full"), "{detail}");
        for _ in 0..3 {
            let reply = rest
                .post(
                    "/v1/attachments",
                    &json!({"name": "more", "spec": {"namespace": "red", "network": "v-net-0"}}),
                )
                .await;
            assert_eq!(reply.status, 503, "{reply:?}");
        }
        assert_eq!(kernel(), before.0);
        let export = rest.get("/v1/export").await.unwrap().ok();
        assert_eq!(without_labels(export), without_labels(before.1));
        assert_eq!(rest.get("/v1/events?page_size=5").await.unwrap().status, 200);

        fs::remove_file(filler).unwrap();
        let more = json!({"name": "more", "spec": {"namespace": "red", "network": "v-net-0"}});
        let made = rest.post("/v1/attachments", &more).await.ok();
        assert_eq!(made["status"]["conditions"][0]["status"], "True", "{made:#}");
    });
}

/// The labels are what the disk was filled with.
fn without_labels(mut export: Value) -> Value {
    for object in export["objects"].as_array_mut().unwrap() {
        object.as_object_mut().unwrap().remove("labels");
    }
    export
}

#[test]
fn on_a_disk_that_became_read_only_nothing_changes_and_nothing_stops() {
    on_host(async || {
        small_disk(8 << 20);
        let mut daemon = Daemon::start().await;
        make(&daemon.rest()).await;
        let before = kernel();
        daemon.stop();
        remount(MsFlags::MS_RDONLY);
        let why = refused(&daemon).await;
        assert!(why.contains("Read-only file system"), "{why}");
        assert_eq!(kernel(), before);
        remount(MsFlags::empty());
        daemon.start_again().await;
        assert_eq!(daemon.rest().get("/v1/attachments/red0").await.unwrap().status, 200);
        assert_eq!(kernel(), before);
    });
}

#[test]
fn a_damaged_database_stops_the_start_and_not_the_traffic() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        make(&daemon.rest()).await;
        let before = kernel();
        daemon.stop();
        let whole = fs::read(database()).unwrap();
        let half = whole.len() / 2;
        for length in [0, 100, half, whole.len() - 1] {
            fs::write(database(), &whole[..length]).unwrap();
            assert!(!is_started(&daemon).await, "{length} of {} bytes", whole.len());
            let why = refused(&daemon).await;
            assert!(why.contains("To repair") || why.contains("damaged"), "{length} bytes: {why}");
            assert_eq!(fs::read(database()).unwrap(), whole[..length], "it is left as it is");
            assert_eq!(kernel(), before);
        }
        // Bytes that are written over anywhere are noticed, or lie where nothing is.
        let mut noticed = 0;
        for place in (0..whole.len() - 512).step_by(whole.len() / 24) {
            fs::write(database(), &whole).unwrap();
            let file = fs::OpenOptions::new().write(true).open(database()).unwrap();
            file.write_all_at(&[0xa5; 512], place as u64).unwrap();
            if is_started(&daemon).await {
                daemon.start_again().await;
                assert_eq!(daemon.rest().get("/v1/port-forwards/web").await.unwrap().status, 200);
                daemon.stop();
            } else {
                noticed += 1;
            }
            assert_eq!(kernel(), before, "at {place}");
            for suffix in ["-wal", "-shm"] {
                let _ = fs::remove_file(format!("{}{suffix}", database().display()));
            }
        }
        assert!(noticed > 3, "{noticed}");
        fs::write(database(), &whole).unwrap();
        daemon.start_again().await;
        assert_eq!(daemon.rest().get("/v1/port-forwards/web").await.unwrap().status, 200);
        assert_eq!(kernel(), before);
    });
}

/// Whether a daemon starts; it is stopped again.
async fn is_started(daemon: &Daemon) -> bool {
    let mut child = netloomd(&daemon.socket).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let started = loop {
        if child.try_wait().unwrap().is_some() {
            break false;
        }
        if daemon.rest().get("/readyz").await.is_ok_and(|reply| reply.status == 200) {
            break true;
        }
        assert!(began.elapsed() < ENDS_WITHIN, "it neither starts nor ends");
        // The socket appears in the file system; nothing announces it to this process.
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let _ = child.kill();
    child.wait().unwrap();
    started
}

#[test]
fn a_second_daemon_says_who_is_there_and_the_first_does_not_notice() {
    on_host(async || {
        let daemon = Daemon::start().await;
        make(&daemon.rest()).await;
        let before = kernel();
        let mut other = netloomd(&Path::new(HOME).join("other.sock"));
        let began = Instant::now();
        let told = Told::from(tokio::task::spawn_blocking(move || other.output().unwrap()).await.unwrap());
        assert!(
            told.code != Some(0) && began.elapsed() < Duration::from_secs(5),
            "{told:?} {:?}",
            began.elapsed()
        );
        assert!(told.err.contains("another netloomd (pid"), "{}", told.err);
        let reply = daemon.rest().patch("/v1/namespaces/red", &json!({"labels": {"still": "here"}})).await;
        assert_eq!(reply.status, 200);
        assert_eq!(kernel(), before);
    });
}

#[test]
fn a_database_that_knows_less_than_the_kernel_stops_the_start_and_nothing_is_removed() {
    on_host(async || {
        let mut daemon = Daemon::start().await;
        make(&daemon.rest()).await;
        daemon.stop();
        let old = fs::read(database()).unwrap();
        daemon.start_again().await;
        let later = json!([
            {"kind": "Namespace", "name": "green"},
            {"kind": "Attachment", "name": "green0", "spec": {"namespace": "green", "network": "v-net-0"}},
        ]);
        daemon.rest().post("/v1/apply", &json!({"objects": later})).await.ok();
        let before = kernel();
        daemon.stop();
        let new = fs::read(database()).unwrap();

        fs::write(database(), &old).unwrap();
        let why = refused(&daemon).await;
        for word in ["namespace green", "in green", "--unknown remove", "netloomd purge"] {
            assert!(why.contains(word), "{why}");
        }
        assert_eq!(kernel(), before);
        fs::remove_file(database()).unwrap();
        let why = refused(&daemon).await;
        assert!(why.contains("namespace red"), "{why}");
        assert_eq!(kernel(), before);

        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", database().display()));
        }
        fs::write(database(), &new).unwrap();
        daemon.start_again().await;
        assert_eq!(kernel(), before);
        assert_eq!(daemon.rest().get("/v1/attachments/green0").await.unwrap().status, 200);
    });
}
