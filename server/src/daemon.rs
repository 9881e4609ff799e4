//! From a configuration to a running daemon, and back down.
//!
//! Order of start: database (refuses what it cannot trust before the kernel is touched), kernel, listeners, first full
//! pass, ready. Order of stop: listeners drain, running rounds end, the database closes. A stopped daemon leaves traffic
//! exactly as it was.

use std::{
    path::Path,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::{
    api,
    config::{Config, Forwarding},
    controller::{Controller, Intent, drops},
    kernel::Kernel,
    reconcile::{self, Reconciler, Unlooked, board::Board},
    store::{self, OpenError, Store, StoreOptions},
    want::{HostFacts, Surroundings},
};

/// Between two full passes.
const FULL_PASS_INTERVAL: Duration = Duration::from_secs(180);

/// A running daemon.
pub struct Daemon {
    /// The verbs.
    pub controller: Arc<Controller>,
    doors: Part,
    reconciler: Part,
    store: Store,
    booted: watch::Receiver<Option<Result<(), Unlooked>>>,
    papers: Option<Arc<api::listen::Papers>>,
}

/// A part of the daemon, and how it is told to stop.
struct Part {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Part {
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        self.task.await.context("a part of the daemon died")
    }
}

impl Daemon {
    /// Starts everything; answers when the listeners are open. The first full pass may still run.
    pub async fn start(config: &Config) -> anyhow::Result<Self> {
        let options = StoreOptions { state_dir: config.state_dir.clone(), events: config.events };
        let store = Store::open(options).await.context("the database cannot be opened")?;
        let kernel = tokio::task::spawn_blocking(Kernel::open).await?.context("the kernel cannot be used")?;
        let api::listen::Opened { listeners, papers } =
            api::listen::open(config).context("the listeners cannot be opened")?;
        let api_ports =
            listeners.iter().filter_map(|listener| listener.local_addr()).map(|address| address.port());
        let api: Vec<_> = listeners
            .iter()
            .filter_map(|listener| listener.local_addr())
            .map(|address| address.ip())
            .collect();
        let around = Arc::new(RwLock::new(Surroundings {
            features: kernel.features(),
            manages_forwarding: config.forwarding == Forwarding::Manage,
            api_ports: api_ports.collect(),
            facts: HostFacts::default(),
        }));
        let intent = Arc::new(Intent::new(store.clone()));
        let committed = intent.clone();
        kernel.follow(config.adopt_roots.clone(), move || committed.committed());
        intent.reclaim_ports();
        // Before the first look, so that nothing falls in between.
        let losses = kernel.losses();
        let dropped = kernel.drops();
        let board = Arc::new(Board::default());
        let (waker, changes) = reconcile::queue();
        let pools: Arc<[_]> = config.pools.clone().into();
        let controller = Controller::new(
            intent.clone(),
            board.clone(),
            around.clone(),
            kernel.clone(),
            waker,
            pools,
            config.forward_ports.clone(),
        );
        let controller = Arc::new(controller.listening_on(api));

        let (stop, stopped) = watch::channel(false);
        let (halt, halted) = watch::channel(false);
        let ready = Arc::new(AtomicBool::new(false));
        let (booted_sender, booted) = watch::channel(None);
        let telling = (controller.drops(), intent.clone(), board.clone());
        let reconciler = Reconciler::new(
            Arc::new(kernel),
            intent,
            board,
            around,
            FULL_PASS_INTERVAL,
            (config.drift, config.unknown),
        );
        let is_ready = ready.clone();
        let tell = move |result: Result<(), Unlooked>| {
            match &result {
                Ok(()) => {
                    is_ready.store(true, Ordering::Release);
                    tell_systemd();
                    tracing::info!("ready");
                }
                Err(why) => tracing::error!(%why, "not ready"),
            }
            booted_sender.send_replace(Some(result));
        };
        let (counted, followed, board) = telling;
        let told = drops::follow(counted, followed, board, dropped, begun(halted.clone()));
        let run = reconciler.run(changes, losses, tell, begun(halted));
        let reconciler = tokio::spawn(async move {
            tokio::join!(run, told);
        });
        let router = api::router(controller.clone(), config, ready);
        let limits = config.limits;
        let audited = controller.clone();
        let audit: api::listen::Audit = Arc::new(move |denied| audited.denied(denied));
        let doors = tokio::spawn(async move {
            let drained = api::listen::serve(listeners, router, limits, audit, begun(stopped)).await;
            tracing::info!(?drained, "listeners closed");
        });
        let (doors, reconciler) = (Part { stop, task: doors }, Part { stop: halt, task: reconciler });
        Ok(Self { controller, doors, reconciler, store, booted, papers })
    }

    /// Waits for the first full pass.
    pub async fn booted(&mut self) -> anyhow::Result<()> {
        let result = self.booted.wait_for(Option::is_some).await.context("the reconciler stopped")?.clone();
        Ok(result.unwrap_or(Ok(()))?)
    }

    /// Reads tokens, certificates and key again. What cannot be read changes nothing.
    pub fn reload(&self) {
        match self.papers.as_ref().map(|papers| papers.reload()) {
            Some(Ok(())) => tracing::info!("tokens and certificates are read again"),
            Some(Err(error)) => tracing::error!(%error, "tokens and certificates stay as they were"),
            None => tracing::info!("nothing to read again: there are no TCP listeners"),
        }
    }

    /// Resolves when the daemon will not become ready.
    async fn refusal(&self) -> Unlooked {
        let mut booted = self.booted.clone();
        let refused = booted.wait_for(|result| matches!(result, Some(Err(Unlooked::Unknown(_)))));
        match refused.await.map(|result| result.clone()) {
            Ok(Some(Err(why))) => why,
            // It has started, and is about to end.
            Ok(Some(Ok(())) | None) | Err(_) => std::future::pending().await,
        }
    }

    /// Stops in order and waits for it.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self { controller, doors, reconciler, store, booted: _, papers: _ } = self;
        // What was asked for is done before the loop ends: whoever still waits for it gets its answer.
        doors.stop().await?;
        reconciler.stop().await?;
        drop(controller);
        store.close().await;
        Ok(())
    }
}

