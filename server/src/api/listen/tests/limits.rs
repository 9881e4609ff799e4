//! Slow, silent, greedy and hostile clients.

use std::time::Instant;

use tonic::Code;
use tonic_health::pb::health_client::HealthClient;

use super::*;

const SHORT: Duration = Duration::from_millis(300);
const EVERYWHERE: [At; 3] = [At::Main, At::ReadSock, At::Tcp];

/// A POST with a body of a known length, or in chunks.
fn post(path: &str, length: usize, chunked: bool) -> Request {
    let body = if chunked {
        let chunk = axum::body::Bytes::from(vec![b'x'; 10_000.min(length)]);
        let chunks = (0..length / chunk.len()).map(move |_| Ok::<_, Infallible>(chunk.clone()));
        Body::from_stream(futures_util::stream::iter(chunks))
    } else {
        Body::from("x".repeat(length))
    };
    Request::post(path).header("host", "localhost").body(body).unwrap()
}

#[tokio::test]
async fn a_client_that_is_silent_or_sends_half_a_header_is_cut_on_every_listener() {
    let daemon = Daemon::start(Limits { header_timeout: SHORT, ..Limits::default() });
    for at in EVERYWHERE {
        for half in ["", "G", "GET /healthz HTTP/1.1\r\nhost: localh", "PRI * HTTP/2.0\r\n"] {
            let start = Instant::now();
            assert_eq!(daemon.raw(at, half.as_bytes()).await, "", "{at:?} {half:?}");
            assert!(start.elapsed() >= SHORT);
        }
    }
}

#[tokio::test]
async fn a_header_that_trickles_is_cut_all_the_same() {
    let daemon = Daemon::start(Limits { header_timeout: SHORT, ..Limits::default() });
    let mut stream = daemon.connect(At::Main).await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    let mut tick = tokio::time::interval(SHORT / 10);
    // Ends when the daemon has closed its end.
    let trickle = async {
        loop {
            tick.tick().await;
            if stream.write_all(b"a: b\r\n").await.is_err() {
                return;
            }
        }
    };
    timeout(LONG, trickle).await.expect("the daemon cuts it");
}

