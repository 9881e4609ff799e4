//! Every request to the kernel and to the database is refused, or loses its answer, once.
//!
//! A story is told once undisturbed, which counts the requests of each effect. Then it is told again, on the same daemon,
//! for each of them and for each error that it can meet. Every call must answer with a success, which may be one that is
//! not Ready yet, or with an error after which either all is there or nothing, so that the client can say it again. With
//! the fault over, the kernel must come to be as after the undisturbed story, and nothing may be left in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use netloom_server::fault::Effect;
use nix::errno::Errno;
use serde_json::Value;

use super::{
    is_full,
    scene::{Names, Scene, devices_and_addresses, difference, forget},
    spread,
    story::{self, Story, send, there, wipe},
};
use crate::{
    host::{Daemon, HOME, on_host},
    rest::Rest,
};

/// Of a story, in CI.
const FAULTS: usize = 9;
/// Of a start, in CI.
const FAULTS_OF_A_START: usize = 8;
/// What was refused once is tried again by itself, soon.
const WITHIN: Duration = Duration::from_secs(5);

/// What a client can do something about: say it again, or say something else.
const ANSWERS: [&str; 4] = ["UNAVAILABLE", "KERNEL_ERROR", "PORT_TAKEN", "BEING_DELETED"];

macro_rules! sweeps {
    ($($test:ident $story:literal)*) => {$(
        #[test]
        fn $test() {
            sweep(&story::named($story));
        }
    )*

        #[test]
        fn every_story_meets_errors() {
            let told: Vec<&str> = story::all().iter().map(|story| story.name).collect();
            assert_eq!(told, [$($story),*]);
        }
    };
}

sweeps! {
    an_error_while_a_namespace_comes_or_goes_is_told_or_overcome "namespace"
    an_error_while_a_network_comes_or_goes_is_told_or_overcome "network"
    an_error_while_an_attachment_comes_is_told_or_overcome "attach"
    an_error_while_an_attachment_goes_is_told_or_overcome "detach"
    an_error_while_a_port_is_published_or_withdrawn_is_told_or_overcome "publish"
    an_error_while_a_cable_comes_changes_or_goes_is_told_or_overcome "cable"
    an_error_in_a_live_change_is_told_or_overcome "patch"
    an_error_while_a_route_comes_changes_or_goes_is_told_or_overcome "route"
    an_error_while_a_reservation_comes_or_goes_is_told_or_overcome "reservation"
    an_error_while_a_namespace_is_adopted_or_released_is_told_or_overcome "adopted"
    an_error_while_rates_and_settings_change_is_told_or_overcome "shaped"
    an_error_while_a_policy_comes_changes_or_goes_is_told_or_overcome "policy"
    an_error_while_attachments_come_go_and_are_relabelled_under_a_policy_is_told_or_overcome "policed"
    an_error_in_a_large_apply_is_told_or_overcome "apply"
}

/// One request, and what becomes of it.
#[derive(Clone, Debug)]
struct Fault {
    effect: Effect,
    number: u64,
    error: Option<i32>,
}

impl Fault {
    fn script(&self) -> String {
        let (effect, number) = (self.effect.as_str(), self.number);
        match self.error {
            Some(code) => format!("refuse={effect}:{number}:{code}"),
            None => format!("lose={effect}:{number}"),
        }
    }

    fn named(&self) -> String {
        let what = match (self.effect, self.error) {
            (_, None) => "loses its answer".to_owned(),
            (Effect::Transaction | Effect::Read | Effect::File, Some(code)) => {
                format!("is refused with SQLite's {code}")
            }
            (_, Some(code)) => format!("is refused with {:?}", Errno::from_raw(code)),
        };
        format!("when {} request {} {what}", self.effect.as_str(), self.number)
    }
}

/// What a request of this effect can meet. `None`: its answer is lost.
fn errors(effect: Effect) -> Vec<Option<i32>> {
    let kernel = [Errno::EBUSY, Errno::EEXIST, Errno::ENODEV, Errno::EINTR, Errno::ENOBUFS, Errno::ENOSPC];
    let some = |errors: &[Errno]| errors.iter().map(|errno| Some(*errno as i32)).collect::<Vec<_>>();
    match effect {
        Effect::Route | Effect::Firewall | Effect::Flows => [some(&kernel), vec![None]].concat(),
        // ENODEV is an answer: there is none.
        Effect::Question => {
            let others = kernel.into_iter().filter(|errno| *errno != Errno::ENODEV).collect::<Vec<_>>();
            [some(&others), vec![None]].concat()
        }
        Effect::Sysctl => some(&[Errno::EBUSY, Errno::EINTR, Errno::ENOSPC, Errno::EROFS]),
        Effect::Pin => some(&[Errno::EBUSY, Errno::EINTR, Errno::ENOSPC, Errno::EPERM]),
        Effect::Unpin => some(&[Errno::EBUSY, Errno::EINTR, Errno::EPERM]),
        Effect::Claim => some(&[Errno::EADDRINUSE, Errno::ENOBUFS, Errno::ENOMEM]),
        // SQLITE_FULL, SQLITE_BUSY, SQLITE_IOERR.
        Effect::Transaction | Effect::Read | Effect::File => vec![Some(13), Some(5), Some(10)],
        Effect::Sync => some(&[Errno::EIO, Errno::ENOSPC]),
    }
}

