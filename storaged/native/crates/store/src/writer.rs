//! One stream: queued records become groups, groups become device writes, in order.

use crate::api::Token;
use crate::entry::{BlockEntry, Entry, MetaValue, BLOCK_ENTRY};
use crate::group::{GroupHeader, BODY_MAX};
use crate::loc::SLOT;
use crate::segment::{push_group, Footer, SegHeader, GROUP_PREFIX};
use drystone_csum::crc64;
use drystone_types::{Buf, BufMut, Uuid};
use std::collections::VecDeque;

/// Most slots of one device write (2 MiB): bounds the time a small record waits behind it.
const WRITE_SLOTS_MAX: u64 = 512;
/// Most data slots of one group: the distance to the header must fit, and the header's checksums.
const GROUP_DATA_MAX: u64 = 480;

/// Who waits for a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    /// The caller.
    Client(Token),
    /// Garbage collection.
    Gc,
}

/// A record in the queue of its stream.
#[derive(Debug)]
pub struct Queued {
    /// The whole record as an entry.
    pub entry: Entry,
    /// Checksums of its data.
    pub csums: Vec<u64>,
    /// Data of its blocks, or the value of a `Meta` in slots.
    pub data: Buf,
    /// Value of a `Meta`.
    pub value: Vec<u8>,
    /// Who waits.
    pub ack: Ack,
    /// Blocks already in a group.
    pub taken: u16,
}

/// A composed group until it is durable.
#[derive(Debug)]
pub struct InGroup {
    /// What the header says.
    pub header: GroupHeader,
    /// Per entry: who is told, when this is the last part of the record.
    pub acks: Vec<Option<Ack>>,
    /// Values of the `Meta` entries, in order.
    pub values: Vec<Vec<u8>>,
    /// Segment.
    pub seg: u32,
}

struct InWrite {
    id: u64,
    done: bool,
    seg: u32,
    groups: Vec<InGroup>,
}

/// A segment being filled, or filled and without a durable summary.
#[derive(Debug)]
pub struct OpenSeg {
    /// Number.
    pub seg: u32,
    /// Sequence number.
    pub seq: u64,
    /// First slot on the drive.
    pub start: u64,
    /// Slots used.
    pub used: u64,
    /// Slots of the segment.
    pub slots: u64,
    body: Vec<u8>,
    groups: u32,
    first_gseq: u64,
    last_lsn: u64,
    writes: u32,
    summary_started: bool,
}

impl OpenSeg {
    /// A segment with nothing in it.
    pub fn new(seg: u32, seq: u64, start: u64, slots: u64, first_gseq: u64) -> OpenSeg {
        let body = Vec::new();
        OpenSeg {
            seg,
            seq,
            start,
            used: 1,
            slots,
            body,
            groups: 0,
            first_gseq,
            last_lsn: 0,
            writes: 0,
            summary_started: false,
        }
    }
    /// Slots that one more group may use, the summary that follows it put aside.
    fn room(&self) -> u64 {
        let summary = (self.body.len() + GROUP_PREFIX + BODY_MAX).div_ceil(SLOT) as u64 + 1;
        self.slots.saturating_sub(self.used + summary)
    }
    /// Adds a group to the summary.
    pub fn push(&mut self, header: &GroupHeader, entry_bytes: &[u8]) {
        let rel = u32::try_from(header.slot - self.start).unwrap_or(0);
        push_group(&mut self.body, rel, header.gseq, header.entries.len(), entry_bytes);
        self.groups += 1;
        self.used = self.used.max(u64::from(rel) + 1 + header.data_slots());
        let last = header.entries.iter().map(Entry::lsn).max().unwrap_or(0);
        self.last_lsn = self.last_lsn.max(last);
    }
    /// The summary: its first slot on the drive and its bytes.
    pub fn summary(&self, stream: u8, durable: [u64; 3]) -> (u64, BufMut) {
        let body_slots = self.body.len().div_ceil(SLOT) as u64;
        let body_slot = self.slots - 1 - body_slots;
        let footer = Footer {
            seq: self.seq,
            seg: self.seg,
            stream,
            body_slot: body_slot as u32,
            body_len: self.body.len() as u32,
            body_crc: crc64(&self.body),
            groups: self.groups,
            first_gseq: self.first_gseq,
            used: self.used as u32,
            last_lsn: self.last_lsn,
            durable,
        };
        let mut buf = BufMut::zeroed((body_slots as usize + 1) * SLOT);
        let (body, last) = buf.as_mut_slice().split_at_mut(body_slots as usize * SLOT);
        if let Some(to) = body.get_mut(..self.body.len()) {
            to.copy_from_slice(&self.body);
        }
        last.copy_from_slice(&footer.encode());
        (self.start + body_slot, buf)
    }
}

/// Constants of a write.
#[derive(Clone, Copy, Debug)]
pub struct WriteCtx {
    /// Drive.
    pub drive: Uuid,
    /// Nonce of this open.
    pub nonce: u64,
    /// Per stream: first group that is not durable.
    pub durable: [u64; 3],
}

