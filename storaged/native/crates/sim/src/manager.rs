//! Managers: one leads by a key of the store, decides drops by the real policy, joins and promotes.

use std::collections::BTreeMap;

use drystone_membership::beacon::Event as BeaconEvent;
use drystone_membership::{DropPolicy, DropReason, Evidence, PolicyAction, Suspect};
use drystone_types::{DriveId, Epoch, PgRecord, Rev, Uuid};

use crate::event::{Answer, Ev, News, Proc, Request};
use crate::meta::{Change, Conditions, Meta};
use crate::net::node_uuid;
use crate::world::{Place, Time, World};

/// Period of a manager.
const PERIOD: Time = 100_000;
/// A transaction without an answer is given up and the shard read anew.
const SWAP_MAX: Time = 2_000_000;
/// Streams of maps that broke are back within this time.
const PUSH_AGAIN: Time = 2_000_000;
/// Evidence older than this is void.
const EVIDENCE_MAX: Time = 5_000_000;
/// Reports of a stall within a second that make the manager probe for a hung server.
const STALLS_MIN: usize = 2;
/// Reports of a stall count together within this time.
const STALLS_WITHIN: Time = 1_500_000;
/// A beacon that does not answer is given up after this, and so is a drop that the store refuses.
const HOLD_MAX: Time = 1_000_000;

/// A suspicion that the node's own beacon decides: REVOKE.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// The key, once it is known to be written.
    suspect: Option<Suspect>,
    at: Time,
}

/// A decided drop that is not in the store yet.
#[derive(Clone, Debug)]
struct Plan {
    reason: DropReason,
    drives: Vec<DriveId>,
    nonces: Vec<(DriveId, u64)>,
    only: Option<u32>,
    /// Only where it is still a joiner: promoted meanwhile, it may have a lease.
    joiner: bool,
    /// Epochs in which the drive answered QUIESCE: a later one lets it answer reads again.
    epochs: Option<BTreeMap<u32, Epoch>>,
    at: Time,
}

impl Plan {
    fn new(reason: DropReason, drives: Vec<DriveId>, nonces: Vec<(DriveId, u64)>, at: Time) -> Plan {
        Plan { reason, drives, nonces, only: None, joiner: false, epochs: None, at }
    }
    fn covers(&self, pg: u32, record: &PgRecord) -> bool {
        self.only.is_none_or(|only| only == pg)
            && (!self.joiner || self.drives.iter().all(|d| record.joiner(*d).is_some()))
            && self.epochs.as_ref().is_none_or(|e| e.get(&pg) == Some(&record.epoch))
    }
}

/// A manager.
#[derive(Default)]
pub struct Manager {
    /// Leader key it holds.
    pub leader: Option<Rev>,
    /// When the key was renewed last.
    pub renewed_at: Time,
    policy: DropPolicy,
    plans: Vec<Plan>,
    promotes: BTreeMap<(u32, DriveId), Epoch>,
    /// Who may be retired from which PG: the epoch and the open nonce of its promise.
    pub(crate) retires: BTreeMap<(u32, DriveId), (Epoch, u64)>,
    /// Who promised to answer no reads of a PG until which epoch ends, and was not dropped.
    pub(crate) renews: BTreeMap<u32, (DriveId, Epoch)>,
    stalls: BTreeMap<DriveId, Vec<Time>>,
    busy_since: Option<Time>,
    elect_at: Time,
    push_at: Time,
    pub(crate) known: Vec<Suspect>,
    holds: BTreeMap<Uuid, Hold>,
    inflight: Option<DropReason>,
    /// Drives that must not join for now.
    pub rest: BTreeMap<DriveId, Time>,
}

impl Manager {
    /// The list of voters changed: what is suspected is learnt anew.
    pub fn learns_voters(&mut self, policy: DropPolicy) {
        self.policy = policy;
        self.known.clear();
    }

    /// Whether a suspicion is on its way to a decision.
    pub(crate) fn is_at(&self, suspect: &Suspect) -> bool {
        self.policy.suspect_of(suspect.node) == Some(*suspect)
            || self.holds.get(&suspect.node).is_some_and(|h| h.suspect == Some(*suspect))
    }

