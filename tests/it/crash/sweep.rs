//! The daemon dies at every point of every effect.
//!
//! A story is told once undisturbed, which counts the points that its effects pass. Then it is told again for each of
//! them, and the daemon dies there. A new daemon must find its way: what was answered is there, the calls that were not
//! answered can be repeated, and in the end the whole kernel is as after the undisturbed story.

use std::{collections::BTreeSet, path::PathBuf};

use netloom_server::fault::Effect;

use super::{
    scene::{Names, Scene, devices, forget, same},
    spread,
    story::{self, Story, send, there, wipe},
};
use crate::host::{Daemon, HOME, on_host};

/// Of a story, in CI.
const POINTS: usize = 14;

macro_rules! sweeps {
    ($($test:ident $story:literal)*) => {$(
        #[test]
        fn $test() {
            sweep(&story::named($story));
        }
    )*

        #[test]
        fn every_story_is_swept() {
            let told: Vec<&str> = story::all().iter().map(|story| story.name).collect();
            assert_eq!(told, [$($story),*]);
        }
    };
}

sweeps! {
    a_crash_while_a_namespace_comes_or_goes_leaves_nothing_half_done "namespace"
    a_crash_while_a_network_comes_or_goes_leaves_nothing_half_done "network"
    a_crash_while_an_attachment_comes_leaves_nothing_half_done "attach"
    a_crash_while_an_attachment_goes_leaves_nothing_half_done "detach"
    a_crash_while_a_port_is_published_or_withdrawn_leaves_nothing_half_done "publish"
    a_crash_while_a_cable_comes_changes_or_goes_leaves_nothing_half_done "cable"
    a_crash_in_a_live_change_leaves_nothing_half_done "patch"
    a_crash_while_a_route_comes_changes_or_goes_leaves_nothing_half_done "route"
    a_crash_while_a_reservation_comes_or_goes_leaves_nothing_half_done "reservation"
    a_crash_while_a_namespace_is_adopted_or_released_leaves_nothing_half_done "adopted"
    a_crash_while_rates_and_settings_change_leaves_nothing_half_done "shaped"
    a_crash_while_a_policy_comes_changes_or_goes_leaves_nothing_half_done "policy"
    a_crash_while_attachments_come_go_and_are_relabelled_under_a_policy_leaves_nothing_half_done "policed"
    a_crash_in_a_large_apply_leaves_nothing_half_done "apply"
}

#[test]
fn every_effect_is_in_a_story() {
    on_host(async || {
        let mut seen = BTreeSet::new();
        story::named("adopted").set_up();
        for story in story::all() {
            let (points, _) = undisturbed(&Scene::new(), &story).await;
            seen.extend(points.into_iter().map(|(_, effect)| effect));
        }
        let record = PathBuf::from(HOME).join("points");
        seen.extend(recorded(&record).into_iter().map(|(_, effect)| effect));
        let missing: Vec<Effect> =
            Effect::ALL.into_iter().filter(|effect| effect.changes() && !seen.contains(effect)).collect();
        assert!(missing.is_empty(), "no story passes a point of {missing:?}");
    });
}

/// Tells the story, and then again for each of its points.
fn sweep(story: &Story) {
    on_host(async || {
        story.set_up();
        let scene = Scene::new();
        let bare = scene.snapshot(&Names::new());
        // The first time, the host itself is made ready, which would count wrong.
        let _ = undisturbed(&scene, story).await;
        let (points, expected) = undisturbed(&scene, story).await;
        let chosen = spread(&points, POINTS, |(_, effect)| *effect);
        let mut hit = 0;
        for (point, _) in &chosen {
            hit += usize::from(disturbed(&scene, story, *point, &expected).await);
            let left = scene.snapshot(&Names::new());
            same(&left, &bare, &format!("after a crash at point {point} and the last delete"));
        }
        let effects: BTreeSet<&str> = points.iter().map(|(_, effect)| effect.as_str()).collect();
        println!("{}: {} points found, {hit} of {} hit: {effects:?}", story.name, points.len(), chosen.len());
        assert!(hit > 0);
    });
}

/// The points that the story's own calls pass, and the kernel after them.
pub async fn undisturbed(scene: &Scene, story: &Story) -> (Vec<(u64, Effect)>, String) {
    let record = PathBuf::from(HOME).join("points");
    // Another story's.
    let _ = std::fs::remove_file(&record);
    let daemon = Daemon::start_with_faults(&format!("record={}", record.display())).await;
    story.prepare(&daemon.rest()).await.unwrap();
    let passed = recorded(&record).len();
    for (index, call) in story.calls.iter().enumerate() {
        send(&daemon.rest(), call, &format!("call-{index}")).await.unwrap().ok();
    }
    let names = devices(&daemon.rest()).await;
    let expected = scene.snapshot(&names);
    let points = recorded(&record).split_off(passed);
    wipe(&daemon.rest()).await;
    forget(daemon);
    (points, expected)
}

/// The points that were passed, by number, and of which effect they are.
pub fn recorded(record: &std::path::Path) -> Vec<(u64, Effect)> {
    let text = std::fs::read_to_string(record).unwrap();
    let point = |line: &str| {
        let mut words = line.split(' ');
        let number = words.next()?.parse().ok()?;
        let effect = words.next()?;
        Some((number, Effect::ALL.into_iter().find(|one| one.as_str() == effect)?))
    };
    text.lines().map(|line| point(line).unwrap()).collect()
}

/// Whether the daemon died at the point, which it does unless the story took fewer this time.
async fn disturbed(scene: &Scene, story: &Story, point: u64, expected: &str) -> bool {
    let mut daemon = Daemon::start_with_faults(&format!("die={point}")).await;
    if story.prepare(&daemon.rest()).await.is_err() {
        // The beginning took more points this time.
        daemon.start_over().await;
        story.prepare(&daemon.rest()).await.unwrap();
    }
    let answered = tell(&daemon, story).await;
    daemon.dies_soon().await;
    let died = daemon.start_over().await;
    finish(scene, &daemon, story, answered, expected, &format!("after a crash at point {point}")).await;
    wipe(&daemon.rest()).await;
    forget(daemon);
    died
}

/// Tells the story until the daemon dies; how many calls were answered.
pub async fn tell(daemon: &Daemon, story: &Story) -> usize {
    for (index, call) in story.calls.iter().enumerate() {
        match send(&daemon.rest(), call, &format!("call-{index}")).await {
            Ok(reply) => drop(reply.ok()),
            Err(_) => return index,
        }
    }
    story.calls.len()
}

/// Tells the rest of the story; then all must be as it is to be.
pub async fn finish(
    scene: &Scene,
    daemon: &Daemon,
    story: &Story,
    answered: usize,
    expected: &str,
    when: &str,
) {
    let rest = daemon.rest();
    for (index, call) in story.calls.iter().enumerate().skip(answered) {
        let found = there(&rest, call).await;
        let again = send(&rest, call, &format!("call-{index}")).await.unwrap().ok();
        if let Some(found) = found {
            assert_eq!(again["uid"], found["uid"], "the retry gets the same object, {when}");
        }
    }
    let names = devices(&rest).await;
    same(&scene.snapshot(&names), expected, when);
}
