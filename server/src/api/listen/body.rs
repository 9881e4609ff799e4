//! Bodies with an end: requests are read whole and within limits, streams end when the daemon does.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use bytes::{Buf as _, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use super::pulse::Busy;
use super::quota::Share;
use super::refusal::Refusal;
use super::shutdown::Shutdown;

/// So much of a body that is too large is read and thrown away, so that its sender gets to read the answer instead of
/// a connection reset. Whoever sends more is cut.
const DISCARDED: usize = 16 << 20;

/// The whole body, at most `limit` bytes and before `end`.
pub(super) async fn whole(
    mut body: Incoming,
    limit: usize,
    end: Instant,
    polite: bool,
) -> Result<Bytes, Refusal> {
    let refusal = match timeout_at(end, collect(&mut body, limit)).await {
        Ok(Ok(bytes)) => return Ok(bytes),
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal::Stalled,
    };
    if polite && matches!(refusal, Refusal::TooLarge(_)) {
        // The answer is the same whether all of it came or not.
        let _ = timeout_at(end, discard(&mut body)).await;
    }
    Err(refusal)
}

async fn collect(body: &mut Incoming, limit: usize) -> Result<Bytes, Refusal> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Refusal::TooLarge(limit));
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::Broken)?.into_data() else { continue };
        if first.len() + whole.len() + data.len() > limit {
            return Err(Refusal::TooLarge(limit));
        }
        // Most bodies come in one piece, which is passed on as it is. Pieces are copied together: each would
        // hold on to its whole read buffer.
        if first.is_empty() && whole.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// Refuses JSON that nests too deep, or has a list or an object of too many, before it is read: read, it would take many
/// times its room. What is no JSON is left to its reader.
pub(super) fn measure(json: &[u8], depth: usize, entries: usize) -> Result<(), Refusal> {
    // Of each list or object that is open, how many commas there were.
    let mut open: Vec<usize> = Vec::new();
    let (mut quoted, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' if open.len() == depth => return Err(Refusal::TooDeep(depth)),
            b'[' | b'{' => open.push(0),
            b']' | b'}' => drop(open.pop()),
            b',' => {
                if let Some(commas) = open.last_mut() {
                    *commas += 1;
                    if *commas >= entries {
                        return Err(Refusal::TooLong(entries));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a gRPC message of more than so many fields, before it is read: an empty object of an apply is two bytes, and
/// hundreds in memory. What is no message is left to its reader.
pub(super) fn measure_message(frame: &[u8], entries: usize) -> Result<(), Refusal> {
    // A flag and the length come first.
    let mut rest = frame.get(5..).unwrap_or_default();
    for _ in 0..entries {
        let Some(key) = varint(&mut rest) else { return Ok(()) };
        let skipped = match key & 7 {
            0 => varint(&mut rest).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut rest).and_then(|length| usize::try_from(length).ok()),
            5 => Some(4),
            _ => None,
        };
        let Some(left) = skipped.and_then(|skipped| rest.get(skipped..)) else { return Ok(()) };
        rest = left;
    }
    if rest.is_empty() { Ok(()) } else { Err(Refusal::TooLong(entries)) }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

async fn discard(body: &mut Incoming) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, |data| data.remaining());
        if discarded > DISCARDED {
            return;
        }
    }
}

/// A body that its sender keeps open (client streams of gRPC): counted instead of collected, ended with the daemon.
pub(super) fn stream(body: Incoming, limit: usize, shutdown: &Shutdown) -> Body {
    let shutdown = shutdown.clone();
    let mut seen = 0;
    let frames = BodyStream::new(body).take_until(async move { shutdown.begun().await }).map(move |frame| {
        let frame = frame.map_err(axum::Error::new)?;
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > limit {
            return Err(axum::Error::new(Refusal::TooLarge(limit).status()));
        }
        Ok(frame)
    });
    Body::new(StreamBody::new(frames))
}

/// The body of an answer. Holds the request open, and ends a stream when the daemon stops.
pub(super) struct Reply {
    body: Body,
    kind: Kind,
    stop: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    shutdown: Shutdown,
    _share: Option<Share>,
    _busy: Busy,
}

/// What an answer is, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ends by itself.
    Plain,
    /// Server-sent events.
    Events,
    /// Messages of gRPC.
    Grpc,
    /// Already told to end.
    Ended,
}

/// Whether headers announce gRPC; `application/grpc-web` is another protocol.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = content_type(headers).strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl Kind {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if is_grpc(headers) {
            Kind::Grpc
        } else if content_type(headers).starts_with(b"text/event-stream") {
            Kind::Events
        } else {
            Kind::Plain
        }
    }
}

