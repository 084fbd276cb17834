//! States of the segments: who may be written, collected, reused (I14).

use crate::layout::Layout;
use drystone_types::{Rule, Rules};
use std::collections::VecDeque;

/// State of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegState {
    /// Nothing in it counts; it may be given to a stream.
    Free,
    /// A stream writes it, or its summary is not durable yet.
    Open,
    /// Summary durable; may be collected.
    Closed,
    /// No index entry points into it since this point of the log. It is free once a checkpoint that
    /// began there or later is durable, and no read started before is running.
    Emptied(u64),
    /// Being discarded.
    Discarding,
    /// Holds a checkpoint.
    Checkpoint,
    /// Something in it can neither be read nor be moved; it is left alone.
    Stuck,
}

/// One segment.
#[derive(Clone, Copy, Debug)]
pub struct Seg {
    /// Sequence number of its present use.
    pub seq: u64,
    /// State.
    pub state: SegState,
    /// Reads that were planned on it and are running.
    pub reads: u32,
    /// Number of the group after its last durable one.
    pub end_gseq: u64,
    /// Stream.
    pub stream: u8,
}

/// The table of segments.
#[derive(Debug)]
pub struct Segs {
    list: Vec<Seg>,
    free: VecDeque<u32>,
    emptied: Vec<u32>,
    /// Sequence number of the next segment opened.
    pub next_seq: u64,
    rules: Rules,
}

