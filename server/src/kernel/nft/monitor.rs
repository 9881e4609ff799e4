//! Whether somebody else changes our tables. Where the kernel knows owners of tables nobody can, and nothing is heard.

use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::skeleton::TABLE;
use super::uapi::{NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN};
use super::wire::{pick, text};
use crate::kernel::datagram::{RawPart, parts};
use crate::kernel::monitor::RECEIVE_BUFFER;
use crate::kernel::socket::{SocketError, enlarge, errno_of, failed, system};

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;
/// Enough for any event.
const READ_BUFFER: usize = 1 << 16;
const NETFILTER_HEADER: usize = 4;
/// The first attribute of every object names its table.
const TABLE_NAME: u16 = 1;
/// Datagrams read in one call.
const DATAGRAMS_AT_ONCE: usize = 4096;

/// Hears what happens to our tables.
pub(in crate::kernel) struct RulesMonitor {
    socket: Socket,
    buffer: Vec<u8>,
    /// The number of the socket by which we change them ourselves.
    own: u32,
}

impl RulesMonitor {
    /// Subscribes, in the network namespace of the calling thread. What the socket of this number does is not told.
    pub(in crate::kernel) fn open(own: u32) -> Result<Self, SocketError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        enlarge(&socket, RECEIVE_BUFFER).map_err(system("SO_RCVBUF"))?;
        socket.add_membership(GROUP).map_err(failed("NETLINK_ADD_MEMBERSHIP"))?;
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BUFFER), own })
    }

    /// Waits at most so long; whether somebody else has changed our tables, or may have.
    pub(in crate::kernel) fn wait(&mut self, timeout: Duration) -> Result<bool, SocketError> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(system("poll")(errno)),
        }
        let mut touched = false;
        for _ in 0..DATAGRAMS_AT_ONCE {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok((_, sender)) if sender.port_number() != 0 => {}
                Ok(_) => {
                    let mut all = parts(&self.buffer);
                    touched |= all.any(|part| part.map_or(true, |part| self.is_of_others(&part)));
                }
                Err(error) => match errno_of(&error) {
                    Errno::EAGAIN | Errno::EINTR => break,
                    // Events were lost.
                    Errno::ENOBUFS => touched = true,
                    errno => return Err(system("receive")(errno)),
                },
            }
        }
        Ok(touched)
    }

    fn is_of_others(&self, part: &RawPart<'_>) -> bool {
        let [message, subsystem] = part.kind.to_le_bytes();
        if u16::from(subsystem) != NFNL_SUBSYS_NFTABLES
            || u16::from(message) == NFT_MSG_NEWGEN
            || part.port == self.own
        {
            return false;
        }
        let attributes = part.payload.get(NETFILTER_HEADER..).unwrap_or_default();
        match pick(attributes, [TABLE_NAME]) {
            Ok([Some(name)]) => text(name).is_ok_and(|name| name == TABLE),
            Ok([None]) | Err(_) => false,
        }
    }
}
