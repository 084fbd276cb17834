//! Resync (§8): a joiner pulls every chunk that changed, on either side, since it was last in sync.
//!
//! Unit is a chunk with all its layers. The source wins over everything older than the join; a
//! block written directly since the join is kept.

mod behind;
mod chunk;
pub(crate) mod compare;
mod joiner;
mod left;
pub(crate) mod source;
mod stuck;
mod unread;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use drystone_store::api::ObjectDigest;
use drystone_types::consts::Micros;
use drystone_types::{DriveId, Epoch, LayerId, ObjKey, Version, VolumeId};

use unread::Unread;

use crate::api::LeaveWhy;

/// A chunk of one lineage.
pub(crate) type ChunkId = (VolumeId, u64);

/// Where a copy stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// The next page of changed chunks is to be asked for.
    NeedList,
    /// It is asked for.
    Listing,
    /// Its chunks are compared and copied.
    Page,
    /// Everything is admitted; waiting until it is durable.
    Draining,
    /// Durable in the adopted epoch, and told.
    Complete,
    /// No space, or behind what no copy can bring: this drive asked to leave.
    Stopped,
    /// More was lost than a copy gives up by itself: the operator is asked, and it begins again later.
    Held,
}

/// The copy of one PG. In RAM only: a restart begins again at the first chunk (B6).
pub(crate) struct Resync {
    pub join: Epoch,
    pub e0: Epoch,
    pub source: Option<DriveId>,
    pub phase: Phase,
    /// Every chunk up to here is as the source has it.
    pub cursor: Option<ChunkId>,
    /// End of the page; `None` = it is the last one.
    pub page_end: Option<ChunkId>,
    pub queue: VecDeque<ChunkId>,
    pub done: BTreeSet<ChunkId>,
    pub jobs: BTreeMap<u64, Job>,
    /// The list request whose answer counts: one of an earlier join or cursor would hide chunks.
    pub listing: u64,
    /// The source is left alone until then.
    pub pause_until: Micros,
    pub tell_again: Micros,
    /// How often each source failed in a row.
    pub fails: BTreeMap<DriveId, u32>,
    /// Blocks of finished chunks that every in-sync member has lost: void until they are put as BAD, at the end.
    pub lost: BTreeMap<(ChunkId, LayerId, u16), Version>,
    /// Those that were.
    pub bad: Vec<(VolumeId, ObjKey, u16)>,
    pub chunks: u64,
    pub bytes: u64,
    /// Why this drive asks to leave, in `Stopped`.
    pub leaves: LeaveWhy,
    /// When the operator is told again that the copy does not go on; `None` = was not told.
    pub stuck_again: Option<Micros>,
    /// It was held before: its blocks are counted.
    pub held_before: bool,
}

/// One chunk in work.
pub(crate) struct Job {
    pub chunk: ChunkId,
    pub theirs: Option<Vec<ObjectDigest>>,
    pub ours: Option<Vec<ObjectDigest>>,
    /// COPY requests to make.
    pub copies: VecDeque<Fetch>,
    pub in_flight: usize,
    pub compared: bool,
    /// Blocks that a source could not read.
    pub unread: BTreeMap<(LayerId, u16), Unread>,
    /// Data of ours that is to be replaced.
    pub own: BTreeMap<(LayerId, u16), Version>,
    /// What every in-sync member has lost.
    pub lost: Vec<(LayerId, u16, Version)>,
    /// What is unread is not asked for again before this.
    pub not_before: Micros,
}

/// A COPY request to make.
pub(crate) struct Fetch {
    /// `None` = the source of the whole copy.
    pub from: Option<DriveId>,
    pub layer: LayerId,
    pub runs: Vec<(u16, u16)>,
}

impl Job {
    pub(crate) fn new(chunk: ChunkId) -> Job {
        Job {
            chunk,
            theirs: None,
            ours: None,
            copies: VecDeque::new(),
            in_flight: 0,
            compared: false,
            unread: BTreeMap::new(),
            own: BTreeMap::new(),
            lost: Vec::new(),
            not_before: 0,
        }
    }
}

impl Resync {
    pub(crate) fn new(join: Epoch, e0: Epoch) -> Resync {
        Resync {
            join,
            e0,
            source: None,
            phase: Phase::NeedList,
            cursor: None,
            page_end: None,
            queue: VecDeque::new(),
            done: BTreeSet::new(),
            jobs: BTreeMap::new(),
            listing: 0,
            pause_until: 0,
            tell_again: 0,
            fails: BTreeMap::new(),
            lost: BTreeMap::new(),
            bad: Vec::new(),
            chunks: 0,
            bytes: 0,
            leaves: LeaveWhy::NoSpace,
            stuck_again: None,
            held_before: false,
        }
    }

    /// From the first chunk on: what is not written since the join is void again, and no answer under way counts.
    pub(crate) fn begin_again(&mut self) {
        let (stuck_again, held_before) = (self.stuck_again, self.held_before);
        *self = Resync { stuck_again, held_before, ..Resync::new(self.join, self.e0) };
    }

    /// Whether a block is no longer void.
    pub(crate) fn is_copied(&self, chunk: ChunkId, layer: LayerId, block: u16) -> bool {
        if !self.lost.is_empty() && self.lost.contains_key(&(chunk, layer, block)) {
            return false;
        }
        matches!(self.phase, Phase::Draining | Phase::Complete)
            || self.cursor.is_some_and(|cursor| chunk <= cursor)
            || self.done.contains(&chunk)
    }

    /// A member other than the source did not answer about blocks that the source cannot read; tells whether these
    /// were all that was asked for.
    fn note_failed(&mut self, job: u64, drive: DriveId, layer: LayerId, asked: &[(u16, u16)], now: Micros) -> bool {
        self.jobs.get_mut(&job).is_some_and(|entry| entry.note_failed(drive, layer, asked, now))
    }

    /// Starts a chunk again, first in the queue.
    pub(crate) fn requeue(&mut self, job: u64) {
        if let Some(job) = self.jobs.remove(&job) {
            self.queue.push_front(job.chunk);
        }
    }

    pub(crate) fn requeue_all(&mut self) {
        while let Some((_, job)) = self.jobs.pop_last() {
            self.queue.push_front(job.chunk);
        }
        if self.phase == Phase::Listing {
            self.phase = Phase::NeedList;
        }
    }
}
