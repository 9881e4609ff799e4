//! Callers that take what they can get: what they cost the daemon, and everybody else.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::{
    host::{Daemon, on_host},
    rest::Rest,
};

/// The most memory that the daemon ever had, in bytes.
fn peak(daemon: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn bodies_without_measure_are_refused_and_cost_little() {
    on_host(async || {
        let daemon = Daemon::start().await;
        let rest = daemon.rest();
        rest.post("/v1/apply", &json!({"objects": []})).await.ok();
        let before = peak(&daemon);
        let send = async |path: &str, body: Vec<u8>| {
            let reply = rest.send("POST", path, "application/json", Bytes::from(body)).await;
            // Whoever goes on sending for too long is cut before there is an answer.
            reply.map(|reply| reply.status)
        };
        let list = |item: &str, count: usize| {
            let items = vec![item; count].join(",");
            format!("{{\"objects\":[{items}]}}").into_bytes()
        };
        let deep = ["[".repeat(10_000), "]".repeat(10_000)].concat().into_bytes();
        for (body, status) in [
            (vec![b'x'; 100 << 20], 413),
            (deep, 400),
            (list("0", 1_000_000), 413),
            (list("0", 500_000), 413),
            (list("{}", 300_000), 413),
        ] {
            let length = body.len();
            if let Ok(answer) = send("/v1/apply", body).await {
                assert_eq!(answer, status, "{length} bytes");
            } else {
                assert!(length > 16 << 20, "{length} bytes were not answered");
            }
        }
        // Half a million objects of two bytes each, in one message.
        let message = [&[0, 0, 0x0f, 0xff, 0xf0][..], &[0x0a, 0].repeat(0x7_fff8)].concat();
        let path = "/netloom.v1.ControlService/Apply";
        let reply = rest.send("POST", path, "application/grpc", Bytes::from(message)).await.unwrap();
        assert_eq!(reply.headers["grpc-status"], "8", "{reply:?}");
        let grown = peak(&daemon) - before;
        assert!(grown < 32 << 20, "{} MiB", grown >> 20);
    });
}

#[test]
fn a_thousand_half_requests_on_each_socket_hold_nobody_up() {
    on_host(async || {
        netloom_server::daemon::raise_file_limit();
        let daemon = Daemon::start().await;
        let reading = Rest::new(&daemon.socket.with_file_name("read.sock"));
        let mut crowd = Vec::new();
        for rest in [&daemon.rest(), &reading] {
            for _ in 0..1_000 {
                let mut stream = rest.unix().await;
                // One that was closed already made room.
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").await;
                crowd.push(stream);
            }
        }
        for rest in [daemon.rest(), reading] {
            let start = Instant::now();
            assert_eq!(rest.get("/v1/version").await.unwrap().status, 200);
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        }
    });
}
