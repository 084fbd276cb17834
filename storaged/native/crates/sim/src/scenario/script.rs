//! The verbs of a script.

use drystone_store::api::ObjectStore;
use drystone_types::{DriveId, Frame, MsgType, VolumeId};

use crate::event::End;
use crate::history::What;
use crate::meta::Change;
use crate::register::OpId;
use crate::runner::Verdict;
use crate::world::{FrameFacts, HookVerdict, Time, World};

/// Virtual time a script waits for a condition: several leases, drops and attaches.
const WAIT_MAX: Time = 30_000_000;
/// The volume of every script.
pub const VOL: VolumeId = VolumeId(1);

/// A world and the verbs that steer it.
pub struct Script {
    /// The world.
    pub w: World,
}

impl Script {
    /// A script over a world.
    pub fn new(w: World) -> Script {
        Script { w }
    }
    /// Runs until the first client is active and every server has its lease.
    pub fn start(&mut self) {
        self.until("the start", |w| {
            w.clients[0].was_active && w.nodes.iter().all(|n| n.page.iter().all(|u| *u > w.now) && !n.page.is_empty())
        });
    }
    /// Lets time pass.
    pub fn run(&mut self, time: Time) {
        let until = self.w.now + time;
        self.w.run_until(until, &mut |_| false);
    }
    /// Lets time pass until a condition holds; a script that waits for ever failed.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&World) -> bool) {
        let until = self.w.now + WAIT_MAX;
        let mut held = done(&self.w);
        if !held {
            self.w.run_until(until, &mut |w| {
                held = done(w);
                held
            });
        }
        if !held {
            self.w.fail("SCRIPT", format!("{what} did not come"));
        }
    }
    /// A new client that takes the volume; not waited for.
    pub fn attach(&mut self) -> usize {
        self.w.add_client(VOL)
    }
    /// Waits until a client is active.
    pub fn until_active(&mut self, c: usize) {
        self.until("an active client", |w| w.clients[c].was_active);
    }
    /// Issues an operation on whole blocks.
    pub fn issue(&mut self, c: usize, what: What, block: u64, blocks: u64) -> OpId {
        let op = self.w.make_op(c, what, block * 8, blocks * 8);
        let id = op.as_ref().map_or(0, |op| op.id);
        if let Some(op) = op {
            self.w.issue(op);
        }
        id
    }
    /// Issues a write of one block.
    pub fn write(&mut self, c: usize, block: u64) -> OpId {
        self.issue(c, What::Write(0), block, 1)
    }
    /// Issues a read of one block.
    pub fn read(&mut self, c: usize, block: u64) -> OpId {
        self.issue(c, What::Read, block, 1)
    }
    /// Waits until an operation ended.
    pub fn wait(&mut self, op: OpId) {
        self.until("the end of an operation", |w| w.history.op(op).is_none());
    }
    /// Writes a block and waits.
    pub fn write_wait(&mut self, c: usize, block: u64) {
        let op = self.write(c, block);
        self.wait(op);
    }
    /// Reads a block at every in-sync copy in turn, by preferring each once: new clients prefer others,
    /// so the read is repeated with the other copies' answers held back.
    pub fn read_each(&mut self, c: usize, block: u64) {
        let pg = self.pg_of(block);
        for d in 0..self.w.drives.len() {
            let id = self.w.drives[d].id;
            // One that promised to answer no reads in this epoch keeps its word.
            let stopped = self.w.drives[d].quiesced.get(&pg).copied();
            let answers = self.w.meta.pg(pg).is_some_and(|r| r.is_insync(id) && stopped != Some(r.epoch));
            if answers {
                // Its own answer may come around through another one.
                self.hook(move |f| {
                    f.to_server && f.hdr.kind == MsgType::Read && f.from == End::Client(c) && f.hdr.drive != id
                });
                let op = self.read(c, block);
                self.wait(op);
                self.unhook();
            }
        }
    }
    /// The same for a run of blocks; gives how many were compared.
    pub fn read_each_run(&mut self, c: usize, first: u64, count: u64) -> u64 {
        let (pg, mut reads) = (self.pg_of(first), 0);
        for d in 0..self.w.drives.len() {
            let id = self.w.drives[d].id;
            let insync = self.w.meta.pg(pg).is_some_and(|r| r.is_insync(id)) && self.w.drives[d].replica.is_some();
            if insync {
                self.hook(move |f| {
                    f.to_server && f.hdr.kind == MsgType::Read && f.from == End::Client(c) && f.hdr.drive != id
                });
                let op = self.issue(c, What::Read, first, count);
                // Where this copy cannot give it, another one does.
                self.run(20_000);
                self.unhook();
                self.release(|_| true);
                self.wait(op);
                reads += count;
            }
        }
        reads
    }
    /// PG of a block that was written, by what the drives hold.
    pub fn pg_of(&self, block: u64) -> u32 {
        let objects = self.w.drives.iter().flat_map(|d| &d.dev.shadow.model.objects);
        objects.into_iter().find(|(key, _)| key.chunk == block / 1024).map_or(0, |(_, o)| o.pg.pg)
    }
    /// Demands something of the schedule: a script that does not reach its point proves nothing.
    pub fn demand(&mut self, what: &str, held: bool) {
        if !held {
            self.w.fail("SCRIPT", what.to_owned());
        }
    }
    /// Demands what a rule of the protocol promises, by the name of its oracle.
    pub fn must(&mut self, oracle: &str, what: &str, held: bool) {
        if !held {
            self.w.fail(oracle, what.to_owned());
        }
    }
    /// A counter of the run, those of cores that still run not included.
    pub fn count(&self, name: &str) -> u64 {
        self.w.counts.get(name)
    }
    /// Whether a drive holds a block above its stable value.
    pub fn is_unstable(&self, d: usize, block: u64) -> bool {
        let list = self.w.drives[d].replica.as_ref().map(|r| r.store().unstable(VOL)).unwrap_or_default();
        list.iter().any(|u| u.key.chunk * 1024 + u64::from(u.block) == block)
    }
    /// Holds every frame a predicate names until `release`.
    pub fn hook(&mut self, hold: impl Fn(&FrameFacts) -> bool + Send + 'static) {
        self.w.hook = Some(Box::new(move |f| if hold(f) { HookVerdict::Hold } else { HookVerdict::Pass }));
    }
    /// Decides about every frame.
    pub fn rule(&mut self, rule: impl FnMut(&FrameFacts) -> HookVerdict + Send + 'static) {
        self.w.hook = Some(Box::new(rule));
    }
    /// Holds nothing more; what is held stays held.
    pub fn unhook(&mut self) {
        self.w.hook = None;
    }
    /// Lets held frames go.
    pub fn release(&mut self, which: impl Fn(&Frame) -> bool) {
        self.w.release_held(which);
        self.run(2_000);
    }
    /// Delivers what was held for a drive again, once its asker has a connection.
    pub fn redeliver(&mut self, c: usize, d: usize) {
        self.until("a connection", move |w| w.conn_up(End::Client(c), d).is_some());
        self.demand("no duplicate was kept", !self.w.held.is_empty());
        self.w.redeliver_held();
        self.run(100_000);
    }
    /// Forgets held frames.
    pub fn discard_held(&mut self) {
        self.w.held.clear();
    }
    /// Id of a drive.
    pub fn id(&self, d: usize) -> DriveId {
        self.w.drives[d].id
    }
    /// Changes the PG in the store; nobody is told.
    pub fn change(&mut self, change: Change) {
        if let Err(why) = self.w.meta.force(0, change) {
            self.w.fail("STORE", why);
        }
    }
    /// Changes another PG than the first in the store; nobody is told.
    pub fn change_in(&mut self, pg: u32, change: Change) {
        if let Err(why) = self.w.meta.force(pg, change) {
            self.w.fail("STORE", why);
        }
    }
    /// Pushes the map to everybody.
    pub fn push(&mut self) {
        self.w.push_maps();
        self.run(3_000);
    }
    /// Gives the newest map to one drive's server only.
    pub fn push_to_drive(&mut self, d: usize) {
        let (map, node) = (self.w.meta.map(), self.w.drives[d].node);
        self.w.server_map(node, map, None);
    }
    /// Gives the newest map to one client only.
    pub fn push_to_client(&mut self, c: usize) {
        let (map, life) = (self.w.meta.map(), self.w.clients[c].life);
        self.w.sequencer_event(c, life, drystone_sequencer::Event::Map(map));
    }
    /// A live drive answers QUIESCE, then leaves the PG.
    pub fn drop_quiesced(&mut self, d: usize) {
        self.w.quiesce_drive(d);
        self.until("the QUIESCE", |w| w.drives[d].quiescing == 0);
        let id = self.id(d);
        self.change(Change::Drop(id));
    }
    /// A drive whose process dies leaves the PG.
    pub fn drop_dead(&mut self, d: usize, power: bool) {
        let (node, id) = (self.w.drives[d].node, self.id(d));
        self.w.stop_server(node, power);
        self.change(Change::Drop(id));
    }
    /// A drive joins.
    pub fn join(&mut self, d: usize) {
        let id = self.id(d);
        self.change(Change::Join(id));
    }
    /// Waits until a joiner holds everything in the present epoch.
    pub fn copied(&mut self, d: usize) {
        let id = self.id(d);
        self.until("the end of the copy", |w| w.meta.pg(0).is_some_and(|r| w.meta.copied.contains(&(0, id, r.epoch))));
    }
    /// Waits until a joiner holds everything in the present epoch, and promotes it.
    pub fn promote(&mut self, d: usize) {
        let id = self.id(d);
        self.copied(d);
        let Some(epoch) = self.w.meta.pg(0).map(|r| r.epoch) else { return };
        self.change(Change::Promote(id, epoch));
    }
    /// Starts a server again and waits until it serves.
    pub fn restart(&mut self, d: usize) {
        let node = self.w.drives[d].node;
        self.w.start_server(node);
        self.until("the restarted server", |w| {
            w.drives[d].replica.is_some() && w.nodes[node].page.iter().all(|u| *u > w.now)
        });
    }
    /// Lets everything settle, reads everything at each copy, compares the copies.
    pub fn finish(mut self) -> Verdict {
        self.unhook();
        self.run(1_000_000);
        let last = self.w.owner_of(VOL).filter(|c| self.w.clients[*c].was_active);
        if let Some(c) = last {
            for block in self.w.history.blocks(VOL) {
                self.read_each(c, block);
            }
        }
        self.discard_held();
        self.run(3_000_000);
        let mut w = self.w;
        if w.failure.is_none() {
            w.compare_frozen();
            w.compare_copies();
            w.final_space();
        }
        Verdict {
            seed: w.seed,
            failure: w.failure.clone(),
            notes: w.notes(),
            trace: w.trace_lines().cloned().collect(),
            trace_hash: w.trace_hash,
            events: w.events,
            counts: w.counts,
        }
    }
}
