//! A drive's core in the world: its events, its frames, its device.

use drystone_replica::{Action, Control, ControlResult, Event, LeaveWhy, Report};
use drystone_store::api::{DevOp, ObjectStore};
use drystone_types::{DriveId, Frame, LayerId};

use crate::compares::COMPARE_ID;
use crate::deletions::ORDER_ID;
use crate::event::{End, Ev, Life, News, Proc, Request};
use crate::moves::RETIRE_ID;
use crate::storage;
use crate::world::{Place, Time, World};

/// Control ids of FENCE.
pub const FENCE_ID: u64 = 3;
/// Control ids of orders to free a layer.
pub const FREE_ID: u64 = 4;
/// Control ids of QUIESCE, to tell them from others.
const QUIESCE_ID: u64 = 1 << 40;

impl World {
    fn local_of_drive(&self, d: usize) -> Time {
        self.local(Place::Node(self.drives.get(d).map_or(0, |d| d.node)))
    }

    /// Steps a drive's core.
    pub fn replica_event(&mut self, d: usize, life: Life, event: Event) {
        let now = self.local_of_drive(d);
        let Some(drive) = self.drives.get_mut(d) else { return };
        if drive.life != life {
            return;
        }
        let Some(replica) = drive.replica.as_mut() else { return };
        let page = self.nodes.get(drive.node).map(|n| n.page.as_slice()).unwrap_or(&[]);
        let slot = d % self.plan.drives_per_node.max(1);
        let lease = page.get(slot).copied().unwrap_or(0);
        let mut out = Vec::new();
        if lease != drive.lease {
            drive.lease = lease;
            replica.step(now, Event::Lease { valid_until: lease }, &mut out);
        }
        replica.step(now, event, &mut out);
        if !drive.flushing {
            // A turn of the reactor: what arrives until then is flushed together.
            drive.flushing = true;
            let turn = if self.plan.turn == 0 { 0 } else { self.rng.below(self.plan.turn) };
            self.after(turn, Ev::Flush(d, life));
        }
        for action in out {
            self.replica_action(d, life, action);
        }
    }

    /// The end of a turn.
    pub fn replica_flush(&mut self, d: usize, life: Life) {
        let now = self.local_of_drive(d);
        let Some(drive) = self.drives.get_mut(d) else { return };
        if drive.life != life {
            return;
        }
        drive.flushing = false;
        let Some(replica) = drive.replica.as_mut() else { return };
        let mut out = Vec::new();
        // Reads that were waiting in the store are answered now: by the lease of now.
        let page = self.nodes.get(drive.node).map(|n| n.page.as_slice()).unwrap_or(&[]);
        let lease = page.get(d % self.plan.drives_per_node.max(1)).copied().unwrap_or(0);
        if lease != drive.lease {
            drive.lease = lease;
            replica.step(now, Event::Lease { valid_until: lease }, &mut out);
        }
        replica.flush(now, &mut out);
        let space = replica.store().space();
        let (deadline, place) = (replica.next_deadline(), Place::Node(drive.node));
        if let Some(at) = deadline {
            let at = self.global(place, at).max(self.now);
            if at < self.drives[d].tick_at {
                self.drives[d].tick_at = at;
                self.at(at, Ev::ReplicaTick(d, life, at));
            }
        }
        self.check_space(d, space);
        for action in out {
            self.replica_action(d, life, action);
        }
    }

    /// A drive's timer.
    pub fn replica_tick(&mut self, d: usize, life: Life, at: Time) {
        let Some(drive) = self.drives.get_mut(d) else { return };
        if drive.life != life || drive.tick_at != at {
            return;
        }
        drive.tick_at = Time::MAX;
        self.replica_event(d, life, Event::Tick);
    }

