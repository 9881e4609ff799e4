//! Counts an answer by what it ends with. gRPC says so after the last message, so that a stream that breaks off is not
//! counted as a success.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::Code;

use crate::telemetry::{Metrics, RequestLabels};

/// Counts the answer to a call of this path once it has ended.
pub(super) fn count(response: Response, metrics: Metrics, path: String) -> Response {
    let mut end = End { metrics, path: Some(path) };
    // An error without a message is all header.
    if let Some(code) = code(response.headers()) {
        end.came(code);
        return response;
    }
    response.map(|body| Body::new(Counted { body, end }))
}

struct Counted {
    body: Body,
    end: End,
}

/// The end of an answer, which comes once.
struct End {
    metrics: Metrics,
    path: Option<String>,
}

impl End {
    fn came(&mut self, code: Code) {
        let Some(path) = self.path.take() else { return };
        // Strangers may not make up new words in the metrics.
        let path = if code == Code::Unimplemented { String::new() } else { path };
        self.metrics.answered(&RequestLabels { door: "grpc", method: "POST", path, status: code as u16 });
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Whoever asked has gone away before.
        self.came(Code::Cancelled);
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) =
                    frame.trailers_ref().map(|trailers| code(trailers).unwrap_or(Code::Unknown))
                {
                    self.end.came(code);
                }
            }
            Some(Err(_)) => self.end.came(Code::Unknown),
            None => self.end.came(Code::Ok),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()))
}
