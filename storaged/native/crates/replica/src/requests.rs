//! Requests of this drive to others: each has a deadline and ends exactly once.

use std::collections::{BTreeMap, BTreeSet};

use drystone_store::api::ObjectStore;
use drystone_types::consts::Micros;
use drystone_types::{DriveId, Flags, Frame, Header, LayerId, MsgType, ObjKey, PgId, Status};

use crate::api::Action;
use crate::bulk::Copied;
use crate::replica::Replica;

/// What was asked.
pub(crate) enum Ask {
    /// A page of the list of changed chunks.
    List { pg: PgId, job: u64 },
    /// The source's digest of a chunk.
    Digest { pg: PgId, job: u64 },
    /// Blocks of a chunk in resync.
    Copy { pg: PgId, job: u64, layer: LayerId, runs: Vec<(u16, u16)> },
    /// One block for repair.
    Repair(ObjKey, u16),
    /// The peer's last stable versions.
    Check(PgId),
    /// A page of the chunks of a PG that is compared.
    CompareList { job: u64 },
    /// A member's digest of a chunk that is compared.
    CompareDigest { job: u64 },
    /// A member's copy of a block that differs.
    CompareCopy { job: u64 },
}

impl Ask {
    fn is_resync(&self) -> bool {
        !matches!(self, Ask::Repair(..) | Ask::Check(_))
    }
}

struct Pending {
    drive: DriveId,
    kind: MsgType,
    deadline: Micros,
    ask: Ask,
}

/// Requests without an answer yet.
#[derive(Default)]
pub(crate) struct Requests {
    next: u64,
    open: BTreeMap<u64, Pending>,
    by_deadline: BTreeSet<(Micros, u64)>,
    /// Of these, requests of resync.
    pub(crate) resync: usize,
}

impl Requests {
    /// Ids of this open: an answer to a request of an earlier one must not meet one of ours.
    pub(crate) fn new(open_nonce: u64) -> Requests {
        let mixed = (open_nonce ^ open_nonce >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Requests { next: mixed & !0xffff_ffff, ..Requests::default() }
    }
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
    pub(crate) fn deadline(&self) -> Option<Micros> {
        self.by_deadline.first().map(|(at, _)| *at)
    }
    fn take(&mut self, id: u64) -> Option<(DriveId, Ask)> {
        let p = self.open.remove(&id)?;
        self.by_deadline.remove(&(p.deadline, id));
        self.resync -= usize::from(p.ask.is_resync());
        Some((p.drive, p.ask))
    }
    fn due(&self, now: Micros) -> Vec<u64> {
        self.by_deadline.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }
    fn of_drive(&self, drive: DriveId) -> Vec<u64> {
        self.open.iter().filter(|(_, p)| p.drive == drive).map(|(id, _)| *id).collect()
    }
}

impl<S: ObjectStore> Replica<S> {
    /// Asks another drive; `hdr` names type, PG, volume and layer.
    pub(crate) fn ask(&mut self, drive: DriveId, hdr: Header, meta: Vec<u8>, ask: Ask, timeout: Micros) {
        let id = self.requests.next_id();
        let deadline = self.now + timeout;
        if ask.is_resync() {
            self.requests.resync += 1;
            self.bulk.pace.start(self.now);
        }
        self.requests.open.insert(id, Pending { drive, kind: hdr.kind, deadline, ask });
        self.requests.by_deadline.insert((deadline, id));
        let pg_epoch = self.pgs.get(&hdr.pg).map_or(hdr.pg_epoch, |pg| pg.epoch());
        let hdr = Header { request: id, drive, pg_epoch, map_rev: self.map.revision, ..hdr };
        self.out.push(Action::SendDrive { drive, frame: Frame::with_meta(hdr, meta) });
    }

    pub(crate) fn on_drive_reply(&mut self, drive: DriveId, frame: Frame) {
        if self.relays.is_relay(frame.hdr.request) {
            self.relay_answer(drive, frame);
            return;
        }
        if self.requests.open.get(&frame.hdr.request).is_none_or(|p| p.drive != drive || p.kind != frame.hdr.kind) {
            return;
        }
        let Some((drive, ask)) = self.requests.take(frame.hdr.request) else { return };
        if frame.hdr.flags.has(Flags::CLIENTS) {
            self.told_clients = Some(self.now);
        }
        self.answered(drive, ask, Some(frame));
    }

    pub(crate) fn on_drive_down(&mut self, drive: DriveId) {
        for id in self.requests.of_drive(drive) {
            if let Some((drive, ask)) = self.requests.take(id) {
                self.answered(drive, ask, None);
            }
        }
        self.relays.drive_down(drive);
    }

    pub(crate) fn expire_requests(&mut self) {
        for id in self.requests.due(self.now) {
            if let Some((drive, ask)) = self.requests.take(id) {
                self.answered(drive, ask, None);
            }
        }
    }

    fn answered(&mut self, drive: DriveId, ask: Ask, frame: Option<Frame>) {
        if let Some(f) = frame.as_ref().filter(|f| f.hdr.status == Status::NackEpoch) {
            self.want_map(f.hdr.map_rev);
        }
        match ask {
            Ask::List { pg, job } => self.list_answered(drive, pg, job, frame),
            Ask::Digest { pg, job } => self.digest_answered(drive, pg, job, frame),
            Ask::Copy { pg, job, layer, runs } => match frame {
                Some(frame) if frame.hdr.status == Status::Ok => {
                    self.hold_copied(Copied { drive, pg, job, layer, runs, frame });
                }
                refused => self.copy_answered(drive, pg, job, layer, &runs, refused),
            },
            Ask::Repair(key, block) => self.repair_answered(drive, key, block, frame),
            Ask::Check(pg) => self.check_answered(drive, pg, frame),
            Ask::CompareList { job } => self.compare_list_answered(drive, job, frame),
            Ask::CompareDigest { job } => self.compare_digest_answered(drive, job, frame),
            Ask::CompareCopy { job } => self.compare_copy_answered(job, frame),
        }
    }
}