/// Each of these requests with each error; in CI each with one, and another one than the request before it.
fn faults(requests: &BTreeMap<Effect, u64>, most: usize) -> Vec<Fault> {
    let mut all = Vec::new();
    for (effect, count) in requests {
        for number in 1..=*count {
            let errors = errors(*effect);
            let some = match is_full() {
                true => errors,
                false => vec![errors[all.len() % errors.len()]],
            };
            all.extend(some.into_iter().map(|error| Fault { effect: *effect, number, error }));
        }
    }
    spread(&all, most, |fault| fault.effect)
}

/// A daemon whose requests can be made to fail while it runs.
struct Daring {
    daemon: Daemon,
    control: PathBuf,
}

impl Daring {
    async fn start() -> Self {
        let control = PathBuf::from(HOME).join("control.sock");
        let daemon = Daemon::start_with_faults(&format!("control={}", control.display())).await;
        Self { daemon, control }
    }

    fn rest(&self) -> Rest {
        self.daemon.rest()
    }

    /// Arms the points anew. The requests since the last time, and whether one of them failed.
    fn arm(&self, script: &str) -> (BTreeMap<Effect, u64>, bool) {
        let mut stream = UnixStream::connect(&self.control).unwrap();
        writeln!(stream, "{script}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        let words: BTreeMap<&str, &str> =
            line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        let count = |effect: Effect| Some((effect, words.get(effect.as_str())?.parse().unwrap()));
        (Effect::ALL.into_iter().filter_map(count).collect(), words["failed"] == "true")
    }

    /// In order, and anew on the same state.
    async fn restart(&mut self) {
        self.daemon.stop();
        self.daemon.die_again(&format!("control={}", self.control.display())).await;
    }
}

/// A story on its stage.
struct Play<'a> {
    scene: Scene,
    story: &'a Story,
    /// The kernel before the first call, and after each.
    acts: Vec<String>,
    round: usize,
}

fn sweep(story: &Story) {
    on_host(async || {
        story.set_up();
        let scene = Scene::new();
        let bare = scene.snapshot(&Names::new());
        let mut daring = Daring::start().await;
        let mut play = Play { scene, story, acts: Vec::new(), round: 0 };
        // The first time some things are asked that are known afterwards.
        let _ = play.undisturbed(&daring).await;
        play.empty(&daring, &bare, "undisturbed").await;
        let requests = play.undisturbed(&daring).await;
        play.empty(&daring, &bare, "undisturbed").await;
        let all = faults(&requests, FAULTS);
        let mut hit = 0;
        for fault in &all {
            hit += usize::from(play.disturbed(&mut daring, fault).await);
            play.empty(&daring, &bare, &fault.named()).await;
        }
        let found: u64 = requests.values().sum();
        println!(
            "errors, {}: {found} requests found, {hit} of {} faults met: {requests:?}",
            story.name,
            all.len()
        );
        assert!(hit > 0);
    });
}

