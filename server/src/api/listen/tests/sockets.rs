//! The files of the unix sockets.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::net::UnixListener as StdListener;

use super::*;
use crate::api::auth::Access;
use crate::api::listen::ListenError;
use crate::api::listen::unix::open;

fn config(path: &Path, mode: u32, group: Option<&str>) -> SocketConfig {
    SocketConfig { path: path.to_owned(), mode, group: group.map(str::to_owned) }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn the_mode_is_as_configured_whatever_the_umask_and_narrow_without_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let own = nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().map(|group| group.name);
    if let Some(own) = own {
        let _socket = open(&config(&path, 0o660, Some(&own)), Access::Full).unwrap();
        assert_eq!(mode(&path), 0o660);
    }
    for (given, group, expected) in
        [(0o660, None, 0o600), (0o660, Some("no-such-group"), 0o600), (0o700, None, 0o700)]
    {
        let _socket = open(&config(&path, given, group), Access::Full).unwrap();
        assert_eq!(mode(&path), expected);
    }
}

#[tokio::test]
async fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(StdListener::bind(&path).unwrap());
    let first = open(&config(&path, 0o600, None), Access::Full).unwrap();
    let second = open(&config(&path, 0o600, None), Access::Full).unwrap_err();
    assert!(matches!(second, ListenError::InUse { .. }), "{second}");
    drop(first);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_second_daemon_at_a_live_socket_is_refused_and_the_first_goes_on() {
    let daemon = Daemon::start(Limits::default());
    let path = daemon.path("netloom.sock");
    let refused = open(&config(&path, 0o600, None), Access::Full).unwrap_err();
    assert!(refused.to_string().contains("another process answers"), "{refused}");
    assert_eq!(daemon.get(At::Main, "/healthz").await.body, "ok");
}

#[tokio::test]
async fn what_is_not_our_socket_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    drop(StdListener::bind(&target).unwrap());
    let link = dir.path().join("link");
    symlink(&target, &link).unwrap();
    let dangling = dir.path().join("dangling");
    symlink(dir.path().join("nowhere"), &dangling).unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let directory = dir.path().join("directory");
    fs::create_dir(&directory).unwrap();
    for path in [&link, &dangling, &file, &directory] {
        let refused = open(&config(path, 0o600, None), Access::Full).unwrap_err();
        assert!(matches!(refused, ListenError::NotOurs { .. }), "{refused}");
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::symlink_metadata(&target).unwrap().file_type().is_socket());
    assert!(!dir.path().join("nowhere").exists());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn a_socket_of_another_user_is_never_replaced() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("not run: only root can make a file of another user");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(StdListener::bind(&path).unwrap());
    if std::os::unix::fs::chown(&path, Some(65534), None).is_err() {
        return eprintln!("not run: this user namespace has no second user");
    }
    let refused = open(&config(&path, 0o600, None), Access::Full).unwrap_err();
    assert!(refused.to_string().contains("belongs to uid 65534"), "{refused}");
    assert!(path.exists());
}

#[tokio::test]
async fn a_directory_that_everybody_writes_to_is_refused_and_a_missing_one_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let wide = dir.path().join("wide");
    fs::create_dir(&wide).unwrap();
    fs::set_permissions(&wide, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = open(&config(&wide.join("s"), 0o600, None), Access::Full).unwrap_err();
    assert!(matches!(refused, ListenError::OpenDirectory { .. }), "{refused}");
    let made = dir.path().join("made/s");
    let _socket = open(&config(&made, 0o600, None), Access::Full).unwrap();
    assert_eq!(mode(&made), 0o600);
}

#[tokio::test]
async fn a_socket_file_that_another_daemon_took_over_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = open(&config(&path, 0o600, None), Access::Full).unwrap();
    fs::remove_file(&path).unwrap();
    let _second = open(&config(&path, 0o600, None), Access::Full).unwrap();
    drop(first);
    assert!(path.exists());
}

/// What a hostile user sees who tries to connect all the time: never a file of a wider mode.
#[tokio::test]
async fn the_socket_is_at_no_instant_wider_than_configured() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let watched = path.clone();
    let watcher = std::thread::spawn(move || {
        let mut seen = std::collections::BTreeSet::new();
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            seen.extend(fs::symlink_metadata(&watched).map(|meta| meta.mode() & 0o7777).ok());
        }
        seen
    });
    for _ in 0..200 {
        let _socket = open(&config(&path, 0o600, None), Access::Full).unwrap();
    }
    drop(stop);
    let seen = watcher.join().unwrap();
    assert!(seen.iter().all(|mode| *mode == 0o600), "{seen:?}");
}