    /// Whether the policy has none of this node, or this very one.
    pub(crate) fn may_be_about(&self, suspect: Suspect) -> bool {
        self.policy.suspect_of(suspect.node).is_none_or(|s| s == suspect)
    }
}

fn node_of(uuid: Uuid) -> usize {
    usize::from(uuid.0[0]).saturating_sub(1)
}

impl World {
    /// News reach both managers; the one that leads uses them.
    pub fn tell_managers(&mut self, news: News) {
        for m in 0..self.managers.len() {
            let delay = self.latency();
            self.after(delay, Ev::News(m, news));
        }
    }

    /// A manager's period.
    pub fn manager_tick(&mut self, m: usize) {
        self.after(PERIOD, Ev::ManagerTick(m));
        if self.now >= self.managers[m].elect_at {
            self.managers[m].elect_at = self.now + 500_000;
            self.call(Proc::Manager(m), Request::Elect);
        }
        if self.managers[m].leader.is_none() || (self.scripted && !self.managed) {
            return;
        }
        for n in 0..self.nodes.len() {
            if self.cut_until(Place::Manager(m), Place::Node(n)).is_none() {
                let delay = self.latency();
                self.after(delay, Ev::AskSilent(m, n));
            }
        }
        // A map stream that was cut begins again with the newest map.
        if self.now >= self.managers[m].push_at {
            self.managers[m].push_at = self.now + PUSH_AGAIN;
            self.push_maps();
        }
        self.probe_stalled(m);
        self.end_holds(m);
        let mut out = Vec::new();
        let (now, shown) = (self.now, self.local(Place::Manager(m)));
        self.managers[m].policy.tick(shown, &mut out);
        self.carry_out(m, out);
        let stuck = self.managers[m].busy_since.is_some_and(|at| now - at > SWAP_MAX);
        if stuck || self.managers[m].busy_since.is_none() {
            self.managers[m].busy_since = Some(now);
            self.call(Proc::Manager(m), Request::ReadShard);
        }
    }

    /// A beacon tells a manager whom it does not hear.
    pub fn answer_silent(&mut self, m: usize, n: usize) {
        let Some(beacon) = self.nodes[n].beacon.as_ref() else { return };
        let mut silent = [false; 8];
        for uuid in beacon.silent(self.local(Place::Node(n))) {
            if let Some(slot) = silent.get_mut(node_of(uuid)) {
                *slot = true;
            }
        }
        if self.cut_until(Place::Node(n), Place::Manager(m)).is_none() {
            let delay = self.latency();
            self.after(delay, Ev::News(m, News::Silent(n, silent)));
        }
    }

    /// News for a manager.
    pub fn manager_news(&mut self, m: usize, news: News) {
        if self.managers[m].leader.is_none() {
            return;
        }
        match news {
            News::Silent(voter, silent) => {
                for node in (0..self.nodes.len()).filter(|n| *n != voter) {
                    let (node_id, voter_id) = (node_uuid(node), node_uuid(voter));
                    let evidence = match silent.get(node) {
                        Some(true) => Evidence::Silent { node: node_id, voter: voter_id },
                        _ => Evidence::Heard { node: node_id, voter: voter_id },
                    };
                    self.learn(m, evidence);
                }
            }
            News::Vote(voter, suspect, granted) => {
                self.counts.hit(if granted { "vote.granted" } else { "vote.denied" });
                self.learn(m, Evidence::Voted { suspect, voter: node_uuid(voter), granted });
            }
            News::CopyComplete { pg, drive, epoch } => {
                self.managers[m].promotes.insert((pg, drive), epoch);
            }
            News::Leave { pg, drive, nonce } => {
                let plan = Plan::new(DropReason::Quiesced(drive), vec![drive], vec![(drive, nonce)], self.now);
                self.plan(m, Plan { only: Some(pg), ..plan });
                let rest = self.now + self.rng.range(500_000, 3_000_000);
                self.managers[m].rest.insert(drive, rest);
            }
            News::Stall(drive) => {
                self.managers[m].stalls.entry(drive).or_default().push(self.now);
                self.drop_joiner(m, drive);
                self.probe_hung(m, drive);
            }
            News::Refused(drive) => {
                self.drop_joiner(m, drive);
                self.probe_dead(m, drive);
            }
            News::DriveError(drive) => {
                self.drop_joiner(m, drive);
                self.learn(m, Evidence::DriveFailed(drive));
            }
            News::Quiesced(drive) => self.learn(m, Evidence::Quiesced(drive)),
            News::MayRetire { pg, drive, epoch, nonce } => {
                self.managers[m].retires.insert((pg, drive), (epoch, nonce));
            }
            News::StillQuiet { pg, drive, epoch } => {
                self.managers[m].renews.insert(pg, (drive, epoch));
            }
            News::Held(n, suspect, granted) => self.held(m, n, suspect, granted),
        }
    }

