//! How many connections there may be at once, and who has to leave when there are too many.
//!
//! Guests (the reading socket and TCP) share three quarters of the seats; the rest is always left for the main socket.
//! An accepted connection without a seat waits; meanwhile those that do nothing are asked to leave.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// All seats of the daemon.
#[derive(Debug)]
pub(super) struct Seats {
    all: Room,
    guests: Room,
}

/// Held by a connection as long as it lives.
#[derive(Debug)]
pub(super) struct Seat {
    _all: OwnedSemaphorePermit,
    _guests: Option<OwnedSemaphorePermit>,
}

/// How many wait for the seats that a connection could give up.
pub(super) type Pressure = watch::Receiver<usize>;

#[derive(Debug)]
struct Room {
    free: Arc<Semaphore>,
    waiting: watch::Sender<usize>,
}

impl Seats {
    pub(super) fn new(count: usize) -> Self {
        let guests = (count - count / 4).max(1);
        Seats { all: Room::new(count), guests: Room::new(guests) }
    }

    /// Waits for a seat. `None` only if there will never be one again.
    pub(super) async fn take(&self, guest: bool) -> Option<Seat> {
        if !guest {
            return Some(Seat { _all: self.all.sit(&[&self.guests]).await?, _guests: None });
        }
        // Guests make only guests leave, even when the main socket holds the seats.
        let guests = self.guests.sit(&[]).await?;
        let _asking = (self.all.free.available_permits() == 0).then(|| Asking::new(&self.guests));
        let all = self.all.free.clone().acquire_owned().await.ok()?;
        Some(Seat { _all: all, _guests: Some(guests) })
    }

    /// What a connection has to listen to.
    pub(super) fn pressure(&self, guest: bool) -> Pressure {
        if guest { self.guests.waiting.subscribe() } else { self.all.waiting.subscribe() }
    }

    /// Asks all who do nothing to leave, as long as the answer is held.
    pub(super) fn ask_all(&self) -> impl Sized {
        (Asking::new(&self.all), Asking::new(&self.guests))
    }
}

impl Room {
    fn new(count: usize) -> Self {
        Room { free: Arc::new(Semaphore::new(count)), waiting: watch::Sender::new(0) }
    }

    async fn sit(&self, also: &[&Room]) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Some(permit);
        }
        let _asking: Vec<Asking<'_>> =
            also.iter().copied().chain(std::iter::once(self)).map(Asking::new).collect();
        self.free.clone().acquire_owned().await.ok()
    }
}

/// One who waits.
struct Asking<'a>(&'a Room);

impl<'a> Asking<'a> {
    fn new(room: &'a Room) -> Self {
        room.waiting.send_modify(|waiting| *waiting += 1);
        Asking(room)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn guests_never_take_the_last_quarter() {
        let seats = Seats::new(8);
        let mut taken = Vec::new();
        for _ in 0..6 {
            taken.push(seats.take(true).await.unwrap());
        }
        let mut seventh = Box::pin(seats.take(true));
        assert!(futures_util::poll!(seventh.as_mut()).is_pending());
        let main = [seats.take(false).await.unwrap(), seats.take(false).await.unwrap()];
        let mut third = Box::pin(seats.take(false));
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        drop(main);
        third.await.unwrap();
        taken.pop();
        seventh.await.unwrap();
    }

    #[tokio::test]
    async fn a_waiting_guest_presses_guests_and_a_waiting_owner_presses_all() {
        let seats = Seats::new(4);
        let (guest, owner) = (seats.pressure(true), seats.pressure(false));
        let held = [seats.take(true).await, seats.take(true).await, seats.take(true).await];
        let waiting = |pressure: &Pressure| *pressure.borrow();
        {
            let mut more = Box::pin(seats.take(true));
            assert!(futures_util::poll!(more.as_mut()).is_pending());
            assert_eq!((waiting(&guest), waiting(&owner)), (1, 0));
        }
        let _main = seats.take(false).await;
        {
            let mut more = Box::pin(seats.take(false));
            assert!(futures_util::poll!(more.as_mut()).is_pending());
            assert_eq!((waiting(&guest), waiting(&owner)), (1, 1));
        }
        assert_eq!((waiting(&guest), waiting(&owner)), (0, 0));
        drop(held);
    }
}
