//! What is run: a seed, whole or with parts of it left out.

use crate::plan::Plan;
use crate::schedule::{draw, Entry};
use crate::world::Time;

/// A trick of the world that can be left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Knob {
    /// Duplicated frames.
    Duplicates,
    /// Frames that overtake others.
    Reorder,
    /// Frames that are late.
    Delays,
    /// Lost datagrams.
    DatagramLoss,
    /// Lost replies of the metadata store.
    LostReplies,
    /// A slow metadata store.
    SlowStore,
    /// Lost pushes of maps.
    LostPushes,
    /// Turns of the reactor.
    Turns,
    /// All volumes but the first.
    Volumes,
}

impl Knob {
    /// All of them.
    pub const ALL: [Knob; 9] = [
        Knob::Duplicates,
        Knob::Reorder,
        Knob::Delays,
        Knob::DatagramLoss,
        Knob::LostReplies,
        Knob::SlowStore,
        Knob::LostPushes,
        Knob::Turns,
        Knob::Volumes,
    ];
    /// Name in a regression file.
    pub fn name(self) -> &'static str {
        match self {
            Knob::Duplicates => "duplicates",
            Knob::Reorder => "reorder",
            Knob::Delays => "delays",
            Knob::DatagramLoss => "datagram_loss",
            Knob::LostReplies => "lost_replies",
            Knob::SlowStore => "slow_store",
            Knob::LostPushes => "lost_pushes",
            Knob::Turns => "turns",
            Knob::Volumes => "volumes",
        }
    }
    /// By its name.
    pub fn of(name: &str) -> Option<Knob> {
        Knob::ALL.into_iter().find(|k| k.name() == name)
    }
    fn leave_out(self, plan: &mut Plan) {
        match self {
            Knob::Duplicates => plan.duplicates = 0,
            Knob::Reorder => plan.reorder = 0,
            Knob::Delays => plan.delays = 0,
            Knob::DatagramLoss => plan.datagram_loss = 0,
            Knob::LostReplies => plan.lost_replies = 0,
            Knob::SlowStore => plan.slow_store = 0,
            Knob::LostPushes => plan.lost_pushes = 0,
            Knob::Turns => plan.turn = 0,
            Knob::Volumes => plan.volumes = 1,
        }
    }
}

/// A seed, and what of it is left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recipe {
    /// Seed.
    pub seed: u64,
    /// Faults that stay, by their place in the schedule; `None` = all.
    pub keep: Option<Vec<usize>>,
    /// End of the faulty phase; `None` = when enough was done.
    pub end: Option<Time>,
    /// Tricks left out.
    pub without: Vec<Knob>,
}

impl Recipe {
    /// A whole seed.
    pub fn of(seed: u64) -> Recipe {
        Recipe { seed, ..Recipe::default() }
    }
    /// Whether nothing is left out: only then is a minimum of work demanded.
    pub fn is_whole(&self) -> bool {
        self.keep.is_none() && self.end.is_none() && self.without.is_empty()
    }
    /// Its world and its faults.
    pub fn prepare(&self) -> (Plan, Vec<Entry>) {
        let mut plan = Plan::of_seed(self.seed);
        let all = draw(self.seed, &plan);
        let entries = match &self.keep {
            None => all,
            Some(keep) => keep.iter().filter_map(|i| all.get(*i).copied()).collect(),
        };
        self.without.iter().for_each(|knob| knob.leave_out(&mut plan));
        (plan, entries)
    }
    /// Hash of the whole seed's plan and schedule: tells a file made before a change of the plans.
    pub fn plan_hash(&self) -> u64 {
        let plan = Plan::of_seed(self.seed);
        let text = format!("{plan:?} {:?}", draw(self.seed, &plan));
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    }
}
