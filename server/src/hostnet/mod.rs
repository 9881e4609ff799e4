//! What a host's network is: one type for what we want and what the kernel has.

pub mod rules;
