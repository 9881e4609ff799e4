//! netloom from outside: the real daemon on a private host per test, driven through its doors.
//!
//! - `stories`: red, blue and v-net-0 through both doors; restarts; nothing left behind
//! - `bad_input`: what is refused, and that nothing changes
//! - `examples`: every file in `examples/` is what it says
//! - `tidy`: the walls of ARCHITECTURE.md

#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "tests start the daemon; the daemon starts nothing")]

mod bad_input;
mod examples;
mod host;
mod rest;
mod stories;
mod tidy;
