//! The daemon dies in the middle of a story, and once more while it starts again. The third one must find its way.

use std::path::PathBuf;

use super::{
    is_full,
    scene::{Names, Scene, forget, same},
    spread,
    story::{self, Story, wipe},
    sweep::{finish, recorded, tell, undisturbed},
};
use crate::host::{Daemon, HOME, on_host};

/// Of a story, in CI: where it dies first, and where it dies then.
const FIRST: usize = 2;
const THEN: usize = 3;

#[test]
fn a_crash_while_it_recovers_from_a_crash_in_a_large_apply_leaves_nothing_half_done() {
    sweep_twice(&story::named("apply"));
}

#[test]
fn a_crash_while_it_recovers_from_a_crash_in_a_detach_leaves_nothing_half_done() {
    sweep_twice(&story::named("detach"));
}

#[test]
fn a_crash_while_it_recovers_from_a_crash_in_a_live_change_leaves_nothing_half_done() {
    sweep_twice(&story::named("patch"));
}

#[test]
fn a_crash_at_the_very_first_start_leaves_a_database_that_starts() {
    on_host(async || {
        let record = PathBuf::from(HOME).join("points");
        let daemon = Daemon::start_with_faults(&format!("record={}", record.display())).await;
        forget(daemon);
        let points = recorded(&record);
        for (point, _) in spread(&points, 6, |(_, effect)| *effect) {
            let mut daemon = Daemon::start_with_faults(&format!("die={point}")).await;
            daemon.start_over().await;
            assert_eq!(daemon.rest().get("/v1/networks").await.unwrap().ok()["items"], serde_json::json!([]));
            forget(daemon);
        }
        println!("first start: {} points found", points.len());
    });
}

/// Dies at some points of the story, and for each of them at all points of the start that follows.
fn sweep_twice(story: &Story) {
    on_host(async || {
        story.set_up();
        let scene = Scene::new();
        let bare = scene.snapshot(&Names::new());
        let _ = undisturbed(&scene, story).await;
        let (points, expected) = undisturbed(&scene, story).await;
        let (mut found, mut hit) = (0, 0);
        let most = if is_full() { 6 } else { FIRST };
        let step = (points.len() / most).max(1);
        for (first, _) in points.iter().skip(step / 2).step_by(step) {
            let starts = starts_after(story, *first).await;
            found += starts.len();
            for (then, _) in spread(&starts, THEN, |_| ()) {
                let mut daemon = crashed(story, *first).await;
                let answered = tell(&daemon, story).await;
                daemon.die_again(&format!("die={then}")).await;
                hit += usize::from(daemon.start_over().await);
                let when = format!("after a crash at point {first} and one at point {then} of the start");
                finish(&scene, &daemon, story, answered, &expected, &when).await;
                wipe(&daemon.rest()).await;
                forget(daemon);
                same(&scene.snapshot(&Names::new()), &bare, &when);
            }
        }
        println!(
            "recovery, {}: {} points, {found} points of starts found, {hit} hit",
            story.name,
            points.len()
        );
        assert!(hit > 0);
    });
}

/// A daemon that will die at this point of the story.
async fn crashed(story: &Story, point: u64) -> Daemon {
    let mut daemon = Daemon::start_with_faults(&format!("die={point}")).await;
    if story.prepare(&daemon.rest()).await.is_err() {
        daemon.start_over().await;
        story.prepare(&daemon.rest()).await.unwrap();
    }
    daemon
}

/// The points of the start that follows a death there.
async fn starts_after(story: &Story, point: u64) -> Vec<(u64, netloom_server::fault::Effect)> {
    let record = PathBuf::from(HOME).join("starts");
    let _ = std::fs::remove_file(&record);
    let mut daemon = crashed(story, point).await;
    tell(&daemon, story).await;
    daemon.die_again(&format!("record={}", record.display())).await;
    let points = recorded(&record);
    wipe(&daemon.rest()).await;
    forget(daemon);
    points
}
