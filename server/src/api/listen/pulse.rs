//! What a connection is doing, and until when it may.
//!
//! hyper has one time-out for the header that also runs while a connection is idle, and none before the protocol is
//! known. So the bytes are watched here: [`Watched`] wraps the stream and notes in a [`Pulse`] when something arrives
//! and when nothing can be sent; [`Busy`] notes requests. [`Pulse::verdict`] is a pure function of that and the time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::config::Limits;

/// While others wait for a seat, a connection that does nothing may keep its own for so long: enough for a header from
/// the next network, and a thousand half-open connections are through in half a second.
const PATIENCE: Duration = Duration::from_millis(100);

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The state of one connection, shared by its stream, its requests and its watchdog.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<State>);

/// What has to happen to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing before this time.
    Look(Instant),
    /// It has been idle for long: say goodbye.
    Close,
    /// Its time is over.
    Cut(&'static str),
}

#[derive(Debug)]
struct State {
    connected: Instant,
    phase: Phase,
    since: Instant,
    requests: usize,
    protocol: Protocol,
    /// Since when nothing more can be written, and since when what was written cannot be sent (TLS keeps some back).
    blocked: [Option<Instant>; 2],
    /// Whether a caller has shown who it is.
    known: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the first request: TLS handshake, protocol, first header.
    Opening,
    /// Between requests, with a part of the next header there.
    Heading,
    /// Between requests.
    Idle,
    /// Within requests.
    Busy,
    /// Told to end.
    Closing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// So many bytes agree with the preface of HTTP/2.
    Unknown(usize),
    Http1,
    Http2,
}

impl Pulse {
    /// A connection that begins now. `known` if its caller is known already.
    pub(super) fn new(known: bool) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Pulse(Mutex::new(State::new(now, known))))
    }

    /// A request begins; it ends when the answer is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Busy {
        let mut state = self.lock();
        state.requests += 1;
        state.enter(Phase::Busy);
        Busy(self.clone())
    }

    /// A caller has shown who it is.
    pub(super) fn known(&self) {
        self.lock().known = true;
    }

    /// The connection was told to end.
    pub(super) fn closing(&self) {
        let mut state = self.lock();
        if state.requests == 0 && state.phase != Phase::Closing {
            state.enter(Phase::Closing);
        }
    }

    /// Whether the connection is between requests, with nothing begun.
    pub(super) fn is_unstarted(&self) -> bool {
        self.lock().is_unstarted()
    }

    /// What has to happen now. `pressed`: others wait for a seat.
    pub(super) fn verdict(&self, limits: &Limits, pressed: bool) -> Verdict {
        self.lock().verdict(Instant::now(), limits, pressed)
    }

    /// The state is a few numbers that are right after every line, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(now: Instant, known: bool) -> Self {
        State {
            connected: now,
            phase: Phase::Opening,
            since: now,
            requests: 0,
            protocol: Protocol::Unknown(0),
            blocked: [None; 2],
            known,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
    }

    fn heard(&mut self, bytes: &[u8]) {
        if let Protocol::Unknown(agreed) = self.protocol {
            let expected = H2_PREFACE.get(agreed..).unwrap_or_default();
            let len = expected.len().min(bytes.len());
            self.protocol = if bytes.get(..len) != expected.get(..len) {
                Protocol::Http1
            } else if agreed + len == H2_PREFACE.len() {
                Protocol::Http2
            } else {
                Protocol::Unknown(agreed + len)
            };
            if self.protocol == Protocol::Http2 && self.phase == Phase::Opening {
                self.enter(Phase::Idle);
            }
        }
        // HTTP/2 has bytes without a request (pings, windows): only HTTP/1 tells a begun header this way.
        if self.protocol == Protocol::Http1 && self.phase == Phase::Idle {
            self.enter(Phase::Heading);
        }
    }

    fn is_unstarted(&self) -> bool {
        matches!(self.phase, Phase::Opening | Phase::Heading)
    }

    /// Something could be written.
    fn wrote(&mut self) {
        if self.blocked != [None; 2] {
            self.blocked = [None; 2];
            // Who takes the end of an answer slowly is not idle before all of it is there.
            if !self.is_unstarted() {
                self.since = Instant::now();
            }
        }
    }

    fn verdict(&self, now: Instant, limits: &Limits, pressed: bool) -> Verdict {
        let at_most = |limit: Duration| if pressed { limit.min(PATIENCE) } else { limit };
        let phase = match self.phase {
            Phase::Opening | Phase::Heading => {
                Some((self.since + at_most(limits.header_timeout), Verdict::Cut("no request in time")))
            }
            Phase::Idle => Some((self.since + at_most(limits.idle_timeout), Verdict::Close)),
            Phase::Closing => Some((
                self.since + at_most(limits.header_timeout),
                Verdict::Cut("did not leave when asked to"),
            )),
            Phase::Busy => None,
        };
        let blocked = self.blocked.iter().flatten().min();
        // The end of an answer may still be under way when its request is over.
        let phase = phase.filter(|_| blocked.is_none() || self.is_unstarted());
        let stranger = (!self.known).then(|| {
            (self.connected + at_most(limits.idle_timeout), Verdict::Cut("nobody showed who calls"))
        });
        let blocked = blocked.map(|since| (*since + limits.write_timeout, Verdict::Cut("takes no reply")));
        let next = [phase, stranger, blocked].into_iter().flatten().min_by_key(|(due, _)| *due);
        // Changes of phase do not wake the watchdog. Who looks as often as the shortest time-out is still exact.
        let look = now + at_most(limits.header_timeout.min(limits.idle_timeout)).min(limits.write_timeout);
        match next {
            Some((due, verdict)) if due <= now => verdict,
            Some((due, _)) => Verdict::Look(due.min(look)),
            None => Verdict::Look(look),
        }
    }
}

/// A request that goes on; held until its answer is sent or given up.
#[derive(Debug)]
pub(super) struct Busy(Arc<Pulse>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.requests = state.requests.saturating_sub(1);
        if state.requests == 0 {
            state.enter(Phase::Idle);
        }
    }
}

/// Any stream that connections come over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A stream that notes what it sees in a [`Pulse`].
pub(super) struct Watched {
    stream: Box<dyn Stream>,
    pulse: Arc<Pulse>,
}

impl Watched {
    pub(super) fn new(stream: Box<dyn Stream>, pulse: Arc<Pulse>) -> Self {
        Watched { stream, pulse }
    }

    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let mut state = self.pulse.lock();
        match result {
            Poll::Pending => {
                state.blocked[0].get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => state.wrote(),
        }
        result
    }

    fn flushed(&self, result: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        let mut state = self.pulse.lock();
        match result {
            Poll::Pending => {
                state.blocked[1].get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => state.blocked[1] = None,
        }
        result
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(bytes) = buf.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
            self.pulse.lock().heard(bytes);
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.flushed(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.flushed(result)
    }
}
