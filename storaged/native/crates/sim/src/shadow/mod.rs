//! A second opinion about each drive's log, formed from the bytes that reach its device and nothing else.
//!
//! It parses every group on its way to the device, applies it when the device says it is durable and
//! every earlier group of its stream is, and so knows what the drive must hold: after a crash (I15), after
//! garbage collection (I13), and when a segment is written again (I14).

pub mod model;

use std::collections::BTreeMap;

use drystone_store::api::DevOp;
use drystone_store::entry::Entry;
use drystone_store::group::{Expect, GroupHeader};
use drystone_store::loc::SLOT;
use drystone_store::segment::SegHeader;
use drystone_types::{Buf, Reader};

pub use model::{Applied, Cell, Group, Model, Object};

/// How often the checks of one drive found something to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Groups applied in the order of their stream.
    pub groups: u64,
    /// Blocks that garbage collection moved, bytes and version compared.
    pub moves: u64,
    /// Groups whose bytes were compared with their checksums.
    pub whole: u64,
    /// Moves that came after an overwrite.
    pub moves_lost: u64,
    /// Segments written again.
    pub reused: u64,
    /// Writes that were compared with what is live and with what is being read.
    pub writes: u64,
    /// Groups of a crash that were whole in spite of it.
    pub kept: u64,
    /// Groups that a crash took.
    pub cut: u64,
    /// Whole groups behind a torn one of their stream.
    pub behind_torn: u64,
}

#[derive(Debug)]
struct Pending {
    group: Group,
    op: u64,
    done: bool,
}

