//! Writing checkpoints: a pass over everything that replay would otherwise have to rebuild.
//!
//! A pass notes per stream the group G before which everything is applied and from which on nothing
//! is, then writes the state piece by piece while the log goes on. A piece may already show groups from
//! G on; replay repeats exactly those, in the order of their admission, and ends in the same state,
//! because setting a block, a value or an epoch is idempotent and a move applies only where the index
//! still points to its source. Where a stream had overtaken another one at G, the root says which blocks
//! of the late records are not to be set. The old checkpoint stays until two superblock copies name the
//! new one. A segment is reused only when a checkpoint that began after its last indexed block went is
//! durable: so neither a checkpoint nor a replayed record ever points into a reused segment.

use crate::api::{MetaKey, META_VALUE_MAX};
use crate::ckpt_codec::{put_meta, put_object, put_recent, put_vol, seal_chunk, Root, SegItem};
use crate::layout::Layout;
use crate::loc::SLOT;
use crate::segs::SegState;
use crate::store::{padded, LogStore, Op};
use crate::superblock::RootPtr;
use drystone_types::{ObjKey, Writer};

/// Most payload of one chunk: bounds the time one step takes.
const CHUNK_MAX: usize = 256 << 10;
/// A pass starts when at least this many segments were logged since the last one.
const LOGGED_SEGMENTS_MIN: u64 = 16;
/// A pass starts when the log since the last one is this many times the checkpoint: the budget of 5 %.
const LOGGED_TIMES: u64 = 20;
/// Below this percentage of free segments a pass that would free some does not wait.
const SCARCE_PERCENT: u64 = 12;
/// Largest object in a chunk, with every version and mark apart.
const ITEM_MAX: usize = META_VALUE_MAX + 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Metas(Option<MetaKey>),
    Small,
    Objects(Option<ObjKey>),
    Root,
    RootWritten,
    SuperFirst,
    SuperSecond,
    /// The superblocks alone, for what was noted of the metadata store.
    NoteFirst,
    NoteSecond,
}

/// State of checkpointing.
#[derive(Debug, Default)]
pub struct Ckpt {
    stage: Stage,
    gseq: [u64; 3],
    freed: Vec<(drystone_types::LayerId, u64)>,
    overtaken: Vec<(u64, u16, u16)>,
    number: u64,
    chunks: u32,
    own: Vec<u32>,
    used: u64,
    root: RootPtr,
    running: usize,
    bytes: u64,
    logged: u64,
    logged_at_start: u64,
    clean: bool,
    /// Segments of the durable checkpoint.
    pub durable_own: Vec<u32>,
    /// Point of the log at which the durable checkpoint began.
    pub durable_began: u64,
    /// Bytes of the durable checkpoint.
    pub durable_bytes: u64,
    /// Somebody asked for one.
    pub wanted: bool,
    /// Checkpoints completed since the open.
    pub completed: u64,
    /// The superblocks in memory say more of the metadata store than those on the device.
    pub note_due: bool,
}

impl Ckpt {
    /// Slots were written to the log.
    pub fn logged(&mut self, slots: u64) {
        self.logged += slots;
    }
    /// Segments that must stay free for the next checkpoint.
    pub fn segments_needed(&self, layout: &Layout) -> usize {
        let slots = self.durable_bytes.max(self.bytes) * 5 / 4 / SLOT as u64;
        ((slots / layout.seg_slots) as usize + 2).saturating_sub(self.own.len())
    }
}

impl LogStore {
    pub(crate) fn checkpoint_step(&mut self) {
        if self.ckpt.stage == Stage::Idle {
            if !self.checkpoint_due() {
                return self.note_step();
            }
            self.checkpoint_begin();
        }
        // Two chunks in flight hide the latency of the drive; the log has the rest of its queue.
        while self.ckpt.running < 2 && self.checkpoint_may_write() {
            match self.ckpt.stage {
                Stage::Metas(from) => self.write_metas(from),
                Stage::Small => self.write_small(),
                Stage::Objects(from) => self.write_objects(from),
                Stage::Root if self.ckpt.running == 0 => self.write_root(),
                _ => return,
            }
            if self.ckpt.running == 0 {
                return;
            }
        }
    }

    /// Writes the superblocks as they are, with the same checkpoint: what they say of the log was true when that was
    /// written and is true still.
    fn note_step(&mut self) {
        if self.stopping || self.sb.clean || !core::mem::take(&mut self.ckpt.note_due) {
            return;
        }
        self.sb.seq += 1;
        self.ckpt.clean = false;
        self.ckpt.stage = Stage::NoteFirst;
        self.write_superblocks(0);
    }

