//! `netloomd lab`: the real daemon on a private host, to try documents on and to test them.
//!
//! Fresh user, network, mount and pid namespaces; the daemon with its database in a temporary directory; the documents
//! applied through the same verbs as always; then the reachability matrix, measured by real packets. Nothing of the
//! host outside is touched, and nothing is left.

mod document;
mod matrix;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use ipnet::IpNet;
use netloom_api::{NetnsPath, TopologyFormat};

use crate::{
    command,
    config::{Config, Lab, Settings},
    controller::{Caller, Change, WriteOptions},
    daemon::{self, Daemon},
    kernel::{lan, netns::Namespaces, private},
    telemetry,
};
use document::{Files, LabSpec, LanDocument};
use matrix::Matrix;

/// How long the documents may take to be in the kernel.
const APPLY_WITHIN: Duration = Duration::from_secs(60);
/// The host's interface on the lab's LAN.
const LAN_INTERFACE: &str = "eth0";

/// Runs a lab; the exit code is 0 when the matrix is as expected.
pub fn main(options: &Lab, settings: &Settings) -> ExitCode {
    // Relative paths are of the caller's directory, and errors in files should not need a host to be seen.
    let documents = match Files::read(&options.files) {
        Ok(documents) => documents,
        Err(error) => return refuse(&format!("{error:#}")),
    };
    if let Err(error) = private::enter() {
        return refuse(&format!("no private host can be made: {error}"));
    }
    match command::runtime().and_then(|runtime| runtime.block_on(run(options, settings, documents))) {
        Ok(code) => code,
        Err(error) => refuse(&format!("{error:#}")),
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("netloomd lab: {why}");
    ExitCode::FAILURE
}

async fn run(options: &Lab, settings: &Settings, documents: Files) -> anyhow::Result<ExitCode> {
    let state = TemporaryState::make()?;
    let log = settings.log.clone().unwrap_or_else(|| "warn".into());
    let settings = Settings { state_dir: Some(state.0.clone()), log: Some(log), ..settings.clone() };
    let mut config = Config::load(&settings)?;
    // Nobody else is on the private host, so there is nobody to share the sockets with.
    (config.socket.group, config.read_socket.group) = (None, None);
    telemetry::init(&config.log, config.log_format)?;
    daemon::raise_file_limit();
    let spec = documents.spec.clone().unwrap_or_default();
    let lan = spec.lan.as_ref().map(build_lan).transpose()?;
    spec.containers.iter().try_for_each(build_container)?;
    let mut daemon = Daemon::start(&config).await?;
    daemon.booted().await?;
    apply(&daemon, documents).await?;
    println!("{}", daemon.controller.topology().draw(TopologyFormat::Tree));
    let code = judge(&daemon, &spec, lan.as_ref()).await?;
    let code = then(options, &config, code).await?;
    daemon.stop().await?;
    Ok(code)
}

/// What is to be done with the lab once it stands.
async fn then(options: &Lab, config: &Config, code: ExitCode) -> anyhow::Result<ExitCode> {
    let command = match (&options.exec, options.shell, options.serve) {
        (Some(command), _, _) => vec!["/bin/sh".to_owned(), "-c".to_owned(), command.clone()],
        (None, true, _) => vec![shell()],
        (None, false, true) => {
            println!("serving on {}; stop with Ctrl-C", config.socket.path.display());
            daemon::interrupted()?.await;
            return Ok(code);
        }
        (None, false, false) => return Ok(code),
    };
    let endpoint = format!("unix://{}", config.socket.path.display());
    let status = tokio::task::spawn_blocking(move || start(&command, &endpoint)).await??;
    let status = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(if status == 0 { code } else { ExitCode::from(status) })
}

/// The lab is a tool, not the daemon: a command that its user asked for is the one process that it starts.
#[allow(
    clippy::disallowed_methods,
    reason = "the user's own command, on the private host, asked for by a flag"
)]
fn start(command: &[String], endpoint: &str) -> anyhow::Result<std::process::ExitStatus> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut process = std::process::Command::new(program);
    process.args(arguments).env("NETLOOM_ENDPOINT", endpoint);
    // What was built beside this program is found by its name: `netloom`.
    if let Some(path) = crate::config::path_from_here() {
        process.env("PATH", path);
    }
    process.status().with_context(|| format!("{program} cannot be started"))
}

