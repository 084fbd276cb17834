//! Walking a closed segment, group by group: garbage collection moves what is live, scrub verifies it. A scrub
//! closes the segments that are open when it begins, so that it covers everything that was durable then.

use crate::api::*;
use crate::entry::{BlockEntry, Entry};
use crate::group::{Expect, GroupHeader};
use crate::leaf::Extent;
use crate::loc::{Loc, SLOT};
use crate::segment::{decode_summary, Footer, SummaryGroup};
use crate::segs::SegState;
use crate::sift::Sift;
use crate::store::{LogStore, Op};
use crate::writer::{Ack, Queued, Stream as LogStream};
use drystone_csum::block_csum;
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::Buf;
use std::collections::BTreeSet;

const GC: usize = 0;
const SCRUB: usize = 1;
/// Slots read at once: a megabyte, or one group if that is larger.
const SPAN_SLOTS: u64 = 256;
/// Collection starts when fewer percent of the segments are free.
const GC_START_PERCENT: u64 = 12;
/// Below this it does not wait for its share of the client's writes.
const GC_URGENT_PERCENT: u64 = 6;
/// A victim with at least so many percent of live slots is as good as full: single blocks are packed to 96 %.
const GC_FULL_PERCENT: u64 = 90;
/// Slots GC may move per slot a client writes: keeps up at 80 % full, where it moves four for one.
const GC_SHARE: i64 = 4;
/// Most slots of moves waiting in the cold stream.
const COLD_QUEUE_MAX: u64 = 1024;
/// Most corrupt blocks in one event.
const ROTTEN_MAX: usize = 1024;

#[derive(Debug)]
enum Stage {
    Footer,
    Body(Footer),
    /// The summary is damaged: the headers tell what is there.
    Scan(u64),
    Groups,
}

/// A walk over one segment.
#[derive(Debug)]
struct Walk {
    seg: u32,
    seq: u64,
    stage: Stage,
    groups: Vec<SummaryGroup>,
    next: usize,
    span: (usize, u64),
    reading: bool,
}

/// The walks of garbage collection and of scrub.
#[derive(Debug, Default)]
pub struct Walks {
    gc: Option<Walk>,
    scrub: Option<Walk>,
    scrub_next: Option<u32>,
    /// What the scrub found waits to be healed.
    scrub_held: bool,
    /// Segments that were open when the scrub began, and are to be closed first: number, use, ended.
    scrub_waits: Vec<(u32, u64, bool)>,
    scrub_seen: (u64, u64),
    scrub_steps: u64,
    /// Blocks that no group names.
    pub(crate) sift: Sift,
    moves: u64,
    ended: u64,
    credit: i64,
    /// Blocks moved since the open.
    pub moved_blocks: u64,
    /// Segments collected since the open.
    pub collected: u64,
}

impl Walks {
    /// A client wrote `slots`: garbage collection may move in proportion.
    pub fn pay(&mut self, slots: u64) {
        let credit = self.credit + slots as i64 * GC_SHARE;
        self.credit = credit.min(4096);
    }
    /// A move is durable.
    pub fn moved(&mut self) {
        self.moves = self.moves.saturating_sub(1);
    }
    /// Makes the scrub wait, or go on.
    pub fn hold(&mut self, hold: bool) {
        self.scrub_held = hold;
    }
    pub(crate) fn scrub_held(&self) -> bool {
        self.scrub_held
    }
    /// Reads of scrubs begun, and blocks that the running one has seen.
    pub(crate) fn scrub_progress(&self) -> Option<(u64, u64)> {
        self.scrub_next.map(|_| (self.scrub_steps, self.scrub_seen.0))
    }
    /// A scrub begins to read.
    pub(crate) fn scrub_reads(&mut self) {
        self.scrub_steps += 1;
    }
    pub(crate) fn scrub_saw(&mut self, blocks: u64, bad: u64) {
        self.scrub_seen.0 += blocks;
        self.scrub_seen.1 += bad;
    }
    fn slot(&mut self, which: usize) -> &mut Option<Walk> {
        if which == GC {
            &mut self.gc
        } else {
            &mut self.scrub
        }
    }
}

