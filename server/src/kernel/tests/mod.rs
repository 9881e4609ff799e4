//! The kernel rooms against the real kernel, every test on a private host of its own.

mod claim;
mod lan;
mod monitor;
mod netns;
mod private;
mod probe;
mod socket;
mod thread;