    fn replica_action(&mut self, d: usize, life: Life, action: Action) {
        let (id, n) = (self.drives[d].id, self.drives[d].node);
        match action {
            Action::Send { peer, frame } => {
                self.check_server_sends(d, peer.0 as usize, &frame);
                self.travel(peer.0 as usize, false, frame);
            }
            Action::SendDrive { drive, frame } => self.send_drive(d, drive, frame),
            Action::Dev(op) => self.device_submit(d, life, op),
            Action::NeedMap { .. } => self.read_map_server(n),
            Action::NeedGenerations { since, .. } => self.call(Proc::Server(n), Request::Generations(d, since)),
            Action::CopyComplete { pg, epoch } => {
                self.trace(|| format!("drive{} copy of pg{} complete in e{}", d + 1, pg.pg, epoch));
                if self.meta.copied.insert((pg.pg, id, epoch)) {
                    self.check_copied(d, pg.pg);
                }
                self.tell_managers(News::CopyComplete { pg: pg.pg, drive: id, epoch });
            }
            Action::StillQuiet { pg, epoch } => {
                self.trace(|| format!("drive{} still quiet in e{epoch} of pg{}", d + 1, pg.pg));
                self.tell_managers(News::StillQuiet { pg: pg.pg, drive: id, epoch });
            }
            Action::LeavePg { pg, why } => {
                self.trace(|| format!("drive{} leaves pg{}: {why:?}", d + 1, pg.pg));
                self.counts.hit(match why {
                    LeaveWhy::Suspect => "leave.suspect",
                    LeaveWhy::PeerCheck => "leave.peer_check",
                    LeaveWhy::NoSpace => "leave.no_space",
                    LeaveWhy::DriveFailed => "leave.drive_failed",
                    LeaveWhy::Behind => "leave.behind",
                    LeaveWhy::Freed => "leave.freed",
                });
                let nonce = self.drives[d].nonce;
                self.tell_managers(News::Leave { pg: pg.pg, drive: id, nonce });
                // Asked again and again, as it may have been refused under an old store that was put back.
                self.forget_suspect(d);
            }
            Action::ControlDone { id: control, result } => self.control_done(d, control, result),
            Action::Report(report) => self.replica_report(d, report),
            Action::Invariant(what) => self.fail("INVARIANT", format!("drive{}: {what}", d + 1)),
        }
    }

    fn replica_report(&mut self, d: usize, report: Report) {
        self.trace(|| format!("drive{} reports {report:?}", d + 1));
        match report {
            Report::ScrubDone { bad, .. } => {
                self.counts.hit("scrub.done");
                self.scrub_ended(d, bad);
            }
            Report::Healed { .. } => self.counts.hit("scrub.healed"),
            Report::Unrepaired { .. } => self.counts.hit("scrub.unrepaired"),
            Report::CopyStuck { .. } => self.counts.hit("copy.stuck"),
            Report::CopyFreed { .. } => self.counts.hit("copy.freed"),
            Report::DriveFailed(_) => self.drive_failed(d),
            Report::Divergent { drive, key, .. } => {
                self.compare_told(d, drive, key.layer, &format!("{report:?}"));
            }
            Report::Freeing { pg } => self.check_freeing(d, pg),
            Report::Freed { .. } => self.counts.hit("freed.groups"),
            Report::Usage(_) | Report::Resync { .. } | Report::MapRefused(_) | Report::ScrubProgress { .. } => {}
        }
    }

    fn control_done(&mut self, d: usize, control: u64, result: ControlResult) {
        if control >= RETIRE_ID {
            if result == ControlResult::Done {
                self.may_retire(d, control);
            }
            return;
        }
        if control >= COMPARE_ID {
            return self.compare_done((control - COMPARE_ID) as u32, result);
        }
        if control >= ORDER_ID && result == ControlResult::Done {
            return self.order_done(d, LayerId(control - ORDER_ID));
        }
        if control == FENCE_ID && matches!(result, ControlResult::Fenced(_)) {
            self.counts.hit("fence.done");
        }
        if control == FREE_ID && result == ControlResult::Done {
            self.counts.hit("order.done");
        }
        if control == QUIESCE_ID && result == ControlResult::Done {
            let drive = &mut self.drives[d];
            drive.quiescing = drive.quiescing.saturating_sub(1);
            if drive.quiescing == 0 {
                let id = drive.id;
                self.tell_managers(News::Quiesced(id));
            }
        }
    }