    /// A manager learns a piece of evidence.
    pub fn learn(&mut self, m: usize, evidence: Evidence) {
        let mut out = Vec::new();
        let now = self.local(Place::Manager(m));
        self.managers[m].policy.learn(now, evidence, &mut out);
        self.carry_out(m, out);
    }

    fn nonces_of(&self, node: usize) -> Vec<(DriveId, u64)> {
        self.drives
            .iter()
            .filter(|d| d.node == node)
            .map(|d| (d.id, self.truth().drives.get(&d.id).map_or(0, |r| r.nonce)))
            .collect()
    }

    fn plan(&mut self, m: usize, plan: Plan) {
        let same = |p: &Plan| p.reason == plan.reason && p.drives == plan.drives && p.only == plan.only;
        if !self.managers[m].plans.iter().any(same) {
            self.managers[m].plans.push(plan);
        }
    }

    /// A joiner is dropped on the first report: it has no lease.
    fn drop_joiner(&mut self, m: usize, drive: DriveId) {
        let (_, records) = self.truth().shard();
        for (pg, record) in records.iter().enumerate() {
            if record.joiner(drive).is_some() {
                self.counts.hit("pg.joiner_dropped");
                let plan = Plan::new(DropReason::Quiesced(drive), vec![drive], Vec::new(), self.now);
                self.plan(m, Plan { only: Some(pg as u32), joiner: true, ..plan });
            }
        }
    }

    /// The kernel of the drive's node refuses connections: the process is dead.
    fn probe_dead(&mut self, m: usize, drive: DriveId) {
        let Some(n) = self.drives.iter().find(|d| d.id == drive).map(|d| d.node) else { return };
        if self.nodes[n].power && !self.nodes[n].up {
            self.counts.hit("drop.process_dead");
            self.learn(m, Evidence::Refused(node_uuid(n)));
        }
    }

    /// A server that does not answer, and of which its beacon says that it is gone or stands still: the node is
    /// suspected, and its beacon asked to keep the lease away.
    fn probe_stalled(&mut self, m: usize) {
        let (now, Some(leader)) = (self.now, self.managers[m].leader) else { return };
        let mut stalled = Vec::new();
        for (drive, times) in &mut self.managers[m].stalls {
            times.retain(|at| now - at < STALLS_WITHIN);
            if times.len() >= STALLS_MIN {
                stalled.push(*drive);
            }
        }
        for drive in stalled {
            let Some(n) = self.drives.iter().find(|d| d.id == drive).map(|d| d.node) else { continue };
            let asked = self.managers[m].holds.contains_key(&node_uuid(n));
            if !asked && self.stands_still(n) && self.cut_until(Place::Manager(m), Place::Node(n)).is_none() {
                self.managers[m].stalls.remove(&drive);
                self.managers[m].holds.insert(node_uuid(n), Hold { suspect: None, at: now });
                self.call(Proc::Manager(m), Request::Suspect(leader, node_uuid(n)));
            }
        }
    }

    /// What a living beacon answers to REVOKE of round 0: nothing is written for a server that moves.
    fn stands_still(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let lives = self.frozen.get(&Proc::Beacon(n)).is_none_or(|t| *t <= self.now);
        lives && node.beacon.as_ref().is_some_and(|b| !node.up || b.server_stands_still(self.local(Place::Node(n))))
    }

    fn held(&mut self, m: usize, n: usize, suspect: Suspect, granted: bool) {
        let asked = self.managers[m].holds.get(&suspect.node).is_some_and(|h| h.suspect == Some(suspect));
        if !asked {
            return;
        }
        if granted {
            self.counts.hit("lease.held");
            let nonces = self.nonces_of(n);
            let drives = nonces.iter().map(|(d, _)| *d).collect();
            self.plan(m, Plan::new(DropReason::LeaseOver(suspect), drives, nonces, self.now));
        } else {
            self.counts.hit("lease.not_held");
            self.managers[m].holds.entry(suspect.node).and_modify(|h| h.at = 0);
        }
    }

