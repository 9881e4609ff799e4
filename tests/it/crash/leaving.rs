//! `netloomd purge` and `netloomd backup` die at each of their points, or one of their requests is refused.

use std::{
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
};

use netloom_server::kernel::netns::Namespaces;
use serde_json::Value;

use super::{
    scene::{Names, Scene, difference, same},
    spread,
    story::{self, wipe},
    sweep::recorded,
};
use crate::host::{Daemon, HOME, netloomd, on_host};

const POINTS: usize = 10;

/// Runs the program with a script for its points; whether it came to its end, and in which way.
fn run(daemon: &Daemon, words: &[&str], faults: &str) -> std::process::Output {
    netloomd(&daemon.socket).args(words).env("NETLOOM_FAULTS", faults).output().unwrap()
}

#[test]
fn a_purge_that_dies_anywhere_is_finished_by_the_next_one() {
    on_host(async || {
        drop(Namespaces::default().create("stranger").unwrap());
        let scene = Scene::new();
        let bare = scene.snapshot(&Names::new());
        let record = PathBuf::from(HOME).join("points");
        let story = story::named("detach");
        let mut daemon = Daemon::start().await;
        story.prepare(&daemon.rest()).await.unwrap();
        daemon.stop();
        let full = scene.snapshot(&Names::new());
        assert!(run(&daemon, &["purge"], &format!("record={}", record.display())).status.success());
        same(&scene.snapshot(&Names::new()), &bare, "after a purge");
        let all = recorded(&record);
        let points = spread(&all, POINTS, |(_, effect)| *effect);
        let mut hit = 0;
        for (point, _) in &points {
            // All that was there comes back, since the database was kept.
            daemon.start_again().await;
            daemon.stop();
            let again = difference(&scene.snapshot(&Names::new()), &full);
            assert!(again.is_none(), "{again:?}");
            // The end of the process may be before the last points.
            let died = run(&daemon, &["purge"], &format!("die={point}"));
            hit += usize::from(died.status.signal().is_some());
            let next = run(&daemon, &["purge"], "");
            assert!(next.status.success(), "after a death at point {point}: {next:?}");
            same(
                &scene.snapshot(&Names::new()),
                &bare,
                &format!("after a death at point {point} and a purge"),
            );
        }
        println!("purge: {} points found, {hit} of {} hit", all.len(), points.len());
        assert!(hit > 4);
    });
}

#[test]
fn a_purge_that_meets_an_error_says_so_and_the_next_one_finishes_it() {
    on_host(async || {
        let scene = Scene::new();
        let bare = scene.snapshot(&Names::new());
        let mut daemon = Daemon::start().await;
        story::named("detach").prepare(&daemon.rest()).await.unwrap();
        let (mut told, mut overcome) = (0, 0);
        // EBUSY.
        for effect in ["route", "firewall", "unpin", "question"] {
            for number in [1, 2, 5] {
                daemon.start_again_if_stopped().await;
                daemon.stop();
                let purge = run(&daemon, &["purge"], &format!("refuse={effect}:{number}:16"));
                match purge.status.success() {
                    true => overcome += 1,
                    false => {
                        told += 1;
                        assert!(purge.stderr.starts_with(b"netloomd: "), "{purge:?}");
                        let next = run(&daemon, &["purge"], "");
                        assert!(next.status.success(), "{effect} {number}: {next:?}");
                    }
                }
                same(&scene.snapshot(&Names::new()), &bare, &format!("{effect} {number}"));
            }
        }
        println!("purge: {told} errors told, {overcome} overcome");
        assert!(told > 0);
    });
}

#[test]
fn a_backup_that_dies_anywhere_is_whole_or_not_there_and_the_database_is_unhurt() {
    on_host(async || {
        let story = story::named("detach");
        let daemon = Daemon::start().await;
        story.prepare(&daemon.rest()).await.unwrap();
        let before = intent(&daemon).await;
        let record = PathBuf::from(HOME).join("points");
        let file = Path::new(HOME).join("copy.db");
        let words = ["backup", file.to_str().unwrap()];
        assert!(run(&daemon, &words, &format!("record={}", record.display())).status.success());
        std::fs::remove_file(&file).unwrap();
        let points = recorded(&record);
        let mut whole = 0;
        for (point, effect) in &points {
            let died = run(&daemon, &words, &format!("die={point}"));
            assert!(died.status.signal().is_some(), "at point {point}, {effect:?}: {died:?}");
            if file.exists() {
                whole += 1;
                is_whole(&file, &before).await;
                std::fs::remove_file(&file).unwrap();
            }
            // The next one takes over whatever was left.
            let next = run(&daemon, &words, "");
            assert!(next.status.success(), "after a death at point {point}: {next:?}");
            is_whole(&file, &before).await;
            std::fs::remove_file(&file).unwrap();
            let left: Vec<_> =
                std::fs::read_dir(HOME).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            let is_part = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("copy.db");
            assert_eq!(left.iter().find(is_part), None, "after a death at point {point}");
        }
        for number in 1..=u64::try_from(points.len()).unwrap() {
            let refused = run(&daemon, &words, &format!("refuse=file:{number}:13"));
            if !refused.status.success() {
                assert!(refused.stderr.starts_with(b"netloomd: no backup was made"), "{refused:?}");
                // The last step makes what is whole durable.
                if file.exists() {
                    is_whole(&file, &before).await;
                }
            }
            let _ = std::fs::remove_file(&file);
        }
        println!("backup: {} points hit, the copy was there after {whole} of them", points.len());
        assert_eq!(intent(&daemon).await, before);
        assert!(whole > 0 && whole < points.len());
        let mut daemon = daemon;
        daemon.crash_and_restart().await;
        assert_eq!(intent(&daemon).await, before, "after a restart");
        wipe(&daemon.rest()).await;
    });
}

async fn intent(daemon: &Daemon) -> Value {
    daemon.rest().get("/v1/export").await.unwrap().ok()
}

/// A daemon can start with it, beside the other one: the database is what it is about, not the kernel.
async fn is_whole(copy: &Path, expected: &Value) {
    assert_eq!(std::fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
    let state = tempfile::tempdir().unwrap();
    std::fs::copy(copy, state.path().join("netloom.db")).unwrap();
    let events = netloom_server::config::Config::default().events;
    let options = netloom_server::store::StoreOptions { state_dir: state.path().to_owned(), events };
    let store = netloom_server::store::Store::open(options).await.unwrap();
    let objects = expected["objects"].as_array().unwrap().len();
    let world = store.snapshot().world;
    let found = world.all::<netloom_api::Namespace>().count()
        + world.all::<netloom_api::Network>().count()
        + world.all::<netloom_api::Attachment>().count()
        + world.all::<netloom_api::PortForward>().count();
    assert_eq!(found, objects);
    store.close().await;
}