    fn checkpoint_due(&mut self) -> bool {
        // What is queued may need room first; segments ended half full would take it away.
        if self.stopping && !self.streams.iter().any(|s| s.has_queued()) {
            self.streams.iter_mut().for_each(|s| s.seal());
            if self.streams.iter().all(|s| s.is_idle()) {
                return !self.sb.clean;
            }
        }
        let c = &self.ckpt;
        let slots = (LOGGED_SEGMENTS_MIN * self.layout.seg_slots).max(LOGGED_TIMES * c.durable_bytes / SLOT as u64);
        let scarce = self.scarce(SCARCE_PERCENT, false) && self.segs.wait_for_checkpoint(c.durable_began);
        c.wanted || scarce || c.logged >= slots
    }

    fn checkpoint_begin(&mut self) {
        let number = self.lsn();
        let gseq = self.durable_gseq();
        let freed = self.freed.iter().map(|(layer, lsn)| (*layer, *lsn)).collect();
        let overtaken = self.hot.all_overtaken();
        let clean = self.stopping && self.streams.iter().all(|s| s.is_idle());
        let c = &mut self.ckpt;
        (c.gseq, c.freed, c.overtaken, c.number, c.clean) = (gseq, freed, overtaken, number, clean);
        (c.chunks, c.used, c.bytes, c.wanted) = (0, 0, 0, false);
        c.logged_at_start = c.logged;
        c.own = Vec::new();
        c.stage = Stage::Metas(None);
    }

    /// Pace: with space to spare a pass takes about an eighth of the write bandwidth.
    fn checkpoint_may_write(&self) -> bool {
        let c = &self.ckpt;
        let budget = (c.logged - c.logged_at_start) * SLOT as u64 / 8 + 2 * CHUNK_MAX as u64;
        let urgent = self.stopping || self.scarce(SCARCE_PERCENT, false) || c.durable_began == 0;
        urgent || c.bytes < budget || !matches!(c.stage, Stage::Objects(_))
    }

    fn chunk_target(&self) -> usize {
        let half = self.layout.seg_slots as usize * SLOT / 2;
        half.saturating_sub(ITEM_MAX + SLOT).clamp(SLOT, CHUNK_MAX)
    }

    fn write_metas(&mut self, from: Option<MetaKey>) {
        use core::ops::Bound::{Excluded, Unbounded};
        let (target, applied) = (self.chunk_target(), self.applied_lsn());
        self.durable_metas.retain(|_, (lsn, value)| !value.is_empty() || *lsn >= applied);
        let mut w = Writer::new();
        let (mut bytes, mut next) = (0, None);
        for (key, (lsn, value)) in self.durable_metas.range((from.map_or(Unbounded, Excluded), Unbounded)) {
            if bytes >= target {
                break;
            }
            put_meta(&mut w, *key, *lsn, value);
            bytes += value.len() + 22;
            next = Some(*key);
        }
        let stage = if next.is_some() { Stage::Metas(next) } else { Stage::Small };
        self.write_chunk(w, stage);
    }

    fn write_small(&mut self) {
        let mut w = Writer::new();
        self.index.vols().iter().for_each(|(vol, stat)| put_vol(&mut w, *vol, stat.max_gen));
        self.hot.all_recent().for_each(|(pg, r)| put_recent(&mut w, pg, r));
        let items = w.finish();
        // Both lists together are bounded by a segment: 64 × 42 bytes a PG and 13 a volume; what does
        // not fit is only a hint (recent versions), so it is cut at a whole item by the reader's count.
        let limit = self.layout.seg_slots as usize * SLOT - 2 * SLOT;
        let mut w = Writer::new();
        if items.len() <= limit {
            w.bytes(&items);
        } else {
            self.index.vols().iter().take(limit / 13).for_each(|(vol, stat)| put_vol(&mut w, *vol, stat.max_gen));
        }
        self.write_chunk(w, Stage::Objects(None));
    }

    fn write_objects(&mut self, from: Option<ObjKey>) {
        let target = self.chunk_target();
        let mut payload = Vec::new();
        let mut next = None;
        for (key, o) in self.index.after(from) {
            if payload.len() >= target {
                break;
            }
            let mut w = Writer::new();
            put_object(&mut w, *key, o, self.hot.versions_of(*key), self.hot.joins_of(*key));
            payload.append(&mut w.finish());
            next = Some(*key);
        }
        let mut w = Writer::new();
        w.bytes(&payload);
        self.write_chunk(w, if next.is_some() { Stage::Objects(next) } else { Stage::Root });
    }