    /// A suspicion that led to no drop is withdrawn, until the store says that it is gone.
    fn end_holds(&mut self, m: usize) {
        let (now, Some(leader)) = (self.now, self.managers[m].leader) else { return };
        let over: Vec<Uuid> =
            self.managers[m].holds.iter().filter(|(_, h)| now - h.at >= HOLD_MAX).map(|(n, _)| *n).collect();
        for node in over {
            match self.managers[m].holds.get_mut(&node) {
                Some(Hold { suspect: Some(suspect), at }) => {
                    *at = now;
                    let suspect = *suspect;
                    self.call(Proc::Manager(m), Request::Unsuspect(leader, suspect));
                }
                // Its answer was lost: if the key stands it is learnt from the store.
                _ => drop(self.managers[m].holds.remove(&node)),
            }
        }
    }

    /// A suspicion stands: the node's own beacon decides it, or the votes of the others.
    fn written(&mut self, m: usize, suspect: Suspect) {
        let now = self.now;
        let Some(hold) = self.managers[m].holds.get_mut(&suspect.node) else {
            return self.learn(m, Evidence::SuspectWritten(suspect));
        };
        *hold = Hold { suspect: Some(suspect), at: now };
        let n = node_of(suspect.node);
        let gone = !self.nodes[n].up;
        self.tell_beacon(m, n, BeaconEvent::Hold { round: suspect.round, gone });
    }

    fn carry_out(&mut self, m: usize, actions: Vec<PolicyAction>) {
        let Some(leader) = self.managers[m].leader else { return };
        for action in actions {
            match action {
                PolicyAction::WriteSuspect(node) => self.call(Proc::Manager(m), Request::Suspect(leader, node)),
                PolicyAction::AskVotes(suspect, voters) => {
                    for voter in voters {
                        self.tell_beacon(m, node_of(voter), BeaconEvent::AskVote(suspect));
                    }
                }
                PolicyAction::Cancel(suspect) => {
                    self.counts.hit("suspect.cancelled");
                    self.call(Proc::Manager(m), Request::Unsuspect(leader, suspect));
                }
                PolicyAction::Quiesce(drive) => {
                    let d = self.drives.iter().position(|d| d.id == drive && d.replica.is_some());
                    if let Some(d) = d {
                        self.quiesce_drive(d);
                    }
                }
                PolicyAction::Drop(reason) => self.decide_drop(m, reason),
            }
        }
    }

    pub(crate) fn tell_beacon(&mut self, m: usize, n: usize, event: BeaconEvent) {
        if n < self.nodes.len() && self.cut_until(Place::Manager(m), Place::Node(n)).is_none() {
            let (life, delay) = (self.nodes[n].beacon_life, self.latency());
            self.after(delay, Ev::Beacon(n, life, Box::new(event)));
        }
    }

    fn decide_drop(&mut self, m: usize, reason: DropReason) {
        let (drives, nonces) = match reason {
            DropReason::LeaseOver(suspect) => {
                (self.nonces_of(node_of(suspect.node)).iter().map(|(d, _)| *d).collect(), Vec::new())
            }
            DropReason::Dead(node) => {
                let nonces = self.nonces_of(node_of(node));
                (nonces.iter().map(|(d, _)| *d).collect(), nonces)
            }
            DropReason::Quiesced(drive) => {
                // Only the process that was asked promised it: one that was opened since is another.
                let nonce = self.drives.iter().find(|d| d.id == drive).map_or(0, |d| d.quiesced_nonce);
                (vec![drive], vec![(drive, nonce)])
            }
        };
        self.counts.hit(match reason {
            DropReason::LeaseOver(_) => "drop.lease_over",
            DropReason::Dead(_) => "drop.dead",
            DropReason::Quiesced(_) => "drop.quiesced",
        });
        let epochs = match reason {
            DropReason::Quiesced(id) => self.drives.iter().find(|d| d.id == id).map(|d| d.quiesced.clone()),
            DropReason::LeaseOver(_) | DropReason::Dead(_) => None,
        };
        let plan = Plan::new(reason, drives, nonces, self.now);
        self.plan(m, Plan { epochs, ..plan });
    }

