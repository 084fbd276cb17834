//! Shows an NBD export as the file `volume` of a FUSE mount.
//!
//! A loop device on that file is the block device of a volume on kernels that have
//! neither `nbd` nor `ublk`. The process outlives the block daemon: while the NBD socket
//! is gone, requests wait here and are sent again on the next connection. It never turns
//! a lost connection into an I/O error, because one error is enough to make a file system
//! read-only; only an error that the server itself answers is passed on.
//!
//! What it relies on:
//!
//! - A write that the server has acknowledged survives the death of the server. An engine
//!   whose acknowledged writes are durable gives that; a server with a volatile cache of
//!   its own does not, and a flush after a reconnect would then promise too much.
//! - A server takes overlapping requests in the order in which it received them, across
//!   connections (the sequencer's interval lock does).
//!
//! Map: [`queue`] is the pure core (order, overlap, resend); [`nbd`] the wire format and the
//! handshake; [`link`] the threads that keep one connection; [`fs`] the FUSE side;
//! [`control`] the commands `stat`, `resize`, `reconnect` and `quit`.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod args;
pub mod control;
pub mod fs;
pub mod link;
pub mod nbd;
pub mod queue;

/// Largest read or write the kernel may ask for at once. 1 MiB is what the kernel's
/// default of 256 pages a FUSE request allows; more would be refused by it.
pub const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Requests the kernel may have outstanding here. A loop device has a queue of 128, so a
/// smaller number would be the bottleneck and a larger one is never reached.
pub const REQUESTS_MAX: u16 = 128;