    /// Asks a live drive to answer no reads any more in its PGs.
    pub fn quiesce_drive(&mut self, d: usize) {
        let (id, life) = (self.drives[d].id, self.drives[d].life);
        let (_, records) = self.truth().shard();
        let pgs: Vec<(u32, drystone_types::Epoch)> =
            records.iter().enumerate().filter(|(_, r)| r.is_member(id)).map(|(i, r)| (i as u32, r.epoch)).collect();
        self.drives[d].quiescing = pgs.len();
        self.drives[d].quiesced = pgs.iter().copied().collect();
        self.drives[d].quiesced_nonce = self.drives[d].nonce;
        for (pg, epoch) in pgs {
            let pg = drystone_types::PgId { pool: crate::meta::POOL, pg };
            let req = Control::Quiesce { pg, epoch };
            let delay = self.latency();
            self.after(delay, Ev::Replica(d, life, Box::new(Event::Control { id: QUIESCE_ID, req })));
        }
    }

    fn device_submit(&mut self, d: usize, life: Life, op: DevOp) {
        let (DevOp::Write { id, .. } | DevOp::Read { id, .. } | DevOp::Flush { id } | DevOp::Discard { id, .. }) = op;
        let base = if matches!(op, DevOp::Read { .. }) { 60 + self.drives[d].slow_reads } else { 40 };
        let (extra, until) = self.drives[d].slow;
        let extra = if until > self.now { self.rng.below(extra) } else { 0 };
        let delay = base + self.rng.below(120) + extra + self.drives[d].slow_least;
        let n = self.drives[d].node;
        if let (DevOp::Write { .. }, Some(power)) = (&op, self.nodes[n].armed) {
            // In the middle of the write: the moment at which a stop may tear it.
            self.nodes[n].armed = None;
            let (soon, life) = (1 + self.rng.below(delay), self.nodes[n].life);
            self.after(soon, Ev::Stop(n, life, power));
        }
        self.drives[d].dev.began.insert(id, self.now);
        self.drives[d].dev.submit(id, op);
        self.check_log(d);
        self.after(delay, Ev::DevDone(d, life, id));
    }

    /// A device operation ends. The device works on while its server stands still; the core hears later.
    pub fn device_done(&mut self, d: usize, life: Life, id: u64) {
        if self.drives[d].life != life {
            return;
        }
        let Some(result) = self.device_result(d, id) else { return };
        self.drives[d].dev.shadow.changed_at = self.now;
        self.check_log(d);
        self.after(0, Ev::Replica(d, life, Box::new(Event::Dev { id, result })));
    }

    fn send_drive(&mut self, d: usize, to: DriveId, frame: Frame) {
        let life = self.drives[d].life;
        let Some(target) = self.drives.iter().position(|x| x.id == to) else {
            self.after(1_000, Ev::Replica(d, life, Box::new(Event::DriveDown { drive: to })));
            return;
        };
        match self.conn_up(End::Drive(d), target) {
            Some(conn) => self.travel(conn, true, frame),
            None => {
                self.drives[d].outbox.entry(target).or_default().push(frame);
                self.dial(End::Drive(d), target);
            }
        }
    }

    /// A connection between drives is up: what waited for it leaves.
    pub fn flush_drive_queue(&mut self, d: usize, target: usize, conn: usize) {
        for frame in self.drives[d].outbox.remove(&target).unwrap_or_default() {
            self.travel(conn, true, frame);
        }
    }

    /// A drive cannot be reached by another.
    pub fn drive_unreachable(&mut self, d: usize, target: usize) {
        self.drives[d].outbox.remove(&target);
        let (life, id) = (self.drives[d].life, self.drives[target].id);
        self.replica_event(d, life, Event::DriveDown { drive: id });
    }

    /// Starts a scrub.
    pub fn scrub(&mut self, d: usize, life: Life) {
        self.replica_event(d, life, Event::Control { id: 1, req: Control::Scrub });
    }

    /// Adds a replica's counters to the run's before it goes.
    pub fn collect_replica(&mut self, d: usize) {
        let Some(replica) = self.drives[d].replica.as_ref() else { return };
        let (stats, store) = (format!("{:?}", replica.stats()), storage::counters(replica.store()));
        self.counts.add_fields("replica", &stats);
        self.counts.add_fields("store", &store);
    }
}
