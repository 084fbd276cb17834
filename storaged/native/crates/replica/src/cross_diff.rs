//! What differs between the copies of a chunk, and what is done about it: a copy that cannot be read is healed, one
//! that holds another stable version, or other bytes of the same one, is told and left alone (I6 is broken: nothing
//! here says which of them is right).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use drystone_store::api::{BlockKind, BlockRead, ObjectDigest, ObjectStore};
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{DriveId, Flags, Frame, Header, LayerId, MsgType, ObjKey, Status, Version};

use crate::api::{Compared, Report};
use crate::bad_blocks::{FoundBy, Want};
use crate::cross_check::{Compare, Stage};
use crate::limits::{COMPARE_TOLD_MAX, RESYNC_TIMEOUT};
use crate::repair::healing;
use crate::replica::Replica;
use crate::requests::Ask;
use crate::resync::compare::{cells, layers, object, Cell};
use crate::resync::wire::{decode_cells, encode_runs, CopyCell};
use crate::resync::ChunkId;
use crate::state::{Op, Then};

/// A block of which another drive holds something else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Difference {
    pub drive: DriveId,
    pub layer: LayerId,
    pub block: u16,
    pub ours: Option<Cell>,
    pub theirs: Option<Cell>,
}

/// What a difference means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    /// Our copy is known to be bad.
    BadHere,
    /// Theirs is.
    BadThere,
    /// One version, two checksums: one side may have rotted.
    Bytes,
    /// Two stable versions, or one lost.
    Divergent,
}

impl Difference {
    /// One of the drives could not read the header that says which version this is.
    pub(crate) fn is_unknown(&self) -> bool {
        self.ours.is_some_and(Cell::lost_version) || self.theirs.is_some_and(Cell::lost_version)
    }

    fn meaning(&self) -> Meaning {
        let lost = |c: &Cell| c.kind == BlockKind::Bad || c.lost_version();
        match (self.ours, self.theirs) {
            (Some(c), _) if lost(&c) => Meaning::BadHere,
            (_, Some(c)) if lost(&c) => Meaning::BadThere,
            (Some(a), Some(b)) if a.version == b.version && a.kind == BlockKind::Data && b.kind == BlockKind::Data => {
                Meaning::Bytes
            }
            _ => Meaning::Divergent,
        }
    }
}

/// The differences of a chunk that were seen twice.
pub(crate) struct Proofs {
    pub chunk: ChunkId,
    queue: VecDeque<Difference>,
    open: Option<Difference>,
    /// Ours, to be healed.
    here: BTreeSet<(LayerId, u16)>,
    divergent: Vec<Difference>,
    seen: Compared,
}

/// What may not differ and does. Above `stable` a write may be on its way to one of us; a hole that everybody has may
/// be dropped by one of us; a layer that was freed here may not be freed there yet.
pub(crate) fn differences(
    ours: &[ObjectDigest],
    theirs: &BTreeMap<DriveId, Vec<ObjectDigest>>,
    stable: Version,
    freed: &dyn Fn(LayerId) -> bool,
) -> Vec<Difference> {
    let mut out = Vec::new();
    for (drive, theirs) in theirs {
        for layer in layers(theirs, ours).into_iter().filter(|l| !freed(*l)) {
            let pairs = cells(object(ours, layer)).into_iter().zip(cells(object(theirs, layer)));
            let differ = (0u16..).zip(pairs).filter(|(_, (a, b))| differ(*a, *b, stable));
            out.extend(differ.map(|(block, (ours, theirs))| Difference { drive: *drive, layer, block, ours, theirs }));
        }
    }
    out
}

fn differ(ours: Option<Cell>, theirs: Option<Cell>, stable: Version) -> bool {
    let above = |c: Option<Cell>| c.is_some_and(|c| c.version > stable);
    let nothing = |c: Option<Cell>| c.is_none_or(|c| c.kind == BlockKind::Hole);
    let may = above(ours) || above(theirs) || nothing(ours) && nothing(theirs);
    ours != theirs && !may
}

/// Blocks of ours up to the stable value, and above it.
pub(crate) fn tally(ours: &[ObjectDigest], stable: Version) -> (u64, u64) {
    let (mut compared, mut above) = (0, 0);
    for run in ours.iter().flat_map(|o| &o.runs) {
        *if run.version > stable { &mut above } else { &mut compared } += u64::from(run.count);
    }
    (compared, above)
}

impl<S: ObjectStore> Replica<S> {
    /// Looks into what was found in a chunk, block by block.
    pub(crate) fn prove(
        &mut self,
        c: &mut Compare,
        chunk: ChunkId,
        found: Vec<Difference>,
        (blocks, above): (u64, u64),
    ) {
        c.stage = Stage::Proofs(Box::new(Proofs {
            chunk,
            queue: found.into(),
            open: None,
            here: BTreeSet::new(),
            divergent: Vec::new(),
            seen: Compared { chunks: 1, blocks, unstable: above, ..Compared::default() },
        }));
        self.next_proof(c);
    }

