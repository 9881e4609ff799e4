//! The firewall's one writer: a thread that owns the socket. Commits that queue up go in one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    hostnet::{
        Loss,
        rules::{Chain, ChainName, Edit, Element, Part, Rules, SetId},
    },
    kernel::nft::{Nft, NftError, monitor::RulesMonitor},
};

const QUEUE: usize = 256;
/// Commits that are put together at most.
const TOGETHER: usize = 64;

/// How often the thread looks whether anybody still listens.
const LOOKS_UP_EVERY: Duration = Duration::from_millis(500);
/// Who changes our tables mostly has more to do than one thing.
const SETTLES_WITHIN: Duration = Duration::from_millis(50);

/// Speaks to the writer.
pub(super) struct RulesWriter {
    queue: SyncSender<Work>,
    /// Others can change our tables: then this is our own number.
    unowned: Option<u32>,
}

enum Work {
    Ensure(BTreeMap<ChainName, Chain>, SyncSender<Result<(), NftError>>),
    Commit(Commit),
    Counts(SetId, SyncSender<Result<Vec<(String, u64)>, NftError>>),
    Dump(SyncSender<Result<Rules, NftError>>),
    Remove(SyncSender<Result<(), NftError>>),
}

struct Commit {
    edit: Edit,
    answer: SyncSender<Result<(), NftError>>,
}

impl RulesWriter {
    /// Opens the socket in the calling thread's namespace and starts the thread; it ends with the last handle.
    pub(super) fn start() -> Result<Self, super::KernelOpenError> {
        let nft = Nft::open()?;
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("nft-writer".into());
        let unowned = (!nft.features().owner).then(|| nft.port());
        thread.spawn(move || write(nft, &receiver)).map_err(super::KernelOpenError::Thread)?;
        Ok(Self { queue: sender, unowned })
    }

    /// Tells from now on when others have changed our tables, where they can. It ends when nobody receives any more.
    pub(super) fn watch(&self, tell: mpsc::Sender<Vec<Loss>>) -> Result<(), String> {
        let Some(own) = self.unowned else { return Ok(()) };
        let monitor = RulesMonitor::open(own).map_err(|error| error.to_string())?;
        let thread = std::thread::Builder::new().name("watch-rules".into());
        thread.spawn(move || listen(monitor, &tell)).map_err(|error| error.to_string()).map(drop)
    }

    pub(super) fn ensure(&self, chains: &BTreeMap<ChainName, Chain>) -> Result<(), NftError> {
        self.ask(|answer| Work::Ensure(chains.clone(), answer))
    }

    pub(super) fn commit(&self, edit: Edit) -> Result<(), NftError> {
        self.ask(|answer| Work::Commit(Commit { edit, answer }))
    }

    /// How many packets each element of a set that counts has met.
    pub(super) fn counts(&self, set: SetId) -> Result<Vec<(String, u64)>, NftError> {
        self.ask(|answer| Work::Counts(set, answer))
    }

    pub(super) fn dump(&self) -> Result<Rules, NftError> {
        self.ask(Work::Dump)
    }

    pub(super) fn remove_tables(&self) -> Result<(), NftError> {
        self.ask(Work::Remove)
    }

    fn ask<T>(&self, work: impl FnOnce(SyncSender<Result<T, NftError>>) -> Work) -> Result<T, NftError> {
        let gone =
            || NftError::System { operation: "the firewall's thread", errno: nix::errno::Errno::EPIPE };
        let (answer, answered) = sync_channel(1);
        self.queue.send(work(answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

/// What a commit is about, or leans on.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Element(SetId, Vec<Part>),
    Chain(ChainName),
}

impl Commit {
    fn places(&self) -> BTreeSet<About> {
        let Edit { put, remove, add, drop } = &self.edit;
        let chains = put.iter().map(|(name, _)| name).chain(drop);
        let elements = remove.iter().chain(add).map(Element::place);
        let elements = elements.map(|(set, key)| About::Element(set, key));
        elements.chain(chains.map(|name| About::Chain(name.clone()))).collect()
    }
}

fn listen(mut monitor: RulesMonitor, tell: &mpsc::Sender<Vec<Loss>>) {
    while !tell.is_closed() {
        match monitor.wait(LOOKS_UP_EVERY) {
            Ok(false) => {}
            Ok(true) => {
                std::thread::sleep(SETTLES_WITHIN);
                if monitor.wait(Duration::ZERO).is_err() || tell.blocking_send(vec![Loss::Rules]).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "changes of the firewall are heard no more");
                return;
            }
        }
    }
}

fn write(mut nft: Nft, queue: &Receiver<Work>) {
    let mut next = None;
    while let Some(work) = next.take().or_else(|| queue.recv().ok()) {
        // Who asked and went away does not hear the answer.
        match work {
            Work::Ensure(chains, answer) => drop(answer.send(nft.ensure_with(&chains).map(|_| ()))),
            Work::Counts(set, answer) => drop(answer.send(nft.counts(set))),
            Work::Dump(answer) => drop(answer.send(nft.dump())),
            Work::Remove(answer) => drop(answer.send(nft.remove_tables())),
            Work::Commit(first) => {
                let mut places = first.places();
                let mut commits = vec![first];
                while commits.len() < TOGETHER {
                    match queue.try_recv() {
                        // Of two commits about one element the later one has the last word.
                        Ok(Work::Commit(commit)) if places.is_disjoint(&commit.places()) => {
                            places.extend(commit.places());
                            commits.push(commit);
                        }
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                commit(&mut nft, commits);
            }
        }
    }
}

/// All together; when that is refused, one by one, so that each gets its own answer.
fn commit(nft: &mut Nft, commits: Vec<Commit>) {
    if commits.len() > 1 {
        let mut all = Edit::default();
        for Commit { edit: Edit { put, remove, add, drop }, answer: _ } in &commits {
            all.put.extend_from_slice(put);
            all.remove.extend_from_slice(remove);
            all.add.extend_from_slice(add);
            all.drop.extend_from_slice(drop);
        }
        if nft.edit(&all).is_ok() {
            for commit in commits {
                drop(commit.answer.send(Ok(())));
            }
            return;
        }
    }
    for Commit { edit, answer } in commits {
        drop(answer.send(nft.edit(&edit)));
    }
}
