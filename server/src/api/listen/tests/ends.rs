//! How a daemon stops.

use tonic::Code;
use tonic_health::pb::health_client::HealthClient;

use super::*;

#[tokio::test]
async fn a_drain_ends_event_streams_and_grpc_streams_at_once_and_cuts_nothing() {
    let daemon = Daemon::start(Limits::default());
    let mut events = daemon.connect(At::Main).await;
    events.write_all(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut events, "first").await;
    let mut client = HealthClient::new(daemon.grpc(At::Main).await);
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    let stop = tokio::spawn(daemon.stop());
    // An orderly end of a chunked body, not a broken connection.
    assert!(rest(&mut events).await.ends_with("0\r\n\r\n"));
    let end = timeout(LONG, watch.message()).await.unwrap().unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "the daemon stops"));
    assert_eq!(stop.await.unwrap(), Drained { cut: 0 });
}

#[tokio::test]
async fn a_request_that_is_being_answered_is_finished_and_idle_connections_go() {
    let minute = Duration::from_secs(60);
    let limits = Limits { header_timeout: minute, idle_timeout: minute, ..Limits::default() };
    let daemon = Daemon::start(limits);
    let mut idle = daemon.connect(At::Main).await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut idle, "ok").await;
    let mut begun = daemon.connect(At::Main).await;
    begun.write_all(b"GET /heal").await.unwrap();
    // Its handler waits for the signal of the drain.
    let mut slow = daemon.connect(At::Main).await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // A later answer on the same listener: all of the above has been accepted.
    daemon.get(At::Main, "/healthz").await;

    let socket = daemon.path("netloom.sock");
    assert_eq!(daemon.stop().await, Drained { cut: 0 });
    assert!(rest(&mut slow).await.starts_with("HTTP/1.1 200"));
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut begun).await, "");
    assert!(!socket.exists());
}

#[tokio::test]
async fn who_does_not_leave_in_time_is_cut() {
    let daemon = Daemon::start(Limits { drain_timeout: Duration::from_millis(100), ..Limits::default() });
    let mut big = daemon.connect(At::Main).await;
    // More than the socket holds, and never read.
    big.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut big, "HTTP/1.1 200").await;
    assert_eq!(daemon.stop().await, Drained { cut: 1 });
}

async fn read_until(stream: &mut Box<dyn Stream>, word: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(word) {
        let mut some = [0; 4096];
        let read = timeout(LONG, stream.read(&mut some)).await.expect("something comes").unwrap();
        assert_ne!(read, 0, "the connection ended before {word:?}");
        seen.extend_from_slice(&some[..read]);
    }
}
