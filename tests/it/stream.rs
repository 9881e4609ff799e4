//! A TCP connection that carries as much as it can, and how much that is.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use netloom_server::kernel::{probe, thread};
use nix::sys::socket::{setsockopt, sockopt};

/// A stream from one namespace to another, quiet while it is not measured. It ends when this is dropped.
pub struct Stream {
    received: Arc<AtomicU64>,
    speaks: Arc<(Mutex<bool>, Condvar)>,
    ends: [TcpStream; 2],
}

impl Stream {
    /// Connects to the address, which is one of `to`.
    pub fn open(from: impl AsFd, to: impl AsFd, address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let listener = thread::run(to, "stream", || TcpListener::bind(address).unwrap()).unwrap();
        let sender = probe::tcp_open(from, address, Duration::from_secs(5)).unwrap().unwrap();
        // Less than a limit's queue holds: nothing is lost, and no law of congestion has a say.
        setsockopt(&sender, sockopt::SndBuf, &(16 << 10)).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let ends = [sender.try_clone().unwrap(), receiver.try_clone().unwrap()];
        let speaks = Arc::<(Mutex<bool>, Condvar)>::default();
        let may_speak = speaks.clone();
        std::thread::spawn(move || send(sender, &may_speak));
        let counter = received.clone();
        std::thread::spawn(move || count(receiver, &counter));
        Self { received, speaks, ends }
    }

    /// Bits per second, a while after whatever was changed has had its first burst.
    pub fn rate(&self) -> f64 {
        self.speak(true);
        std::thread::sleep(Duration::from_millis(500));
        let (before, started) = (self.received.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(Duration::from_millis(1200));
        let bytes = self.received.load(Ordering::Relaxed) - before;
        let rate = 8.0 * f64::from(u32::try_from(bytes).unwrap()) / started.elapsed().as_secs_f64();
        self.speak(false);
        rate
    }

    fn speak(&self, yes: bool) {
        *self.speaks.0.lock().unwrap() = yes;
        self.speaks.1.notify_all();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.speak(true);
        for end in &self.ends {
            // The other end may have gone first.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn send(mut stream: TcpStream, speaks: &(Mutex<bool>, Condvar)) {
    stream.set_nonblocking(false).unwrap();
    let block = [0x6e; 8 << 10];
    while stream.write_all(&block).is_ok() {
        drop(speaks.1.wait_while(speaks.0.lock().unwrap(), |speaks| !*speaks).unwrap());
    }
}

fn count(mut stream: TcpStream, received: &AtomicU64) {
    let mut block = [0; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut block) {
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
}
