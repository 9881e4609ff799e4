//! A private host: fresh network, mount and pid namespaces (and a user namespace for ordinary users), in which
//! a process may do whatever it does to a real host without anyone noticing.
//!
//! The process becomes three: the *caller* of old waits outside and passes on signals and the exit code; an
//! *init* does the same as process 1 inside; the *program* goes on. None outlives another, whatever kills it.
//! Inside: `/run` is empty, `/proc` and `/sys` show the new namespaces where the system allows, `lo` is up.
//!
//! Everything between [`Preparation::now`] and the end of [`Preparation::enter`] allocates nothing and takes no
//! lock, so it may also run between `fork` and `exec` of a process with many threads.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigaction};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, write};

/// The private host, seen by the program inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// `/proc` shows the processes inside only. Containers that mask parts of `/proc` forbid that.
    pub fresh_proc: bool,
    /// `/sys` shows the devices inside.
    pub fresh_sys: bool,
}

/// No private host. The text names the switch to turn, where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateError {
    /// What failed.
    pub step: &'static str,
    /// Why, as the kernel codes it.
    pub errno: Errno,
    /// What stands in the way, and what to do.
    pub hint: String,
}

/// All that has to be known before, so that entering needs no memory.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// The maps of the user namespace, for ordinary users.
    maps: Option<Maps>,
    hint: String,
}

#[derive(Clone, Debug)]
struct Maps {
    uid: String,
    gid: String,
}

/// A step of entering that failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedStep {
    /// What failed.
    pub step: &'static str,
    /// Why.
    pub errno: Errno,
}

/// Goes into a private host; returns inside. The process outside waits and ends as the one inside does.
/// Refused once there are threads: they would stay behind.
pub fn enter() -> Result<Entered, PrivateError> {
    let preparation = Preparation::now(Uid::effective(), Gid::effective());
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(1) | Err(_) => {}
        Ok(_) => return Err(preparation.explain(FailedStep { step: "count threads", errno: Errno::EBUSY })),
    }
    // SAFETY: no other thread exists.
    unsafe { preparation.enter() }.map_err(|failed| preparation.explain(failed))
}

impl Preparation {
    /// For a process with this user and group.
    pub fn now(uid: Uid, gid: Gid) -> Self {
        let maps = Maps { uid: format!("0 {uid} 1"), gid: format!("0 {gid} 1") };
        // Read now: inside of a user namespace the limits are those of the inside.
        Self { maps: (!uid.is_root()).then_some(maps), hint: hint(uid.is_root()) }
    }

    /// Goes into the private host; see [`enter`].
    ///
    /// # Safety
    ///
    /// Forks and goes on in the child: no other thread may exist, or this runs after `fork` in a child that
    /// will `exec`.
    pub unsafe fn enter(&self) -> Result<Entered, FailedStep> {
        let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
        if let Some(maps) = &self.maps {
            flags |= CloneFlags::CLONE_NEWUSER;
            unshare(flags).map_err(at("make namespaces"))?;
            write_file("/proc/self/setgroups", "deny").map_err(at("write /proc/self/setgroups"))?;
            write_file("/proc/self/uid_map", &maps.uid).map_err(at("write /proc/self/uid_map"))?;
            write_file("/proc/self/gid_map", &maps.gid).map_err(at("write /proc/self/gid_map"))?;
        } else {
            unshare(flags).map_err(at("make namespaces"))?;
        }
        // SAFETY: as the caller promises. The first child is process 1 of the pid namespace: it gets the orphans,
        // and the kernel shields it from signals without handlers. So the program is its child.
        unsafe {
            go_on_in_child().map_err(at("fork"))?;
            go_on_in_child().map_err(at("fork"))?;
        }
        furnish()
    }

    /// What to do if it fails.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// The error for people.
    pub fn explain(&self, failed: FailedStep) -> PrivateError {
        let hint = match failed.step {
            "count threads" => "the private host must be entered before any thread starts".to_owned(),
            _ => self.hint.clone(),
        };
        PrivateError { step: failed.step, errno: failed.errno, hint }
    }
}

impl fmt::Display for PrivateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, errno, hint } = self;
        write!(f, "cannot make a private host: {step}: {} ({errno:?}); {hint}", errno.desc())
    }
}

impl std::error::Error for PrivateError {}