/// What `Stream::compose` gives: a device write.
#[derive(Debug)]
pub struct Composed {
    /// First slot.
    pub slot: u64,
    /// Buffers.
    pub bufs: Vec<Buf>,
    /// Blocks of client data in it.
    pub data_slots: u64,
}

/// One stream of the log.
pub struct Stream {
    number: u8,
    queue: VecDeque<Queued>,
    inflight: VecDeque<InWrite>,
    open: Option<OpenSeg>,
    closing: VecDeque<OpenSeg>,
    next_gseq: u64,
    durable_gseq: u64,
    prev_crc: u64,
    queued_slots: u64,
    scratch: Vec<u8>,
}

impl Stream {
    /// A stream whose next group has the number `next_gseq`.
    pub fn new(number: u8, next_gseq: u64) -> Stream {
        Stream {
            number,
            queue: VecDeque::new(),
            inflight: VecDeque::new(),
            open: None,
            closing: VecDeque::new(),
            next_gseq,
            durable_gseq: next_gseq,
            prev_crc: 0,
            queued_slots: 0,
            scratch: Vec::new(),
        }
    }
    /// Adds a record.
    pub fn push(&mut self, q: Queued) {
        self.queued_slots += q.entry.data_slots() + 1;
        self.queue.push_back(q);
    }
    /// Whether records wait to be composed.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }
    /// Slots waiting to be composed.
    pub fn queued_slots(&self) -> u64 {
        self.queued_slots
    }
    /// Device writes running.
    pub fn inflight(&self) -> usize {
        self.inflight.len()
    }
    /// First group that is not durable.
    pub fn durable_gseq(&self) -> u64 {
        self.durable_gseq
    }
    /// Log sequence number of the oldest record that is not durable.
    pub fn oldest_lsn(&self) -> Option<u64> {
        let running = self.inflight.front().and_then(|w| w.groups.first()).and_then(|g| g.header.entries.first());
        running.map(Entry::lsn).or_else(|| self.queue.front().map(|q| q.entry.lsn()))
    }
    /// Whether a new segment is needed before anything can be composed.
    pub fn needs_segment(&self) -> bool {
        self.open.is_none()
    }
    /// Gives the stream a segment.
    pub fn give_segment(&mut self, seg: u32, seq: u64, start: u64, slots: u64) {
        self.open = Some(OpenSeg::new(seg, seq, start, slots, self.next_gseq));
    }
    /// Composes one device write `id` from what is queued; `None` when nothing is, or when the
    /// segment is full and another one must be given first.
    pub fn compose(&mut self, id: u64, ctx: &WriteCtx) -> Option<Composed> {
        let open = self.open.as_ref()?;
        let (seg, slot) = (open.seg, if open.groups == 0 { open.start } else { open.start + open.used });
        let mut bufs = Vec::with_capacity(8);
        if open.groups == 0 {
            let head = SegHeader { drive: ctx.drive, nonce: ctx.nonce, seq: open.seq, seg, stream: self.number };
            bufs.push(Buf::copy_from(&head.encode()));
        }
        let (mut groups, mut slots, mut data_slots) = (Vec::new(), 0, 0);
        while slots < WRITE_SLOTS_MAX && !self.queue.is_empty() {
            let Some(group) = self.build_group(ctx, WRITE_SLOTS_MAX - slots, &mut bufs) else { break };
            slots += 1 + group.header.data_slots();
            data_slots += group.header.csums.len() as u64;
            groups.push(group);
        }
        if groups.is_empty() {
            let full = self.open.take_if(|o| o.groups > 0);
            self.closing.extend(full);
            return None;
        }
        self.open.as_mut()?.writes += 1;
        self.inflight.push_back(InWrite { id, done: false, seg, groups });
        Some(Composed { slot, bufs, data_slots })
    }

    fn build_group(&mut self, ctx: &WriteCtx, limit: u64, bufs: &mut Vec<Buf>) -> Option<InGroup> {
        let open = self.open.as_ref()?;
        let room = open.room().checked_sub(1)?.min(GROUP_DATA_MAX).min(limit.max(65));
        let (slot, seg_seq, seg) = (open.start + open.used, open.seq, open.seg);
        let at = bufs.len();
        bufs.push(Buf::empty());
        let header = GroupHeader {
            nonce: ctx.nonce,
            seg_seq,
            slot,
            gseq: self.next_gseq,
            durable: ctx.durable,
            prev_crc: self.prev_crc,
            stream: self.number,
            entries: Vec::new(),
            csums: Vec::new(),
        };
        let mut group = InGroup { header, acks: Vec::new(), values: Vec::new(), seg };
        self.scratch.clear();
        self.fill_group(&mut group, room, bufs);
        if group.header.entries.is_empty() {
            bufs.truncate(at);
            return None;
        }
        let mut head = BufMut::with_len(SLOT);
        self.prev_crc = group.header.encode(&self.scratch, head.as_mut_slice());
        if let Some(place) = bufs.get_mut(at) {
            *place = head.freeze();
        }
        self.next_gseq += 1;
        self.open.as_mut()?.push(&group.header, &self.scratch);
        Some(group)
    }

