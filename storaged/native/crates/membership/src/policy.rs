//! From evidence to a decided drop (§4.5), without I/O: the manager feeds it and carries out what it says.
//!
//! Three ways to be sure that the victim serves no reads any more: its lease must have run out (a
//! majority of the voters promised not to echo it, and 1.5 s × 1.05 passed since the last promise), it
//! answered QUIESCE, or its process is dead. The last one is bound by the caller to the drives' open
//! nonces: the drop's transaction compares them, so that a process started meanwhile is not dropped blindly.

use std::collections::BTreeMap;

use drystone_types::consts::{Micros, BEACON_SILENCE, EVIDENCE_TTL, READ_LEASE};
use drystone_types::{DriveId, Rule, Rules, Uuid};

use crate::votes::Suspect;

/// The lease, and 5 % for clocks that run differently.
pub const LEASE_WAIT: Micros = READ_LEASE + READ_LEASE / 20;
/// A vote that is not answered is asked for again: as long as silence takes to be noticed.
const ASK_AGAIN: Micros = BEACON_SILENCE;

/// What the manager learns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// A voter's beacon does not hear the node.
    Silent {
        /// Victim.
        node: Uuid,
        /// Witness.
        voter: Uuid,
    },
    /// A voter's beacon hears the node.
    Heard {
        /// Node.
        node: Uuid,
        /// Witness.
        voter: Uuid,
    },
    /// The `/suspect` key was written.
    SuspectWritten(Suspect),
    /// The `/suspect` key is gone and the voters were told.
    SuspectGone(Uuid),
    /// A voter answered.
    Voted {
        /// What was asked.
        suspect: Suspect,
        /// Voter.
        voter: Uuid,
        /// Its answer.
        granted: bool,
    },
    /// The node's kernel refuses connections: its server process is dead.
    Refused(Uuid),
    /// A live drive must leave: it failed, or it answers far too slowly.
    DriveFailed(DriveId),
    /// A live drive answered QUIESCE for every PG.
    Quiesced(DriveId),
}

/// Why reads of the victim are over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// Its lease has run out; the transaction compares this suspect key.
    LeaseOver(Suspect),
    /// Its process is dead; the transaction compares the drives' open nonces.
    Dead(Uuid),
    /// It answered QUIESCE.
    Quiesced(DriveId),
}

/// What the manager has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyAction {
    /// Write `/suspect/{node}`.
    WriteSuspect(Uuid),
    /// Ask these voters for their promise.
    AskVotes(Suspect, Vec<Uuid>),
    /// Delete `/suspect/{node}`, then free the voters.
    Cancel(Suspect),
    /// Ask a live drive to stop answering reads.
    Quiesce(DriveId),
    /// Drop; one transaction over every PG of the victim.
    Drop(DropReason),
}

#[derive(Debug, Default)]
struct Victim {
    silent: BTreeMap<Uuid, Micros>,
    suspect: Option<Suspect>,
    writing: bool,
    votes: BTreeMap<Uuid, Micros>,
    asked_at: Micros,
    cancelled: bool,
    dropped_at: Option<Micros>,
}

/// The policy of one manager. Forgotten with the leadership: a new leader starts from the suspect keys.
#[derive(Debug, Default)]
pub struct DropPolicy {
    rules: Rules,
    voters: Vec<Uuid>,
    victims: BTreeMap<Uuid, Victim>,
    quiescing: BTreeMap<DriveId, Micros>,
}

impl DropPolicy {
    /// A policy for these voters.
    pub fn new(voters: Vec<Uuid>) -> DropPolicy {
        DropPolicy { voters, ..DropPolicy::default() }
    }

    /// The same with these rules in force.
    pub fn with_rules(self, rules: Rules) -> DropPolicy {
        DropPolicy { rules, ..self }
    }