/// Signals that the waiting processes pass on.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// Forks, and returns in the child only; the parent supervises it, and ends as it does.
///
/// # Safety
///
/// As for [`Preparation::enter`].
pub(super) unsafe fn go_on_in_child() -> Result<(), Errno> {
    let mut waited: SigSet = PASSED_ON.into_iter().collect();
    waited.add(Signal::SIGCHLD);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // Where SIGCHLD is ignored, children vanish without their exit code.
    // SAFETY: the default action calls no code of ours.
    unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    let before = waited.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let parent = own_pidfd()?;
    // SAFETY: passed on to the caller.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => supervise(child, &waited),
        ForkResult::Child => {
            before.thread_set_mask()?;
            set_pdeathsig(Signal::SIGKILL)?;
            // If the parent died before that line, nobody will tell us.
            let mut fds = [PollFd::new(parent.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::ZERO)? {
                0 => Ok(()),
                _ => exit_at_once(1),
            }
        }
    }
}

/// Waits for the child, passing on signals and reaping orphans; ends as the child ended.
fn supervise(child: Pid, signals: &SigSet) -> ! {
    // Descriptors of the program must not stay open in here: somebody waits for their end.
    // SAFETY: nothing in this process uses a descriptor any more.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => exit_at_once(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => exit_at_once(128 + signal as i32),
            Err(Errno::EINTR) | Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => continue,
            Err(_) => exit_at_once(1),
            Ok(_) => {}
        }
        // SAFETY: both point to valid memory for the call.
        let (signal, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::sigwaitinfo(signals.as_ref(), &raw mut info), info)
        };
        let Ok(signal) = Signal::try_from(signal) else { continue };
        // A terminal sends to the whole process group, so the child has that one already.
        if signal != Signal::SIGCHLD && info.si_code <= 0 {
            // The child may just have ended, which the next turn sees.
            let _ = kill(child, signal);
        }
    }
}

/// Mounts and devices of the private host.
fn furnish() -> Result<Entered, FailedStep> {
    let none = None::<&str>;
    // A slave would still receive what the outside mounts.
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).map_err(at("make mounts private"))?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), safe, Some("mode=0755")).map_err(at("mount /run"))?;
    let safe = safe | MsFlags::MS_NOEXEC;
    let fresh_proc = mount(Some("proc"), "/proc", Some("proc"), safe, none).is_ok();
    let fresh_sys = mount(Some("sysfs"), "/sys", Some("sysfs"), safe, none).is_ok();
    loopback_up().map_err(at("set lo up"))?;
    Ok(Entered { fresh_proc, fresh_sys })
}

/// By ioctl, because netlink would need memory.
fn loopback_up() -> Result<(), Errno> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all-zero is a valid ifreq; the name fits and ends in NUL; the kernel reads the flags of the union,
    // which were written.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request)
    };
    Errno::result(result).map(drop)
}

fn own_pidfd() -> Result<OwnedFd, Errno> {
    // SAFETY: takes two numbers; a result that is not negative is a new descriptor that nobody else owns.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0))?;
        Ok(OwnedFd::from_raw_fd(fd as libc::c_int))
    }
}

fn write_file(path: &str, text: &str) -> Result<(), Errno> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&file, text.as_bytes()).map(drop)
}

/// Ends without running what others registered for the end: those things belong to the child.
fn exit_at_once(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}

fn at(step: &'static str) -> impl Fn(Errno) -> FailedStep {
    move |errno| FailedStep { step, errno }
}

/// The switches that keep people from namespaces, as they stand here.
fn hint(root: bool) -> String {
    let is = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let limits = ["max_net_namespaces", "max_mnt_namespaces", "max_pid_namespaces", "max_user_namespaces"];
    let needed = if root { &limits[..3] } else { &limits[..] };
    for limit in needed {
        if is(&format!("/proc/sys/user/{limit}"), "0") {
            return format!("user.{limit} is 0: allow some with `sysctl -w user.{limit}=1000`");
        }
    }
    if root {
        return "root lacks CAP_SYS_ADMIN here, or a system call filter forbids namespaces, as in a container \
                without --privileged"
            .to_owned();
    }
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return "kernel.unprivileged_userns_clone is 0: run as root, or `sysctl -w kernel.unprivileged_userns_clone=1`"
            .to_owned();
    }
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return "kernel.apparmor_restrict_unprivileged_userns is 1: run as root, or \
                `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
            .to_owned();
    }
    "a container or system call filter may forbid namespaces to ordinary users: run as root".to_owned()
}
