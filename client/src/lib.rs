//! A typed client for netloom: the nouns of [`netloom_api`] over gRPC, through a unix socket, loopback TCP or TLS.
//!
//! ```no_run
//! use netloom_client::{Client, ConnectOptions, Draft, ListOptions, Namespace, NamespaceSpec, WriteOptions};
//!
//! # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(&ConnectOptions::parse("/run/netloom/netloom.sock")?).await?;
//! let red = Draft::<Namespace>::new("red".parse()?, NamespaceSpec::default());
//! client.create(red, WriteOptions::default()).await?;
//! for namespace in client.list::<Namespace>(ListOptions::default()).await?.items {
//!     println!("{}", namespace.meta.name);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The command `netloom` is in here too, behind the feature `command`, which is on by default: who only wants the calls
//! turns the default features off.
//!
//! What a caller may rely on: every call ends, with a reply or within its time-out; a write is never repeated by
//! itself (give a `request_id` and repeat it yourself); every error is a [`ClientError`] that tells a refusal of the
//! daemon from a connection that failed. A [`Client`] is cheap to clone and connects again when the daemon restarts.

// The files of the command say `netloom_client` as everybody else does.
#[cfg(feature = "command")]
extern crate self as netloom_client;

mod calls;
#[cfg(feature = "command")]
#[allow(unreachable_pub, reason = "within the command, `pub` tells what other files use")]
mod cmd;
#[cfg(feature = "command")]
pub mod command;
#[cfg(feature = "command")]
#[allow(unreachable_pub, reason = "as above")]
mod docs;
mod endpoint;
mod error;
#[cfg(feature = "command")]
#[allow(unreachable_pub, reason = "as above")]
mod fault;
mod nouns;
mod options;
#[cfg(feature = "command")]
#[allow(unreachable_pub, reason = "as above")]
mod output;
#[cfg(feature = "command")]
#[allow(unreachable_pub, reason = "as above")]
mod present;
mod transport;
#[cfg(feature = "command")]
#[allow(unreachable_pub, reason = "as above")]
mod values;
mod watch;

pub use calls::Client;
pub use endpoint::{ConnectOptions, DEFAULT_SOCKET, Endpoint, Token};
pub use error::{ClientError, ErrorKind, Precondition};
pub use netloom_api::*;
pub use nouns::Callable;
pub use options::{
    AllocationQuery, DeleteOptions, EventQuery, ListOptions, UpdateOptions, WatchOptions, WriteOptions,
};
pub use watch::EventStream;
