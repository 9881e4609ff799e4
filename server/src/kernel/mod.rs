//! The only netlink, `setns` and `unsafe` in the daemon.
//!
//! Everything below is synchronous and meant for short-lived threads of its own; the runtime's threads never
//! come here.

#![allow(unsafe_code)] // Each use says why it is sound.

pub mod adopt;
pub mod announce;
pub mod claim;
pub mod confine;
pub mod conntrack;
pub mod datagram;
pub mod echo;
pub mod extack;
pub mod frame;
pub mod holder;
pub mod host;
pub mod lan;
pub mod meddle;
pub mod monitor;
pub mod netns;
pub mod nflog;
pub mod nft;
pub mod private;
pub mod probe;
pub mod process;
pub mod socket;
pub mod stranger;
pub mod sysctl;
pub mod testhost;
pub mod thread;

pub use host::{Adoptable, Kernel, OpenError, Place, SettingsError};

#[cfg(test)]
mod tests;
