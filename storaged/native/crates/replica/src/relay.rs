//! RELAY: forwarding a request to a drive that its sender cannot reach. The fences travel with the
//! request; who may send it is checked here, because the target sees only this server.

use std::collections::BTreeMap;

use drystone_store::api::ObjectStore;
use drystone_types::consts::Micros;
use drystone_types::{AttachMode, DriveId, Flags, Frame, Header, MsgType};

use crate::api::{Action, PeerId, PeerInfo, PeerRole};
use crate::dispatch::role_may;
use crate::limits::{RELAYS_MAX, RELAY_TTL};
use crate::replica::Replica;
use crate::state::Refusal;

struct Relay {
    peer: PeerId,
    request: u64,
    drive: DriveId,
    until: Micros,
}

/// Requests relayed and not answered, by our own request id. Ids rise, so the oldest is first.
#[derive(Default)]
pub(crate) struct Relays {
    open: BTreeMap<u64, Relay>,
}

impl Relays {
    pub(crate) fn is_relay(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }
    pub(crate) fn deadline(&self) -> Option<Micros> {
        self.open.first_key_value().map(|(_, r)| r.until)
    }
    pub(crate) fn expire(&mut self, now: Micros) {
        while self.open.first_key_value().is_some_and(|(_, r)| r.until <= now) {
            self.open.pop_first();
        }
    }
    /// Unanswered requests stay unanswered: the sender resends.
    pub(crate) fn drive_down(&mut self, drive: DriveId) {
        self.open.retain(|_, r| r.drive != drive);
    }
}

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn relay(&mut self, peer: PeerId, info: PeerInfo, frame: Frame) {
        let hdr = frame.hdr;
        if let Err(refusal) = self.check_relay(info, &hdr, peer, &frame) {
            self.refuse(peer, &hdr, refusal);
            return;
        }
        let id = self.requests.next_id();
        let drive = hdr.drive;
        self.relays.open.insert(id, Relay { peer, request: hdr.request, drive, until: self.now + RELAY_TTL });
        self.stats.relayed += 1;
        let frame = Frame { hdr: Header { request: id, ..hdr }, ..frame };
        self.out.push(Action::SendDrive { drive, frame });
    }

    fn check_relay(&self, info: PeerInfo, h: &Header, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        if !h.flags.has(Flags::RELAY) || self.map.drive(h.drive).is_none() || h.kind == MsgType::Session {
            return Err(Refusal::Invalid);
        }
        if !role_may(info.role, h.kind) {
            return Err(Refusal::Denied);
        }
        if self.relays.open.len() >= RELAYS_MAX {
            return Err(Refusal::Retry);
        }
        if info.role != PeerRole::Client || h.kind == MsgType::Ping {
            return Ok(());
        }
        if matches!(h.kind, MsgType::Seal | MsgType::Layer) {
            return self.open_ticket(peer, frame).map(|_| ());
        }
        // Without a ticket of this client nothing says that the volume is its own; another member may know.
        if self.may_relay(info.uuid, h) {
            Ok(())
        } else {
            Err(Refusal::Retry)
        }
    }

    /// The target takes a relayed request for the owner's, so a guest beside a writer may only read.
    fn may_relay(&self, client: drystone_types::Uuid, h: &Header) -> bool {
        let owner = self.vols.get(&h.vol).and_then(|v| v.ticket.as_ref());
        if owner.is_some_and(|t| t.client == client) {
            return true;
        }
        let readers_only = owner.is_some_and(|t| t.mode == AttachMode::ReadOnly);
        let reads = h.kind == MsgType::Read && !h.flags.has(Flags::ROLL);
        (reads || readers_only) && self.is_client_of(h.vol, client)
    }

    pub(crate) fn relay_answer(&mut self, drive: DriveId, frame: Frame) {
        let id = frame.hdr.request;
        if self.relays.open.get(&id).is_none_or(|r| r.drive != drive) {
            return;
        }
        let last = frame.hdr.kind != MsgType::Seal
            || frame.hdr.flags.has(Flags::LAST)
            || !frame.hdr.status.eq(&drystone_types::Status::Ok);
        let Some(relay) = self.relays.open.get(&id) else { return };
        let (peer, request) = (relay.peer, relay.request);
        if last {
            self.relays.open.remove(&id);
        }
        self.send_frame(peer, Frame { hdr: Header { request, ..frame.hdr }, ..frame });
    }
}