    /// Takes one piece of evidence.
    pub fn learn(&mut self, now: Micros, evidence: Evidence, out: &mut Vec<PolicyAction>) {
        match evidence {
            Evidence::Silent { node, voter } if voter != node => {
                self.victims.entry(node).or_default().silent.insert(voter, now);
            }
            Evidence::Silent { .. } => {}
            Evidence::Heard { node, voter } => {
                if let Some(victim) = self.victims.get_mut(&node) {
                    victim.silent.remove(&voter);
                }
            }
            Evidence::SuspectWritten(suspect) => {
                let victim = self.victims.entry(suspect.node).or_default();
                (victim.suspect, victim.writing) = (Some(suspect), false);
                victim.votes.clear();
                self.ask(now, suspect.node, out);
            }
            Evidence::SuspectGone(node) => {
                self.victims.remove(&node);
            }
            Evidence::Voted { suspect, voter, granted } => self.voted(now, suspect, voter, granted),
            Evidence::Refused(node) => out.push(PolicyAction::Drop(DropReason::Dead(node))),
            Evidence::DriveFailed(drive) => self.quiesce(now, drive, out),
            Evidence::Quiesced(drive) => {
                if self.quiescing.remove(&drive).is_some() {
                    out.push(PolicyAction::Drop(DropReason::Quiesced(drive)));
                }
            }
        }
    }

    /// Decides what time alone decides. Called often.
    pub fn tick(&mut self, now: Micros, out: &mut Vec<PolicyAction>) {
        let nodes: Vec<Uuid> = self.victims.keys().copied().collect();
        for node in nodes {
            self.tick_node(now, node, out);
        }
        self.quiescing.retain(|_, asked| now.saturating_sub(*asked) < EVIDENCE_TTL);
    }

    /// The suspicion of a node on which this policy works.
    pub fn suspect_of(&self, node: Uuid) -> Option<Suspect> {
        self.victims.get(&node).and_then(|v| v.suspect)
    }

    fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    fn tick_node(&mut self, now: Micros, node: Uuid, out: &mut Vec<PolicyAction>) {
        let (majority, voters) = (self.majority(), self.voters.clone());
        let kept = if self.rules.on(Rule::EvidenceAge) { EVIDENCE_TTL } else { Micros::MAX };
        let wait = if self.rules.on(Rule::VoteWait) { LEASE_WAIT } else { 0 };
        let Some(victim) = self.victims.get_mut(&node) else { return };
        victim.silent.retain(|_, at| now.saturating_sub(*at) < kept);
        let witnesses = victim.silent.keys().filter(|v| voters.contains(v)).count();
        let Some(suspect) = victim.suspect else {
            if witnesses >= majority && !victim.writing {
                victim.writing = true;
                out.push(PolicyAction::WriteSuspect(node));
            }
            return;
        };
        if victim.votes.len() >= majority {
            let last = victim.votes.values().copied().max().unwrap_or(now);
            let again = victim.dropped_at.is_none_or(|at| now.saturating_sub(at) >= ASK_AGAIN);
            if now.saturating_sub(last) >= wait && again {
                victim.dropped_at = Some(now);
                out.push(PolicyAction::Drop(DropReason::LeaseOver(suspect)));
            }
        } else if witnesses < majority && !victim.cancelled {
            victim.cancelled = true;
            out.push(PolicyAction::Cancel(suspect));
        } else if now.saturating_sub(victim.asked_at) >= ASK_AGAIN && !victim.cancelled {
            self.ask(now, node, out);
        }
    }

    fn ask(&mut self, now: Micros, node: Uuid, out: &mut Vec<PolicyAction>) {
        let Some(victim) = self.victims.get_mut(&node) else { return };
        let Some(suspect) = victim.suspect else { return };
        victim.asked_at = now;
        let missing = self.voters.iter().filter(|v| **v != node && !victim.votes.contains_key(v));
        out.push(PolicyAction::AskVotes(suspect, missing.copied().collect()));
    }

    fn voted(&mut self, now: Micros, suspect: Suspect, voter: Uuid, granted: bool) {
        let known = self.voters.contains(&voter);
        let Some(victim) = self.victims.get_mut(&suspect.node) else { return };
        if granted && known && victim.suspect == Some(suspect) {
            // The first promise counts: a repeated answer does not move the wait.
            victim.votes.entry(voter).or_insert(now);
        }
    }

    fn quiesce(&mut self, now: Micros, drive: DriveId, out: &mut Vec<PolicyAction>) {
        let asked = self.quiescing.entry(drive).or_insert(0);
        if now.saturating_sub(*asked) >= ASK_AGAIN || *asked == 0 {
            *asked = now;
            out.push(PolicyAction::Quiesce(drive));
        }
    }
}
