//! Answers: status, epochs, credits, and the PG record of a NACK_EPOCH.

use drystone_store::api::ObjectStore;
use drystone_types::{Buf, Epoch, Flags, Frame, Header, MsgType, PgRecord, Status, Writer};

use crate::api::{Action, PeerId};
use crate::replica::Replica;
use crate::state::{Refusal, Then};

impl<S: ObjectStore> Replica<S> {
    /// The header of an answer, with the adopted epoch and the credits of the volume.
    fn answer(&self, hdr: &Header, status: Status) -> Header {
        let pg_epoch = self.pgs.get(&hdr.pg).map_or(hdr.pg_epoch, |pg| pg.epoch());
        let credits = self.vols.get(&hdr.vol).map_or(0, |v| v.grant.told(hdr.gen));
        let mut answer = hdr.reply(status);
        // To those who copy or compare: nobody else paces by it.
        if matches!(hdr.kind, MsgType::Digest | MsgType::Copy | MsgType::Scrub) && self.own_clients() {
            answer.flags = answer.flags.with(Flags::CLIENTS);
        }
        Header { pg_epoch, credits, map_rev: self.adopted_rev, drive: self.cfg.drive, ..answer }
    }

    pub(crate) fn send(&mut self, peer: PeerId, hdr: &Header, status: Status, meta: Vec<u8>) {
        self.send_frame(peer, Frame::with_meta(self.answer(hdr, status), meta));
    }

    pub(crate) fn send_data(&mut self, peer: PeerId, hdr: &Header, meta: Vec<u8>, csums: Vec<u64>, data: Buf) {
        self.send_frame(peer, Frame { hdr: self.answer(hdr, Status::Ok), csums, meta, data });
    }

    pub(crate) fn send_with(&mut self, peer: PeerId, hdr: &Header, flags: Flags, meta: Vec<u8>) {
        let mut answer = self.answer(hdr, Status::Ok);
        answer.flags = answer.flags.with(flags);
        self.send_frame(peer, Frame::with_meta(answer, meta));
    }

    pub(crate) fn send_frame(&mut self, peer: PeerId, frame: Frame) {
        self.out.push(Action::Send { peer, frame });
    }

    pub(crate) fn refuse(&mut self, peer: PeerId, hdr: &Header, refusal: Refusal) {
        match refusal {
            Refusal::NackEpoch | Refusal::Park => self.nack_epoch(peer, hdr),
            Refusal::NackGen => {
                self.stats.nack_gen += 1;
                let mut answer = self.answer(hdr, Status::NackGen);
                answer.gen = self.vols.get(&hdr.vol).map_or_else(Default::default, |v| v.sealed);
                self.send_frame(peer, Frame::bare(answer));
            }
            Refusal::Retry => self.refuse_plain(peer, hdr, Status::Retry),
            Refusal::NeedTicket => self.refuse_plain(peer, hdr, Status::NeedTicket),
            Refusal::Invalid => self.refuse_plain(peer, hdr, Status::Invalid),
            Refusal::Denied => self.refuse_plain(peer, hdr, Status::Denied),
            Refusal::Full => self.refuse_plain(peer, hdr, Status::Full),
            Refusal::Eio => self.refuse_plain(peer, hdr, Status::Eio),
        }
    }

    fn refuse_plain(&mut self, peer: PeerId, hdr: &Header, status: Status) {
        match status {
            Status::Retry => self.stats.retries += 1,
            Status::NeedTicket => self.stats.need_ticket += 1,
            Status::Invalid => self.stats.invalid += 1,
            Status::Denied => self.stats.denied += 1,
            Status::Full => self.stats.full += 1,
            _ => self.stats.eio += 1,
        }
        self.send(peer, hdr, status, Vec::new());
    }

    /// NACK_EPOCH carries the newest record of this one PG (P19).
    fn nack_epoch(&mut self, peer: PeerId, hdr: &Header) {
        self.stats.nack_epoch += 1;
        let unknown = PgRecord::default();
        let rec = self.map.pg(hdr.pg).unwrap_or(&unknown);
        let mut w = Writer::new();
        w.u64(self.map.revision.0);
        rec.encode(&mut w);
        let epoch: Epoch = rec.epoch;
        let answer = Header { pg_epoch: epoch, map_rev: self.map.revision, ..self.answer(hdr, Status::NackEpoch) };
        self.send_frame(peer, Frame::with_meta(answer, w.finish()));
    }

    /// The device failed: whoever waits for durability is told so.
    pub(crate) fn fail_open_requests(&mut self) {
        for op in self.ops.drain() {
            let (peer, hdr) = match op.then {
                Then::WriteOk { peer, hdr }
                | Then::Persisted { peer, hdr }
                | Then::Read { peer, hdr, .. }
                | Then::ReadRoll { peer, hdr } => (peer, hdr),
                _ => continue,
            };
            self.refuse(peer, &hdr, Refusal::Eio);
        }
    }
}
