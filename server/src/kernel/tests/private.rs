use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pause, pipe2, read, write};

use crate::kernel::netns::own_cookie;
use crate::kernel::private;
use crate::kernel::testhost::{on_private_host, on_private_host_of_ordinary_user};

fn empty_host() {
    assert_eq!(fs::read_dir("/run").unwrap().count(), 0, "/run is empty");
    assert!(nix::unistd::Uid::effective().is_root(), "root of the inside");
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert_eq!(devices.lines().skip(2).count(), 1, "only lo: {devices}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    assert_ne!(own_cookie().unwrap(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in mounts.lines() {
        assert!(!line.contains(" shared:") && !line.contains(" master:"), "not private: {line}");
    }
}

#[test]
fn a_private_host_is_empty_and_its_tests_are_its_root() {
    on_private_host(empty_host);
}

#[test]
fn an_ordinary_user_gets_a_private_host_too() {
    on_private_host_of_ordinary_user(empty_host);
}

#[test]
fn processes_inside_are_numbered_anew_and_seen_alone() {
    on_private_host(|| {
        // 1 waits, 2 is the program.
        assert_eq!(std::process::id(), 2);
        let numbers = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            entry.unwrap().file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        });
        assert_eq!(numbers.collect::<Vec<_>>().len(), 2);
    });
}

#[test]
fn a_process_with_threads_is_refused_in_words() {
    // The test runner has threads.
    let refused = private::enter().unwrap_err();
    assert_eq!(refused.errno, nix::errno::Errno::EBUSY);
    assert!(refused.to_string().contains("before any thread starts"), "{refused}");
}

#[test]
#[should_panic(expected = "this is expected to be seen outside")]
fn a_failure_inside_is_a_failure_outside() {
    on_private_host(|| panic!("this is expected to be seen outside"));
}

/// A process that enters a private host of its own and does this there. What it writes can be read; the end of
/// the pipe says that it is gone.
fn process(program: impl FnOnce(&OwnedFd) -> i32) -> (Pid, OwnedFd) {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    // SAFETY: the child leaves through _exit, and glibc lets it allocate.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => (child, reader),
        ForkResult::Child => {
            drop(reader);
            let code = match private::enter() {
                Ok(_) => program(&writer),
                Err(error) => {
                    eprintln!("{error}");
                    99
                }
            };
            // SAFETY: takes a number and does not return.
            unsafe { nix::libc::_exit(code) }
        }
    }
}

fn wait_for_signals(ready: &OwnedFd) -> i32 {
    write(ready, b"!").unwrap();
    loop {
        pause();
    }
}

/// Waits for the next byte, or for the end.
fn next(reader: &OwnedFd) -> Option<u8> {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(10_000_u16)).unwrap(), 1, "nobody wrote, nobody went");
    let mut byte = [0];
    (read(reader, &mut byte).unwrap() == 1).then_some(byte[0])
}

#[test]
fn the_exit_code_of_the_program_is_that_of_the_process_outside() {
    on_private_host_of_ordinary_user(|| {
        let (outside, _reader) = process(|_| 42);
        assert_eq!(waitpid(outside, None).unwrap(), WaitStatus::Exited(outside, 42));
    });
}

#[test]
fn a_signal_to_the_process_outside_reaches_the_program() {
    on_private_host(|| {
        let (outside, reader) = process(wait_for_signals);
        assert_eq!(next(&reader), Some(b'!'));
        kill(outside, Signal::SIGTERM).unwrap();
        let ended = 128 + Signal::SIGTERM as i32;
        assert_eq!(waitpid(outside, None).unwrap(), WaitStatus::Exited(outside, ended));
        assert_eq!(next(&reader), None);
    });
}

#[test]
fn nothing_outlives_a_process_outside_that_is_killed() {
    on_private_host(|| {
        let (outside, reader) = process(wait_for_signals);
        assert_eq!(next(&reader), Some(b'!'));
        kill(outside, Signal::SIGKILL).unwrap();
        waitpid(outside, None).unwrap();
        assert_eq!(next(&reader), None);
    });
}

#[test]
fn a_private_host_on_a_private_host_is_another_one() {
    on_private_host_of_ordinary_user(|| {
        let outer = own_cookie().unwrap();
        let (outside, reader) = process(|writer| {
            let other = own_cookie().is_ok_and(|inner| inner != outer);
            write(writer, if other { b"y" } else { b"n" }).unwrap();
            0
        });
        assert_eq!(next(&reader), Some(b'y'));
        waitpid(outside, None).unwrap();
    });
}
