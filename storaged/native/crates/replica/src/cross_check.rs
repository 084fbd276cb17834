//! The light pass of a scrub between copies: one in-sync drive of a PG compares digests of every chunk with every
//! other in-sync member, chunk by chunk. What differs, and how that is told, is in `cross_diff`.
//!
//! One chunk at a time, behind resync and clients: nobody waits for it.

use std::collections::{BTreeMap, VecDeque};

use drystone_store::api::{ObjectDigest, ObjectStore};
use drystone_types::consts::Micros;
use drystone_types::{DriveId, Epoch, Frame, Header, MsgType, PgId, Status, Version};

use crate::api::{Action, Compared, ControlResult};
use crate::cross_diff::{differences, tally, Difference, Proofs};
use crate::limits::{
    COMPARE_PAUSE_BUSY, COMPARE_RESTARTS, COMPARE_TRIES, COMPARE_UNKNOWN_LOOKS, DIGEST_LIST_MAX, RESYNC_BACKOFF,
    RESYNC_BACKOFF_MAX, RESYNC_TIMEOUT,
};
use crate::replica::Replica;
use crate::requests::Ask;
use crate::resync::wire::{decode_digest, decode_list, encode_list_ask, encode_scrub_ask};
use crate::resync::ChunkId;
use crate::state::{Op, Role, Then};

const NOT_IN_SYNC: &str = "this drive is not in sync in the group: another one compares it";
const ENDED: &str = "the drive ends or failed: another one compares the group";
const SILENT: &str = "a member of the group does not answer: compare it again when every drive serves";
const MOVES: &str = "the group's members change again and again: compare it later";
const BUSY: &str = "the drive compares another group: wait until that ends";
const SUPERSEDED: &str = "the group's comparison was asked for once more: only the last one that asks waits";

type Lists = BTreeMap<DriveId, (bool, Vec<ChunkId>)>;

/// Where a comparison stands.
pub(crate) enum Stage {
    /// The next page of chunks is to be asked for.
    NeedLists,
    /// Answers of the others.
    Lists(Lists),
    /// The next chunk of the page is to be taken.
    Page,
    /// Digests of a chunk.
    Look(Box<Look>),
    /// Blocks of one version and two checksums are read.
    Proofs(Box<Proofs>),
}

/// One look at a chunk.
pub(crate) struct Look {
    pub chunk: ChunkId,
    /// Our stable value from before anybody was asked: what is at most that is on every in-sync member.
    pub stable: Version,
    pub ours: Option<Vec<ObjectDigest>>,
    pub theirs: BTreeMap<DriveId, Vec<ObjectDigest>>,
    /// What the first look found. A hole that was dropped between two digests looks like a lost block once, never
    /// twice: it was stable, so on every member, before anybody dropped it.
    pub before: Option<Vec<Difference>>,
}

/// The comparison of one PG.
pub(crate) struct Compare {
    pub pg: PgId,
    control: u64,
    epoch: Epoch,
    pub others: Vec<DriveId>,
    cursor: Option<ChunkId>,
    page_end: Option<ChunkId>,
    queue: VecDeque<ChunkId>,
    pub stage: Stage,
    /// Answers to anything else than this are late.
    pub job: u64,
    pub seen: Compared,
    pub tries: u32,
    /// Looks that met a header which could not be read.
    unknown: u32,
    restarts: u32,
    wake: Micros,
}

impl Compare {
    pub(crate) fn deadline(&self) -> Option<Micros> {
        matches!(self.stage, Stage::NeedLists | Stage::Page).then_some(self.wake)
    }

    /// From the first chunk on.
    fn begin(&mut self, epoch: Epoch, others: Vec<DriveId>, job: u64) {
        (self.epoch, self.others, self.job) = (epoch, others, job);
        (self.cursor, self.page_end, self.tries) = (None, None, 0);
        self.queue.clear();
        self.stage = Stage::NeedLists;
        self.seen = Compared::default();
    }

