//! Who is alive, who may answer reads, and how the member sets of a PG change (engine design §4.5).
//!
//! Three cores without I/O, clock or randomness: [`BeaconCore`] (heartbeats, quorum, read leases,
//! silence votes), [`DropPolicy`] (from evidence to a decided drop) and the pure transitions
//! [`drop_drive`], [`join`], [`promote`] and [`renew`] of a PG record, which hold invariants I1 and I2.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod beacon;
pub mod heartbeat;
pub mod lease;
pub mod peers;
pub mod policy;
pub mod transition;
pub mod votes;

pub use beacon::{BeaconConfig, BeaconCore, Refused};
pub use heartbeat::{Echo, Heartbeat, HeartbeatError};
pub use policy::{DropPolicy, DropReason, Evidence, PolicyAction};
pub use transition::{drop_drive, join, promote, renew, TransitionError};
pub use votes::Suspect;
