//! What the fuzz targets share: an allocator that counts, streams of valid frames to damage, and a
//! connection to receive them.
#![deny(missing_docs)]

mod conn;
mod heap;
mod wire;

pub use conn::receive;
pub use heap::spending;
pub use wire::{damage, frame, frames, header, seal_header, Splits};

/// Master key of every target: MACs are made with it where they would otherwise end every run.
pub const MASTER: [u8; 32] = [5; 32];
/// Its epoch.
pub const KEY_EPOCH: u32 = 1;