impl LogStore {
    pub(crate) fn scrub_start(&mut self) {
        if self.walks.scrub_next.is_none() {
            self.walks.scrub_next = Some(0);
            self.walks.scrub_seen = (0, 0);
            self.walks.sift = Sift::default();
            // What garbage collection could not read once it may try again.
            self.segs.unstick();
            let open = self.segs.iter().filter(|(_, s)| s.state == SegState::Open && s.end_gseq > 0);
            self.walks.scrub_waits = open.map(|(n, s)| (n, s.seq, false)).collect();
        }
    }

    /// Whether the scrub may begin to read: the segments it waits for are closed. A stream with records in its
    /// queue fills its segment by itself, one without is made to end it.
    fn scrub_ready(&mut self) -> bool {
        let segs = &self.segs;
        let open = |n: u32, seq: u64| segs.get(n).filter(|s| s.seq == seq && s.state == SegState::Open);
        self.walks.scrub_waits.retain(|(n, seq, _)| open(*n, *seq).is_some());
        for (n, seq, ended) in self.walks.scrub_waits.iter_mut().filter(|w| !w.2) {
            let number = open(*n, *seq).map_or(0, |s| usize::from(s.stream));
            if let Some(stream) = self.streams.get_mut(number) {
                stream.seal();
                *ended = stream.needs_segment();
            }
        }
        self.walks.scrub_waits.is_empty()
    }

    /// Goes on with both walks; tells whether one ended, so that the next one may begin.
    pub(crate) fn walk_step(&mut self) -> bool {
        self.gc_start();
        self.scrub_next();
        let before = self.walks.ended;
        for which in [GC, SCRUB] {
            self.walk_continue(which);
        }
        self.walks.ended != before
    }

    fn gc_start(&mut self) {
        if self.walks.gc.is_some() || self.walks.moves > 0 || !self.scarce(GC_START_PERCENT, true) {
            return;
        }
        // A stop needs room only for what was admitted before it.
        if self.stopping && !self.streams.iter().any(LogStream::has_queued) {
            return;
        }
        if !self.gc_has_room() {
            return;
        }
        // Greedy: fewest live blocks, among equals the oldest. A full segment would cost what it gives.
        let limit = (self.layout.seg_slots * 97 / 100) as u32;
        let closed = self.segs.iter().filter(|(_, s)| s.state == SegState::Closed);
        let victim = closed.map(|(n, s)| (self.index.live_in(n), s.seq, n)).min().filter(|v| v.0 < limit);
        if let Some((live, _, seg)) = victim {
            if live == 0 {
                return self.note_emptied(seg);
            }
            if self.gc_pays(live) {
                self.begin_walk(GC, seg);
            }
        }
    }

    /// Moving a nearly full segment gives next to nothing, and what was moved is as full again: a full drive
    /// at rest would be rewritten for ever. It is worth it only in proportion to new writes, or for one that waits.
    /// Moves do not count for that: none is left when a victim is chosen.
    fn gc_pays(&self, live: u32) -> bool {
        let full = u64::from(live) * 100 >= self.layout.seg_slots * GC_FULL_PERCENT;
        !full || self.walks.credit > 0 || self.streams.iter().any(LogStream::has_queued)
    }

    fn scrub_next(&mut self) {
        while let (None, Some(from)) = (&self.walks.scrub, self.walks.scrub_next) {
            if !self.scrub_ready() {
                return;
            }
            let closed = |s: &SegState| matches!(s, SegState::Closed | SegState::Stuck);
            let rest = self.segs.iter().skip(from as usize);
            let mut rest = rest.filter(|(n, s)| closed(&s.state) && self.index.live_in(*n) > 0).map(|(n, _)| n);
            let found = rest.next();
            drop(rest);
            let Some(seg) = found else {
                self.walks.scrub_next = Some(self.layout.segments);
                if self.sift_step() {
                    return;
                }
                self.walks.scrub_next = None;
                let (seen, bad) = self.walks.scrub_seen;
                return self.ready.push(StoreEvent::ScrubDone(seen, bad));
            };
            self.walks.scrub_next = Some(seg + 1);
            self.begin_walk(SCRUB, seg);
        }
    }

    fn begin_walk(&mut self, which: usize, seg: u32) {
        let seq = self.segs.get(seg).map_or(0, |s| s.seq);
        self.segs.pin(seg);
        let walk = Walk { seg, seq, stage: Stage::Footer, groups: Vec::new(), next: 0, span: (0, 0), reading: false };
        *self.walks.slot(which) = Some(walk);
    }

