//! The two doors: words in, words out; no decisions.

pub mod auth;
mod door;
mod grpc;
pub mod listen;
mod openapi;
mod problem;
mod rest;
mod words;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;

use crate::config::Config;
use crate::controller::Controller;

/// Both doors in one router; `ready` tells when the first full pass is done.
pub fn router(controller: Arc<Controller>, config: &Config, ready: Arc<AtomicBool>) -> Router {
    let door = door::Door::new(controller, config.limits.objects, ready);
    listen::by_content_type(rest::router(door.clone()), grpc::router(door))
}

#[cfg(test)]
mod tests;
