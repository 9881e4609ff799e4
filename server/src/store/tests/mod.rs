//! The store's promises, each on a database of its own in a temporary directory.

mod fixtures;
mod fuzz;
mod log;
mod open;
mod property;
mod write;
