//! Scripted schedules: the interleavings that broke earlier drafts of the protocol, by name.
//!
//! A script steers time, frames, joins and drops by itself in a quiet world of three nodes, one drive
//! each, one PG and one volume; the oracles are those of every seed.

use drystone_types::{Rule, Rules};

use crate::plan::Plan;
use crate::runner::{build, Verdict};
use crate::world::World;

mod script;

pub use script::Script;

mod attaching;
mod cold;
mod compares;
mod copies;
mod crashes;
mod fencing;
mod heads;
mod joining;
mod membership;
mod moves;
mod rebuild;
mod recovery;
mod relay;
#[cfg(not(feature = "naive"))]
mod rules_log;
mod rules_membership;
mod rules_replica;
mod rules_sequencer;
mod rules_store;
mod space;
mod spread;
mod store_back;
mod unreadable;

/// One scripted schedule.
pub struct Scenario {
    /// Name, as in the engine design.
    pub name: &'static str,
    /// Rules whose absence it shows.
    pub breaks_without: Vec<Rule>,
    /// The schedule.
    pub play: fn(&mut Script),
    /// The world it is played in.
    pub plan: fn() -> Plan,
}

impl Scenario {
    /// A schedule in the quiet world.
    pub fn new(name: &'static str, breaks_without: Option<Rule>, play: fn(&mut Script)) -> Scenario {
        Scenario { name, breaks_without: breaks_without.into_iter().collect(), play, plan: Plan::quiet }
    }
    /// The same, which also shows the absence of these.
    pub fn noticing(mut self, rules: &[Rule]) -> Scenario {
        self.breaks_without.extend(rules);
        self
    }
    /// The same in another world.
    pub fn in_world(self, plan: fn() -> Plan) -> Scenario {
        Scenario { plan, ..self }
    }
}

/// The naive store has no segments, summaries and checkpoints.
#[cfg(not(feature = "naive"))]
const OF_THE_LOG: [fn() -> Vec<Scenario>; 1] = [rules_log::all];
#[cfg(feature = "naive")]
const OF_THE_LOG: [fn() -> Vec<Scenario>; 0] = [];

/// All of them.
pub fn all() -> Vec<Scenario> {
    let files = [fencing::all, joining::all, attaching::all, recovery::all, copies::all, crashes::all, membership::all];
    files
        .into_iter()
        .chain([space::all, spread::all, unreadable::all, rebuild::all, relay::all, cold::all])
        .chain([rules_membership::all, rules_sequencer::all, rules_replica::all, rules_store::all])
        .chain(OF_THE_LOG)
        .chain([heads::all, store_back::all, compares::all, moves::all])
        .flat_map(|f| f())
        .collect()
}

/// Plays a scenario and checks what every seed checks at its end.
pub fn run(scenario: &Scenario, rules: Rules) -> Verdict {
    let mut world: World = build(7, (scenario.plan)(), rules);
    world.scripted = true;
    world.tracing = true;
    world.trace_max = 1 << 20;
    let mut script = Script::new(world);
    script.start();
    if script.w.failure.is_none() {
        (scenario.play)(&mut script);
    }
    script.finish()
}
