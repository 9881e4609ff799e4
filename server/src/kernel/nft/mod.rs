//! nftables over netlink, without a C library or a child process.
