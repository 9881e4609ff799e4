//! The two doors: words in, words out; no decisions.

pub mod auth;
pub mod listen;
mod problem;
mod words;

/// Both doors in one router; `ready` tells when the first full pass is done.
pub fn router(
    _controller: std::sync::Arc<crate::controller::Controller>,
    _config: &crate::config::Config,
    _ready: std::sync::Arc<std::sync::atomic::AtomicBool>,
) -> axum::Router {
    axum::Router::new()
}