    fn next_proof(&mut self, c: &mut Compare) {
        let Stage::Proofs(p) = &mut c.stage else { return };
        while let Some(d) = p.queue.pop_front() {
            match d.meaning() {
                _ if p.here.contains(&(d.layer, d.block)) => {}
                Meaning::BadHere => {
                    p.here.insert((d.layer, d.block));
                }
                Meaning::Divergent => p.divergent.push(d),
                meaning => {
                    let (vol, key) = (p.chunk.0, ObjKey { layer: d.layer, chunk: p.chunk.1 });
                    let (block, version) = (d.block, d.ours.map_or(Version::ZERO, |o| o.version));
                    p.open = Some(d);
                    c.job = self.requests.next_id();
                    if meaning == Meaning::BadThere {
                        return self.ask_theirs(c);
                    }
                    let op = self.ops.insert(Op { left: 1, then: Then::CompareRead(c.job) });
                    return self.store.read_exact(vol, key, block, version, op);
                }
            }
        }
        self.chunk_compared(c);
    }

    /// Our own copy was read and judged by its checksum.
    pub(crate) fn compare_own_read(&mut self, job: u64, found: Option<(BlockKind, BlockRead)>) {
        let Some(mut c) = self.take_compare(job) else { return };
        if let Stage::Proofs(p) = &mut c.stage {
            match (found, &mut p.open) {
                (Some((_, BlockRead::Data(_, csum))), Some(d)) => {
                    // The one of the digest is none where the header could not be read then, and can be now.
                    d.ours.iter_mut().for_each(|ours| ours.csum = csum);
                    self.ask_theirs(&mut c);
                }
                (Some((_, BlockRead::Corrupt | BlockRead::Failed | BlockRead::Bad)), Some(d)) => {
                    p.here.insert((d.layer, d.block));
                    self.next_proof(&mut c);
                }
                // It was written meanwhile: there is no difference of stable blocks any more.
                _ => self.next_proof(&mut c),
            }
        }
        self.compare = Some(c);
    }

    /// Has the other drive read its copy; one that does not match its checksum it heals by itself, and says so.
    fn ask_theirs(&mut self, c: &mut Compare) {
        let Stage::Proofs(p) = &c.stage else { return };
        let Some(d) = &p.open else { return };
        let hdr = Header {
            kind: MsgType::Copy,
            flags: Flags::COPY.with(Flags::BAD),
            pg: c.pg,
            vol: p.chunk.0,
            layer: d.layer,
            block: p.chunk.1 * u64::from(CHUNK_BLOCKS),
            count: 1,
            ..Header::default()
        };
        self.ask(d.drive, hdr, encode_runs(&[(d.block, 1)]), Ask::CompareCopy { job: c.job }, RESYNC_TIMEOUT);
    }

    pub(crate) fn compare_copy_answered(&mut self, job: u64, frame: Option<Frame>) {
        let Some(mut c) = self.take_compare(job) else { return };
        let passes = |s: Status| matches!(s, Status::Retry | Status::NackEpoch);
        match (frame.filter(|f| !passes(f.hdr.status)), &mut c.stage) {
            (Some(frame), Stage::Proofs(p)) => {
                p.judge(&frame);
                self.next_proof(&mut c);
            }
            _ => self.compare_failed(&mut c),
        }
        self.compare = Some(c);
    }

    /// Nothing of the chunk is open any more: what was found is told, and ours is healed.
    fn chunk_compared(&mut self, c: &mut Compare) {
        let Stage::Proofs(p) = core::mem::replace(&mut c.stage, Stage::Page) else { return };
        let (vol, chunk) = p.chunk;
        let key = |layer| ObjKey { layer, chunk };
        let held = |cell: Option<Cell>| cell.map(|c| (c.kind, c.version));
        let room = COMPARE_TOLD_MAX.saturating_sub(c.seen.divergent) as usize;
        for d in p.divergent.iter().take(room) {
            let (ours, theirs) = (held(d.ours), held(d.theirs));
            let (pg, key) = (c.pg, key(d.layer));
            self.report(Report::Divergent { pg, vol, key, block: d.block, drive: d.drive, ours, theirs });
        }
        let (here, divergent) = (p.here.len() as u64, p.divergent.len() as u64);
        c.tries = 0;
        c.seen.add(Compared { bad_here: here, divergent, ..p.seen });
        self.stats.compared_chunks += 1;
        self.stats.divergent_blocks += divergent;
        let bad = p.here.into_iter().map(|(layer, block)| (vol, key(layer), block)).collect();
        self.repair_found(bad, FoundBy::Move);
    }
}

impl Proofs {
    /// What the other drive read. Good bytes of our version with another checksum than ours, which match it too: two
    /// writes bear one version.
    fn judge(&mut self, frame: &Frame) {
        let Some(d) = self.open.take() else { return };
        let cell = decode_cells(&frame.meta).ok().and_then(|cells| cells.first().copied());
        let (vol, key) = (self.chunk.0, ObjKey { layer: d.layer, chunk: self.chunk.1 });
        let version = d.theirs.map_or(Version::ZERO, |t| t.version);
        let good = healing(frame, vol, key, d.block, Some(Want::Exactly(version)));
        match (cell, good) {
            (Some(CopyCell::Held(BlockKind::Data, now)), _) if now != version => {} // written meanwhile
            (_, Some(good)) if version > Version::ZERO => {
                if d.ours.is_some_and(|o| good.csums.first() != Some(&o.csum)) {
                    self.divergent.push(d);
                }
            }
            (Some(CopyCell::Absent | CopyCell::Held(BlockKind::Hole | BlockKind::Zero, _)), _) => {} // trimmed meanwhile
            _ => self.seen.bad_there += 1,
        }
    }
}
