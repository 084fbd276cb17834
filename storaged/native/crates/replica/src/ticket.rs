//! Attach tickets: what a request may touch (§4.2).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use drystone_store::api::{MetaKey, ObjectStore};
use drystone_types::{AttachMode, Frame, Gen, Header, Reader, Rule, Status, Ticket, Uuid, VolumeId, Writer};

use crate::api::{PeerId, PeerRole};
use crate::limits::{GUEST_TICKETS_MAX, TICKET_BYTES_MAX};
use crate::replica::Replica;
use crate::state::{Op, Refusal, Then, Vol};

/// Tickets of attachments that do not own their volume: snapshots, and further read-only clients
/// of one generation. RAM only; a client whose ticket is gone is asked for it again.
#[derive(Default)]
pub(crate) struct Guests {
    tickets: BTreeMap<(VolumeId, Uuid), Arc<Ticket>>,
    order: VecDeque<(VolumeId, Uuid)>,
}

impl Guests {
    fn get(&self, vol: VolumeId, client: Uuid) -> Option<&Arc<Ticket>> {
        self.tickets.get(&(vol, client))
    }
    fn put(&mut self, ticket: Ticket) {
        let key = (ticket.vol, ticket.client);
        if self.tickets.insert(key, Arc::new(ticket)).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > GUEST_TICKETS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.tickets.remove(&oldest);
            }
        }
    }
}

impl<S: ObjectStore> Replica<S> {
    /// The ticket this request is checked against. A client uses its own; a server relays or works
    /// for the owner.
    pub(crate) fn ticket_of(&self, h: &Header, peer: PeerId) -> Result<Arc<Ticket>, Refusal> {
        let info = self.peer(peer).ok_or(Refusal::Denied)?;
        // Without R2 (mutation testing) an older generation must meet nothing else that stops it.
        let any_gen = !self.cfg.rules.on(Rule::R2);
        let owner = self.vols.get(&h.vol).and_then(|v| v.ticket.as_ref()).filter(|t| any_gen || t.gen == h.gen);
        let mine = |t: &&Arc<Ticket>| info.role != PeerRole::Client || t.client == info.uuid;
        let found = owner.filter(mine).or_else(|| self.guests.get(h.vol, info.uuid));
        found.cloned().ok_or(Refusal::NeedTicket)
    }

    /// Whether this client's requests for the volume may be relayed or its grants restated.
    pub(crate) fn is_client_of(&self, vol: VolumeId, client: Uuid) -> bool {
        let owner = self.vols.get(&vol).and_then(|v| v.ticket.as_ref()).is_some_and(|t| t.client == client);
        owner || self.guests.get(vol, client).is_some()
    }

    /// Verifies a ticket in the metadata of a request.
    pub(crate) fn open_ticket(&self, peer: PeerId, frame: &Frame) -> Result<Ticket, Refusal> {
        if frame.meta.len() > TICKET_BYTES_MAX {
            return Err(Refusal::Invalid);
        }
        let keys = self.cfg.ticket_keys.clone();
        let ticket = Ticket::open(&frame.meta, |epoch| keys(epoch)).map_err(|e| match e {
            drystone_types::TicketError::BadMac => Refusal::Denied,
            drystone_types::TicketError::Codec(_) => Refusal::Invalid,
        })?;
        let info = self.peer(peer).ok_or(Refusal::Denied)?;
        let foreign = info.role == PeerRole::Client && ticket.client != info.uuid;
        if foreign || ticket.vol != frame.hdr.vol || ticket.gen != frame.hdr.gen {
            return Err(Refusal::Denied);
        }
        Ok(ticket)
    }

    pub(crate) fn keep_guest(&mut self, ticket: Ticket) {
        self.guests.put(ticket);
    }

    /// LAYER: a newer ticket of the sealed generation; OK when it is durable.
    pub(crate) fn on_layer(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        let ticket = self.open_ticket(peer, frame)?;
        if ticket.mode == AttachMode::Snapshot {
            // R2 does not apply to a snapshot: its layers are frozen.
            self.keep_guest(ticket);
            self.send(peer, &frame.hdr, Status::Ok, Vec::new());
            return Ok(());
        }
        self.check_gen(&frame.hdr)?;
        let Some(vol) = self.vols.get_mut(&frame.hdr.vol) else { return Err(Refusal::NackGen) };
        if vol.nonce != 0 && vol.nonce != ticket.nonce {
            return Err(Refusal::NackGen);
        }
        if !take_ticket(vol, &ticket, &frame.meta) {
            self.keep_guest(ticket);
        }
        // A joiner learns of a generation from the store and of its owner here: credits begin now (L1).
        let grant = self.log_first_grant(frame.hdr.vol);
        let token = self.log_seal(frame.hdr.vol)?;
        let op = self.ops.insert(Op { left: 0, then: Then::Persisted { peer, hdr: Box::new(frame.hdr) } });
        self.wait_on(op, token);
        grant.into_iter().for_each(|token| self.wait_on(op, token));
        self.settle(op);
        Ok(())
    }

    /// Logs what is sealed for a volume, ticket included.
    pub(crate) fn log_seal(&mut self, vol: VolumeId) -> Result<u64, Refusal> {
        let Some(v) = self.vols.get(&vol) else { return Err(Refusal::NackGen) };
        let value = encode_seal(v.sealed, v.nonce, &v.ticket_bytes);
        self.append_meta(MetaKey::Seal(vol), value).map_err(|_| Refusal::Eio)
    }

    /// OK of something small that is durable now.
    pub(crate) fn finish_persisted(&mut self, peer: PeerId, hdr: &Header) {
        match self.check_gen(hdr) {
            Ok(()) => {
                self.top_up(hdr.vol, hdr.gen);
                self.send(peer, hdr, Status::Ok, Vec::new());
            }
            Err(refusal) => self.refuse(peer, hdr, refusal),
        }
    }
}

/// Takes a ticket as the owner's if it is newer; `false` when it is another client's of the same
/// generation (read-only attachments share one).
pub(crate) fn take_ticket(vol: &mut Vol, ticket: &Ticket, bytes: &[u8]) -> bool {
    if let Some(old) = vol.ticket.as_ref().filter(|old| old.gen == ticket.gen) {
        if old.client != ticket.client {
            return false;
        }
        // A serial only rises: a late, older ticket never hides a layer or a size.
        if ticket.serial <= old.serial {
            return true;
        }
    }
    vol.nonce = ticket.nonce;
    vol.ticket = Some(Arc::new(ticket.clone()));
    vol.ticket_bytes = bytes.to_vec();
    true
}

pub(crate) fn encode_seal(gen: Gen, nonce: u64, ticket: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u32(gen.0).u64(nonce).blob(ticket);
    w.finish()
}

pub(crate) fn decode_seal(value: &[u8]) -> Option<Vol> {
    let mut r = Reader::new(value);
    let sealed = Gen(r.u32().ok()?);
    let nonce = r.u64().ok()?;
    let ticket_bytes = r.blob(TICKET_BYTES_MAX).ok()?.to_vec();
    // Verified when it was sealed; its key may have been rotated away since.
    let ticket = Ticket::peek(&ticket_bytes).ok().map(Arc::new);
    Some(Vol { sealed, nonce, ticket, ticket_bytes, ..Vol::default() })
}
