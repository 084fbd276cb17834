//! Directed tests of the rules of one drive; each is named after what must hold.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod behind;
mod clients_first;
mod compares;
mod fences;
mod freeing;
mod full;
mod fuzz;
mod joins;
mod losses;
#[cfg(feature = "mutations")]
mod mutations;
mod orders;
mod random;
mod repairs;
mod resyncs;
mod rig;
mod rotten;
mod seals;
mod stables;
mod world;
mod writes;
