//! The fault atlas: which copies are spoilt. A fault may spoil a copy, or take one away for good, only where every PG
//! keeps an in-sync copy that is whole: where the last one is destroyed no rule can help.

use drystone_store::api::BlockKind;

use crate::event::Ev;
use crate::plan::{Fault, LONE};
use crate::server::Drive;
use crate::world::{Phase, Time, World};

/// Scrubs after which every bad block of a member has been repaired.
const SCRUB_ROUNDS: u32 = 5;
/// Scrubs after which a drive whose log was damaged has left if it must, and is filled again or never will be.
const PROOF_ROUNDS: u32 = 40;
/// Scrubs after an open before a drive whose log was damaged counts as whole: what is wrong with it shows at the open,
/// and its drop takes a moment.
const PROOF_LEAST: u32 = 3;
/// Between two scrubs: repairs run after the first, the next one shows whether they succeeded.
const SCRUB_PAUSE: Time = 1_000_000;

/// What is spoilt, beside what the devices themselves know of their sectors.
#[derive(Debug, Default)]
pub struct Atlas {
    /// A drive with damage that its next open has to find.
    pub reopen: Option<usize>,
    /// A drive whose log was damaged, or lost what was acknowledged: whole again only when its open showed nothing,
    /// or when it left and was filled anew.
    pub unproven: Option<usize>,
    /// A drive whose cache lies.
    pub lying: Option<usize>,
    /// A cache has lied already: one a seed is enough.
    pub lied: bool,
}

impl World {
    /// Whether a drive's bytes are not all what was written: what rests on them says nothing.
    pub fn doubtful(&self, d: usize) -> bool {
        self.drives[d].dev.lies || self.flipped.contains(&d)
    }

    /// Whether a drive still has everything that it answers for.
    pub fn sound(&self, d: usize) -> bool {
        let dev = &self.drives[d].dev;
        let known = if cfg!(feature = "naive") { self.flipped.contains(&d) } else { self.atlas.unproven == Some(d) };
        let model = &dev.shadow.model;
        let rotten = || dev.spoilt.iter().any(|slot| model.at(*slot).is_some());
        let mut cells = model.objects.values().flat_map(|o| o.cells.values());
        !(known || dev.lies || rotten() || cells.any(|c| !c.forgotten && c.kind == BlockKind::Bad))
    }

    /// Whether every PG has a sound copy in sync when this drive is gone.
    pub fn others_hold(&self, d: usize) -> bool {
        let sound: Vec<_> =
            (0..self.drives.len()).filter(|x| *x != d && self.sound(*x)).map(|x| self.drives[x].id).collect();
        self.truth().shard().1.iter().all(|r| r.insync.iter().any(|id| sound.contains(id)))
    }

    /// Whether a drive may be spoilt now. Only in calm, and when it is in sync in every PG: rot in content that the
    /// drive does not answer for is found by nobody until it does.
    pub fn may_spoil(&self, d: usize) -> bool {
        let (_, records) = self.truth().shard();
        let id = self.drives[d].id;
        let member = |r: &drystone_types::PgRecord| r.is_insync(id) || !r.is_member(id);
        let nothing = self.scrubbing.is_none() && self.atlas.lying.is_none() && self.atlas.reopen.is_none();
        nothing && self.newest.is_none() && records.iter().all(member) && self.calm() && self.others_hold(d)
    }

    /// Whether every copy is there and stays: nobody stands still, is cut off, fails, or is about to be dropped for what
    /// was before.
    pub fn calm(&self) -> bool {
        let now = self.now;
        let troubles = self.drives.iter().flat_map(|d| {
            let wrong = d.dev.wrong.map_or(0, |(_, until)| until);
            [d.slow.1, d.dev.read_errors.1, wrong]
        });
        let still = self.frozen.values().chain(self.cuts.values()).copied();
        self.whole() && still.chain(troubles).all(|t| t <= now) && !self.somebody_leaves()
    }

    /// Whether a drive that is in sync now is to be dropped or stopped: a copy that goes is none to count on, and the
    /// drop of a node that stood still comes when it moves again.
    fn somebody_leaves(&self) -> bool {
        let (_, records) = self.truth().shard();
        let leaves = |d: &Drive| {
            let asked = |(pg, epoch): (&u32, &_)| records.get(*pg as usize).is_some_and(|r| r.epoch == *epoch);
            let quiesced = d.quiesced_nonce == d.nonce && d.quiesced.iter().any(asked);
            d.suspect || quiesced || d.replica.as_ref().is_none_or(|r| r.has_failed())
        };
        let suspected = !self.truth().suspects.is_empty();
        suspected || self.drives.iter().any(leaves) || self.nodes.iter().any(|n| !n.up || n.armed.is_some())
    }

