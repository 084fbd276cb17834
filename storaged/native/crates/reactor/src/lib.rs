//! Single-thread io_uring event loop: a thin shell that drives cores which do no I/O.
//!
//! One [`Reactor`] owns one thread and one ring. A [`Handler`] gets commands, completions and
//! timers, starts operations on the [`Ctx`], and at the end of each turn everything it started
//! goes to the kernel in one system call, the same one that waits. Nothing to do costs nothing:
//! the thread sleeps in the kernel until a completion, a timer or a command.
//!
//! Memory safety of the ring, in one rule: whatever an operation points at (buffers, vectors,
//! addresses) is moved into the operation's slab entry and stays there until the kernel has
//! answered it for the last time. Closing a descriptor cancels what is in flight and waits for
//! those answers, so a number is never reused under an operation.
//!
//! This is the only crate of the native package with `unsafe` code (`sys`, `ring`, `op`, `shared`).
//! Needs Linux 5.19; uses the cheaper ring modes of 6.1 when they exist.
#![deny(missing_docs)]

mod config;
mod conn;
mod conns;
mod ctx;
mod desc;
mod file;
mod net;
mod op;
mod process;
mod reactor;
mod remote;
mod ring;
mod sendq;
mod shared;
mod slab;
mod spin;
mod sys;
mod timers;
mod wire;

pub use config::{Config, SetupError};
pub use conn::{CloseReason, Conn, ConnConfig, Decoded, Decoder, Event, Fill};
pub use conns::{ConnId, Conns};
pub use ctx::{Ctx, Stats};
pub use desc::FdId;
pub use file::{next_hole, DriveFile, FileError, Geometry, OpenOptions};
pub use net::{bind_udp, listen_tcp, listen_unix, Addr};
pub use op::{OpId, OpResult, UserToken};
pub use process::{become_io_flusher, give_back_memory, lock_memory, pin_to_cpu};
pub use reactor::{spawn, Handler, Reactor, RunError, Running};
pub use remote::{channel, Inbox, Remote, SendError};
pub use sendq::SendQueue;
pub use shared::{FileLock, SharedWords};
pub use timers::TimerId;
pub use wire::{push_frame, WireDecoder, WireItem};
