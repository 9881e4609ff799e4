//! Tests of several rooms together.

mod grid;
mod model;
mod races;