/// Runs the daemon until it is told to stop.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    // From here on a signal ends the daemon in order, also one that comes while it starts.
    let mut interrupted = std::pin::pin!(interrupted()?);
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let daemon = Daemon::start(config).await?;
    tracing::info!(socket = %config.socket.path.display(), "listening");
    let refusal = loop {
        tokio::select! {
            () = interrupted.as_mut() => break None,
            why = daemon.refusal() => break Some(why),
            Some(()) = hangup.recv() => daemon.reload(),
        }
    };
    tracing::info!("stopping");
    // systemd is not there in containers and tests; then there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    daemon.stop().await?;
    refusal.map_or(Ok(()), |why| Err(why.into()))
}

/// Listens for SIGTERM and SIGINT from now on; resolves when one comes.
pub fn interrupted() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// Lets ranges of ports be claimed: each takes a descriptor.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "the limit of open files stays at {soft}");
    }
}

/// Writes a consistent copy of the database.
pub async fn backup(config: &Config, to: &Path) -> anyhow::Result<()> {
    crate::store::backup(&config.state_dir, to).await.context("no backup was made")
}

/// Removes what bears our marks from the kernel, and tells each thing. Which namespaces were adopted only the database
/// knows; without it what is in them alone stays.
pub async fn purge(config: &Config, dry_run: bool) -> anyhow::Result<Vec<String>> {
    let kernel = Kernel::open().context("the kernel cannot be used")?;
    let options = StoreOptions { state_dir: config.state_dir.clone(), events: config.events };
    let store = match store::is_there(&config.state_dir) {
        false => None,
        true => match Store::open(options).await {
            Ok(store) => Some(store),
            Err(error @ OpenError::Locked { .. }) => return Err(error.into()),
            Err(error) => {
                eprintln!("netloomd: adopted namespaces are left out: {error}");
                None
            }
        },
    };
    if let Some(store) = &store {
        let world = store.snapshot().world;
        kernel.follow(config.adopt_roots.clone(), move || world.clone());
    }
    let purged = tokio::task::spawn_blocking(move || kernel.purge(dry_run)).await?;
    if let Some(store) = store {
        store.close().await;
    }
    purged.map_err(anyhow::Error::msg)
}

async fn begun(mut stopped: watch::Receiver<bool>) {
    // When the sender is gone the daemon is, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn tell_systemd() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}
