use std::sync::mpsc;

use crate::kernel::netns::{fresh, own_cookie};
use crate::kernel::testhost::on_private_host;
use crate::kernel::thread::{ThreadError, run, start};

#[test]
fn work_is_done_in_the_namespace_and_the_caller_stays_where_it_is() {
    on_private_host(|| {
        let before = own_cookie().unwrap();
        let red = fresh().unwrap();
        let seen =
            run(&red.fd, "red", || (own_cookie().unwrap(), std::thread::current().name().map(str::to_owned)));
        assert_eq!(seen.unwrap(), (red.cookie, Some("red".to_owned())));
        assert_eq!(own_cookie().unwrap(), before);
    });
}

#[test]
fn a_panic_of_the_work_is_an_error_of_the_caller() {
    on_private_host(|| {
        let red = fresh().unwrap();
        let result = run(&red.fd, "odd\0name", || {
            if true {
                panic!("number {}", 7)
            }
        });
        assert_eq!(result, Err(ThreadError::Panicked("number 7".to_owned())));
    });
}

#[test]
fn what_is_not_a_namespace_is_not_entered() {
    on_private_host(|| {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let result = run(&file, "file", || unreachable!("must not run outside of its namespace"));
        assert_eq!(result, Err::<(), _>(ThreadError::Enter(nix::errno::Errno::EINVAL)));
    });
}

#[test]
fn started_work_reports_through_a_channel() {
    on_private_host(|| {
        let red = fresh().unwrap();
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = move |result| sender.send(result).unwrap();
        start(red.fd.try_clone().unwrap(), "red", || own_cookie().unwrap(), done).unwrap();
        assert_eq!(receiver.recv().unwrap(), Ok(red.cookie));
    });
}
