//! Scripted schedules: the interleavings that broke earlier drafts of the protocol, by name.
//!
//! A script steers time, frames, joins and drops by itself in a quiet world of three nodes, one drive
//! each, one PG and one volume; the oracles are those of every seed.

use drystone_types::{Rule, Rules};

use crate::runner::{build, Verdict};
use crate::world::World;

mod script;

pub use script::Script;

mod attaching;
mod fencing;
mod joining;

/// One scripted schedule.
pub struct Scenario {
    /// Name, as in the engine design.
    pub name: &'static str,
    /// Rule whose absence it shows, if it was made for one.
    pub breaks_without: Option<Rule>,
    /// The schedule.
    pub play: fn(&mut Script),
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    fencing::all().into_iter().chain(joining::all()).chain(attaching::all()).collect()
}

/// Plays a scenario and checks what every seed checks at its end.
pub fn run(scenario: &Scenario, rules: Rules) -> Verdict {
    let mut world: World = build(7, crate::plan::Plan::quiet(), rules);
    world.scripted = true;
    world.tracing = true;
    let mut script = Script::new(world);
    script.start();
    (scenario.play)(&mut script);
    script.finish()
}
