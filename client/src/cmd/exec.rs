//! Becoming a command inside a namespace: `setns`, then `exec`, with no process in between.

use std::{
    convert::Infallible,
    ffi::OsString,
    fs::File,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        statfs::{NSFS_MAGIC, fstatfs},
        statvfs::{FsFlags, statvfs},
    },
};

use crate::fault::Fault;

/// A command that is to run inside a namespace.
pub struct Inside {
    /// Where the namespace is, as the daemon says.
    pub path: PathBuf,
    /// The command.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Inside {
    /// Enters the namespace and becomes the command; returns only if that fails.
    pub fn run(self) -> Result<Infallible> {
        let Self { path, program, arguments } = self;
        enter(&path).with_context(|| format!("cannot enter {}", path.display()))?;
        // What /sys shows is of the namespace that mounted it. Where a container forbids another one, the command may
        // still be of use.
        if let Err(errno) = fresh_sys() {
            eprintln!("note: /sys still shows the interfaces of outside: {}", errno.desc());
        }
        Err(Fault::Exec { error: become_command(&program, arguments), program }.into())
    }
}

/// Replaces this process. No process is started; but unlike execvp(3), `exec` gives back the SIGPIPE that Rust ignores,
/// without which `yes | head` would not end quietly.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the command, not the daemon, and it becomes the process"
)]
fn become_command(program: &OsString, arguments: Vec<OsString>) -> io::Error {
    Command::new(program).args(arguments).exec()
}

/// Enters the network namespace at a path, if it is one: a file that stands there instead is not opened by the kernel
/// as a namespace, but the error would not say so.
fn enter(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
        anyhow::bail!("it is not a namespace; was it unmounted behind netloomd's back?");
    }
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        nix::errno::Errno::EPERM => anyhow::anyhow!("that needs CAP_SYS_ADMIN; try it as root"),
        errno => errno.into(),
    })
}

/// Mounts a /sys of the namespace over the old one, seen by this process alone.
fn fresh_sys() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_SLAVE | MsFlags::MS_REC, nothing)?;
    let read_only = statvfs("/sys")?.flags().contains(FsFlags::ST_RDONLY);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let flags = if read_only { flags | MsFlags::MS_RDONLY } else { flags };
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_namespace_is_not_entered() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let inside =
            |path: &Path| Inside { path: path.into(), program: "true".into(), arguments: Vec::new() };
        let error = format!("{:#}", inside(file.path()).run().err().unwrap());
        assert!(error.contains("is not a namespace"), "{error}");
        let error = format!("{:#}", inside(Path::new("/nonexistent/red")).run().err().unwrap());
        assert!(error.contains("cannot enter /nonexistent/red"), "{error}");
    }
}
