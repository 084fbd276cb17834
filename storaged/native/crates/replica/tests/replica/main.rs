//! Directed tests of the rules of one drive; each is named after what must hold.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod fences;
mod fuzz;
mod joins;
#[cfg(feature = "mutations")]
mod mutations;
mod random;
mod repairs;
mod resyncs;
mod rig;
mod seals;
mod stables;
mod world;
mod writes;
