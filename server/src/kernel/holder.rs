//! Who has a port of this host: the kernel's tables of sockets, and the processes that hold them.
//!
//! Asked only when a port was refused, since it reads all of a table, and looks at the descriptors of all processes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

use netloom_api::Protocol;

/// As the kernel numbers the states of a TCP socket.
const TIME_WAIT: u8 = 6;
/// More processes, or descriptors of one, are not looked at.
const PROCESSES: usize = 32_768;
const DESCRIPTORS: usize = 4_096;

/// One socket that is bound to a port.
struct Socket {
    state: u8,
    inode: u64,
}

/// Whether the kernel remembers connections of this TCP port, and knows no other socket that has it.
pub fn is_only_remembered(port: u16) -> bool {
    let sockets = sockets(Protocol::Tcp, port);
    !sockets.is_empty() && sockets.iter().all(|socket| socket.state == TIME_WAIT)
}

/// The process that has a port, as `nginx (pid 4711)`; none when it is not found, or is not ours to see.
pub fn of_port(protocol: Protocol, port: u16) -> Option<String> {
    let inodes: Vec<u64> =
        sockets(protocol, port).iter().map(|socket| socket.inode).filter(|inode| *inode != 0).collect();
    if inodes.is_empty() {
        return None;
    }
    let names: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let own = std::process::id().to_string();
    for process in fs::read_dir("/proc").ok()?.take(PROCESSES).flatten() {
        let pid = process.file_name();
        let Some(pid) = pid.to_str().filter(|pid| pid.bytes().all(|c| c.is_ascii_digit()) && *pid != own)
        else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds =
            |link: &Path| fs::read_link(link).is_ok_and(|to| names.iter().any(|name| to == Path::new(name)));
        if descriptors.take(DESCRIPTORS).flatten().any(|one| holds(&one.path())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// The sockets of this network namespace that are bound to the port and that the kernel lists: not those that neither
/// listen nor are connected.
fn sockets(protocol: Protocol, port: u16) -> Vec<Socket> {
    let tables: &[&str] = match protocol {
        Protocol::Tcp => &["tcp", "tcp6"],
        Protocol::Udp => &["udp", "udp6"],
        Protocol::Sctp => &[],
    };
    let files = tables.iter().filter_map(|table| File::open(format!("/proc/thread-self/net/{table}")).ok());
    let lines = files.flat_map(|file| BufReader::new(file).lines().skip(1).map_while(Result::ok));
    lines.filter_map(|line| socket(&line, port)).collect()
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`, addresses with the port in hex.
fn socket(line: &str, port: u16) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace();
    let (_, local) = words.nth(1)?.rsplit_once(':')?;
    if u16::from_str_radix(local, 16).ok()? != port {
        return None;
    }
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    Some(Socket { state, inode: words.nth(5)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_table_tells_state_and_socket() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 4711 1";
        let found = socket(line, 8080).unwrap();
        assert_eq!((found.state, found.inode), (10, 4711));
        assert!(socket(line, 8081).is_none());
    }
}
