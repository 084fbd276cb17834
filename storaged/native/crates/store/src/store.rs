//! `LogStore`: the state of an open drive, and how device operations move it on.

use crate::api::*;
use crate::ckpt::Ckpt;
use crate::csums::CsumCache;
use crate::hot::Hot;
use crate::index::Index;
use crate::layout::Layout;
use crate::loc::SLOT;
use crate::reader::{ReadJob, View};
use crate::segs::{SegState, Segs};
use crate::superblock::Superblock;
use crate::walk::Walks;
use crate::writer::{Stream as LogStream, WriteCtx};
use drystone_types::{Buf, BufMut, Epoch, LayerId, ObjKey, PgId, Rules};
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};

/// Segments that clients leave to GC: two that one victim may need, and one to begin with.
const GC_SEGMENTS: usize = 3;

/// Settings of an open drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// The drive keeps what it acked without FUA (power-loss protection, write-through).
    pub power_loss_protected: bool,
    /// Discard segments when they become free.
    pub discard: bool,
    /// Memory for checksums. 64 MiB cover the checksums of 16 GiB of recently used blocks.
    pub csum_cache_bytes: usize,
    /// Device writes running per stream: two keep the drive busy while the next batch gathers;
    /// more would only make batches smaller.
    pub inflight_max: usize,
    /// Rules in force; all but in mutation tests.
    pub rules: Rules,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            power_loss_protected: false,
            discard: false,
            csum_cache_bytes: 64 << 20,
            inflight_max: 2,
            rules: Rules::ALL,
        }
    }
}

/// What the log did since the open, and what its segments are now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStats {
    /// Blocks that garbage collection moved.
    pub moved_blocks: u64,
    /// Segments that it emptied.
    pub collected: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Segments with nothing in them.
    pub free: u64,
    /// Segments being written.
    pub open: u64,
    /// Full segments.
    pub closed: u64,
    /// Segments without anything that counts, which wait for a checkpoint or a read.
    pub emptied: u64,
    /// Segments being discarded.
    pub discarding: u64,
    /// Segments of the checkpoint.
    pub checkpoint: u64,
    /// Segments with something that can neither be read nor be moved.
    pub stuck: u64,
}

/// What a device operation was for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Write(usize),
    Summary(usize, u32),
    Read(u64, usize),
    Checkpoint,
    Superblock,
    Discard(u32),
    Walk(usize),
    Pace,
}

/// The log of one drive, open.
pub struct LogStore {
    pub(crate) cfg: Config,
    pub(crate) layout: Layout,
    pub(crate) sb: Superblock,
    pub(crate) index: Index,
    pub(crate) hot: Hot,
    pub(crate) segs: Segs,
    pub(crate) streams: [LogStream; 3],
    pub(crate) csums: CsumCache,
    pub(crate) metas: BTreeMap<MetaKey, Vec<u8>>,
    /// Durable values with the sequence number of their record; an empty one is a deletion that a
    /// record still on its way might otherwise undo.
    pub(crate) durable_metas: BTreeMap<MetaKey, (u64, Vec<u8>)>,
    pub(crate) oldest_out: BTreeMap<PgId, Option<Epoch>>,
    pub(crate) freed: BTreeMap<LayerId, u64>,
    pub(crate) sweep_from: ObjKey,
    pub(crate) ckpt: Ckpt,
    pub(crate) walks: Walks,
    pub(crate) ops: HashMap<u64, Op>,
    pub(crate) next_op: u64,
    pub(crate) next_lsn: u64,
    pub(crate) jobs: HashMap<u64, ReadJob>,
    pub(crate) next_job: u64,
    pub(crate) out: Vec<DevOp>,
    pub(crate) ready: Vec<StoreEvent>,
    pub(crate) barriers: VecDeque<(u64, Token)>,
    pub(crate) granted: u64,
    /// Data slots admitted and not indexed yet.
    pub(crate) pending_slots: u64,
    pub(crate) reclaim_due: bool,
    pub(crate) failed: bool,
    pub(crate) stopping: bool,
    /// Shows nothing and writes nothing: what the drive holds cannot be told.
    pub(crate) hollow: bool,
}