    /// Whether a fault leaves a whole copy of everything. While a copy is known to be spoilt one node of three may go,
    /// when all are there, and what concerns no copy may happen.
    pub fn leaves_a_copy(&self, fault: Fault) -> bool {
        if self.atlas.lying.is_none() && self.scrubbing.is_none() && self.atlas.reopen.is_none() {
            return true;
        }
        let one_node = LONE.contains(&fault) && self.atlas.lying.is_none() && self.atlas.unproven.is_none();
        let harmless = matches!(
            fault,
            Fault::CrashClient
                | Fault::StealVolume
                | Fault::FreezeClient
                | Fault::Fence
                | Fault::RestartClient
                | Fault::NewHead
                | Fault::FreezeManager
        );
        harmless || (one_node && self.plan.copies == 3 && !self.plan.small && self.calm())
    }

    /// A drive was spoilt: it is scrubbed until nothing bad is found.
    pub fn spoilt(&mut self, d: usize) {
        self.scrubbing = Some(d);
        self.scrub_rounds = 0;
        self.flipped.insert(d);
        let (life, pause) = (self.drives[d].life, self.rng.range(1_000, 2_000_000));
        self.after(pause, Ev::Scrub(d, life));
    }

    /// The log of a drive was damaged: its next open finds it.
    pub fn log_spoilt(&mut self, d: usize) {
        self.spoilt(d);
        self.drives[d].dev.shadow.distrust();
        self.atlas.unproven = Some(d);
        self.atlas.reopen = Some(d);
        let soon = self.rng.range(10_000, 3_000_000);
        self.after(soon, Ev::Spoilt(d));
    }

    /// A scrub ended.
    pub fn scrub_ended(&mut self, d: usize, bad: u64) {
        self.counts.hit("scrub.done");
        if self.scrubbing != Some(d) {
            return;
        }
        self.scrub_rounds += 1;
        let rounds = self.scrub_rounds;
        let unproven = self.atlas.unproven == Some(d);
        // What stays bad after a few rounds is of a PG the drive has left: nobody reads it.
        let over = if unproven {
            let proven = rounds >= PROOF_LEAST && self.whole() && (bad == 0 || rounds >= SCRUB_ROUNDS + PROOF_LEAST);
            self.atlas.reopen.is_none() && (proven || rounds >= PROOF_ROUNDS)
        } else {
            bad == 0 || rounds >= SCRUB_ROUNDS
        };
        if !over {
            let life = self.drives[d].life;
            self.after(SCRUB_PAUSE, Ev::Scrub(d, life));
            return;
        }
        self.scrubbing = None;
        if unproven {
            self.counts.hit("damage.proven_whole");
            self.atlas.unproven = None;
        }
        self.trust_again(d);
    }

    /// Nothing of the damage is left, and the shadow saw everything that is there.
    pub fn trust_again(&mut self, d: usize) {
        let dev = &self.drives[d].dev;
        if dev.spoilt.is_empty() && !dev.shadow.is_distrusted() && self.flipped.remove(&d) {
            self.counts.hit("damage.trusted_again");
        }
    }

    /// The next step of a drive that is spoilt: its node starts again, or loses its power while the cache lies.
    pub fn spoilt_goes_on(&mut self, d: usize) {
        let n = self.drives[d].node;
        if self.phase == Phase::Healing {
            return;
        }
        if self.atlas.lying == Some(d) {
            if self.drives[d].replica.is_some() && self.calm() && self.others_hold(d) {
                let life = self.nodes[n].life;
                self.nodes[n].armed = Some(true);
                self.after(500_000, Ev::Stop(n, life, true));
            } else {
                self.honest_again(d);
            }
        } else if self.atlas.reopen == Some(d) {
            let (life, power) = (self.nodes[n].life, self.rng.chance(300));
            self.stop_for_a_while(n, life, power);
        }
    }

    /// A cache that lied says the truth again before anything was lost.
    fn honest_again(&mut self, d: usize) {
        self.atlas.lying = None;
        let dev = &mut self.drives[d].dev;
        dev.flush();
        dev.lies = false;
        self.counts.hit("liar.let_go");
    }

    /// A drive is opened: what its cache had is gone, if its node lost power since.
    pub fn caught_lying(&mut self, d: usize) {
        if self.atlas.lying != Some(d) || !self.drives[d].dev.caught {
            return;
        }
        self.counts.hit("liar.caught");
        self.drives[d].dev.lies = false;
        self.atlas.lying = None;
        self.atlas.unproven = Some(d);
        self.scrubbing = Some(d);
        self.scrub_rounds = 0;
        self.flipped.insert(d);
    }

    /// The end of all faults.
    pub fn heal_drives(&mut self) {
        for d in 0..self.drives.len() {
            let dev = &mut self.drives[d].dev;
            (dev.wrong, dev.read_errors) = (None, (0, 0));
        }
        if let Some(d) = self.atlas.lying {
            if self.drives[d].dev.caught {
                // The power went, and nobody has opened it yet.
                return;
            }
            self.honest_again(d);
        }
        if let Some(d) = self.atlas.reopen {
            let (n, life) = (self.drives[d].node, self.nodes[self.drives[d].node].life);
            self.after(1_000, Ev::Stop(n, life, false));
        }
    }
}
