//! The sequencer of one attached volume (engine §4.4): it orders writes, checksums them, sends
//! them to every member of their PG, and completes them when all have answered in one epoch.
//!
//! It is not a client of the metadata store, has no socket and no clock: events in, actions out.
//! The shell owns connections and calls the manager; replicas, not this code, are what protects
//! data from a second writer (R1, R2), but this code is what makes an answered write durable on
//! every in-sync copy (W2) and copies equal after a crash (A2–A5).
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod answer;
mod api;
mod attach;
mod credits;
mod ctl;
mod detach;
mod drive;
mod engine;
mod epoch;
mod fence;
mod hash;
mod job;
mod latency;
mod lock;
mod parent;
mod pg;
mod presence;
mod read;
mod reply;
mod request;
mod retry;
mod rmw;
mod slab;
mod spare;
mod stable;
mod stall;
mod stats;
mod status;
mod ticket;
mod timers;
mod warm;
mod window;
mod write;

pub use crate::api::{
    Action, ActivateError, Config, Event, Extent, FenceReason, Io, IoError, IoOk, IoResult, NewError, Pieces,
    ReportKind, State,
};
pub use crate::engine::Sequencer;
pub use crate::stats::Stats;
