//! One connection from accept to end: handshake, protocol, requests, and the watchdog over all of them.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::papers::Handshake;
use super::pulse::{Pulse, Stream, Verdict, Watched};
use super::rim::{Peer, Rim};
use super::seats::Pressure;
use super::shutdown::Shutdown;
use crate::config::Limits;

/// hyper's settings for every connection.
pub(super) fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // The watchdog does hyper's header time-out: that one also ends idle connections.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(16 << 10)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(64)
        // A peer that is gone without a word is found by pings; one that is there may be silent on a stream.
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

/// What a connection needs from the daemon.
pub(super) struct Host {
    pub(super) builder: Builder<TokioExecutor>,
    pub(super) rim: Rim,
    pub(super) limits: Limits,
    pub(super) shutdown: Shutdown,
}

/// Serves one accepted stream to its end.
pub(super) async fn run(
    host: Arc<Host>,
    stream: impl Stream + 'static,
    tls: Option<Handshake>,
    mut peer: Peer,
    mut pressure: Pressure,
) {
    let pulse = Pulse::new(peer.is_known());
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(tls) => tokio::select! {
            shaken = tls.acceptor.accept(stream) => match shaken {
                Ok(stream) => {
                    let chain = stream.get_ref().1.peer_certificates();
                    peer.shows(chain.and_then(|chain| tls.clients.read(chain)));
                    Box::new(stream)
                }
                Err(error) => return debug!(%peer, %error, "TLS handshake failed"),
            },
            verdict = overdue(&pulse, &host.limits, &mut pressure) => {
                return debug!(%peer, ?verdict, "connection cut in the TLS handshake");
            }
            () = host.shutdown.begun() => return,
        },
    };
    serve(&host, Watched::new(stream, pulse.clone()), pulse, peer, pressure).await;
}

async fn serve(host: &Arc<Host>, stream: Watched, pulse: Arc<Pulse>, peer: Peer, mut pressure: Pressure) {
    let peer = Arc::new(peer);
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let (host, peer, pulse) = (host.clone(), peer.clone(), pulse.clone());
        // Before the future is polled, so that the watchdog never sees a gap.
        let busy = pulse.request();
        async move { Ok::<_, Infallible>(host.rim.answer(&peer, &pulse, busy, request).await) }
    });
    let mut connection = pin!(host.builder.serve_connection(TokioIo::new(stream), service));
    let mut stopping = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(%peer, %error, "connection failed");
                }
                return;
            }
            verdict = overdue(&pulse, &host.limits, &mut pressure) => match verdict {
                Some(why) => return debug!(%peer, why, "connection cut"),
                None => {
                    connection.as_mut().graceful_shutdown();
                    pulse.closing();
                }
            },
            () = host.shutdown.begun(), if !stopping => {
                if pulse.is_unstarted() {
                    return;
                }
                stopping = true;
                connection.as_mut().graceful_shutdown();
                pulse.closing();
            }
        }
    }
}

/// Resolves when the connection has to go: at once for the reason that is given, or politely.
async fn overdue(pulse: &Pulse, limits: &Limits, pressure: &mut Pressure) -> Option<&'static str> {
    let mut look = pin!(sleep_until(Instant::now()));
    loop {
        tokio::select! {
            () = look.as_mut() => {}
            Ok(()) = pressure.changed() => {}
        }
        let pressed = *pressure.borrow_and_update() > 0;
        match pulse.verdict(limits, pressed) {
            Verdict::Look(at) => look.as_mut().reset(at),
            Verdict::Close => return None,
            Verdict::Cut(why) => return Some(why),
        }
    }
}
