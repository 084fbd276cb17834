//! Replay: the entries of all streams in the order of their admission, a segment at a time.

use crate::ckpt_codec::Root;
use crate::entry::{Entry, MetaValue};
use crate::format::OpenError;
use crate::loc::SLOT;
use crate::open::Suspicion;
use crate::ranges::RangeMap;
use crate::recover::{Accepted, Found, Recovery, Source};
use crate::segment::{decode_summary, SummaryGroup};
use drystone_csum::crc64;
use drystone_types::Rule;
use std::collections::{BTreeMap, VecDeque};

/// An entry with the slot of its first data and of its header.
struct Placed {
    entry: Entry,
    slot: u64,
    header: u64,
}

/// One stream: segments not loaded yet, and the entries of the one that is.
struct Cursor<'a> {
    segs: VecDeque<&'a Found>,
    entries: VecDeque<Placed>,
}

impl Recovery<'_> {
    pub(crate) fn replay(&mut self, root: &Root, accepted: &Accepted) -> Result<(), OpenError> {
        self.store.freed = root.freed.iter().copied().collect();
        let mut overtaken: BTreeMap<u64, RangeMap<()>> = BTreeMap::new();
        for (lsn, first, count) in &root.overtaken {
            overtaken.entry(*lsn).or_default().set(*first, *count, ());
        }
        let of_stream =
            |n: u8| Cursor { segs: accepted.segs.iter().filter(|f| f.stream == n).collect(), entries: VecDeque::new() };
        let mut cursors = [0, 1, 2].map(of_stream);
        let nothing = RangeMap::default();
        loop {
            for c in &mut cursors {
                while c.entries.is_empty() {
                    let Some(f) = c.segs.pop_front() else { break };
                    c.entries = self.entries_of(f, root);
                }
            }
            let first = cursors.iter_mut().filter(|c| !c.entries.is_empty());
            let in_order = self.store.cfg.rules.on(Rule::ReplayOrder);
            let lsn = |c: &Cursor<'_>| c.entries.front().map_or(u64::MAX, |p| p.entry.lsn());
            let next = first.min_by_key(|c| if in_order { lsn(c) } else { 0 });
            let Some(placed) = next.and_then(|c| c.entries.pop_front()) else { break };
            self.entries += 1;
            let late = overtaken.get(&placed.entry.lsn()).unwrap_or(&nothing);
            self.replay_one(placed, late);
        }
        self.check_index(root, accepted);
        Ok(())
    }

    fn entries_of(&mut self, f: &Found, root: &Root) -> VecDeque<Placed> {
        let from = root.gseq.get(usize::from(f.stream)).copied().unwrap_or(1);
        let groups = match &f.source {
            Source::Covered(_) => return VecDeque::new(),
            Source::Summary(footer) if footer.groups == 0 || f.end_gseq() <= from => return VecDeque::new(),
            Source::Summary(_) => self.summary_groups(f),
            Source::Groups(list) => {
                let short = |(h, rel, _): &(crate::group::GroupHeader, u32, bool)| SummaryGroup {
                    rel: *rel,
                    gseq: h.gseq,
                    entries: h.entries.clone(),
                };
                list.iter().map(short).collect()
            }
        };
        let start = self.store.layout.seg_start(f.seg);
        let mut out = VecDeque::new();
        for g in groups.into_iter().filter(|g| g.gseq >= from) {
            let header = start + u64::from(g.rel);
            let mut slot = header + 1;
            for entry in g.entries {
                let slots = entry.data_slots();
                let at = if slots > 0 { slot } else { header };
                slot += slots;
                out.push_back(Placed { entry, slot: at, header });
            }
        }
        out
    }

    /// The summary, or when it is damaged the groups themselves.
    fn summary_groups(&mut self, f: &Found) -> Vec<SummaryGroup> {
        let Source::Summary(footer) = &f.source else { return Vec::new() };
        let start = self.store.layout.seg_start(f.seg);
        let slots = u64::from(footer.body_len).div_ceil(SLOT as u64);
        let body = self.read_soft(start + u64::from(footer.body_slot), slots);
        if let Ok(groups) = decode_summary(body.get(..footer.body_len as usize).unwrap_or(&[]), footer) {
            return groups;
        }
        let groups = self.scan(f.seg, f.seq, None);
        if (groups.len() as u64) < u64::from(footer.groups) {
            self.doubt(Suspicion::SummaryLost);
        }
        let short = |(h, rel, _): (crate::group::GroupHeader, u32, bool)| SummaryGroup {
            rel,
            gseq: h.gseq,
            entries: h.entries,
        };
        groups.into_iter().take(footer.groups as usize).map(short).collect()
    }

    fn replay_one(&mut self, p: Placed, overtaken: &RangeMap<()>) {
        match &p.entry {
            Entry::Blocks(b) => self.store.apply_blocks(b, p.slot, p.header, overtaken),
            Entry::Meta { lsn, key, value: MetaValue::Inline(v) } => self.store.apply_meta(*lsn, *key, v.clone()),
            Entry::Meta { lsn, key, value: MetaValue::Slots { len, crc } } => {
                let mut value = self.read_soft(p.slot, p.entry.data_slots());
                value.truncate(*len as usize);
                if crc64(&value) == *crc {
                    self.store.apply_meta(*lsn, *key, value);
                } else {
                    self.doubt(Suspicion::ValueLost);
                }
            }
            other => self.store.apply_other(other),
        }
    }

    /// Every segment with something indexed must be one that was found.
    fn check_index(&mut self, root: &Root, accepted: &Accepted) {
        let mut used = vec![false; self.store.layout.segments as usize];
        for seg in accepted.segs.iter().map(|f| f.seg) {
            if let Some(u) = used.get_mut(seg as usize) {
                *u = true;
            }
        }
        let own = |seg: u32| root.own.contains(&seg);
        let lost = (0u32..).zip(&used).any(|(seg, used)| (!used || own(seg)) && self.store.index.live_in(seg) > 0);
        if lost {
            self.doubt(Suspicion::IndexBroken);
        }
    }
}
