//! Flows that the kernel knows, and forgetting some of them.
//!
//! [`Conntrack::forget`] takes [`Stale`] values and leaves every other flow alone. Where the kernel takes a filter
//! with a deletion, and the filter says exactly what is stale, that is one request; else the flows are listed, and
//! each that is stale is deleted by its own tuple and number.
//!
//! A wrong filter deletes the flows of others: one that asks for nothing empties the whole table, and up to Linux 6.18
//! at least, one that asks for an IPv6 address takes every flow *but* those of the address. So a deletion is never
//! sent without an address, and what filters do is tried in a namespace of its own first, family by family.
//!
//! Call it after the rules have changed: in the other order a packet between the two makes the flow again.

pub mod load;
mod probe;
#[cfg(test)]
mod tests;
mod wire;

use nix::errno::Errno;

use super::extack::{KernelError, Refusal};
use super::nft::socket::{Dump, NetfilterSocket};
use super::nft::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};
use super::nft::wire::Damaged;
use super::socket::SocketError;
use super::thread;
use crate::fault::{self, Effect, Fault};
use crate::hostnet::flows::{Filter, Flow, Partial, Stale};
use probe::probe;
use wire::{Found, body_of, found};

/// Conntrack of the network namespace of the thread that opened it.
pub struct Conntrack {
    socket: NetfilterSocket,
    ipv4: Filters,
    ipv6: Filters,
}

/// What the kernel's filters are good for, in one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filters {
    /// Nothing.
    #[default]
    Useless,
    /// Finding flows by protocol and port.
    Ports,
    /// Finding, and deleting, by everything.
    Full,
}

/// Flows could not be listed or forgotten; some of them may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConntrackError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The socket failed.
    #[error("conntrack: {0}")]
    Socket(#[from] SocketError),
    /// A flow that cannot be read: unknown, not absent.
    #[error("conntrack: a flow cannot be read: {0}")]
    Undecodable(String),
    /// A deletion that would take too much; a defect of netloom.
    #[error("conntrack: a deletion that asks for no address: {0:?}")]
    TooBroad(Filter),
    /// Flows came and went too fast to be listed.
    #[error("conntrack: the flows kept changing while they were listed")]
    Interrupted,
}

const TRIES: u32 = 5;
const SUBSYSTEM: u16 = 1;
const IPCTNL_MSG_CT_NEW: u16 = 0;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;

impl Conntrack {
    /// Opens the socket. Tries the kernel's filters in a namespace that goes away at once.
    pub fn open() -> Result<Self, ConntrackError> {
        // Where it cannot be tried, filters are not used.
        let (ipv4, ipv6) =
            thread::run_in_new("conntrack-probe", || (probe(false), probe(true))).unwrap_or_default();
        Ok(Self { ipv4, ipv6, ..Self::open_without_filters()? })
    }

    /// Like [`Conntrack::open`], as on a kernel without filters.
    pub fn open_without_filters() -> Result<Self, ConntrackError> {
        let (ipv4, ipv6) = Default::default();
        Ok(Self { socket: NetfilterSocket::open()?, ipv4, ipv6 })
    }

    /// What filters are good for in the family.
    pub fn filters(&self, ipv6: bool) -> Filters {
        if ipv6 { self.ipv6 } else { self.ipv4 }
    }

    /// Forgets these flows. None of them being there is fine.
    pub fn forget(&mut self, stale: &[Stale]) -> Result<(), ConntrackError> {
        for ipv6 in [false, true] {
            let mut to_list = Vec::new();
            for stale in stale.iter().filter(|stale| stale.is_ipv6() == ipv6) {
                if self.filters(ipv6) == Filters::Full && stale.is_exact() {
                    for filter in stale.filters() {
                        self.delete_by_filter(&filter)?;
                    }
                } else {
                    to_list.push(stale);
                }
            }
            for found in self.found(ipv6, &to_list)? {
                self.delete(family(ipv6), &found.name)?;
            }
        }
        Ok(())
    }

    /// The flows that are stale in this way.
    pub fn list(&mut self, stale: &Stale) -> Result<Vec<Flow>, ConntrackError> {
        Ok(self.found(stale.is_ipv6(), &[stale])?.into_iter().map(|found| found.flow).collect())
    }

    fn found(&mut self, ipv6: bool, stale: &[&Stale]) -> Result<Vec<Found>, ConntrackError> {
        // A list takes the kernel its time, however little it finds: several ask for all of it, once.
        let filters = match stale {
            [] => return Ok(Vec::new()),
            [one] => one.filters(),
            _ => Vec::new(),
        };
        let able = self.filters(ipv6);
        let mut bodies: Vec<_> = filters.iter().map(|filter| body_of(filter, able)).collect();
        if bodies.is_empty() || bodies.iter().any(Vec::is_empty) {
            bodies = vec![Vec::new()];
        }
        let mut all: Vec<Found> = Vec::new();
        for body in bodies {
            let found = self.list_raw(ipv6, &body)?;
            all.extend(found.into_iter().filter(|found| stale.iter().any(|stale| stale.covers(&found.flow))));
        }
        // More than one filter may have found it.
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all.dedup_by(|one, other| one.name == other.name);
        Ok(all)
    }

    fn list_raw(&mut self, ipv6: bool, body: &[u8]) -> Result<Vec<Found>, ConntrackError> {
        let bodies = self.dump(family(ipv6), body)?;
        let found = bodies.iter().filter_map(|body| found(body).transpose());
        found.collect::<Result<_, _>>().map_err(|Damaged(reason)| ConntrackError::Undecodable(reason))
    }

    fn dump(&mut self, family: u8, body: &[u8]) -> Result<Vec<Vec<u8>>, ConntrackError> {
        for _ in 0..TRIES {
            match self.socket.dump(SUBSYSTEM, IPCTNL_MSG_CT_GET, family, body)? {
                Dump::Complete(found) => return Ok(found),
                Dump::Interrupted => {}
                Dump::Refused(refusal) => return Err(refused(refusal, "conntrack -L").into()),
            }
        }
        Err(ConntrackError::Interrupted)
    }

    fn delete_by_filter(&mut self, filter: &Filter) -> Result<(), ConntrackError> {
        let has_address = |partial: Partial| partial.source.is_some() || partial.destination.is_some();
        if !has_address(filter.original()) && !has_address(filter.reply()) {
            return Err(ConntrackError::TooBroad(*filter));
        }
        self.delete(family(filter.is_ipv6()), &body_of(filter, Filters::Full))
    }

    fn delete(&mut self, family: u8, body: &[u8]) -> Result<(), ConntrackError> {
        let fault = fault::before(Effect::Flows);
        if let Some(Fault::Refused(errno)) = fault {
            let operation = "conntrack -D".to_owned();
            return Err(KernelError { errno: Errno::from_raw(errno), operation, extack: None }.into());
        }
        let answer = self.socket.request(SUBSYSTEM, IPCTNL_MSG_CT_DELETE, family, body)?;
        fault::after(Effect::Flows);
        if let Some(Fault::Lost) = fault {
            return Err(SocketError::Overrun.into());
        }
        match answer {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.errno == Some(Errno::ENOENT) => Ok(()),
            Err(refusal) => Err(refused(refusal, "conntrack -D").into()),
        }
    }
}

fn family(ipv6: bool) -> u8 {
    if ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }
}

fn refused(refusal: Refusal, operation: &str) -> KernelError {
    let errno = refusal.errno.unwrap_or(Errno::UnknownErrno);
    KernelError { errno, operation: operation.to_owned(), extack: refusal.extack }
}
