//! The only netlink, `setns` and `unsafe` in the daemon.

#![allow(unsafe_code)] // Each use says why it is sound.

pub mod nft;