    /// An answer of the store for a manager.
    pub fn manager_reply(&mut self, m: usize, answer: Answer) {
        match answer {
            Answer::Elected(leader) if leader != self.managers[m].leader => self.elected(m, leader),
            Answer::Shard(rev, records, (as_of, suspects)) => {
                self.tidy_suspicions(m, as_of, &suspects);
                for suspect in suspects {
                    if !self.managers[m].known.contains(&suspect) {
                        self.managers[m].known.push(suspect);
                        self.written(m, suspect);
                    }
                }
                self.decide(m, rev, &records);
            }
            Answer::Swapped(result) => self.swapped(m, result.is_ok()),
            Answer::Suspected(Some(suspect)) if !self.managers[m].known.contains(&suspect) => {
                self.counts.hit("suspect.written");
                self.managers[m].known.push(suspect);
                self.written(m, suspect);
            }
            Answer::Unsuspected(suspect, true) => self.suspicion_over(m, suspect),
            // Gone already, by a drop whose answer was lost.
            Answer::Unsuspected(suspect, false) if self.managers[m].holds.contains_key(&suspect.node) => {
                self.suspicion_over(m, suspect);
            }
            _ => {}
        }
    }

    fn elected(&mut self, m: usize, leader: Option<Rev>) {
        self.trace(|| format!("manager{m} leads: {leader:?}"));
        self.counts.hit("manager.leader_changes");
        let voters = self.meta.voters.clone();
        let manager = &mut self.managers[m];
        (manager.leader, manager.busy_since, manager.inflight) = (leader, None, None);
        manager.policy = DropPolicy::new(voters).with_rules(self.rules);
        manager.plans.clear();
        manager.known.clear();
        manager.holds.clear();
    }

    fn suspicion_over(&mut self, m: usize, suspect: Suspect) {
        self.managers[m].holds.remove(&suspect.node);
        self.learn(m, Evidence::SuspectGone(suspect.node));
        for n in 0..self.nodes.len() {
            self.tell_beacon(m, n, BeaconEvent::Release(suspect));
        }
    }

    fn swapped(&mut self, m: usize, ok: bool) {
        self.managers[m].busy_since = None;
        let reason = self.managers[m].inflight.take();
        if !ok {
            return;
        }
        if let Some(reason) = reason {
            self.managers[m].plans.retain(|p| p.reason != reason);
            if let Some(suspect) = Meta::suspect_of(reason) {
                self.suspicion_over(m, suspect);
            }
        }
        self.push_maps();
        self.restart_suspects();
    }

    /// A suspect drive that is in no in-sync set any more may be opened with its suspicion cleared.
    fn restart_suspects(&mut self) {
        for d in 0..self.drives.len() {
            self.forget_suspect(d);
        }
    }

    /// What a suspect drive that is in sync nowhere holds gets no credit any more, and it is opened as a blank one.
    pub fn forget_suspect(&mut self, d: usize) {
        let (id, n) = (self.drives[d].id, self.drives[d].node);
        let insync = self.truth().shard().1.iter().any(|r| r.is_insync(id));
        // An old store in the place of the newest is nothing to decide on.
        if self.drives[d].suspect && self.nodes[n].up && !insync && self.newest.is_none() {
            self.meta.forget_content(id);
            let life = self.nodes[n].life;
            self.after(1, Ev::Stop(n, life, false));
        }
    }

