//! Tells the neighbours of an interface that it has an address now: gratuitous ARP (RFC 5227) and unsolicited
//! neighbour advertisement (RFC 4861), so that an address that was another's a moment ago works at once.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::{errno::Errno, libc};

const ETH_ARP: u16 = 0x0806;
const ETH_IP6: u16 = 0x86dd;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Announces an address of an interface in the calling thread's network namespace. Closing the packet socket that comes
/// back waits for an RCU grace period, some 12 ms (seen on Linux 6.18): do it where nobody waits.
pub fn announce(interface: &str, address: IpAddr) -> Result<OwnedFd, Errno> {
    let (index, mac) = link(interface)?;
    let (kind, frame) = match address {
        IpAddr::V4(address) => (ETH_ARP, arp(mac, address)),
        IpAddr::V6(address) => (ETH_IP6, advertisement(mac, address)),
    };
    send(index, kind, &frame)
}

fn link(interface: &str) -> Result<(i32, [u8; 6]), Errno> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    // The device's own file tells its address without a socket; sysfs may show another namespace, so the ioctl it is.
    let socket = open(libc::AF_INET, libc::SOCK_DGRAM)?;
    // SAFETY: an all-zero ifreq is valid, and the kernel fills the part that is read.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
        *to = from.cast_signed();
    }
    // SAFETY: the descriptor is open and the pointer is to an ifreq, which SIOCGIFHWADDR takes.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: SIOCGIFHWADDR has filled this member of the union.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(data) {
        *to = from.cast_unsigned();
    }
    Ok((i32::try_from(index).map_err(|_| Errno::ERANGE)?, mac))
}

fn open(family: libc::c_int, kind: libc::c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: a plain system call; the result is checked before it is owned.
    let fd = Errno::result(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: nobody else has the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn send(index: i32, kind: u16, frame: &[u8]) -> Result<OwnedFd, Errno> {
    let socket = open(libc::AF_PACKET, libc::SOCK_RAW)?;
    // SAFETY: an all-zero sockaddr_ll is valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    to.sll_protocol = kind.to_be();
    to.sll_ifindex = index;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: pointers and lengths are those of the two values.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            length,
        )
    };
    Errno::result(sent).map(|_| socket)
}

/// An ARP request for our own address, from it, to all.
fn arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, ETH_ARP);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&address.octets());
    frame
}

/// A neighbour advertisement with the override flag and our link-layer address, to all nodes.
fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    const ADVERTISEMENT: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    let mut body = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    body.extend_from_slice(&address.octets());
    body.extend_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    body.extend_from_slice(&mac);
    let sum = checksum(address, ALL_NODES, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, ETH_IP6);
    let length = u16::try_from(body.len()).unwrap_or_default().to_be_bytes();
    frame.extend_from_slice(&[0x60, 0, 0, 0, length[0], length[1], 58, 255]);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&ALL_NODES.octets());
    frame.extend_from_slice(&body);
    frame
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes()[..]].concat()
}

/// RFC 8200, section 8.1.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets()[..], &length[..], &[0, 0, 0, 58][..], body].concat();
    let words =
        pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_has_a_checksum_that_adds_up_to_nothing() {
        let address = "fd00::1".parse().unwrap();
        let frame = advertisement([2, 0, 0, 0, 0, 1], address);
        assert_eq!(checksum(address, ALL_NODES, &frame[54..]), 0);
    }
}
