//! From a frame to its handler: who may ask what, and what waits for a newer map.

use drystone_store::api::ObjectStore;
use drystone_types::consts::PARK_MAX;
use drystone_types::{Flags, Frame, Header, MsgType, Rev, Rule, Status};

use crate::api::{Action, PeerId, PeerRole};
use crate::limits::{NEED_MAP_AGAIN, OPS_MAX, PARKED_BYTES_MAX, PARKED_MAX};
use crate::replica::Replica;
use crate::state::{Parked, Refusal};

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn on_frame(&mut self, peer: PeerId, frame: Frame) {
        if frame.hdr.is_resp() {
            return;
        }
        let Some(info) = self.peer(peer) else { return };
        if frame.hdr.drive != self.cfg.drive {
            self.relay(peer, info, frame);
            return;
        }
        if info.role == PeerRole::Client {
            self.last_client = self.now;
        }
        let hdr = frame.hdr;
        let result = if !role_may(info.role, hdr.kind) {
            Err(Refusal::Denied)
        } else if self.failed || self.cfg.suspect {
            Err(Refusal::Eio)
        } else if self.ops.len() >= OPS_MAX {
            Err(Refusal::Retry)
        } else {
            self.route(peer, frame)
        };
        if let Err(refusal) = result {
            self.refuse(peer, &hdr, refusal);
        }
    }

    fn route(&mut self, peer: PeerId, frame: Frame) -> Result<(), Refusal> {
        match self.map_check(&frame.hdr) {
            Err(Refusal::Park) => return self.park(peer, frame),
            Err(refusal) => return Err(refusal),
            Ok(()) => {}
        }
        let roll = frame.hdr.flags.has(Flags::ROLL);
        match frame.hdr.kind {
            MsgType::Ping => self.send(peer, &frame.hdr, Status::Ok, Vec::new()),
            MsgType::Session => return self.on_session(peer, &frame),
            MsgType::Write | MsgType::Trim | MsgType::Zero => return self.on_write(peer, frame),
            MsgType::Read if roll => return self.on_read_exact(peer, &frame),
            MsgType::Read => return self.on_read(peer, &frame),
            MsgType::Seal => return self.on_seal(peer, &frame),
            MsgType::Fence => return self.on_fence(peer, &frame),
            MsgType::Recovered => return self.on_recovered(peer, &frame.hdr),
            MsgType::Stable => return self.on_stable(peer, &frame),
            MsgType::Layer => return self.on_layer(peer, &frame),
            MsgType::Freeze => return self.on_freeze(peer, &frame.hdr),
            MsgType::Quiesce => return self.on_quiesce(peer, &frame.hdr),
            MsgType::Digest | MsgType::Copy | MsgType::Scrub => return self.hold_ask(peer, frame),
            MsgType::ChunkMap => return self.on_chunk_map(peer, &frame.hdr),
            MsgType::PeerCheck => return self.on_peer_check(peer, &frame),
        }
        Ok(())
    }

    /// Whether a request must wait for a newer map: R1's first half for requests of one PG,
    /// R7's revision test for those of a whole volume.
    fn map_check(&self, h: &Header) -> Result<(), Refusal> {
        let newer = match h.kind {
            MsgType::Write | MsgType::Trim | MsgType::Zero | MsgType::Read | MsgType::ChunkMap => {
                self.cfg.rules.on(Rule::R1) && self.sender_is_ahead(h)
            }
            MsgType::Digest | MsgType::Copy | MsgType::Scrub => self.sender_is_ahead(h),
            MsgType::Recovered | MsgType::Stable if !self.cfg.rules.on(Rule::R7) => false,
            MsgType::Seal | MsgType::Recovered | MsgType::Stable => h.map_rev > self.adopted_rev,
            _ => false,
        };
        if newer {
            Err(Refusal::Park)
        } else {
            Ok(())
        }
    }

    fn sender_is_ahead(&self, h: &Header) -> bool {
        match self.pgs.get(&h.pg) {
            Some(pg) => h.pg_epoch > pg.epoch() || pg.draining && h.pg_epoch == pg.epoch(),
            None => self.map.pg(h.pg).is_none_or(|rec| h.pg_epoch > rec.epoch),
        }
    }

    fn park(&mut self, peer: PeerId, frame: Frame) -> Result<(), Refusal> {
        if self.no_park {
            return match frame.hdr.kind {
                // An attacher compares the epochs of the answer itself (A3).
                MsgType::Seal => self.on_seal(peer, &frame),
                MsgType::Recovered | MsgType::Stable => Err(Refusal::Retry),
                _ => Err(Refusal::NackEpoch),
            };
        }
        let bytes = frame.data.len() + frame.meta.len();
        if self.parked.len() >= PARKED_MAX || self.parked_bytes + bytes > PARKED_BYTES_MAX {
            return Err(Refusal::Retry);
        }
        self.want_map(frame.hdr.map_rev);
        self.stats.parked += 1;
        self.parked_bytes += bytes;
        let deadline = self.park_deadline.unwrap_or(self.now + PARK_MAX);
        self.parked.push_back(Parked { deadline, peer, frame });
        Ok(())
    }

    /// One fetch of the map in flight (§4.2: no storm).
    pub(crate) fn want_map(&mut self, at_least: Rev) {
        if self.need_map.is_some_and(|(_, again)| self.now < again) {
            return;
        }
        let at_least = at_least.max(Rev(self.map.revision.0 + 1));
        self.need_map = Some((at_least, self.now + NEED_MAP_AGAIN));
        self.out.push(Action::NeedMap { at_least });
    }

    /// Runs every parked request again: the map moved. Those that still wait keep their deadline.
    pub(crate) fn replay_parked(&mut self) {
        for _ in 0..self.parked.len() {
            let Some(p) = self.parked.pop_front() else { break };
            self.replay_one(p, false);
        }
    }

    /// Runs requests whose wait ended with what is known now.
    pub(crate) fn expire_parked(&mut self) {
        while self.parked.front().is_some_and(|p| p.deadline <= self.now) {
            let Some(p) = self.parked.pop_front() else { break };
            self.stats.park_expired += 1;
            self.replay_one(p, true);
        }
    }

    fn replay_one(&mut self, p: Parked, last: bool) {
        self.parked_bytes = self.parked_bytes.saturating_sub(p.frame.data.len() + p.frame.meta.len());
        self.park_deadline = Some(p.deadline);
        self.no_park = last;
        self.on_frame(p.peer, p.frame);
        self.no_park = false;
        self.park_deadline = None;
    }
}

/// Which requests a role may make at all; what it may touch is checked by its ticket.
pub(crate) fn role_may(role: PeerRole, kind: MsgType) -> bool {
    match kind {
        MsgType::Ping
        | MsgType::Session
        | MsgType::Write
        | MsgType::Trim
        | MsgType::Zero
        | MsgType::Read
        | MsgType::Seal
        | MsgType::Recovered
        | MsgType::Stable
        | MsgType::Layer
        | MsgType::Freeze
        | MsgType::ChunkMap => true,
        MsgType::Digest | MsgType::Copy | MsgType::PeerCheck => role == PeerRole::Server,
        MsgType::Fence | MsgType::Quiesce | MsgType::Scrub => role != PeerRole::Client,
    }
}