#[tokio::test]
async fn an_idle_connection_lives_until_its_own_time_out_and_half_a_next_header_shortens_it() {
    let limits = Limits { header_timeout: SHORT, idle_timeout: SHORT * 4, ..Limits::default() };
    let daemon = Daemon::start(limits);
    let ask = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut idle = daemon.connect(At::Main).await;
    idle.write_all(ask).await.unwrap();
    let start = Instant::now();
    assert!(rest(&mut idle).await.ends_with("ok"));
    assert!(start.elapsed() >= limits.idle_timeout, "{:?}", start.elapsed());

    let mut half = daemon.connect(At::Main).await;
    half.write_all(ask).await.unwrap();
    let mut answer = [0; 1024];
    while !answer.ends_with(b"ok") {
        let read = half.read(&mut answer).await.unwrap();
        if answer[..read].ends_with(b"ok") {
            break;
        }
    }
    half.write_all(b"GET /heal").await.unwrap();
    let start = Instant::now();
    assert_eq!(rest(&mut half).await, "");
    assert!(start.elapsed() >= SHORT && start.elapsed() < limits.idle_timeout, "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_http2_connection_without_a_request_is_idle_not_half_open() {
    let limits = Limits { header_timeout: SHORT, idle_timeout: SHORT * 4, ..Limits::default() };
    let daemon = Daemon::start(limits);
    let io = TokioIo::new(daemon.connect(At::Main).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let start = Instant::now();
    tokio::time::sleep(SHORT * 2).await;
    let reply =
        sender.send_request(Request::get("http://x/healthz").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(reply.status(), 200);
    drop(reply);
    // The daemon says goodbye; the client hangs up.
    timeout(LONG, connection).await.expect("the connection ends").unwrap().unwrap();
    assert!(start.elapsed() >= SHORT * 6, "{:?}", start.elapsed());
}

#[tokio::test]
async fn three_hundred_half_open_connections_stop_nobody() {
    let daemon = Daemon::start(Limits::default());
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let mut stream = daemon.connect(At::Tcp).await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").await.unwrap();
        crowd.push(stream);
    }
    for at in EVERYWHERE {
        let start = Instant::now();
        assert_eq!(daemon.get(at, "/healthz").await.body, "ok");
        // The header time-out of the crowd is five seconds: nobody waited for it.
        assert!(start.elapsed() < Duration::from_secs(3), "{at:?}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn strangers_who_stay_busy_lose_their_connection_and_callers_do_not() {
    let daemon = Daemon::start(Limits { idle_timeout: SHORT, ..Limits::default() });
    let mut owner = HealthClient::new(daemon.grpc(At::Main).await);
    let mut kept = owner.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    kept.message().await.unwrap().unwrap();
    let mut stranger = daemon.connect(At::Tcp).await;
    // Ends when the daemon has closed its end.
    let busy = async {
        loop {
            let asked = stranger.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
            let mut answer = [0; 1024];
            if asked.is_err() || matches!(stranger.read(&mut answer).await, Ok(0) | Err(_)) {
                return;
            }
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    timeout(LONG, busy).await.expect("the stranger is cut");
    // The other stream outlived the same time, idle as it is.
    assert!(timeout(SHORT, kept.message()).await.is_err());
}

/// Waits until nobody is held any more, and lets no more go than there are.
async fn release(count: usize) {
    HELD.add_permits(count);
    while HELD.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_caller_with_too_much_at_once_waits_for_its_turn_and_then_is_told_to_come_back() {
    let daemon = Daemon::start(Limits { caller_requests: 2, caller_streams: 1, ..Limits::default() });
    let get = |path: &str| Request::get(path).header("host", "x").body(Body::empty()).unwrap();
    let held = [0, 1].map(|_| daemon.call(At::Main, Protocol::Http1, get("/held")));
    let mut held = held.map(Box::pin);
    for one in &mut held {
        assert!(timeout(SHORT, one.as_mut()).await.is_err());
    }
    let start = Instant::now();
    let refused = daemon.call(At::Main, Protocol::Http1, get("/who?wait=300ms")).await;
    assert_eq!(refused.refusal(), (429, "TOO_MANY_REQUESTS".to_owned()));
    assert_eq!(
        (refused.header("retry-after"), refused.json()["metadata"]["limit"].as_str()),
        ("1", Some("2"))
    );
    assert!(start.elapsed() >= SHORT && start.elapsed() < SHORT * 5, "{:?}", start.elapsed());
    let mut client = HealthClient::new(daemon.grpc(At::Main).await);
    let mut hasty = tonic::Request::new(HealthCheckRequest::default());
    hasty.set_timeout(SHORT * 4);
    let status = client.check(hasty).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let retry = tonic_types::StatusExt::get_details_retry_info(&status).unwrap();
    assert_eq!(retry.retry_delay, Some(Duration::from_secs(1)));
    // Others do not notice, and neither do streams, which have a limit of their own.
    let token = format!("Bearer {FULL}");
    let other = Request::get("/who").header("host", "localhost").header("authorization", token);
    let other = daemon.call(At::Tcp, Protocol::Http1, other.body(Body::empty()).unwrap()).await;
    assert_eq!(other.status, 200);
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let status = client.watch(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    // Who waits gets the turn of one who ends.
    let mut waiting = Box::pin(daemon.call(At::Main, Protocol::Http1, get("/who?wait=20s")));
    assert!(timeout(SHORT, waiting.as_mut()).await.is_err());
    release(1).await;
    assert_eq!(waiting.await.status, 200);
    release(1).await;
    for one in held {
        assert_eq!(one.await.body, "released");
    }
}

#[tokio::test]
async fn json_that_nests_deeper_than_the_limit_is_refused_before_it_is_read() {
    let daemon = Daemon::start(Limits { depth: 8, ..Limits::default() });
    let ask = async |depth: usize| {
        let body = "[".repeat(depth) + &"]".repeat(depth);
        let request = Request::post("/echo").header("host", "x").body(Body::from(body)).unwrap();
        daemon.call(At::Main, Protocol::Http1, request).await
    };
    assert_eq!(ask(8).await.status, 200);
    assert_eq!(ask(9).await.refusal(), (400, "MALFORMED".to_owned()));
}

#[tokio::test]
async fn a_flood_of_pings_costs_nothing_that_stays() {
    let daemon = Daemon::start(Limits::default());
    let mut stream = daemon.connect(At::Main).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let pings: Vec<u8> = (0..1_000).flat_map(|_| frame(6, 0, 0, &[7; 8])).collect();
    // Answers are not taken: the daemon stops reading, or hangs up, and others do not notice.
    let flood = async {
        for _ in 0..100 {
            if stream.write_all(&pings).await.is_err() {
                return;
            }
        }
    };
    let _ = timeout(SHORT * 3, flood).await;
    assert_eq!(daemon.get(At::Main, "/healthz").await.body, "ok");
}

#[tokio::test]
async fn a_stream_outlives_body_and_idle_time_outs() {
    let limits =
        Limits { body_timeout: SHORT, idle_timeout: SHORT, header_timeout: SHORT, ..Limits::default() };
    let daemon = Daemon::start(limits);
    let mut stream = daemon.connect(At::Main).await;
    stream.write_all(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    assert!(timeout(SHORT * 4, stream.read_to_end(&mut all)).await.is_err());
    assert!(String::from_utf8_lossy(&all).contains("first"));
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit_and_no_larger_whatever_the_route_does() {
    let daemon = Daemon::start(Limits::default());
    let limit = Limits::default().body;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let path = |path: &str| match protocol {
            Protocol::Http1 => path.to_owned(),
            Protocol::Http2 => format!("http://localhost{path}"),
        };
        let exact = daemon.call(At::Main, protocol, post(&path("/echo"), limit, false)).await;
        assert_eq!(exact.body, limit.to_string());
        for route in ["/echo", "/ignore", "/none"] {
            for (length, chunked) in
                [(limit + 1, false), (10 << 20, false), (2 << 20, true), (10 << 20, true)]
            {
                let reply = daemon.call(At::Main, protocol, post(&path(route), length, chunked)).await;
                let expected = (413, "TOO_LARGE".to_owned());
                assert_eq!(reply.refusal(), expected, "{protocol:?} {route} {length} {chunked}");
            }
        }
    }
}

#[tokio::test]
async fn a_configured_body_limit_is_the_only_one() {
    let daemon = Daemon::start(Limits { body: 8 << 20, ..Limits::default() });
    let reply = daemon.call(At::Main, Protocol::Http1, post("/echo", 7 << 20, false)).await;
    assert_eq!(reply.body, (7 << 20).to_string());
}

#[tokio::test]
async fn a_body_that_came_in_many_pieces_is_whole() {
    let daemon = Daemon::start(Limits::default());
    assert_eq!(daemon.call(At::Main, Protocol::Http1, post("/echo", 1_000_000, true)).await.body, "1000000");
}

#[tokio::test]
async fn a_grpc_message_above_the_limit_exhausts_a_resource() {
    let daemon = Daemon::start(Limits::default());
    let mut client = HealthClient::new(daemon.grpc(At::Main).await);
    let status = client.check(HealthCheckRequest { service: "x".repeat(2 << 20) }).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    client.check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn who_sends_all_of_a_body_before_reading_still_gets_to_read_why_it_is_refused() {
    let daemon = Daemon::start(Limits::default());
    let length = 10 << 20;
    for at in [At::Main, At::Tcp] {
        let head = format!(
            "POST /ignore HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {FULL}\r\ncontent-length: {length}\r\n\r\n"
        );
        let answer = daemon.raw(at, &[head.into_bytes(), vec![b'x'; length]].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    let daemon = Daemon::start(Limits::default());
    let mut stream = daemon.connect(At::Main).await;
    stream
        .write_all(b"POST /ignore HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
    let mut sent = 0_usize;
    let endless = async {
        while stream.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
    };
    timeout(LONG, endless).await.expect("the daemon hangs up");
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_and_cut() {
    let daemon = Daemon::start(Limits { body_timeout: SHORT, ..Limits::default() });
    for route in ["/echo", "/ignore"] {
        for head in ["content-length: 10\r\n\r\n12345", "transfer-encoding: chunked\r\n\r\n5\r\n12345\r\n"] {
            let request = format!("POST {route} HTTP/1.1\r\nhost: x\r\n{head}");
            let answer = daemon.raw(At::Main, request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
            assert!(answer.contains("connection: close") && answer.contains("TOO_SLOW"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_no_reply_is_cut() {
    let daemon = Daemon::start(Limits { write_timeout: SHORT, ..Limits::default() });
    let mut stream = daemon.connect(At::Main).await;
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // The daemon is told by the drain whether anybody was left.
    tokio::time::sleep(SHORT * 3).await;
    assert_eq!(daemon.stop().await, Drained { cut: 0 });
    assert!(rest(&mut stream).await.len() < 64 << 20);
}

#[tokio::test]
async fn a_client_that_takes_a_reply_slowly_gets_all_of_it() {
    let limits =
        Limits { write_timeout: SHORT, idle_timeout: SHORT, header_timeout: SHORT, ..Limits::default() };
    let daemon = Daemon::start(limits);
    let mut stream = daemon.connect(At::Main).await;
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut tick = tokio::time::interval(SHORT / 10);
    let (mut taken, mut some) = (0, vec![0; 1 << 20]);
    loop {
        tick.tick().await;
        let mut piece = 0;
        while piece < some.len() {
            match stream.read(&mut some[piece..]).await.unwrap() {
                0 => return assert!(taken + piece > 64 << 20, "{taken}"),
                read => piece += read,
            }
        }
        taken += piece;
    }
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let daemon = Daemon::start(Limits::default());
    let mut stream = daemon.connect(At::Main).await;
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    for stream in (1..4_000).step_by(2) {
        // Indexed :method GET, :scheme http, :path /; then RST_STREAM with CANCEL.
        flood.extend(frame(1, 5, stream, &[0x82, 0x86, 0x84]));
        flood.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    // The daemon may hang up in the middle.
    let _ = stream.write_all(&flood).await;
    let mut answer = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the daemon hangs up");
    // GOAWAY with ENHANCE_YOUR_CALM.
    let calm = 11_u32.to_be_bytes();
    let goaway = answer.windows(17).any(|window| window[3] == 7 && window[13..17] == calm);
    assert!(goaway, "{answer:?}");
    assert_eq!(daemon.get(At::Main, "/healthz").await.body, "ok");
}

#[tokio::test]
async fn a_header_that_is_too_large_is_refused() {
    let daemon = Daemon::start(Limits::default());
    let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "x".repeat(1 << 20));
    let mut stream = daemon.connect(At::Main).await;
    let _ = stream.write_all(request.as_bytes()).await;
    let answer = rest(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(daemon.get(At::Main, "/healthz").await.body, "ok");
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The limit on descriptors holds for a whole process, so this test runs in one of its own.
#[test]
fn running_out_of_descriptors_ends_no_listener() {
    const INSIDE: &str = "NETLOOM_TEST_OUT_OF_DESCRIPTORS";
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(out_of_descriptors());
    }
    #[allow(clippy::disallowed_methods, reason = "a test may start a process")]
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg("api::listen::tests::limits::running_out_of_descriptors_ends_no_listener")
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("survived"), "{output:?}");
}

async fn out_of_descriptors() {
    let daemon = Daemon::start(Limits::default());
    let mut crowd = Vec::new();
    // Ours and the daemon's ends share the limit: in the end there is none left for either.
    while let Ok(stream) = UnixStream::connect(daemon.path("netloom.sock")).await {
        crowd.push(stream);
    }
    assert!(crowd.len() > 10, "{}", crowd.len());
    assert!(std::fs::File::open("/dev/null").is_err());
    // The daemon has to run into it before the crowd leaves.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(crowd);
    assert_eq!(daemon.get(At::Main, "/healthz").await.body, "ok");
    println!("survived");
}
