//! Finding what the log holds after a stop of any kind: torn tails are cut, rot is told apart.

use crate::api::MetaKey;
use crate::ckpt_codec::{chunk_bytes, open_chunk, take_item, Item, Root, SegItem};
use crate::dev::SyncDev;
use crate::entry::Entry;
use crate::format::OpenError;
use crate::group::{Expect, GroupHeader};
use crate::loc::SLOT;
use crate::open::Suspicion;
use crate::segment::{Footer, SegHeader};
use crate::store::LogStore;
use crate::writer::OpenSeg;
use drystone_types::{Reader, Rule};
use hashbrown::HashMap;

/// How far behind a break a valid header is looked for: more than the writes in flight of a stream.
const LOOK_AHEAD_SLOTS: u64 = (16 << 20) / SLOT as u64;

/// An open under way.
pub(crate) struct Recovery<'d> {
    pub(crate) dev: &'d mut dyn SyncDev,
    pub(crate) store: LogStore,
    pub(crate) suspect: Option<Suspicion>,
    pub(crate) bytes_read: u64,
    pub(crate) scanned: u64,
    pub(crate) entries: u64,
    pub(crate) objects: u64,
    pub(crate) max_lsn: u64,
    pub(crate) max_seq: u64,
    pub(crate) checkpoint_bytes: u64,
    claims: [u64; 3],
}

/// Where the entries of a segment are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Covered by the checkpoint; the number of the group after its last one.
    Covered(u64),
    /// In its summary.
    Summary(Footer),
    /// In the groups that were found, with whether their data is whole.
    Groups(Vec<(GroupHeader, u32, bool)>),
}

/// A segment in use.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) seg: u32,
    pub(crate) seq: u64,
    pub(crate) stream: u8,
    pub(crate) last_lsn: u64,
    pub(crate) emptied: u64,
    pub(crate) source: Source,
}

impl Found {
    /// Number of the group after its last one.
    pub(crate) fn end_gseq(&self) -> u64 {
        match &self.source {
            Source::Covered(end) => *end,
            Source::Summary(f) => f.end_gseq(),
            Source::Groups(g) => g.last().map_or(0, |g| g.0.gseq + 1),
        }
    }
}

/// What of the log counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accepted {
    pub(crate) segs: Vec<Found>,
    pub(crate) next_gseq: [u64; 3],
    pub(crate) discarded: u64,
}

/// Reads the checkpoint that the superblock names into the store.
pub(crate) fn read_checkpoint(rec: &mut Recovery<'_>) -> Result<Root, OpenError> {
    let ptr = rec.store.sb.root;
    if ptr.slot == 0 {
        return Ok(Root { gseq: [1; 3], ..Root::default() });
    }
    let bad = |_| OpenError::CheckpointDamaged;
    let in_range = ptr.bytes as u64 <= rec.store.layout.seg_slots * SLOT as u64;
    let bytes = if in_range { rec.read(ptr.slot, u64::from(ptr.bytes).div_ceil(SLOT as u64))? } else { Vec::new() };
    let index = Reader::new(bytes.get(24..).unwrap_or(&[])).u32().map_err(bad)?;
    let root = Root::decode(open_chunk(&bytes, ptr.number, index).map_err(bad)?).map_err(bad)?;
    let segments = rec.store.layout.segments;
    if root.chunks != index || root.own.iter().chain(root.segs.iter().map(|s| &s.seg)).any(|s| *s >= segments) {
        return Err(OpenError::CheckpointDamaged);
    }
    rec.max_lsn = rec.max_lsn.max(ptr.number);
    let mut next = 0;
    for seg in &root.own {
        rec.load_chunks(*seg, ptr.number, root.chunks, &mut next)?;
    }
    if next == root.chunks {
        Ok(root)
    } else {
        Err(OpenError::CheckpointDamaged)
    }
}

