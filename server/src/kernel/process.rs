//! Which processes are inside of a network namespace, as `/proc` tells.
//!
//! A process counts where its first thread is; threads that have gone elsewhere by themselves do not. What a process is
//! called is its short name: arguments may hold secrets. One look at each process costs some 4 µs.

use std::fs;
use std::io;
use std::path::PathBuf;

use netloom_api::ProcessState;

/// The processes whose network namespace has this inode number, in the order of their pids.
pub fn pids_in(inode: u64) -> io::Result<Vec<u32>> {
    let wanted = format!("net:[{inode}]");
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that has ended meanwhile, and a dead one whose parent has not looked yet, are nowhere.
        if fs::read_link(namespace_of(pid)).is_ok_and(|link| link.as_os_str() == wanted.as_str()) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The network namespace of a process.
pub fn namespace_of(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// What is to be told of a process; none once it has ended.
pub fn describe(pid: u32) -> Option<ProcessState> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // From the daemon's pid namespace down to the process's own.
    let inside_pid = field("NSpid:").and_then(|pids| pids.split_whitespace().next_back()?.parse().ok());
    let command = field("Name:").unwrap_or_default().to_owned();
    Some(ProcessState { pid, inside_pid: inside_pid.unwrap_or(pid), command })
}
