//! Clients first: resync and repair wait until the requests of the turn are on their way, and only a little of
//! them is in the log and at the device at a time. A write must not count as stalled for data of a copy.

use std::collections::VecDeque;

use drystone_store::api::ObjectStore;
use drystone_types::consts::Micros;
use drystone_types::{DriveId, Frame, LayerId, MsgType, PgId};

use crate::api::PeerId;
use crate::limits::{
    RESYNC_IDLE_AFTER, RESYNC_LOG_BUSY, RESYNC_LOG_IDLE, RESYNC_TIMEOUT, RESYNC_TOLD_AFTER, SOURCE_BUSY, SOURCE_IDLE,
    SOURCE_JOBS_MAX,
};
use crate::pace::Pace;
use crate::replica::Replica;
use crate::state::Refusal;

/// An answer to a COPY of ours.
pub(crate) struct Copied {
    pub drive: DriveId,
    pub pg: PgId,
    pub job: u64,
    pub layer: LayerId,
    pub runs: Vec<(u16, u16)>,
    pub frame: Frame,
}

/// What waits. Bounded: answers by the requests we have open, requests of others by `SOURCE_JOBS_MAX`.
#[derive(Default)]
pub(crate) struct Bulk {
    copied: VecDeque<Copied>,
    /// With the time each came.
    asked: VecDeque<(Micros, PeerId, Frame)>,
    /// Bytes of a copy admitted to the log and not durable.
    logging: u64,
    /// Digests of our own under way.
    pub(crate) digests: usize,
    pub(crate) pace: Pace,
}

impl Bulk {
    /// Answers that wait; their requests still count as running.
    pub(crate) fn copies(&self) -> usize {
        self.copied.len()
    }
    pub(crate) fn logging(&mut self, bytes: u64) {
        self.logging += bytes;
    }
    pub(crate) fn logged(&mut self, bytes: u64) {
        self.logging = self.logging.saturating_sub(bytes);
    }
}

impl<S: ObjectStore> Replica<S> {
    /// Whether clients wait for what is done here: they work with this drive, or with one that it copies from.
    pub(crate) fn clients_active(&self) -> bool {
        self.own_clients() || self.told_clients.is_some_and(|at| self.now.saturating_sub(at) <= RESYNC_TOLD_AFTER)
    }

    /// What others are told: not what was only heard, or two drives that copy from each other would say it for ever.
    pub(crate) fn own_clients(&self) -> bool {
        self.now.saturating_sub(self.last_client) <= RESYNC_IDLE_AFTER
    }

    /// Blocks of a copy came.
    pub(crate) fn hold_copied(&mut self, copied: Copied) {
        self.stats.resync_held += u64::from(!self.may_log_copy());
        self.bulk.copied.push_back(copied);
    }

    /// A request of another drive's resync or repair.
    pub(crate) fn hold_ask(&mut self, peer: PeerId, frame: Frame) -> Result<(), Refusal> {
        self.drop_given_up();
        if self.bulk.asked.len() >= SOURCE_JOBS_MAX {
            return Err(Refusal::Retry);
        }
        self.bulk.asked.push_back((self.now, peer, frame));
        Ok(())
    }

    /// Their askers have given up on them: the work would be for nobody, and delay what is still wanted.
    fn drop_given_up(&mut self) {
        let now = self.now;
        while self.bulk.asked.front().is_some_and(|(at, ..)| now.saturating_sub(*at) >= RESYNC_TIMEOUT) {
            self.bulk.asked.pop_front();
        }
    }

    /// Nobody waits for these answers any more.
    pub(crate) fn drop_asks_of(&mut self, gone: PeerId) {
        self.bulk.asked.retain(|(_, peer, _)| *peer != gone);
    }

    fn may_log_copy(&self) -> bool {
        self.bulk.logging < if self.clients_active() { RESYNC_LOG_BUSY } else { RESYNC_LOG_IDLE }
    }

    fn may_serve(&self) -> bool {
        self.source_jobs() < if self.clients_active() { SOURCE_BUSY } else { SOURCE_IDLE }
    }

    /// Requests of a copy that run, answers that wait to be logged included.
    pub(crate) fn copying(&self) -> usize {
        self.requests.resync + self.bulk.copies()
    }

    /// Clients wait for all that a copy takes: it rests in between. Tells whether it goes on at once.
    fn rest_copy(&mut self) -> bool {
        if self.copying() > 0 || self.bulk.logging > 0 || self.bulk.digests > 0 {
            return false;
        }
        let Some(until) = self.bulk.pace.quiet(self.now) else { return false };
        if until > self.now {
            self.wake_at(until);
            return false;
        }
        self.pump_each();
        true
    }

    /// Works on what waits, as far as it may now; tells whether it did anything.
    pub(crate) fn run_bulk(&mut self) -> bool {
        let mut any = false;
        while self.may_log_copy() {
            let Some(c) = self.bulk.copied.pop_front() else { break };
            any = true;
            self.copy_answered(c.drive, c.pg, c.job, c.layer, &c.runs, Some(c.frame));
        }
        self.drop_given_up();
        while self.may_serve() {
            let Some((_, peer, frame)) = self.bulk.asked.pop_front() else { break };
            any = true;
            let hdr = frame.hdr;
            let result = match hdr.kind {
                _ if self.failed => Err(Refusal::Eio),
                MsgType::Digest => self.on_digest(peer, &frame),
                MsgType::Copy => self.on_copy(peer, &frame),
                _ => self.on_scrub(peer, &frame),
            };
            if let Err(refusal) = result {
                self.refuse(peer, &hdr, refusal);
            }
        }
        self.rest_copy() || any
    }
}