impl<'d> Recovery<'d> {
    pub(crate) fn new(dev: &'d mut dyn SyncDev, store: LogStore) -> Recovery<'d> {
        let claims = store.sb.durable;
        Recovery {
            dev,
            store,
            suspect: None,
            bytes_read: 0,
            scanned: 0,
            entries: 0,
            objects: 0,
            max_lsn: 0,
            max_seq: 0,
            checkpoint_bytes: 0,
            claims,
        }
    }
    pub(crate) fn read(&mut self, slot: u64, slots: u64) -> Result<Vec<u8>, OpenError> {
        let mut buf = vec![0u8; slots as usize * SLOT];
        self.bytes_read += buf.len() as u64;
        self.dev.read_at(slot * SLOT as u64, &mut buf)?;
        Ok(buf)
    }
    /// Like `read`, but a slot that the device cannot read is zeros: damage, found by its checksum.
    pub(crate) fn read_soft(&mut self, slot: u64, slots: u64) -> Vec<u8> {
        self.read(slot, slots).unwrap_or_else(|_| vec![0u8; slots as usize * SLOT])
    }
    pub(crate) fn doubt(&mut self, why: Suspicion) {
        self.suspect.get_or_insert(why);
    }

    fn load_chunks(&mut self, seg: u32, number: u64, chunks: u32, next: &mut u32) -> Result<(), OpenError> {
        let layout = self.store.layout;
        let start = layout.seg_start(seg);
        let mut rel = 0;
        while *next < chunks && rel < layout.seg_slots {
            let first = self.read(start + rel, 1)?;
            let Some(bytes) = chunk_bytes(&first, number, *next) else { break };
            let slots = (bytes / SLOT) as u64;
            if rel + slots > layout.seg_slots {
                return Err(OpenError::CheckpointDamaged);
            }
            let mut chunk = first;
            chunk.extend(self.read(start + rel + 1, slots - 1)?);
            let payload = open_chunk(&chunk, number, *next).map_err(|_| OpenError::CheckpointDamaged)?;
            let mut r = Reader::new(payload);
            while r.remaining() > 0 {
                let item = take_item(&mut r).map_err(|_| OpenError::CheckpointDamaged)?;
                self.load_item(item);
            }
            rel += slots;
            *next += 1;
            self.checkpoint_bytes += bytes as u64;
        }
        Ok(())
    }
    fn load_item(&mut self, item: Item) {
        match item {
            Item::Meta(key, lsn, value) => self.load_meta(key, lsn, value),
            Item::Vol(vol, gen) => self.store.index.saw_gen(vol, gen),
            Item::Recent(pg, recent) => self.store.hot.load_recent(pg, recent),
            Item::Object(o) => {
                self.objects += 1;
                self.store.index.load(o.key, o.vol, o.pg, o.last_mod, &o.extents);
                for (first, count, version) in o.versions {
                    self.store.hot.load_version(o.key, o.vol, o.pg, (first, count), version);
                }
                for (first, count, epoch) in o.joins {
                    self.store.hot.load_join(o.key, o.pg, first, count, epoch);
                }
            }
        }
    }
    fn load_meta(&mut self, key: MetaKey, lsn: u64, value: Vec<u8>) {
        self.store.durable_metas.insert(key, (lsn, value));
    }

    /// Looks at every segment that the checkpoint does not cover.
    pub(crate) fn find_segments(&mut self, root: &Root) -> Result<Vec<Found>, OpenError> {
        let listed: HashMap<u32, SegItem> = root.segs.iter().map(|s| (s.seg, *s)).collect();
        let mut found = Vec::new();
        for seg in 0..self.store.layout.segments {
            if root.own.contains(&seg) {
                continue;
            }
            // A segment that was empty before the checkpoint began is free; it may be in use again.
            let item = listed.get(&seg).filter(|i| i.emptied == 0 || i.emptied > root.began);
            let covered =
                item.filter(|i| i.closed && root.gseq.get(usize::from(i.stream)).is_some_and(|g| i.end_gseq <= *g));
            if let Some(i) = covered {
                found.push(Found {
                    seg,
                    seq: i.seq,
                    stream: i.stream,
                    last_lsn: 0,
                    emptied: i.emptied,
                    source: Source::Covered(i.end_gseq),
                });
                continue;
            }
            found.extend(self.look_at(seg, item, &root.gseq));
        }
        for f in &found {
            self.max_seq = self.max_seq.max(f.seq);
            self.max_lsn = self.max_lsn.max(f.last_lsn);
        }
        Ok(found)
    }

    fn look_at(&mut self, seg: u32, item: Option<&SegItem>, covered: &[u64; 3]) -> Option<Found> {
        let layout = self.store.layout;
        let first = self.read_soft(layout.seg_start(seg), 1);
        let drive = self.store.sb.drive;
        let header = SegHeader::decode(&first).ok().filter(|h| h.drive == drive && h.seg == seg);
        let (seq, stream) = match (item, header) {
            (Some(i), _) => (i.seq, i.stream),
            // A power cut may have kept the first group and taken the header of the same write: what stands there
            // then is the header of an earlier use, or nothing.
            (None, h) => h.map(|h| (h.seq, h.stream)).max(self.identify(seg))?,
        };
        self.scanned += 1;
        let last = self.read_soft(layout.seg_start(seg) + layout.seg_slots - 1, 1);
        let emptied = item.map_or(0, |i| i.emptied);
        let (last_lsn, source) = match Footer::decode(&last, seg, seq, layout.seg_slots) {
            Ok(f) => {
                self.claim(f.durable);
                (f.last_lsn, Source::Summary(f))
            }
            Err(_) => {
                let nonce = header.filter(|h| h.seq == seq).map(|h| h.nonce);
                let groups = self.scan(seg, seq, nonce);
                let last = groups.iter().flat_map(|g| &g.0.entries).map(Entry::lsn).max().unwrap_or(0);
                (last, Source::Groups(groups))
            }
        };
        // Not named by the checkpoint and older than it: left over from an earlier use.
        let empty = matches!(&source, Source::Groups(g) if g.is_empty());
        self.max_seq = self.max_seq.max(seq);
        self.max_lsn = self.max_lsn.max(last_lsn);
        let found = Found { seg, seq, stream, last_lsn, emptied, source };
        let old = covered.get(usize::from(stream)).is_some_and(|g| found.end_gseq() <= *g);
        let stale = item.is_none() && old && !empty;
        (!stale).then_some(found)
    }

    /// Sequence number and stream of a segment by its first group.
    fn identify(&mut self, seg: u32) -> Option<(u64, u8)> {
        let slot = self.store.layout.seg_start(seg) + 1;
        let first = self.read_soft(slot, 1);
        let seq = Reader::new(first.get(24..)?).u64().ok()?;
        let header = GroupHeader::decode(&first, Expect { seg_seq: seq, slot }).ok()?.0;
        Some((seq, header.stream))
    }
    fn claim(&mut self, durable: [u64; 3]) {
        for (mine, theirs) in self.claims.iter_mut().zip(durable) {
            *mine = (*mine).max(theirs);
        }
    }

    /// Groups from the segment's start to the first break; headers behind the break only tell what
    /// was durable.
    pub(crate) fn scan(&mut self, seg: u32, seq: u64, nonce: Option<u64>) -> Vec<(GroupHeader, u32, bool)> {
        let layout = self.store.layout;
        let start = layout.seg_start(seg);
        let bytes = self.read_soft(start, layout.seg_slots);
        let slot_at = |rel: u64| bytes.get(rel as usize * SLOT..(rel as usize + 1) * SLOT).unwrap_or(&[]);
        let mut groups: Vec<(GroupHeader, u32, bool)> = Vec::new();
        let (mut rel, mut broken_at, mut prev) = (1, None, None);
        while rel < layout.seg_slots && broken_at.is_none_or(|at| rel < at + LOOK_AHEAD_SLOTS) {
            let parsed = GroupHeader::decode(slot_at(rel), Expect { seg_seq: seq, slot: start + rel });
            let ours = parsed.ok().filter(|(h, _)| nonce.is_none_or(|n| n == h.nonce));
            let Some((header, crc)) = ours else {
                broken_at.get_or_insert(rel);
                rel += 1;
                continue;
            };
            self.claim(header.durable);
            let last = header.entries.iter().map(Entry::lsn).max().unwrap_or(0);
            self.max_lsn = self.max_lsn.max(last);
            let slots = 1 + header.data_slots();
            let follows = prev.is_none_or(|p| p == header.prev_crc);
            if broken_at.is_none() && follows {
                let data = bytes.get((rel as usize + 1) * SLOT..(rel + slots).min(layout.seg_slots) as usize * SLOT);
                let whole = data.is_some_and(|d| header.data_is_whole(d));
                groups.push((header, rel as u32, whole));
                prev = Some(crc);
                rel += slots;
            } else {
                broken_at.get_or_insert(rel);
                rel += 1;
            }
        }
        groups
    }

    /// Drops groups that an earlier open has cut off, and whose segment has lost the summary that said so: those
    /// behind what was durable at the newest open, and those whose numbers a later segment has given again. They
    /// must not come back once somebody has seen the drive without them.
    fn drop_dead(&self, found: &mut [Found]) {
        let mut begins = [u64::MAX; 3];
        for f in found.iter_mut().rev() {
            let (n, sb) = (usize::from(f.stream), &self.store.sb);
            let (Some(begin), Some(durable)) = (begins.get_mut(n), sb.durable.get(n)) else { continue };
            let first = match &mut f.source {
                Source::Summary(s) if s.groups > 0 => Some(s.first_gseq),
                Source::Covered(_) | Source::Summary(_) => None,
                Source::Groups(groups) => {
                    let dead = |g: &GroupHeader| g.gseq >= *begin || (g.gseq >= *durable && g.nonce != sb.nonce);
                    let keep = groups.iter().take_while(|(g, ..)| !dead(g)).count();
                    groups.truncate(keep);
                    groups.first().map(|g| g.0.gseq)
                }
            };
            *begin = first.map_or(*begin, |first| first.min(*begin));
        }
    }

    /// Takes, per stream, the groups up to the first gap. A claim that more was durable is damage.
    pub(crate) fn accept(&mut self, root: &Root, mut found: Vec<Found>) -> Accepted {
        found.sort_by_key(|f| f.seq);
        self.drop_dead(&mut found);
        let mut out = Accepted { segs: Vec::new(), next_gseq: root.gseq, discarded: 0 };
        let mut broken = [false; 3];
        for mut f in found {
            let n = usize::from(f.stream);
            let claim = self.claims.get(n).copied().unwrap_or(0);
            let claim = if self.store.cfg.rules.on(Rule::TornRotten) { claim } else { 0 };
            let (Some(next), Some(broken)) = (out.next_gseq.get_mut(n), broken.get_mut(n)) else { continue };
            match &mut f.source {
                Source::Covered(_) => {}
                Source::Summary(s) if s.groups == 0 || s.end_gseq() <= *next => {}
                Source::Summary(s) if s.first_gseq <= *next && !*broken => *next = s.end_gseq(),
                Source::Summary(s) => {
                    *broken = true;
                    out.discarded += u64::from(s.groups);
                    s.groups = 0;
                    f.source = Source::Groups(Vec::new());
                }
                Source::Groups(groups) => {
                    let all = groups.len();
                    let keep = groups.iter().take_while(|(g, _, whole)| {
                        let good = g.gseq < *next || (g.gseq == *next && !*broken && (*whole || g.gseq < claim));
                        *next = if good { (*next).max(g.gseq + 1) } else { *next };
                        good
                    });
                    let keep = keep.count();
                    groups.truncate(keep);
                    *broken |= keep < all;
                    out.discarded += (all - keep) as u64;
                }
            }
            out.segs.push(f);
        }
        let rot = self.claims.iter().zip(&out.next_gseq).any(|(claim, next)| claim > next);
        if rot && self.store.cfg.rules.on(Rule::TornRotten) {
            self.doubt(Suspicion::DurableGroupsLost);
        }
        out
    }

    /// Writes the summary of every segment that has none, so that no later open looks at a torn
    /// tail again; the newest first, so that a crash in between repeats the same decision.
    pub(crate) fn close_segments(&mut self, accepted: &Accepted) -> Result<(), OpenError> {
        let layout = self.store.layout;
        for f in accepted.segs.iter().rev() {
            let Source::Groups(groups) = &f.source else { continue };
            let first = groups.first().map_or(0, |g| g.0.gseq);
            let mut open = OpenSeg::new(f.seg, f.seq, layout.seg_start(f.seg), layout.seg_slots, first);
            for (header, _, _) in groups {
                let mut bytes = Vec::new();
                header.entries.iter().for_each(|e| e.encode(&mut bytes));
                open.push(header, &bytes);
            }
            let (slot, buf) = open.summary(f.stream, accepted.next_gseq);
            self.dev.write_at(slot * SLOT as u64, buf.as_slice())?;
            self.dev.flush()?;
        }
        Ok(())
    }
}
