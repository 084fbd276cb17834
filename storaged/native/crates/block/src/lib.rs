//! Shell of the block daemon: one reactor thread with every attached volume's sequencer, the
//! connections to the drives, and an NBD server on a unix socket per volume.
//!
//! Decisions are the sequencer's; here are sockets and the clock. Work per turn is proportional
//! to what happened in the turn, never to the number of attached volumes, and an idle daemon
//! has no timer.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod core_actions;
mod events;
mod front;
mod handler;
mod io_stats;
mod session;
mod tags;
mod volume;

pub use events::{BlockEvent, EventSink, EventSource};
pub use handler::{fence_text, spawn_block, BlockCommand, BlockConfig, BlockRemote, BlockStats, VolumeStats};
pub use io_stats::{IoStats, OpStats};
