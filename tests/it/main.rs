//! netloom from outside: the real daemon on a private host per test, driven through its doors.
//!
//! - `stories`: red, blue and v-net-0 through both doors; restarts; nothing left behind
//! - `attachments`: bandwidth, metrics, wanted names, addresses that change hands
//! - `networks`: the chosen way out, what they carry, bridges of the user's own
//! - `bad_input`: what is refused, and that nothing changes
//! - `tcp`: TLS, tokens and hosts; both doors, the client and the command over TCP
//! - `command`: every subcommand of `netloom`, its output and exit codes
//! - `help`: every example of `--help`, run; completions and manual pages
//! - `crash`: the daemon dies at every point of every effect, again while it recovers, and every request fails once
//! - `defaults`: what a user takes for granted of addresses, ports and busy neighbours
//! - `topology`: the graph of what stands, and its drawings
//! - `upkeep`: purge, backup, restore
//! - `lab`: the commands of a lab and their exit codes
//! - `apply`: many objects at once: plans, owners, part of a set, exports, how much work it is
//! - `forwards`: published ports in packets: families, ranges, sources, chosen and taken ports, live change
//! - `diagnose`: each thing that can be wrong is broken, and the verdict names it first
//! - `policies`: the noun through its doors; what it selects, and that it selects nobody who can pose as another
//! - `drift`: what others break is put back, what we do ourselves is not, and a quarrel is told
//! - `reboot`, `restart`: the kernel is empty, or as it was left
//! - `links`: direct cables: packets, restarts, live change, ends in adopted namespaces
//! - `examples`: every file in `examples/` is what it says
//! - `firewall`: which packets pass, whoever made them, with br_netfilter off and on
//! - `namespaces`: adopted ones, settings inside, and who is in them
//! - `live_change`: what a PATCH changes under open connections
//! - `routes`: where packets go, in namespaces and on the host
//! - `races`: many at once, over and over
//! - `lesson`: docs/lesson.md from top to bottom
//! - `doors`: every verb is behind both
//! - `confinement`: what the daemon has given up, and that it needs what it keeps
//! - `greedy`: callers that take what they can get
//! - `secrets`: tokens and keys are seen nowhere
//! - `deploy`: what is in `deploy/`, from install to purge
//! - `tidy`: the walls of ARCHITECTURE.md

#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]
#![allow(clippy::disallowed_methods, reason = "tests start the daemon; the daemon starts nothing")]

mod apply;
mod attachments;
mod bad_input;
mod bad_links;
mod bad_policies;
mod bad_routes;
mod command;
mod confinement;
mod crash;
mod defaults;
mod deploy;
mod diagnose;
mod doors;
mod drift;
mod examples;
mod firewall;
mod forwards;
mod greedy;
mod help;
mod host;
mod lab;
mod lesson;
mod links;
mod live_change;
mod namespaces;
mod netloom;
mod networks;
mod policies;
mod races;
mod reboot;
mod rest;
mod restart;
mod routes;
mod secrets;
mod storage;
mod stories;
mod stream;
mod tcp;
mod tidy;
mod topology;
mod upkeep;
