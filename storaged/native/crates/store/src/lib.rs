//! The log of one drive: a sans-IO store that turns records into device writes and back.
//!
//! It is not a protocol: it does not know epochs or fences, it remembers what the replica rules
//! tell it. It does no I/O after `open`: device operations leave by `poll` and return by
//! `complete`. The format is described in `docs/on-disk-format.md`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod api;
mod apply;
mod ckpt;
pub mod ckpt_codec;
mod csums;
pub mod dev;
pub mod entry;
pub mod format;
pub mod group;
mod hot;
mod index;
pub mod layout;
mod leaf;
pub mod loc;
mod look;
mod lost;
mod open;
mod overlay;
mod query;
pub mod ranges;
mod reader;
mod recover;
mod replay;
mod rescue;
pub mod segment;
mod segs;
mod sift;
mod store;
pub mod superblock;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::indexing_slicing)]
pub mod testing;
mod walk;
mod writer;

pub use dev::{DevError, DevGeometry, SyncDev};
pub use format::{format, inspect, FormatParams, OpenError};
pub use look::{BlockLook, LayerLook, Look, PgLook, VolLook, Worth};
pub use lost::salvage;
pub use open::{OpenParams, OpenReport, Suspicion};
pub use store::{Config, LogStats, LogStore};
pub use superblock::Superblock;

/// Checksum of structures on disk: CRC-64/NVME, unseeded.
pub fn checksum(bytes: &[u8]) -> u64 {
    drystone_csum::crc64(bytes)
}