    /// Starts the next read of a walk when it may go on.
    fn walk_continue(&mut self, which: usize) {
        if which == SCRUB && self.walks.scrub_held {
            return;
        }
        if which == GC {
            let cold = self.streams.get(Stream::Cold as usize).map_or(0, |s| s.queued_slots());
            let slow = !self.scarce(GC_URGENT_PERCENT, true) && self.walks.credit <= 0;
            let ends =
                self.walks.gc.as_ref().is_some_and(|w| matches!(w.stage, Stage::Groups) && w.next >= w.groups.len());
            if !ends && (slow || cold > COLD_QUEUE_MAX) {
                return;
            }
        }
        let layout = self.layout;
        let Some(w) = self.walks.slot(which).as_mut().filter(|w| !w.reading) else { return };
        let start = layout.seg_start(w.seg);
        let range = match &w.stage {
            Stage::Footer => Some((layout.seg_slots - 1, 1)),
            Stage::Body(f) => Some((u64::from(f.body_slot), u64::from(f.body_len).div_ceil(SLOT as u64))),
            Stage::Scan(at) => Some((*at, SPAN_SLOTS.min(layout.seg_slots - at))).filter(|r| r.1 > 0),
            Stage::Groups => None,
        };
        let range = range.or_else(|| self.next_span(which));
        let Some((rel, slots)) = range.filter(|r| r.1 > 0) else { return self.walk_done(which) };
        if let Some(w) = self.walks.slot(which) {
            w.reading = true;
        }
        if which == SCRUB {
            self.walks.scrub_reads();
        }
        let id = self.op(Op::Walk(which));
        self.out.push(DevOp::Read { id, offset: (start + rel) * SLOT as u64, len: (slots * SLOT as u64) as u32 });
    }

    /// The next groups with something live: relative slot and slots.
    fn next_span(&mut self, which: usize) -> Option<(u64, u64)> {
        let mut w = self.walks.slot(which).take()?;
        w.stage = Stage::Groups;
        let start = self.layout.seg_start(w.seg);
        let mut span: Option<(u64, u64)> = None;
        let mut end = w.next;
        while let Some(g) = w.groups.get(end) {
            let rel = u64::from(g.rel);
            let slots = 1 + g.entries.iter().map(Entry::data_slots).sum::<u64>();
            if span.is_some_and(|(from, _)| rel + slots - from > SPAN_SLOTS) {
                break;
            }
            if self.live_parts(start + rel, g).next().is_some() {
                let from = span.map_or(rel, |s| s.0);
                if span.is_none() {
                    w.next = end;
                }
                span = Some((from, rel + slots - from));
            }
            end += 1;
        }
        w.span = (end, span.map_or(0, |s| s.0));
        if span.is_none() {
            w.next = end;
        }
        *self.walks.slot(which) = Some(w);
        span.filter(|(rel, slots)| rel + slots <= self.layout.seg_slots)
    }