    /// The union of all lists, up to where each of them reaches.
    fn take_page(&mut self, lists: Lists, ours: Vec<ChunkId>) {
        let full = ours.len() >= DIGEST_LIST_MAX;
        let all = lists.into_values().chain([(full, ours)]);
        let (mut chunks, mut end) = (Vec::new(), None);
        for (more, list) in all {
            let last = list.last().copied().filter(|_| more);
            end = match (end, last) {
                (Some(a), Some(b)) => Some(std::cmp::min(a, b)),
                (a, b) => a.or(b),
            };
            chunks.extend(list);
        }
        chunks.sort_unstable();
        chunks.dedup();
        self.queue = chunks.into_iter().filter(|c| end.is_none_or(|end| *c <= end)).collect();
        self.page_end = end;
        self.stage = Stage::Page;
    }
}

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn start_compare(&mut self, control: u64, pg: PgId) {
        if self.stopping {
            return self.control_failed(control, ENDED);
        }
        // Whoever asked for it before waits no more: a manager that was elected goes on with the group.
        if let Some(mut running) = self.compare.take_if(|c| c.pg == pg) {
            self.control_failed(core::mem::replace(&mut running.control, control), SUPERSEDED);
            if running.seen.divergent > 0 {
                // Which blocks those are was told to who asked before: it begins anew.
                running.epoch = Epoch(0);
            }
            self.compare = Some(running);
            return self.pump_compare();
        }
        if self.compare.is_some() {
            return self.control_failed(control, BUSY);
        }
        self.compare = Some(Box::new(Compare {
            pg,
            control,
            epoch: Epoch(0),
            others: Vec::new(),
            cursor: None,
            page_end: None,
            queue: VecDeque::new(),
            stage: Stage::NeedLists,
            job: 0,
            seen: Compared::default(),
            tries: 0,
            unknown: 0,
            restarts: 0,
            wake: 0,
        }));
        self.pump_compare();
    }

    /// Goes on as far as it may now. Every turn ends here.
    pub(crate) fn pump_compare(&mut self) {
        let Some(mut c) = self.compare.take() else { return };
        let refused = self.compare_refused(&mut c);
        let result = match refused {
            Some(why) => Some(ControlResult::Failed(why)),
            None => self.step_compare(&mut c),
        };
        match result {
            Some(result) => {
                self.stats.compares += u64::from(matches!(result, ControlResult::Compared(_)));
                self.out.push(Action::ControlDone { id: c.control, result });
            }
            None => self.compare = Some(c),
        }
    }

    /// Every chunk is compared in one epoch, and all of them with the members of that epoch.
    fn compare_refused(&mut self, c: &mut Compare) -> Option<&'static str> {
        if self.failed || self.stopping {
            return Some(ENDED);
        }
        let me = self.cfg.drive;
        let Some(pg) = self.pgs.get(&c.pg).filter(|pg| pg.role == Role::InSync) else { return Some(NOT_IN_SYNC) };
        if pg.epoch() != c.epoch {
            c.restarts += u32::from(c.epoch > Epoch(0));
            let (epoch, others) = (pg.epoch(), pg.rec.insync.iter().copied().filter(|d| *d != me).collect());
            let job = self.requests.next_id();
            c.begin(epoch, others, job);
        }
        if c.restarts > COMPARE_RESTARTS {
            return Some(MOVES);
        }
        (c.tries > COMPARE_TRIES).then_some(SILENT)
    }

    fn step_compare(&mut self, c: &mut Compare) -> Option<ControlResult> {
        while matches!(c.stage, Stage::NeedLists | Stage::Page) && c.wake <= self.now {
            if c.others.is_empty() {
                return Some(ControlResult::Compared(c.seen));
            }
            if matches!(c.stage, Stage::Page) && c.queue.is_empty() {
                let Some(end) = c.page_end else { return Some(ControlResult::Compared(c.seen)) };
                c.cursor = Some(end);
                c.stage = Stage::NeedLists;
            }
            if !self.resync_room() {
                c.wake = self.now + RESYNC_BACKOFF;
            } else if matches!(c.stage, Stage::NeedLists) {
                self.ask_lists(c);
            } else if let Some(chunk) = c.queue.pop_front() {
                self.look(c, chunk, None);
                let pause = if self.clients_active() { COMPARE_PAUSE_BUSY } else { 0 };
                c.wake = self.now + pause;
            }
        }
        None
    }

    fn ask_lists(&mut self, c: &mut Compare) {
        c.job = self.requests.next_id();
        c.stage = Stage::Lists(BTreeMap::new());
        let hdr = Header { kind: MsgType::Digest, pg: c.pg, ..Header::default() };
        for drive in &c.others {
            let meta = encode_list_ask(Epoch(0), c.cursor);
            self.ask(*drive, hdr, meta, Ask::CompareList { job: c.job }, RESYNC_TIMEOUT);
        }
    }

    fn look(&mut self, c: &mut Compare, chunk: ChunkId, before: Option<Vec<Difference>>) {
        c.job = self.requests.next_id();
        let stable = self.vols.get(&chunk.0).map_or(Version::ZERO, |v| v.stable);
        c.stage = Stage::Look(Box::new(Look { chunk, stable, ours: None, theirs: BTreeMap::new(), before }));
        let hdr = Header { kind: MsgType::Scrub, pg: c.pg, vol: chunk.0, ..Header::default() };
        for drive in &c.others {
            self.ask(*drive, hdr, encode_scrub_ask(chunk), Ask::CompareDigest { job: c.job }, RESYNC_TIMEOUT);
        }
        let op = self.ops.insert(Op { left: 1, then: Then::CompareDigest(c.job) });
        self.store.digest(chunk.0, chunk.1, op);
    }

    /// The comparison that asked for this, if it is still wanted.
    pub(crate) fn take_compare(&mut self, job: u64) -> Option<Box<Compare>> {
        self.compare.take_if(|c| c.job == job)
    }

    pub(crate) fn compare_list_answered(&mut self, drive: DriveId, job: u64, frame: Option<Frame>) {
        let Some(mut c) = self.take_compare(job) else { return };
        let cursor = c.cursor;
        let list = fits(&frame, c.epoch).and_then(|f| decode_list(&f.meta, cursor).ok());
        let complete = match (&mut c.stage, list) {
            (Stage::Lists(lists), Some(list)) => {
                lists.insert(drive, list);
                lists.len() == c.others.len()
            }
            _ => {
                self.compare_failed(&mut c);
                false
            }
        };
        if complete {
            let lists = core::mem::replace(&mut c.stage, Stage::Page);
            let ours = self.store.changed_chunks(c.pg, Epoch(0), c.cursor, DIGEST_LIST_MAX);
            if let Stage::Lists(lists) = lists {
                c.tries = 0;
                c.take_page(lists, ours);
            }
        }
        self.compare = Some(c);
    }

    pub(crate) fn compare_digest_answered(&mut self, drive: DriveId, job: u64, frame: Option<Frame>) {
        let Some(mut c) = self.take_compare(job) else { return };
        let digest = fits(&frame, c.epoch).and_then(|f| decode_digest(&f.meta).ok());
        match (&mut c.stage, digest) {
            (Stage::Look(look), Some(digest)) => {
                look.theirs.insert(drive, digest);
                self.looked(&mut c);
            }
            _ => self.compare_failed(&mut c),
        }
        self.compare = Some(c);
    }

    pub(crate) fn compare_own_digest(&mut self, job: u64, objects: Vec<ObjectDigest>) {
        let Some(mut c) = self.take_compare(job) else { return };
        if let Stage::Look(look) = &mut c.stage {
            look.ours = Some(objects);
            self.looked(&mut c);
        }
        self.compare = Some(c);
    }

    /// All digests of a look are here: equal, to be looked at again, or different twice.
    fn looked(&mut self, c: &mut Compare) {
        let Stage::Look(look) = &mut c.stage else { return };
        if look.theirs.len() < c.others.len() {
            return;
        }
        let Some(ours) = look.ours.take() else { return };
        let freed = |layer| self.freed.contains(&layer);
        let found = differences(&ours, &look.theirs, look.stable, &freed);
        let (chunk, before) = (look.chunk, look.before.take());
        let counts = tally(&ours, look.stable);
        match before {
            None if !found.is_empty() => self.look(c, chunk, Some(found)),
            before => {
                let same = |d: &Difference| before.as_ref().is_some_and(|b| b.contains(d));
                let found: Vec<Difference> = found.into_iter().filter(same).collect();
                let unknown = found.iter().any(Difference::is_unknown);
                if unknown && c.unknown < COMPARE_UNKNOWN_LOOKS {
                    return self.look_later(c, chunk);
                }
                self.prove(c, chunk, found, counts);
            }
        }
    }

    /// Headers could not be read. Mostly a device has a bad moment, and says the same of every block: it is waited out,
    /// for otherwise each of them would be read, asked for and healed one by one, and nothing be wrong with any.
    fn look_later(&mut self, c: &mut Compare, chunk: ChunkId) {
        c.wake = self.now + (RESYNC_BACKOFF << c.unknown.min(16)).min(RESYNC_BACKOFF_MAX);
        c.unknown += 1;
        c.job = self.requests.next_id();
        c.queue.push_front(chunk);
        c.stage = Stage::Page;
        self.stats.compare_waits += 1;
    }

    /// Somebody did not answer as it should: the chunk or the page is begun again, a little later.
    pub(crate) fn compare_failed(&mut self, c: &mut Compare) {
        let pause = (RESYNC_BACKOFF << c.tries.min(16)).min(RESYNC_BACKOFF_MAX);
        c.wake = self.now + pause;
        c.tries += 1;
        c.job = self.requests.next_id();
        match core::mem::replace(&mut c.stage, Stage::Page) {
            Stage::Look(look) => c.queue.push_front(look.chunk),
            Stage::Proofs(proofs) => c.queue.push_front(proofs.chunk),
            Stage::NeedLists | Stage::Lists(_) => c.stage = Stage::NeedLists,
            Stage::Page => {}
        }
    }
}

/// An answer counts only in the epoch that is compared.
pub(crate) fn fits(frame: &Option<Frame>, epoch: Epoch) -> Option<&Frame> {
    frame.as_ref().filter(|f| f.hdr.status == Status::Ok && f.hdr.pg_epoch == epoch)
}
