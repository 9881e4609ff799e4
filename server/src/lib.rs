//! The netloom daemon, room by room, in reading order. `ARCHITECTURE.md` is the map.

pub mod api;
pub mod command;
pub mod config;
pub mod controller;
pub mod daemon;
pub mod diagnose;
pub mod error;
pub mod events;
pub mod fault;
pub mod hostnet;
pub mod ipam;
pub mod kernel;
pub mod lab;
pub mod plan;
pub mod reconcile;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod want;
pub mod world;