    /// What to do with the shard as it was read; the transaction comes later, so it may be stale by then.
    fn decide(&mut self, m: usize, base: Rev, records: &[PgRecord]) {
        let Some(leader) = self.managers[m].leader else { return };
        let now = self.now;
        let manager = &mut self.managers[m];
        manager.busy_since = None;
        manager.plans.retain(|p| now - p.at < EVIDENCE_MAX);
        let mut conditions = Conditions { leader, ..Conditions::default() };
        let mut changes = Vec::new();
        let mut kept = Vec::new();
        for plan in std::mem::take(&mut manager.plans) {
            if changes.is_empty() {
                changes = Meta::drop_changes(records, &plan.drives);
                // The last copy stays, whatever is known of it.
                changes.retain(|(pg, _)| {
                    records.get(*pg as usize).is_some_and(|r| r.insync.iter().any(|d| !plan.drives.contains(d)))
                });
                changes.retain(|(pg, _)| records.get(*pg as usize).is_some_and(|r| plan.covers(*pg, r)));
                if !changes.is_empty() {
                    conditions.suspect = Meta::suspect_of(plan.reason);
                    conditions.nonces = plan.nonces.clone();
                    manager.inflight = Some(plan.reason);
                } else if let (Some(suspect), false) =
                    (Meta::suspect_of(plan.reason), records.iter().any(|r| plan.drives.iter().any(|d| r.is_member(*d))))
                {
                    // The node is out of every PG already: the suspicion has served.
                    self.call(Proc::Manager(m), Request::Unsuspect(leader, suspect));
                    return;
                }
                continue;
            }
            kept.push(plan);
        }
        self.managers[m].plans = kept;
        if changes.is_empty() {
            changes = self.promotions(m, records);
        }
        if changes.is_empty() {
            changes = self.renewals(m, records);
        }
        if changes.is_empty() {
            changes = self.joins(m, records);
        }
        if changes.is_empty() && !self.plan.moves.is_empty() {
            (changes, conditions.nonces) = self.end_moves(m, records);
        }
        if !changes.is_empty() {
            self.managers[m].busy_since = Some(now);
            self.call(Proc::Manager(m), Request::Swap(base, Box::new(conditions), changes));
        }
    }

    fn promotions(&mut self, m: usize, records: &[PgRecord]) -> Vec<(u32, Change)> {
        let manager = &mut self.managers[m];
        manager.promotes.retain(|(pg, d), _| records.get(*pg as usize).is_some_and(|r| r.joiner(*d).is_some()));
        let ready = manager
            .promotes
            .iter()
            .filter(|((pg, _), epoch)| records.get(*pg as usize).is_some_and(|r| r.epoch == **epoch));
        ready.map(|((pg, d), epoch)| (*pg, Change::Promote(*d, *epoch))).collect()
    }

    fn joins(&mut self, m: usize, records: &[PgRecord]) -> Vec<(u32, Change)> {
        let now = self.now;
        let mut changes = Vec::new();
        for (pg, record) in records.iter().enumerate() {
            // Drives that exist no more leave without a wait: nothing can be read from them.
            let gone = record.members().find(|id| !self.drives.iter().any(|d| d.id == *id));
            if let Some(gone) = gone {
                changes.push((pg as u32, Change::Drop(gone)));
                continue;
            }
            if let Some(change) = self.takes_place(m, record, now) {
                changes.push((pg as u32, change));
                continue;
            }
            if record.members().count() >= self.plan.copies.min(self.plan.nodes) || !self.rng.chance(400) {
                continue;
            }
            if let Some(id) = self.candidate(m, record, now) {
                changes.push((pg as u32, Change::Join(id)));
            }
        }
        changes
    }

    /// A drive that could join: targets first, then any drive of a node without a member.
    fn candidate(&self, m: usize, record: &PgRecord, now: Time) -> Option<DriveId> {
        let usable = |d: &&crate::server::Drive| {
            let nodes: Vec<usize> = self.drives.iter().filter(|x| record.is_member(x.id)).map(|x| x.node).collect();
            d.replica.is_some()
                && !d.suspect
                && !nodes.contains(&d.node)
                && self.managers[m].rest.get(&d.id).is_none_or(|until| *until <= now)
                && self.frozen.get(&Proc::Server(d.node)).is_none_or(|t| *t <= now)
        };
        let target = self.drives.iter().filter(usable).find(|d| record.target.contains(&d.id));
        target.or_else(|| self.drives.iter().find(usable)).map(|d| d.id)
    }

    /// Retires a live drive: QUIESCE, drop, and a while later it may return.
    pub fn retire_drive(&mut self, d: usize) {
        let id = self.drives[d].id;
        let rest = self.now + self.rng.range(500_000, 4_000_000);
        for m in 0..self.managers.len() {
            self.managers[m].rest.insert(id, rest);
            if self.managers[m].leader.is_some() {
                self.learn(m, Evidence::DriveFailed(id));
            }
        }
    }
}