    fn fill_group(&mut self, group: &mut InGroup, mut room: u64, bufs: &mut Vec<Buf>) {
        let mut body = BODY_MAX;
        while let Some(front) = self.queue.front_mut() {
            let Some((entry, data)) = take_part(front, room, body) else { break };
            let from = usize::from(front.taken);
            let csums = front.csums.get(from..from + entry.csums()).unwrap_or(&[]);
            entry.encode(&mut self.scratch);
            group.header.csums.extend_from_slice(csums);
            body -= entry.encoded_len() + csums.len() * 8;
            room -= entry.data_slots();
            self.queued_slots = self.queued_slots.saturating_sub(entry.data_slots());
            if !data.is_empty() {
                bufs.push(data);
            }
            let last = match (&front.entry, &entry) {
                (Entry::Blocks(whole), Entry::Blocks(part)) => part.first + part.count == whole.first + whole.count,
                _ => true,
            };
            group.acks.push(last.then_some(front.ack));
            if let Entry::Meta { .. } = entry {
                group.values.push(core::mem::take(&mut front.value));
            }
            front.taken += if let Entry::Blocks(part) = &entry { part.count } else { 0 };
            group.header.entries.push(entry);
            if last {
                self.queued_slots = self.queued_slots.saturating_sub(1);
                self.queue.pop_front();
            }
        }
    }

    /// A device write ended. Returns the groups that are durable now, in order.
    pub fn finish(&mut self, id: u64) -> Vec<InGroup> {
        if let Some(w) = self.inflight.iter_mut().find(|w| w.id == id) {
            w.done = true;
        }
        let mut groups = Vec::new();
        while self.inflight.front().is_some_and(|w| w.done) {
            let Some(w) = self.inflight.pop_front() else { break };
            let segs = self.open.iter_mut().chain(&mut self.closing);
            segs.filter(|s| s.seg == w.seg).for_each(|s| s.writes -= 1);
            self.durable_gseq = w.groups.last().map_or(self.durable_gseq, |g| g.header.gseq + 1);
            groups.extend(w.groups);
        }
        groups
    }
    /// The summary to write next: segment, first slot, bytes. A summary is written only when all
    /// groups of its segment and the summary before it in the stream are durable.
    pub fn next_summary(&mut self, durable: [u64; 3]) -> Option<(u32, u64, BufMut)> {
        let number = self.number;
        let front = self.closing.front_mut().filter(|s| s.writes == 0 && !s.summary_started)?;
        front.summary_started = true;
        let (slot, buf) = front.summary(number, durable);
        Some((front.seg, slot, buf))
    }
    /// A summary is durable.
    pub fn summary_done(&mut self) {
        self.closing.pop_front();
    }
    /// Ends the open segment early, so that everything is summarised at a clean stop.
    pub fn seal(&mut self) {
        if self.queue.is_empty() {
            let used = self.open.take_if(|o| o.groups > 0);
            self.closing.extend(used);
        }
    }
    /// Whether nothing is queued, running or without a summary.
    pub fn is_idle(&self) -> bool {
        let open = self.open.as_ref().is_some_and(|o| o.groups > 0);
        self.queue.is_empty() && self.inflight.is_empty() && self.closing.is_empty() && !open
    }
}

/// The next part of a record that fits, with its data.
fn take_part(front: &Queued, room: u64, body: usize) -> Option<(Entry, Buf)> {
    let Entry::Blocks(whole) = &front.entry else {
        let fits = front.entry.encoded_len() <= body && front.entry.data_slots() <= room;
        return fits.then(|| (front.entry.clone(), front.data.clone()));
    };
    let left = whole.count - front.taken;
    let fits = body.checked_sub(BLOCK_ENTRY)?;
    let count = if whole.has_data() { u64::from(left).min(room).min(fits as u64 / 8) as u16 } else { left };
    if count == 0 {
        return None;
    }
    let source = whole.source.map(|s| s.advance(front.taken));
    let part = BlockEntry { first: whole.first + front.taken, count, source, ..*whole };
    let from = usize::from(front.taken) * SLOT;
    let data = if part.has_data() { front.data.slice(from..from + usize::from(count) * SLOT) } else { Buf::empty() };
    Some((Entry::Blocks(part), data))
}

/// Makes the queue entry of a small value.
pub fn queue_meta(lsn: u64, key: crate::api::MetaKey, value: &[u8], ack: Ack) -> Queued {
    let (small, data) = if value.len() <= crate::entry::INLINE_MAX {
        (MetaValue::Inline(value.to_vec()), Buf::empty())
    } else {
        let mut padded = BufMut::zeroed(value.len().next_multiple_of(SLOT));
        if let Some(to) = padded.as_mut_slice().get_mut(..value.len()) {
            to.copy_from_slice(value);
        }
        (MetaValue::Slots { len: value.len() as u32, crc: crc64(value) }, padded.freeze())
    };
    let entry = Entry::Meta { lsn, key, value: small };
    Queued { entry, csums: Vec::new(), data, value: value.to_vec(), ack, taken: 0 }
}