    /// The live blocks of a group: entry, slot of its first data, extent still indexed here.
    fn live_parts<'a>(
        &'a self,
        header: u64,
        g: &'a SummaryGroup,
    ) -> impl Iterator<Item = (&'a BlockEntry, usize, Extent)> + 'a {
        let (mut slot, mut csum) = (header + 1, 0);
        g.entries.iter().flat_map(move |e| {
            let (at, first_csum) = (slot, csum);
            slot += e.data_slots();
            csum += e.csums();
            let mut live = Vec::new();
            if let Entry::Blocks(b) = e {
                if !b.forget {
                    let loc = if b.has_data() { Loc::data(at, at - header) } else { Loc::mark(header, b.kind) };
                    self.live_of(b, loc, |x| live.push((b, first_csum + usize::from(x.first - b.first), x)));
                }
            }
            live
        })
    }
    fn live_of(&self, b: &BlockEntry, loc: Loc, mut f: impl FnMut(Extent)) {
        let Some(o) = self.index.get(b.key) else { return };
        o.leaf.visit(b.first, b.count, |x| {
            if x.loc == loc.advance(x.first - b.first) {
                f(x);
            }
        });
    }

    /// Whether the groups of a segment name every block that the index has in it.
    fn names_all(&self, w: &Walk) -> bool {
        let start = self.layout.seg_start(w.seg);
        let mut named = 0u64;
        for g in &w.groups {
            // Entries without data share their location with others of the group: each block counts once.
            let mut marks = BTreeSet::new();
            for (b, _, x) in self.live_parts(start + u64::from(g.rel), g) {
                let blocks = x.first..x.first + x.count;
                let mark = |block| u64::from(b.has_data() || marks.insert((b.key, block)));
                named += blocks.map(mark).sum::<u64>();
            }
        }
        named >= u64::from(self.index.live_in(w.seg))
    }

    pub(crate) fn walk_read_done(&mut self, which: usize, result: DevResult) {
        let Some(mut w) = self.walks.slot(which).take() else { return };
        w.reading = false;
        let unread = matches!(result, DevResult::Failed(_));
        let buf = if let DevResult::Ok(buf) = result { buf } else { Buf::empty() };
        match w.stage {
            Stage::Footer => {
                let footer = Footer::decode(buf.as_slice(), w.seg, w.seq, self.layout.seg_slots);
                w.stage = footer.map_or(Stage::Scan(1), |f| if f.groups == 0 { Stage::Groups } else { Stage::Body(f) });
            }
            Stage::Body(f) => {
                let body = buf.as_slice().get(..f.body_len as usize).unwrap_or(&[]);
                let groups = decode_summary(body, &f);
                w.stage = if groups.is_ok() { Stage::Groups } else { Stage::Scan(1) };
                w.groups = groups.unwrap_or_default();
            }
            Stage::Scan(at) => {
                let start = self.layout.seg_start(w.seg);
                let next = scan(&mut w, start, at, buf.as_slice());
                w.stage = if next + 1 < self.layout.seg_slots { Stage::Scan(next) } else { Stage::Groups };
                if which == SCRUB && matches!(w.stage, Stage::Groups) && !self.names_all(&w) {
                    self.walks.sift.note(w.seg, w.seq);
                    w.groups.clear();
                }
            }
            Stage::Groups => {
                // Bytes that could not be read must not be moved as if they were rotten: they stay where they are.
                if !(unread && which == GC) {
                    self.walk_span(which, &w, &buf);
                }
                w.next = w.span.0;
            }
        }
        *self.walks.slot(which) = Some(w);
    }

    fn walk_span(&mut self, which: usize, w: &Walk, buf: &Buf) {
        let start = self.layout.seg_start(w.seg);
        let mut rotten = Vec::new();
        for g in w.groups.get(w.next..w.span.0).unwrap_or(&[]) {
            let header = start + u64::from(g.rel);
            let Some(skip) = u64::from(g.rel).checked_sub(w.span.1) else { continue };
            let at = skip as usize * SLOT;
            let bytes = buf.slice(at..at + SLOT);
            let csums =
                GroupHeader::decode(bytes.as_slice(), Expect { seg_seq: w.seq, slot: header }).map(|h| h.0.csums).ok();
            let live: Vec<(BlockEntry, usize, Extent)> =
                self.live_parts(header, g).map(|(b, c, x)| (*b, c, x)).collect();
            for (b, first_csum, x) in live {
                let stored = csums.as_ref().and_then(|c| c.get(first_csum..first_csum + usize::from(x.count)));
                let from = at + x.loc.slot().saturating_sub(header) as usize * SLOT;
                let data =
                    if b.has_data() { buf.slice(from..from + usize::from(x.count) * SLOT) } else { Buf::empty() };
                self.walk_extent(which, &b, x, stored.filter(|_| b.has_data()), data, &mut rotten);
            }
        }
        self.walks.scrub_seen.1 += if which == SCRUB { rotten.len() as u64 } else { 0 };
        for part in rotten.chunks(ROTTEN_MAX) {
            let part = part.to_vec();
            self.ready.push(if which == SCRUB { StoreEvent::Rotten(part) } else { StoreEvent::RottenMoved(part) });
        }
    }

    fn walk_extent(
        &mut self,
        which: usize,
        b: &BlockEntry,
        x: Extent,
        stored: Option<&[u64]>,
        data: Buf,
        rotten: &mut Vec<(drystone_types::VolumeId, drystone_types::ObjKey, u16)>,
    ) {
        if !b.has_data() {
            if which == GC {
                self.enqueue_move(b, x, Vec::new(), Buf::empty(), false);
            } else if b.kind == BlockKind::Bad {
                // Lost once; a member that came back since may have it.
                rotten.extend((x.first..x.first + x.count).map(|block| (b.vol, b.key, block)));
            }
            return;
        }
        let base = b.key.chunk.wrapping_mul(u64::from(CHUNK_BLOCKS));
        let mut good: Option<(u16, Vec<u64>)> = None;
        for i in 0..x.count {
            let block = x.first + i;
            let bytes = data.block(usize::from(i));
            let actual = block_csum(b.vol, base.wrapping_add(u64::from(block)), bytes.as_slice());
            let want = stored.and_then(|s| s.get(usize::from(i)).copied());
            if want == Some(actual) && bytes.len() == SLOT && !b.rotten {
                good.get_or_insert_with(|| (i, Vec::new())).1.push(actual);
                continue;
            }
            rotten.push((b.vol, b.key, block));
            if which == GC {
                self.flush_good(b, x, &mut good, &data);
                // It keeps a checksum that its bytes do not match: it stays corrupt until repaired.
                let csum = want.filter(|w| *w != actual).unwrap_or(!actual);
                let bytes = if bytes.len() == SLOT { bytes } else { crate::store::padded(&[0; SLOT]) };
                let one = Extent { loc: x.loc.advance(i), first: block, count: 1 };
                self.enqueue_move(b, one, vec![csum], bytes, true);
            }
        }
        if which == GC {
            self.flush_good(b, x, &mut good, &data);
        } else {
            self.walks.scrub_seen.0 += u64::from(x.count);
        }
    }

    fn flush_good(&mut self, b: &BlockEntry, x: Extent, good: &mut Option<(u16, Vec<u64>)>, data: &Buf) {
        let Some((from, csums)) = good.take() else { return };
        let count = csums.len() as u16;
        let part = Extent { loc: x.loc.advance(from), first: x.first + from, count };
        let at = usize::from(from) * SLOT;
        let bytes = data.slice(at..at + usize::from(count) * SLOT);
        self.enqueue_move(b, part, csums, bytes, false);
    }

    fn enqueue_move(&mut self, b: &BlockEntry, x: Extent, csums: Vec<u64>, data: Buf, rotten: bool) {
        let lsn = self.lsn();
        let source = Some(x.loc);
        let entry = BlockEntry { lsn, first: x.first, count: x.count, source, rotten, ..*b };
        self.walks.moves += 1;
        self.walks.moved_blocks += u64::from(x.count);
        self.walks.credit -= i64::from(x.count);
        let queued = Queued { entry: Entry::Blocks(entry), csums, data, value: Vec::new(), ack: Ack::Gc, taken: 0 };
        if let Some(s) = self.streams.get_mut(Stream::Cold as usize) {
            s.push(queued);
        }
    }

    /// The walk saw every group. After GC the segment is empty once the moves are durable.
    fn walk_done(&mut self, which: usize) {
        if which == GC && self.walks.moves > 0 {
            return;
        }
        let Some(w) = self.walks.slot(which).take() else { return };
        self.walks.ended += 1;
        self.unpin(w.seg);
        if which == GC {
            self.walks.collected += 1;
            if self.index.live_in(w.seg) > 0 {
                self.segs.stick(w.seg);
            }
        }
    }
}

/// Finds headers in `bytes`, which start at relative slot `at`; returns where to read on.
fn scan(w: &mut Walk, start: u64, at: u64, bytes: &[u8]) -> u64 {
    let slots = (bytes.len() / SLOT) as u64;
    let mut rel = at;
    while rel < at + slots.max(1) {
        let from = (rel - at) as usize * SLOT;
        let slot = bytes.get(from..from + SLOT).unwrap_or(&[]);
        match GroupHeader::decode(slot, Expect { seg_seq: w.seq, slot: start + rel }) {
            Ok((h, _)) => {
                rel += 1 + h.data_slots();
                let rel = (h.slot - start) as u32;
                w.groups.push(SummaryGroup { rel, gseq: h.gseq, entries: h.entries });
            }
            Err(_) => rel += 1,
        }
    }
    rel
}
