//! Directed scenarios of one sequencer over perfect in-memory replicas, named after the rules of
//! engine §4.4 and the breaks of §4.11 they hold.
// Test code: a panic is how it fails.
#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attach;
mod clones;
mod cost;
mod credits;
mod ends;
#[cfg(feature = "mutations")]
mod mutations;
mod random;
mod reads;
mod replica;
mod sectors;
mod unreadable;
mod world;
mod writes;