impl Play<'_> {
    /// Tells the story and counts its requests.
    async fn undisturbed(&mut self, daring: &Daring) -> BTreeMap<Effect, u64> {
        let rest = daring.rest();
        self.round += 1;
        self.acts.clear();
        self.story.prepare(&rest).await.unwrap();
        daring.arm("");
        self.acts.push(self.scene.snapshot(&devices_and_addresses(&rest).await));
        for (index, call) in self.story.calls.iter().enumerate() {
            send(&rest, call, &self.key(index)).await.unwrap().ok();
            self.acts.push(self.scene.snapshot(&devices_and_addresses(&rest).await));
        }
        daring.arm("").0
    }

    /// Tells the story with a fault in it; whether anything met it.
    async fn disturbed(&mut self, daring: &mut Daring, fault: &Fault) -> bool {
        self.round += 1;
        let when = fault.named();
        self.story.prepare(&daring.rest()).await.unwrap();
        daring.arm(&fault.script());
        for index in 0..self.story.calls.len() {
            self.call(daring, index, fault, &when).await;
        }
        self.comes_to(daring, self.acts.last().unwrap(), &when).await;
        let (_, met) = daring.arm("");
        if met && fault.effect == Effect::Sync {
            // Nothing is durable any more, and the daemon says so, until it is started again.
            daring.restart().await;
            self.comes_to(daring, self.acts.last().unwrap(), &when).await;
        }
        met
    }

    fn key(&self, index: usize) -> String {
        format!("round-{}-call-{index}", self.round)
    }

    /// Says it until it is done, as a client does.
    async fn call(&self, daring: &mut Daring, index: usize, fault: &Fault, when: &str) {
        let call = &self.story.calls[index];
        let key = self.key(index);
        let reply = send(&daring.rest(), call, &key).await.unwrap();
        let first = if reply.status >= 300 {
            let reason = reply.body["reason"].as_str().unwrap_or_default().to_owned();
            // Where /proc/sys is read-only a setting is none that can be had.
            let cannot_be = reason == "INVALID_ARGUMENT" && fault.error == Some(Errno::EROFS as i32);
            assert!(
                cannot_be || ANSWERS.contains(&reason.as_str()),
                "{when}, {call:?} is answered with {reply:#?}"
            );
            if fault.effect == Effect::Sync {
                daring.restart().await;
            }
            let found = there(&daring.rest(), call).await;
            let is_there = match call.1 {
                "/v1/apply" => {
                    let count = objects(&daring.rest()).await.len();
                    assert!(
                        [0, story::objects().len()].contains(&count),
                        "{when}, half a set is there: {count}"
                    );
                    count > 0
                }
                _ => found.is_some(),
            };
            if !is_there && call.0 == "POST" {
                // Withdrawn, and nothing of it is left.
                let when = format!("{when} and {call:?} is refused: {}", reply.body);
                self.comes_to(daring, &self.acts[index], &when).await;
            }
            let again = send(&daring.rest(), call, &key).await.unwrap();
            assert!(again.status < 300, "{when}, and {call:?} said again is answered with {again:#?}");
            if let Some(found) = found {
                assert_eq!(again.body["uid"], found["uid"], "{when}, and {call:?} said again");
                assert_eq!(again.body["status"]["addresses"], found["status"]["addresses"], "{when}");
            }
            again.body
        } else {
            reply.body
        };
        if call.0 == "POST" && call.1 != "/v1/apply" {
            let now = there(&daring.rest(), call).await;
            assert_eq!(
                now.map(|now| now["uid"].clone()),
                Some(first["uid"].clone()),
                "{when}, {call:?} is there"
            );
        }
    }

    /// Waits until the kernel is so, and every object Ready.
    async fn comes_to(&self, daring: &Daring, expected: &str, when: &str) {
        let started = Instant::now();
        loop {
            let rest = daring.rest();
            let unready = unready(&rest).await;
            let difference = difference(&self.scene.snapshot(&devices_and_addresses(&rest).await), expected);
            if difference.is_none() && unready.is_empty() {
                return;
            }
            assert!(
                started.elapsed() < WITHIN,
                "{when}, and {WITHIN:?} later\n{}\nnot ready: {unready:#?}",
                difference.unwrap_or_default()
            );
            // Nothing announces to this process that another one has done with the kernel.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Deletes all, and waits until all is gone.
    async fn empty(&self, daring: &Daring, bare: &str, when: &str) {
        wipe(&daring.rest()).await;
        self.comes_to(daring, bare, &format!("{when}, after the last delete")).await;
    }
}

/// Objects that are not as they are to be, those on their way out among them.
async fn unready(rest: &Rest) -> Vec<Value> {
    let mut all = objects(rest).await;
    all.retain(|one| one["status"]["conditions"][0]["status"] != "True");
    all
}

/// All that the kernel has something of.
async fn objects(rest: &Rest) -> Vec<Value> {
    let kinds = ["namespaces", "networks", "attachments", "links", "routes", "port-forwards"];
    let mut all = Vec::new();
    for kind in kinds {
        let list = rest.get(&format!("/v1/{kind}")).await.unwrap().ok();
        let items = list["items"].as_array().unwrap().iter();
        all.extend(items.filter(|one| one["name"] != "host").cloned());
    }
    all
}

#[test]
fn an_error_while_the_daemon_starts_is_overcome_or_ends_it_with_nothing_changed() {
    on_host(async || {
        let scene = Scene::new();
        let story = story::named("detach");
        let control = format!("control={}", PathBuf::from(HOME).join("control.sock").display());
        let mut daring = Daring::start().await;
        story.prepare(&daring.rest()).await.unwrap();
        let names = devices_and_addresses(&daring.rest()).await;
        let expected = scene.snapshot(&names);
        daring.daemon.die_again(&control).await;
        let (requests, _) = daring.arm("");
        let all = faults(&requests, FAULTS_OF_A_START);
        let play = Play { scene, story: &story, acts: Vec::new(), round: 0 };
        let (mut ended, mut hit) = (0, 0);
        for fault in &all {
            daring.daemon.die_again(&format!("{control},{}", fault.script())).await;
            if daring.daemon.died().await {
                ended += 1;
                hit += 1;
                let unchanged = difference(&play.scene.snapshot(&names), &expected);
                assert!(unchanged.is_none(), "{}, the daemon ends, and {unchanged:?}", fault.named());
                daring.daemon.die_again(&control).await;
            } else {
                hit += usize::from(daring.arm("").1);
            }
            play.comes_to(&daring, &expected, &fault.named()).await;
        }
        println!("errors, start: {requests:?}, {hit} of {} faults met; {ended} ended the daemon", all.len());
        let effects: BTreeSet<Effect> = all.iter().map(|fault| fault.effect).collect();
        assert!(hit > 0 && effects.contains(&Effect::Read), "{effects:?}");
        wipe(&daring.rest()).await;
        forget(daring.daemon);
    });
}