/// What the bytes on a drive say.
#[derive(Debug, Default)]
pub struct Shadow {
    /// Index.
    pub model: Model,
    /// Counters.
    pub seen: Seen,
    /// What changed since it was taken last.
    pub applied: Vec<Applied>,
    /// When the model changed last, in virtual time; the core hears of it a step later.
    pub changed_at: u64,
    /// What must not have been seen: oracle and text.
    pub broken: Vec<(&'static str, String)>,
    distrusted: bool,
    pending: [BTreeMap<u64, Pending>; 3],
    reads: BTreeMap<u64, (u64, u64)>,
    /// Segment numbers by their first slot, to see reuse.
    uses: BTreeMap<u64, u64>,
    /// Groups that were under way when the process or the power went.
    crashed: [Vec<Group>; 3],
}

impl Shadow {
    fn break_(&mut self, oracle: &'static str, text: String) {
        if !self.distrusted {
            self.broken.push((oracle, text));
        }
    }
    /// The device lost what it had called durable: nothing here holds any more.
    pub fn distrust(&mut self) {
        self.distrusted = true;
    }
    /// Whether nothing holds any more of what was seen.
    pub fn is_distrusted(&self) -> bool {
        self.distrusted
    }
    /// An operation is given to the device.
    pub fn submitted(&mut self, op: &DevOp) {
        match op {
            DevOp::Write { id, offset, bufs, .. } => {
                let slots: Vec<Buf> = bufs.iter().flat_map(|b| (0..b.len() / SLOT).map(|i| b.block(i))).collect();
                let first = offset / SLOT as u64;
                self.overwrites(first, slots.len() as u64);
                self.parse(*id, first, &slots);
            }
            DevOp::Read { id, offset, len } => {
                let first = offset / SLOT as u64;
                self.reads.insert(*id, (first, first + u64::from(*len) / SLOT as u64));
            }
            DevOp::Flush { .. } | DevOp::Discard { .. } => {}
        }
    }
    /// I14: nothing that is live, on its way, or being read is written over.
    pub fn overwrites(&mut self, first: u64, count: u64) {
        self.seen.writes += 1;
        let range = first..first + count;
        if let Some((slot, who)) = range.clone().find_map(|s| self.model.at(s).map(|who| (s, who))) {
            self.break_("I14", format!("slot {slot} is written again though it holds the live block {who:?}"));
        }
        let read = self.reads.values().find(|(a, b)| *a < range.end && range.start < *b);
        if let Some((a, b)) = read.copied() {
            self.break_("I14", format!("slots {range:?} are written again while slots {a}..{b} are being read"));
        }
        let under_way = self.pending.iter().flat_map(|s| s.values()).find(|p| {
            let h = &p.group.header;
            h.slot < range.end && range.start < h.slot + p.group.slots.len() as u64
        });
        if let Some(p) = under_way {
            let text = format!("slots {range:?} are written again before group {} is durable", p.group.header.gseq);
            self.break_("I14", text);
        }
    }
    fn parse(&mut self, op: u64, first: u64, slots: &[Buf]) {
        let mut i = 0;
        while let Some(buf) = slots.get(i) {
            let slot = first + i as u64;
            if let Ok(h) = SegHeader::decode(buf.as_slice()) {
                let old = self.uses.insert(slot, h.seq);
                self.seen.reused += u64::from(old.is_some_and(|seq| seq != h.seq));
            }
            let Some(header) = decode_group(buf.as_slice(), slot) else {
                i += 1;
                continue;
            };
            let len = 1 + header.data_slots() as usize;
            let bytes = slots.get(i..i + len).unwrap_or(&[]).to_vec();
            let (stream, gseq) = (usize::from(header.stream), header.gseq);
            let group = Group { header, slots: bytes };
            self.check_bytes(&group);
            self.pending[stream].insert(gseq, Pending { group, op, done: false });
            i += len;
        }
    }
    /// I16, and I13 of what garbage collection writes: bytes are what their checksums say.
    fn check_bytes(&mut self, group: &Group) {
        // Slot by slot: byte by byte this was half of the simulator's time.
        let mut data = Vec::with_capacity(group.slots.len() * SLOT);
        group.slots.iter().skip(1).for_each(|b| data.extend_from_slice(b.as_slice()));
        self.seen.whole += 1;
        if group.header.data_is_whole(&data) {
            return;
        }
        let moves = group.header.entries.iter().any(|e| matches!(e, Entry::Blocks(b) if b.source.is_some()));
        let (stream, gseq) = (group.header.stream, group.header.gseq);
        let text = format!("group {gseq} of stream {stream} is written with bytes that do not match their checksums");
        self.break_(if moves { "I13" } else { "I16" }, text);
    }
    /// An operation of the device ended.
    pub fn finished(&mut self, op: &DevOp) {
        let (DevOp::Write { id, .. } | DevOp::Read { id, .. } | DevOp::Flush { id } | DevOp::Discard { id, .. }) = op;
        self.reads.remove(id);
        for stream in 0..3 {
            for p in self.pending[stream].values_mut().filter(|p| p.op == *id) {
                p.done = true;
            }
            while let Some(first) = self.pending[stream].first_entry() {
                if !first.get().done {
                    break;
                }
                let group = first.remove().group;
                self.apply(&group);
            }
        }
    }
    fn apply(&mut self, group: &Group) {
        self.seen.groups += 1;
        let from = self.applied.len();
        self.model.apply(group, &mut self.applied);
        for change in self.applied.get(from..).unwrap_or(&[]).to_vec() {
            self.seen.moves += u64::from(change.moved && !change.lost);
            self.seen.moves_lost += u64::from(change.lost);
            let kept = change.before.is_some_and(|c| c.content() == change.after.content());
            if change.moved && !change.lost && !kept {
                self.break_("I13", format!("a move changed a block: {change:?}"));
            }
        }
    }
    /// The process or the power went; nothing that was under way ends any more.
    pub fn stopped(&mut self) {
        self.reads.clear();
        for (list, pending) in self.crashed.iter_mut().zip(&mut self.pending) {
            list.extend(std::mem::take(pending).into_values().map(|p| p.group));
        }
    }
    /// What an open must find: of each stream, the groups up to the first that the device does not hold whole.
    pub fn reopen(&mut self, holds: impl Fn(u64, &Buf) -> bool) {
        let mut groups = Vec::new();
        for stream in std::mem::take(&mut self.crashed) {
            let mut whole = true;
            for group in stream {
                let intact = (group.header.slot..).zip(&group.slots).all(|(slot, buf)| holds(slot, buf));
                self.seen.behind_torn += u64::from(intact && !whole);
                whole &= intact;
                if whole {
                    self.seen.kept += 1;
                    groups.push(group);
                } else {
                    self.seen.cut += 1;
                }
            }
        }
        let mut entries: Vec<(u64, usize, Entry, u64, Vec<u64>)> = Vec::new();
        for (n, group) in groups.iter().enumerate() {
            entries.extend(group.header.walk().map(|(e, slot, c)| (e.lsn(), n, e.clone(), slot, c.to_vec())));
        }
        // Replay is in the order of admission over all streams.
        entries.sort_by_key(|(lsn, ..)| *lsn);
        for (_, n, entry, slot, csums) in entries {
            if let Some(group) = groups.get(n) {
                self.model.apply_entry(group, &entry, slot, &csums, &mut self.applied);
            }
        }
    }
}

/// A group header, if the slot holds one.
fn decode_group(bytes: &[u8], slot: u64) -> Option<GroupHeader> {
    let seg_seq = Reader::new(bytes.get(24..)?).u64().ok()?;
    GroupHeader::decode(bytes, Expect { seg_seq, slot }).ok().map(|(header, _)| header)
}
