//! Following the event log without gaps.
//!
//! The stream remembers the position of the last event and asks for what comes after it whenever the connection breaks
//! or the daemon cuts a slow reader. Nothing is lost, and nothing is given twice, save that an interrupted `initial`
//! listing starts over. It ends with an error when the daemon refuses (the position is no longer kept: `EXPIRED`, list
//! again) or stays away for longer than [`WatchOptions::patience`].

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use netloom_api::{ErrorReason, Event, FromPb as _, Namespace, Path, pb};
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Streaming;

use crate::{
    calls::Client,
    error::{ClientError, ErrorKind},
    options::{ListOptions, WatchOptions},
};

/// Between two attempts to connect: first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Events as they happen; see the promises of [`Client::watch`]. Also a [`Stream`].
pub struct EventStream {
    state: State,
}

enum State {
    Open(Box<Follower>),
    /// Waiting for the daemon; the follower comes back with the result.
    Busy(Pin<Box<dyn Future<Output = Step> + Send>>),
    Ended,
}

type Step = (Box<Follower>, Result<Event, ClientError>);

struct Follower {
    client: Client,
    options: WatchOptions,
    stream: Streaming<pb::Event>,
    /// The position that the initial listing is from, while it may be incomplete.
    listing: Option<i64>,
}

impl EventStream {
    pub(crate) async fn open(client: Client, mut options: WatchOptions) -> Result<Self, ClientError> {
        if options.after.is_none() && !options.initial {
            // "From now on" has to mean the same now after a broken connection.
            let page = ListOptions { page_size: Some(1), ..ListOptions::default() };
            options.after = Some(client.list::<Namespace>(page).await?.seq);
        }
        let stream = subscribe(&client, &options).await?;
        Ok(Self { state: State::Open(Box::new(Follower { client, options, stream, listing: None })) })
    }

    /// The next event, or none after an error.
    pub async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for EventStream {
    type Item = Result<Event, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut step = match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return Poll::Ready(None),
            State::Busy(step) => step,
            State::Open(mut follower) => Box::pin(async move {
                let item = follower.next().await;
                (follower, item)
            }),
        };
        match step.as_mut().poll(context) {
            Poll::Pending => {
                self.state = State::Busy(step);
                Poll::Pending
            }
            Poll::Ready((follower, item)) => {
                if item.is_ok() {
                    self.state = State::Open(follower);
                }
                Poll::Ready(Some(item))
            }
        }
    }
}

impl Follower {
    /// The next event, after as many new subscriptions as it takes.
    async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            match self.stream.message().await.map_err(ClientError::from) {
                Ok(Some(message)) => {
                    let event = Event::from_pb(message, &Path::root())?;
                    advance(&mut self.options, &mut self.listing, event.seq);
                    return Ok(event);
                }
                // The daemon ends a stream when it stops.
                Ok(None) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            self.resume().await?;
        }
    }

    async fn resume(&mut self) -> Result<(), ClientError> {
        let until = Instant::now() + self.options.patience;
        let (mut pause, longest) = PAUSES;
        self.listing = None;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
            match subscribe(&self.client, &self.options).await {
                Ok(stream) => {
                    self.stream = stream;
                    return Ok(());
                }
                Err(error) if !is_passing(&error) || Instant::now() >= until => return Err(error),
                Err(_) => {}
            }
        }
    }
}

/// Moves the position behind an event. The events of an initial listing all have the position that it is from, and a
/// part of a listing cannot be asked for: so until a later one comes, a new subscription starts the listing over.
fn advance(options: &mut WatchOptions, listing: &mut Option<i64>, seq: i64) {
    if options.initial && listing.is_none_or(|from| from == seq) {
        *listing = Some(seq);
    } else {
        options.initial = false;
        options.after = Some(seq);
    }
}

async fn subscribe(client: &Client, options: &WatchOptions) -> Result<Streaming<pb::Event>, ClientError> {
    let request = options.to_pb();
    client.ask(async { Ok(client.control().watch_events(request).await?.into_inner()) }).await
}

/// Whether asking again may help.
fn is_passing(error: &ClientError) -> bool {
    match error.kind {
        ErrorKind::Connect | ErrorKind::TimedOut => true,
        ErrorKind::Refused => {
            matches!(
                error.reason,
                Some(ErrorReason::SlowReader | ErrorReason::TooManyRequests | ErrorReason::Unavailable)
            )
        }
        ErrorKind::Reply | ErrorKind::Options => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_events(initial: bool, seqs: &[i64]) -> (bool, Option<i64>) {
        let mut options = WatchOptions { initial, ..WatchOptions::default() };
        let mut listing = None;
        seqs.iter().for_each(|seq| advance(&mut options, &mut listing, *seq));
        (options.initial, options.after)
    }

    #[test]
    fn a_broken_watch_goes_on_after_the_last_event() {
        assert_eq!(after_events(false, &[7, 9]), (false, Some(9)));
    }

    #[test]
    fn a_broken_initial_listing_starts_over_and_a_whole_one_does_not() {
        assert_eq!(after_events(true, &[]), (true, None));
        assert_eq!(after_events(true, &[5, 5, 5]), (true, None));
        assert_eq!(after_events(true, &[5, 5, 8, 9]), (false, Some(9)));
    }

    #[test]
    fn the_calls_can_be_made_from_any_task() {
        fn sendable<T: Send>(_: fn(Client) -> T) {}
        sendable(|client| async move { client.list_all::<Namespace>(ListOptions::default()).await });
        sendable(|client| async move { client.watch(WatchOptions::default()).await });
    }
}
