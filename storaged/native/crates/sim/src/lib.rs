//! Deterministic simulator: the real cores (`store`, `replica`, `sequencer`, `membership`) in virtual time,
//! with a network, devices, processes, a metadata store and managers that misbehave as a seed says, and
//! oracles that know what may never be seen (engine design §13).
//!
//! Nothing here is used by the product. A seed replays exactly.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
// A harness, not a daemon: an index or an `unwrap` that is wrong fails the seed loudly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

pub mod atlas;
pub mod backup;
pub mod beacon;
pub mod calls;
pub mod check_copies;
pub mod check_logs;
pub mod checks;
pub mod client;
pub mod clock;
mod compares;
pub mod counts;
pub mod deletions;
pub mod device;
pub mod drive;
pub mod early;
pub mod event;
pub mod faults;
pub mod figures;
pub mod final_check;
pub mod gaps;
pub mod hangs;
pub mod history;
pub mod later;
pub mod layers;
pub mod links;
pub mod manager;
#[cfg(not(feature = "naive"))]
pub mod matrix;
#[cfg(not(feature = "naive"))]
mod matrix_damage;
pub mod media;
pub mod meta;
pub mod moves;
#[cfg(feature = "mutations")]
pub mod mutate;
pub mod net;
pub mod opening;
pub mod plan;
mod quiet;
pub mod readopt;
pub mod recipe;
pub mod register;
pub mod regress;
pub mod rng;
pub mod runner;
pub mod scenario;
pub mod schedule;
pub mod server;
pub mod shadow;
pub mod shrink;
pub mod storage;
mod tidy;
pub mod voters;
pub mod workload;
pub mod world;