impl LogStore {
    pub(crate) fn op(&mut self, op: Op) -> u64 {
        self.next_op += 1;
        self.ops.insert(self.next_op, op);
        self.next_op
    }
    pub(crate) fn lsn(&mut self) -> u64 {
        self.next_lsn += 1;
        self.next_lsn - 1
    }
    /// Every record below this number is durable and applied.
    pub(crate) fn applied_lsn(&self) -> u64 {
        self.streams.iter().filter_map(LogStream::oldest_lsn).min().unwrap_or(self.next_lsn)
    }
    pub(crate) fn durable_gseq(&self) -> [u64; 3] {
        let [a, b, c] = &self.streams;
        [a.durable_gseq(), b.durable_gseq(), c.durable_gseq()]
    }
    pub(crate) fn fail(&mut self, why: &'static str) {
        if !core::mem::replace(&mut self.failed, true) {
            self.ready.push(StoreEvent::Failed(why));
        }
    }
    /// Whether fewer than `percent` of the segments are free, or so few that clients soon wait.
    pub(crate) fn scarce(&self, percent: u64, with_emptied: bool) -> bool {
        let emptied = if with_emptied { self.segs.emptied_count() } else { 0 };
        let free = self.segs.free_count() + emptied;
        let floor = self.ckpt.segments_needed(&self.layout) + GC_SEGMENTS + percent as usize / 4;
        free <= floor || (free as u64) * 100 < u64::from(self.layout.segments) * percent
    }
    /// Writes slots that are no group.
    pub(crate) fn write_raw(&mut self, op: Op, slot: u64, buf: Buf) {
        let id = self.op(op);
        let offset = slot * SLOT as u64;
        self.out.push(DevOp::Write { id, offset, bufs: vec![buf], durable: true });
    }

    /// Starts what can be started.
    pub(crate) fn advance(&mut self) {
        // A step may make another one possible without a device operation in between, and nobody
        // would call again for it: go on until nothing moves.
        loop {
            if self.failed || self.hollow {
                return;
            }
            if core::mem::take(&mut self.reclaim_due) {
                self.reclaim();
            }
            let walked = self.walk_step();
            for n in 0..3 {
                self.write_step(n);
            }
            self.checkpoint_step();
            if !walked && !self.reclaim_due {
                return;
            }
        }
    }

    fn write_step(&mut self, n: usize) {
        let durable = self.durable_gseq();
        let ctx = WriteCtx { drive: self.sb.drive, nonce: self.sb.nonce, durable };
        loop {
            let may_open = self.may_open(n);
            let Some(stream) = self.streams.get_mut(n) else { return };
            if let Some((seg, slot, buf)) = stream.next_summary(durable) {
                self.write_raw(Op::Summary(n, seg), slot, buf.freeze());
                continue;
            }
            if stream.inflight() >= self.cfg.inflight_max || !stream.has_queued() {
                return;
            }
            if stream.needs_segment() {
                let Some((seg, seq)) = may_open.then(|| self.segs.open(Some(n as u8))).flatten() else { return };
                stream.give_segment(seg, seq, self.layout.seg_start(seg), self.layout.seg_slots);
            }
            self.next_op += 1;
            let id = self.next_op;
            let Some(write) = stream.compose(id, &ctx) else { continue };
            self.ops.insert(id, Op::Write(n));
            self.ckpt.logged(write.bufs.len() as u64);
            if n != Stream::Cold as usize {
                self.walks.pay(write.data_slots + 1);
            }
            let durable = !self.cfg.power_loss_protected;
            self.out.push(DevOp::Write { id, offset: write.slot * SLOT as u64, bufs: write.bufs, durable });
        }
    }
    /// Whether a stream may take a free segment: the last ones belong to checkpoints, which make
    /// segments free, and those before them to GC, which may need two for one victim.
    fn may_open(&self, n: usize) -> bool {
        let keep = self.ckpt.segments_needed(&self.layout) + if n == Stream::Cold as usize { 0 } else { GC_SEGMENTS };
        self.segs.free_count() > keep
    }
    /// Whether GC can end with one more victim whatever the clients do.
    pub(crate) fn gc_has_room(&self) -> bool {
        self.segs.free_count() > self.ckpt.segments_needed(&self.layout) + 1
    }

