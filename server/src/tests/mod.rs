//! Tests of several rooms together.

mod model;
mod races;
