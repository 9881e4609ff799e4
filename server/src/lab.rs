//! The private host of `netloomd lab`.