    pub(crate) fn reclaim(&mut self) {
        let mut discard = Vec::new();
        self.segs.reclaim(self.ckpt.durable_began, self.cfg.discard, &mut discard);
        self.start_discards(discard);
    }
    pub(crate) fn start_discards(&mut self, segs: Vec<u32>) {
        for seg in segs {
            let id = self.op(Op::Discard(seg));
            // Not its footer: a power cut may leave any part of a discard undone, and groups without their
            // summary could be taken for the end of the log.
            let (offset, slots) = (self.layout.seg_start(seg) * SLOT as u64, self.layout.seg_slots - 1);
            let len = slots * SLOT as u64;
            self.out.push(DevOp::Discard { id, offset, len });
        }
    }

    /// A device operation ended.
    pub(crate) fn finish(&mut self, id: u64, result: DevResult, events: &mut Vec<StoreEvent>) {
        let Some(op) = self.ops.remove(&id) else { return };
        let good = matches!(result, DevResult::Ok(_));
        match op {
            Op::Read(job, part) => self.read_done(job, part, result, events),
            Op::Walk(which) => self.walk_read_done(which, result),
            Op::Pace => self.walks.sift.paced(),
            Op::Discard(seg) => self.segs.discarded(seg),
            _ if !good => self.fail("a write to the drive failed"),
            _ if self.failed => {}
            Op::Write(n) => self.write_done(n, id, events),
            Op::Summary(n, seg) => {
                if let Some(s) = self.streams.get_mut(n) {
                    s.summary_done();
                }
                self.segs.close(seg);
                self.note_emptied(seg);
            }
            Op::Checkpoint => self.checkpoint_write_done(),
            Op::Superblock => self.superblock_write_done(),
        }
    }

    fn write_done(&mut self, n: usize, id: u64, events: &mut Vec<StoreEvent>) {
        let groups = self.streams.get_mut(n).map(|s| s.finish(id)).unwrap_or_default();
        for group in groups {
            self.apply_group(group, events);
        }
        for seg in self.index.take_emptied() {
            self.note_emptied(seg);
        }
        self.finish_barriers();
        let applied = self.applied_lsn();
        self.freed.retain(|_, lsn| *lsn >= applied);
    }
    pub(crate) fn finish_barriers(&mut self) {
        let applied = self.applied_lsn();
        while self.barriers.front().is_some_and(|(lsn, _)| *lsn <= applied) {
            let token = self.barriers.pop_front().map(|(_, t)| StoreEvent::Barrier(t));
            self.ready.extend(token);
        }
    }
    /// A segment may have lost its last indexed block.
    pub(crate) fn note_emptied(&mut self, seg: u32) {
        if self.index.live_in(seg) == 0 {
            self.segs.empty(seg, self.next_lsn);
            self.reclaim_due = true;
        }
    }