fn shell() -> String {
    crate::config::shell()
}

async fn apply(daemon: &Daemon, documents: Files) -> anyhow::Result<()> {
    let changes: Vec<Change> = documents.drafts.into_iter().map(Change::Put).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let options = WriteOptions { wait: APPLY_WITHIN, ..WriteOptions::default() };
    let caller = Caller { actor: "lab".into(), trace: "lab".into(), rights: crate::controller::Rights::Full };
    let committed = daemon.controller.commit(changes, &options, &caller).await.map_err(|error| {
        let mut text = error.detail.clone();
        for violation in &error.violations {
            text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
        }
        anyhow::anyhow!("the documents were refused: {text}")
    })?;
    for object in committed.objects.iter().flatten() {
        if let Some(ready) = object.ready().filter(|ready| ready.status != netloom_api::ConditionStatus::True)
        {
            let (kind, name) = (object.kind(), &object.meta().name);
            println!("{kind} {name} is not ready: {} {}", ready.reason.as_str(), ready.message);
        }
    }
    Ok(())
}

/// A namespace with nothing in it, under a path that netloom does not manage.
fn build_container(path: &NetnsPath) -> anyhow::Result<()> {
    let whole = Path::new(path.as_str());
    let (Some(folder), Some(name)) = (whole.parent(), whole.file_name()) else {
        anyhow::bail!("{path} names no namespace");
    };
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let made = Namespaces::at(folder).create(&name.to_string_lossy());
    made.map(drop).with_context(|| format!("the lab's container {path} cannot be made"))
}

fn build_lan(document: &LanDocument) -> anyhow::Result<lan::Lan> {
    let host = document.host.to_vec();
    let peers = document.peers.iter().map(|peer| {
        let addresses = peer.address.to_vec();
        let routes = peer.routes.iter().filter_map(|destination| {
            let via =
                host.iter().map(IpNet::addr).find(|via| via.is_ipv4() == destination.addr().is_ipv4())?;
            Some(lan::LanRoute { destination: *destination, via })
        });
        lan::PeerSpec { name: peer.name.clone(), addresses, routes: routes.collect(), pinned: false }
    });
    let spec = lan::LanSpec {
        host_interface: LAN_INTERFACE.into(),
        host_addresses: host.clone(),
        host_routes: Vec::new(),
        peers: peers.collect(),
    };
    lan::add_lan(&spec).context("the lab's LAN cannot be made")
}

async fn judge(daemon: &Daemon, spec: &LabSpec, lan: Option<&lan::Lan>) -> anyhow::Result<ExitCode> {
    let matrix = Matrix::of(&daemon.controller, spec, lan)?;
    // Probes block; the daemon's own threads go on meanwhile.
    let lines = tokio::task::block_in_place(|| matrix.measure())?;
    println!("{}", matrix::show(&lines));
    let wrong = lines.iter().filter(|line| line.is_wrong()).count();
    if wrong == 0 {
        if !spec.expect.is_empty() {
            println!("all {} as expected", lines.len());
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("{wrong} of {} not as expected", lines.len());
    Ok(ExitCode::FAILURE)
}

/// A directory of its own for the database, gone with the lab.
struct TemporaryState(PathBuf);

impl TemporaryState {
    fn make() -> anyhow::Result<Self> {
        // Below the private host's own /run, a tmpfs that nobody else sees.
        let path = Path::new("/run/netloom-lab").to_path_buf();
        std::fs::create_dir_all(&path).context("no temporary directory")?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryState {
    fn drop(&mut self) {
        // The tmpfs goes with the mount namespace; removing it early is a courtesy.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