impl Segs {
    /// All free.
    pub fn new(layout: &Layout, next_seq: u64, rules: Rules) -> Segs {
        let seg = Seg { seq: 0, state: SegState::Free, reads: 0, end_gseq: 0, stream: 0 };
        Segs {
            list: vec![seg; layout.segments as usize],
            free: (0..layout.segments).collect(),
            emptied: Vec::new(),
            next_seq,
            rules,
        }
    }
    /// One segment.
    pub fn get(&self, seg: u32) -> Option<&Seg> {
        self.list.get(seg as usize)
    }
    /// All with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Seg)> {
        (0u32..).zip(&self.list)
    }
    /// Segments that may be opened.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }
    /// Segments that wait for a checkpoint or a read.
    pub fn emptied_count(&self) -> usize {
        self.emptied.len()
    }
    /// Checks the lists against the states; `live` gives the blocks indexed in a segment.
    pub fn census(&self, live: impl Fn(u32) -> u32) -> Result<(), String> {
        let listed = |list: &mut dyn Iterator<Item = &u32>, seg: u32| list.filter(|s| **s == seg).count();
        for (seg, s) in self.iter() {
            let free = listed(&mut self.free.iter(), seg);
            let emptied = listed(&mut self.emptied.iter(), seg);
            let right = match s.state {
                SegState::Free => (free, emptied, live(seg)) == (1, 0, 0),
                SegState::Emptied(_) => (free, emptied, live(seg)) == (0, 1, 0),
                SegState::Discarding => (free, emptied, live(seg)) == (0, 0, 0),
                SegState::Checkpoint => (free, emptied, live(seg)) == (0, 0, 0),
                SegState::Open | SegState::Closed | SegState::Stuck => (free, emptied) == (0, 0),
            };
            if !right {
                return Err(format!(
                    "segment {seg} is {s:?}, {free} times free, {emptied} times emptied, {} live",
                    live(seg)
                ));
            }
        }
        Ok(())
    }
    /// Ends loading: what is still free may be opened.
    pub fn finish_load(&mut self) {
        let free = (0u32..).zip(&self.list).filter(|(_, s)| s.state == SegState::Free);
        self.free = free.map(|(n, _)| n).collect();
    }
    /// Whether a checkpoint later than the one that began at `durable` would free a segment.
    pub fn wait_for_checkpoint(&self, durable: u64) -> bool {
        let waits = |seg: &u32| {
            self.get(*seg).is_some_and(|s| s.reads == 0 && matches!(s.state, SegState::Emptied(at) if at > durable))
        };
        self.emptied.iter().any(waits)
    }
    /// Sets a segment as recovery found it; `finish_load` follows.
    pub fn load(&mut self, seg: u32, to: Seg) {
        if let Some(s) = self.list.get_mut(seg as usize) {
            *s = to;
        }
        if matches!(to.state, SegState::Emptied(_)) {
            self.emptied.push(seg);
        }
    }
    /// Takes a free segment for a stream, or for a checkpoint (`None`).
    pub fn open(&mut self, stream: Option<u8>) -> Option<(u32, u64)> {
        let seg = self.free.pop_front()?;
        let s = self.list.get_mut(seg as usize)?;
        s.state = if stream.is_some() { SegState::Open } else { SegState::Checkpoint };
        s.stream = stream.unwrap_or(0);
        s.end_gseq = 0;
        s.seq = 0;
        if stream.is_some() {
            s.seq = self.next_seq;
            self.next_seq += 1;
        }
        Some((seg, s.seq))
    }
    /// Notes a durable group.
    pub fn saw_group(&mut self, seg: u32, gseq: u64) {
        if let Some(s) = self.list.get_mut(seg as usize) {
            s.end_gseq = s.end_gseq.max(gseq + 1);
        }
    }
    /// The summary of a segment is durable.
    pub fn close(&mut self, seg: u32) {
        self.set(seg, SegState::Closed);
    }
    /// Leaves a segment alone from now on.
    pub fn stick(&mut self, seg: u32) {
        self.set(seg, SegState::Stuck);
    }
    /// Lets segments that were left alone be collected again.
    pub fn unstick(&mut self) {
        let stuck = self.list.iter_mut().filter(|s| s.state == SegState::Stuck);
        stuck.for_each(|s| s.state = SegState::Closed);
    }
    fn set(&mut self, seg: u32, state: SegState) {
        if let Some(s) = self.list.get_mut(seg as usize) {
            s.state = state;
        }
    }
    /// No index entry points into a segment any more; `next_lsn` is where the log stands.
    pub fn empty(&mut self, seg: u32, next_lsn: u64) {
        if self.get(seg).is_some_and(|s| matches!(s.state, SegState::Closed | SegState::Stuck)) {
            self.set(seg, SegState::Emptied(next_lsn));
            self.emptied.push(seg);
        }
    }
    /// A checkpoint segment is not needed any more.
    pub fn release(&mut self, seg: u32, discard: bool, out: &mut Vec<u32>) {
        self.free_or_discard(seg, discard, out);
    }
    /// Frees what a durable checkpoint that began at `began` allows; with `discard` the segments go to `out`
    /// and are free after `discarded`.
    pub fn reclaim(&mut self, began: u64, discard: bool, out: &mut Vec<u32>) {
        let list = core::mem::take(&mut self.emptied);
        for seg in list {
            if self.get(seg).is_some_and(|s| self.is_done_with(s, began)) {
                self.free_or_discard(seg, discard, out);
            } else {
                self.emptied.push(seg);
            }
        }
    }
    /// I14: nobody reads it, and no checkpoint that an open may start from needs it.
    fn is_done_with(&self, s: &Seg, began: u64) -> bool {
        let SegState::Emptied(at) = s.state else { return false };
        let (waits, covered) = (self.rules.on(Rule::ReuseWaits), self.rules.on(Rule::ReuseCkpt));
        (s.reads == 0 || !waits) && (at <= began || !covered)
    }
    fn free_or_discard(&mut self, seg: u32, discard: bool, out: &mut Vec<u32>) {
        if discard {
            self.set(seg, SegState::Discarding);
            out.push(seg);
        } else {
            self.set(seg, SegState::Free);
            self.free.push_back(seg);
        }
    }
    /// A discard ended.
    pub fn discarded(&mut self, seg: u32) {
        self.set(seg, SegState::Free);
        self.free.push_back(seg);
    }
    /// A read was planned on a segment.
    pub fn pin(&mut self, seg: u32) {
        if let Some(s) = self.list.get_mut(seg as usize) {
            s.reads += 1;
        }
    }
    /// A read ended.
    pub fn unpin(&mut self, seg: u32) {
        if let Some(s) = self.list.get_mut(seg as usize) {
            s.reads = s.reads.saturating_sub(1);
        }
    }
}