fn content_type(headers: &HeaderMap) -> &[u8] {
    headers.get(CONTENT_TYPE).map_or(b"", HeaderValue::as_bytes)
}

impl Reply {
    pub(super) fn wrap(body: Body, kind: Kind, shutdown: Shutdown, share: Option<Share>, busy: Busy) -> Body {
        Body::new(Reply { body, kind, stop: None, shutdown, _share: share, _busy: busy })
    }

    /// How a stream ends that would go on.
    fn farewell(&mut self) -> Option<Result<Frame<Bytes>, axum::Error>> {
        match std::mem::replace(&mut self.kind, Kind::Ended) {
            Kind::Plain | Kind::Events | Kind::Ended => None,
            Kind::Grpc => {
                let mut trailers = HeaderMap::new();
                let status = Status::new(Code::Unavailable, "the daemon stops");
                Some(match status.add_header(&mut trailers) {
                    Ok(()) => Ok(Frame::trailers(trailers)),
                    Err(status) => Err(axum::Error::new(status)),
                })
            }
        }
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.kind == Kind::Ended {
            return Poll::Ready(None);
        }
        // What is ready goes out first, also at the end.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if this.kind == Kind::Plain {
            return Poll::Pending;
        }
        let shutdown = &this.shutdown;
        let stop = this.stop.get_or_insert_with(|| {
            let shutdown = shutdown.clone();
            Box::pin(async move { shutdown.begun().await })
        });
        ready!(stop.as_mut().poll(cx));
        Poll::Ready(this.farewell())
    }

    fn is_end_stream(&self) -> bool {
        self.kind == Kind::Ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_it_has_fields() {
        let fits = |message: &[u8], entries| measure_message(&[&[0; 5], message].concat(), entries).is_ok();
        let objects = [0x0a, 0].repeat(3);
        assert!(fits(&objects, 3) && !fits(&objects, 2));
        // A varint of two bytes, a text, fixed numbers.
        let mixed = [&[0x08, 0x96, 0x01][..], &[0x12, 2, b'a', b'b'], &[0x19; 9], &[0x25; 5]].concat();
        assert!(fits(&mixed, 4) && !fits(&mixed, 3));
        for broken in [&[][..], &[0x0a], &[0x0a, 9], &[0xff; 30], &[0x0b, 0x0b]] {
            assert!(fits(broken, 1), "{broken:?}");
        }
        netloom_fuzz::withstands(&[[&[0; 5][..], &mixed].concat()], |bytes| drop(measure_message(bytes, 2)));
    }

    #[test]
    fn depth_and_length_are_those_of_objects_and_lists_and_not_of_text() {
        let fits = |json: &str, depth, entries| measure(json.as_bytes(), depth, entries).is_ok();
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(fits(&nested(64), 64, 9) && !fits(&nested(65), 64, 9));
        assert!(fits(&format!("[{},{}]", nested(63), nested(63)), 64, 9));
        assert!(fits(r#"{"a": "[[[\"[[[", "b": "\\\"{{{"}"#, 1, 9));
        assert!(!fits(r#"{"a": "\\", "b": {}}"#, 1, 9));
        assert!(fits("[1,2,3]", 9, 3) && !fits("[1,2,3,4]", 9, 3));
        assert!(fits(r#"[[1,2,3],[1,2,3],["a,b,c,d"]]"#, 9, 3));
        assert!(!fits(r#"{"a":1,"b":2,"c":3,"d":4}"#, 9, 3));
        // Closed more often than opened, and what is no JSON at all.
        assert!(fits("]]]],,,,", 9, 3) && fits("", 9, 3));
    }
}
