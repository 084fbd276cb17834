//! The replica rules of one drive (engine §4.3, §8): what it admits, when it answers, what it keeps.
//!
//! A sans-IO core: [`Replica::step`] takes an [`Event`] and appends [`Action`]s. It has no clock,
//! no randomness, no sockets and no device; the log of the drive is an
//! [`ObjectStore`](drystone_store::api::ObjectStore). It decides nothing about membership.
//!
//! | module | concept |
//! |---|---|
//! | `dispatch`, `fence`, `reply` | from frame to handler; R1-R3; answers |
//! | `write`, `read`, `seal`, `ticket`, `stable`, `credits` | one message family each |
//! | `adopt`, `join`, `resync`, `bulk` | maps, becoming a member, the copy, and that it waits for clients |
//! | `repair`, `peer_check`, `relay`, `requests` | what this drive asks of others |
//! | `cross_check`, `cross_diff` | comparing what the in-sync copies hold |
//! | `quiet` | that a promise to answer no reads, of which no drop came, ends |
//! | `freeing` | what a move left behind goes, once nobody can want it |
//! | `scrub_pace` | that a scrub waits for clients |
//! | `bad_blocks` | which blocks are bad, and whose turn it is to be healed |
//! | `startup`, `control`, `stats`, `limits`, `facts` | open, control requests, counters, limits, what a log tells |
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod adopt;
mod api;
mod bad_blocks;
mod bulk;
mod control;
mod credits;
mod cross_check;
mod cross_diff;
mod dispatch;
mod facts;
mod fence;
mod freeing;
mod join;
mod leaving;
pub mod limits;
mod pace;
mod peer_check;
mod quiet;
mod read;
mod relay;
mod repair;
mod replica;
mod reply;
mod requests;
mod resync;
mod scrub_pace;
mod seal;
mod slab;
mod stable;
mod startup;
mod state;
mod stats;
mod tables;
mod ticket;
mod write;

pub use api::{
    Action, Compared, Config, Control, ControlResult, Event, LeaveWhy, PeerId, PeerInfo, PeerRole, Report, StuckWhy,
    TicketKeys,
};
pub use facts::{Facts, PgFacts, VolFacts};
pub use replica::Replica;
pub use startup::{OpenError, StoredRole};
pub use stats::Stats;
