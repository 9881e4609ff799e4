//! What the daemon gives up before its first thread starts, so that whoever gets hold of it has less: all capabilities
//! but those that it proves to need, every way to new ones, its core dumps, and system calls that it never makes.
//!
//! Threads inherit all of it, so this is done once, while there is one. In a user namespace of an ordinary user (a lab, a
//! test) it holds as on a host.

use std::io;

use nix::errno::Errno;
use nix::libc::{self, c_long, c_ulong, sock_filter};
use nix::sys::prctl::{set_dumpable, set_no_new_privs};

/// A capability by its number and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(pub u32, pub &'static str);

/// What the daemon keeps, each with what does not work without it. `tests/it/confinement.rs` tries.
pub const NEEDED: [(Capability, &str); 8] = [
    (Capability(0, "CAP_CHOWN"), "the sockets belong to the groups netloom and netloom-read"),
    (
        Capability(1, "CAP_DAC_OVERRIDE"),
        "names of namespaces in directories of others, and whose a taken port is",
    ),
    (Capability(10, "CAP_NET_BIND_SERVICE"), "published ports below 1024 are reserved by a bound socket"),
    (Capability(11, "CAP_NET_BROADCAST"), "to hear the events of all namespaces on one socket"),
    (
        Capability(12, "CAP_NET_ADMIN"),
        "links, addresses, routes, nftables, conntrack, settings of the network",
    ),
    (Capability(13, "CAP_NET_RAW"), "gratuitous ARP and unsolicited neighbour advertisements"),
    (
        Capability(19, "CAP_SYS_PTRACE"),
        "which processes are inside of a namespace, and the namespace of a process",
    ),
    (Capability(21, "CAP_SYS_ADMIN"), "unshare, setns, and the mounts below /run/netns"),
];

/// Needed for a moment only, to give up the rest.
pub const TO_GIVE_UP: Capability = Capability(8, "CAP_SETPCAP");

/// Asked for by nobody here: to run programs, to look into processes, to change the kernel, to hide in it.
const REFUSED: [c_long; 22] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
];

/// Highest number that a set of two words can hold.
const CAPABILITIES_MAX: u32 = 63;
const VERSION_3: u32 = 0x2008_0522;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Gives up what is not needed. Only while there is one thread.
pub fn confine() -> io::Result<()> {
    let keep = NEEDED.iter().fold(0, |set, (capability, _)| set | bit(capability.0));
    drop_bounding(!keep)?;
    let have = capabilities()?;
    set_capabilities(have & keep)?;
    set_no_new_privs()?;
    set_dumpable(false)?;
    refuse_calls()
}

/// Gives up these, for tests that show what each is for.
pub fn give_up(numbers: &[u32]) -> io::Result<()> {
    let less = numbers.iter().fold(0, |set, number| set | bit(*number));
    set_capabilities(capabilities()? & !less)
}

fn bit(number: u32) -> u64 {
    1_u64.checked_shl(number).unwrap_or(0)
}

/// Also what is executed gets none of these. Without the right to, nothing has to be done: what is missing in the
/// bounding set is told to whoever set the daemon up.
fn drop_bounding(less: u64) -> io::Result<()> {
    for number in (0..=CAPABILITIES_MAX).filter(|number| less & bit(*number) != 0) {
        // SAFETY: takes numbers.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, c_ulong::from(number), 0, 0, 0) };
        match Errno::result(done) {
            // This kernel has no such capability, and none above it.
            Err(Errno::EINVAL) => break,
            Err(Errno::EPERM) => {
                tracing::warn!(
                    "the bounding set of capabilities stays: without CAP_SETPCAP it cannot be made smaller"
                );
                break;
            }
            Err(errno) => return Err(errno.into()),
            Ok(_) => {}
        }
    }
    Ok(())
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// One word of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What this thread is permitted.
fn capabilities() -> io::Result<u64> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut words = [Word::default(); 2];
    // SAFETY: version 3 fills two words.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) };
    Errno::result(done)?;
    let [low, high] = words;
    Ok(u64::from(high.permitted) << 32 | u64::from(low.permitted))
}

/// Effective and permitted; none is inherited.
fn set_capabilities(set: u64) -> io::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let word = |half: u64| {
        let half = half as u32;
        Word { effective: half, permitted: half, inheritable: 0 }
    };
    let words = [word(set), word(set >> 32)];
    // SAFETY: version 3 reads two words.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    Errno::result(done)?;
    Ok(())
}

/// A filter that answers EPERM to what is refused, and to calls of another architecture.
fn refuse_calls() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // x32 calls are those of x86-64 with this bit.
    const X32: u32 = 0x4000_0000;
    let step = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    // From the step after the first three to the refusal at the end.
    let calls = REFUSED.len() as u8;
    let mut program = vec![
        step(LOAD, 4, 0, 0),
        step(EQUALS, ARCHITECTURE, 0, calls + 3),
        step(LOAD, 0, 0, 0),
        step(AT_LEAST, X32, calls + 1, 0),
    ];
    for (index, call) in REFUSED.iter().enumerate() {
        program.push(step(EQUALS, *call as u32, calls - index as u8, 0));
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program.push(step(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, whose pointer and length are those of the vector.
    let done =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) };
    match Errno::result(done) {
        Ok(_) => Ok(()),
        // A kernel without filters; everything else holds.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            tracing::warn!("this kernel filters no system calls");
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of the unit's line that begins so.
    fn unit(directive: &str) -> Vec<String> {
        let unit = include_str!("../../../deploy/netloomd.service");
        let line = unit.lines().find_map(|line| line.strip_prefix(directive)).unwrap();
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_unit_and_the_container_give_what_the_daemon_keeps_and_no_more() {
        let mut given = unit("CapabilityBoundingSet=");
        let mut needed: Vec<String> = NEEDED.iter().map(|(capability, _)| capability.1.to_owned()).collect();
        needed.push(TO_GIVE_UP.1.to_owned());
        given.sort();
        needed.sort();
        assert_eq!(given, needed);
        let text = include_str!("../../../deploy/netloomd.service");
        for (capability, reason) in NEEDED {
            let name = capability.1.trim_start_matches("CAP_");
            assert!(text.contains(&format!("{name} ")) && text.contains(reason), "{name}: {reason}");
        }
        let container = include_str!("../../../deploy/Containerfile");
        let added = container.split("--cap-add ").nth(1).unwrap().split_whitespace().next().unwrap();
        let mut added: Vec<String> = added.split(',').map(|name| format!("CAP_{name}")).collect();
        added.sort();
        assert_eq!(added, needed);
    }
}
