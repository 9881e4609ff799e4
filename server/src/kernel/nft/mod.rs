//! nftables over netlink, without a C library or a child process.
//!
//! Two tables of one name, in families inet and bridge. Their constant part is written in [`skeleton`] and put in place
//! whole; what grows are elements, a transaction at a time. Nothing outside of the two tables is read or touched.

mod elements;
mod expr;
mod skeleton;
mod socket;
#[cfg(test)]
mod tests;
mod wire;

pub use socket::{Nft, NftError};