    pub(crate) fn view(&mut self) -> View<'_> {
        View { index: &self.index, segs: &self.segs, layout: &self.layout, csums: &mut self.csums }
    }
    /// Starts a planned read, or answers it when nothing has to be fetched.
    pub(crate) fn start_read(&mut self, job: ReadJob) {
        if job.missing == 0 {
            let event = job.resolve(self.view());
            return self.ready.push(event);
        }
        job.pins.iter().for_each(|s| self.segs.pin(*s));
        self.next_job += 1;
        self.read_parts(self.next_job, job, 0);
    }
    /// Starts the reads of a job from part `from` on.
    fn read_parts(&mut self, id: u64, job: ReadJob, from: usize) {
        for (i, part) in job.parts.iter().enumerate().skip(from) {
            self.next_op += 1;
            self.ops.insert(self.next_op, Op::Read(id, i));
            let len = (part.slots * SLOT as u64) as u32;
            self.out.push(DevOp::Read { id: self.next_op, offset: part.slot * SLOT as u64, len });
        }
        self.jobs.insert(id, job);
    }
    fn read_done(&mut self, id: u64, part: usize, result: DevResult, events: &mut Vec<StoreEvent>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some(p) = job.parts.get_mut(part) {
            p.buf = Some(if let DevResult::Ok(buf) = result { buf } else { Buf::empty() });
        }
        job.missing = job.missing.saturating_sub(1);
        if job.missing > 0 {
            return;
        }
        let Some(mut job) = self.jobs.remove(&id) else { return };
        let had = job.parts.len();
        if job.more(&self.layout, &self.segs) {
            return self.read_parts(id, job, had);
        }
        for seg in &job.pins {
            self.unpin(*seg);
        }
        let event = job.resolve(self.view());
        if self.walks.sift.reads(id) {
            return self.sift_done(event);
        }
        events.push(event);
    }
    pub(crate) fn unpin(&mut self, seg: u32) {
        self.segs.unpin(seg);
        let waits = self.segs.get(seg).is_some_and(|s| s.reads == 0 && matches!(s.state, SegState::Emptied(_)));
        self.reclaim_due |= waits;
    }

    /// Stops for good: nothing more is admitted, everything admitted becomes durable, and a
    /// checkpoint makes the next open short. Drive it with `poll` and `complete` until `is_stopped`.
    pub fn stop(&mut self) {
        self.stopping = true;
    }
    /// Whether a stop is complete (or the drive failed).
    pub fn is_stopped(&self) -> bool {
        self.failed || (self.stopping && (self.hollow || self.sb.clean))
    }
    /// Asks for a checkpoint soon.
    pub fn checkpoint_now(&mut self) {
        self.ckpt.wanted = true;
    }
    /// Notes the highest incarnation and revision of the metadata store; they go to the superblocks
    /// soon, beside the log.
    pub fn note_store(&mut self, incarnation: u64, store_rev: u64) {
        let old = (self.sb.incarnation, self.sb.store_rev);
        self.sb.incarnation = old.0.max(incarnation);
        self.sb.store_rev = old.1.max(store_rev);
        self.ckpt.note_due |= old != (self.sb.incarnation, self.sb.store_rev);
    }
    /// What garbage collection and checkpoints did since the open, and segments by state.
    pub fn log_stats(&self) -> LogStats {
        let mut out = LogStats {
            moved_blocks: self.walks.moved_blocks,
            collected: self.walks.collected,
            checkpoints: self.ckpt.completed,
            ..LogStats::default()
        };
        for (_, s) in self.segs.iter() {
            let n = match s.state {
                SegState::Free => &mut out.free,
                SegState::Open => &mut out.open,
                SegState::Closed => &mut out.closed,
                SegState::Emptied(_) => &mut out.emptied,
                SegState::Discarding => &mut out.discarding,
                SegState::Checkpoint => &mut out.checkpoint,
                SegState::Stuck => &mut out.stuck,
            };
            *n += 1;
        }
        out
    }
    /// Bytes of memory of the index, and of the checksum cache.
    pub fn memory(&self) -> (usize, usize) {
        (self.index.heap_bytes(), self.csums.heap_bytes())
    }
    /// Blocks that garbage collection moved since the open.
    pub fn moved_blocks(&self) -> u64 {
        self.walks.moved_blocks
    }
    /// Whether everything admitted is durable.
    pub fn is_idle(&self) -> bool {
        self.streams.iter().all(|s| s.oldest_lsn().is_none())
    }
    /// What the drive is doing, for a failed test or a debug command to print.
    pub fn describe(&self) -> String {
        let mut states: BTreeMap<String, u32> = BTreeMap::new();
        for (n, s) in self.segs.iter() {
            let name =
                format!("{:?}/{}/reads{}", s.state, if self.index.live_in(n) > 0 { "live" } else { "dead" }, s.reads);
            *states.entry(name).or_default() += 1;
        }
        let queued: Vec<u64> = self.streams.iter().map(LogStream::queued_slots).collect();
        format!("{states:?} queued {queued:?} space {:?} walks {:?} ckpt {:?}", self.space_now(), self.walks, self.ckpt)
    }
    /// Segments that garbage collection emptied since the open.
    pub fn collected(&self) -> u64 {
        self.walks.collected
    }
    /// Checkpoints completed since the open.
    pub fn checkpoints(&self) -> u64 {
        self.ckpt.completed
    }
    /// Superblock as it stands in memory.
    pub fn superblock(&self) -> &Superblock {
        &self.sb
    }
    /// Whether every segment is in one state and the free ones hold nothing.
    pub fn census(&self) -> Result<(), String> {
        self.segs.census(|seg| self.index.live_in(seg))
    }
    /// Segments: free, waiting for a checkpoint or a read, all.
    pub fn segments(&self) -> (usize, usize, usize) {
        (self.segs.free_count(), self.segs.emptied_count(), self.layout.segments as usize)
    }
}

/// A buffer of whole slots that starts with `bytes`.
pub(crate) fn padded(bytes: &[u8]) -> Buf {
    let mut buf = BufMut::zeroed(bytes.len().next_multiple_of(SLOT));
    if let Some(to) = buf.as_mut_slice().get_mut(..bytes.len()) {
        to.copy_from_slice(bytes);
    }
    buf.freeze()
}
