//! Starting programs, which only this crate and the tests may do: the daemon starts none.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// A program to start.
pub(crate) fn program(path: impl AsRef<OsStr>) -> Command {
    #[allow(clippy::disallowed_methods, reason = "not the daemon")]
    Command::new(path)
}

/// Runs cargo at the root of the workspace, with these variables set.
pub(crate) fn cargo(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = program(cargo);
    command.args(arguments).envs(variables.iter().copied()).current_dir(workspace());
    let status = command.status().context("cargo does not start")?;
    if !status.success() {
        bail!("cargo {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A program of the release profile.
pub(crate) fn release(name: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("release").join(name)
}