    /// Writes a chunk and goes to `next`; without a free segment it tries again later.
    fn write_chunk(&mut self, w: Writer, next: Stage) {
        let payload = w.finish();
        if payload.is_empty() {
            self.ckpt.stage = next;
            if next == Stage::Root || self.ckpt.running > 0 {
                return;
            }
            return self.checkpoint_step();
        }
        let chunk = seal_chunk(self.ckpt.number, self.ckpt.chunks, &payload);
        let Some(slot) = self.place_chunk((chunk.len() / SLOT) as u64) else { return };
        self.ckpt.chunks += 1;
        self.ckpt.bytes += chunk.len() as u64;
        self.ckpt.running += 1;
        self.ckpt.stage = next;
        self.write_raw(Op::Checkpoint, slot, padded(&chunk));
    }

    fn place_chunk(&mut self, slots: u64) -> Option<u64> {
        let seg = match self.ckpt.own.last() {
            Some(seg) if self.ckpt.used + slots <= self.layout.seg_slots => *seg,
            _ => {
                let (seg, _) = self.segs.open(None)?;
                self.ckpt.own.push(seg);
                self.ckpt.used = 0;
                seg
            }
        };
        let slot = self.layout.seg_start(seg) + self.ckpt.used;
        self.ckpt.used += slots;
        Some(slot)
    }

    fn write_root(&mut self) {
        let items = self.segs.iter().filter_map(|(seg, s)| {
            let (closed, emptied) = match s.state {
                SegState::Open => (false, 0),
                SegState::Closed | SegState::Stuck => (true, 0),
                SegState::Emptied(at) => (true, at),
                SegState::Free | SegState::Discarding | SegState::Checkpoint => return None,
            };
            Some(SegItem { seg, seq: s.seq, end_gseq: s.end_gseq, stream: s.stream, closed, emptied })
        });
        let segs: Vec<SegItem> = items.collect();
        let c = &self.ckpt;
        let (freed, overtaken) = (c.freed.clone(), c.overtaken.clone());
        let mut root =
            Root { began: c.number, gseq: c.gseq, freed, overtaken, chunks: c.chunks, own: c.own.clone(), segs };
        // One entry more than needed: the root may have to open another segment and name it.
        let slots = (seal_chunk(c.number, c.chunks, &root.encode()).len() + 4).div_ceil(SLOT) as u64;
        let Some(slot) = self.place_chunk(slots) else { return };
        root.own = self.ckpt.own.clone();
        let chunk = seal_chunk(self.ckpt.number, self.ckpt.chunks, &root.encode());
        self.ckpt.root = RootPtr { slot, bytes: chunk.len() as u32, number: self.ckpt.number };
        self.ckpt.bytes += chunk.len() as u64;
        self.ckpt.running = 1;
        self.ckpt.stage = Stage::RootWritten;
        self.write_raw(Op::Checkpoint, slot, padded(&chunk));
    }

    pub(crate) fn checkpoint_write_done(&mut self) {
        self.ckpt.running -= 1;
        if self.ckpt.stage == Stage::RootWritten {
            self.sb.seq += 1;
            self.sb.root = self.ckpt.root;
            self.sb.durable = self.durable_gseq();
            self.sb.next_lsn = self.next_lsn;
            self.sb.next_seq = self.segs.next_seq;
            self.ckpt.note_due = false;
            self.write_superblocks(0);
            self.ckpt.stage = Stage::SuperFirst;
        }
    }

    /// Writes half of the copies: two must be durable before the other two are touched.
    fn write_superblocks(&mut self, half: usize) {
        let sb = crate::superblock::Superblock { clean: self.ckpt.clean, ..self.sb };
        let bytes = padded(&sb.encode());
        for slot in self.layout.superblocks().into_iter().skip(half * 2).take(2) {
            self.ckpt.running += 1;
            self.write_raw(Op::Superblock, slot, bytes.clone());
        }
    }

    pub(crate) fn superblock_write_done(&mut self) {
        self.ckpt.running -= 1;
        if self.ckpt.running > 0 {
            return;
        }
        match self.ckpt.stage {
            Stage::SuperFirst => {
                self.ckpt.stage = Stage::SuperSecond;
                return self.write_superblocks(1);
            }
            Stage::NoteFirst => {
                self.ckpt.stage = Stage::NoteSecond;
                return self.write_superblocks(1);
            }
            Stage::NoteSecond => {
                self.ckpt.stage = Stage::Idle;
                return;
            }
            _ => {}
        }
        let c = &mut self.ckpt;
        c.stage = Stage::Idle;
        let old = core::mem::replace(&mut c.durable_own, core::mem::take(&mut c.own));
        (c.durable_began, c.durable_bytes) = (c.number, c.bytes);
        c.logged -= c.logged_at_start;
        c.logged_at_start = 0;
        c.completed += 1;
        self.sb.clean = c.clean;
        let mut discard = Vec::new();
        old.into_iter().for_each(|seg| self.segs.release(seg, self.cfg.discard, &mut discard));
        self.start_discards(discard);
        self.reclaim();
    }
}
