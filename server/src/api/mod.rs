//! The two doors: words in, words out; no decisions.

pub mod auth;
pub mod listen;
