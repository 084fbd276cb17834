//! What tests of this and other crates run against: a naive store as the oracle, and a device
//! in memory that loses and tears writes at a power cut.

mod crash_dev;
mod journal;
mod mem_dev;
mod naive;
mod naive_query;

pub use crash_dev::{CrashDev, Rng};
pub use journal::{Change, Image, Journal, Keep, Replay};
pub use mem_dev::MemDev;
pub use naive::{Hidden, NaiveStore};
