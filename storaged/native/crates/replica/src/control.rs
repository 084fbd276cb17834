//! Control requests: fence, quiesce, orders, scrub, repair, shutdown.

use drystone_store::api::{MetaKey, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::consts::Micros;
use drystone_types::{Buf, Epoch, Header, LayerId, PgId, Status, VolumeId, Writer};

use crate::api::{Action, Control, ControlResult, PeerId};
use crate::replica::Replica;
use crate::startup::{FREED_KEY, FREED_MAX};
use crate::state::{Asker, Op, Refusal, Then, Vol};

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn on_control(&mut self, id: u64, req: Control) {
        if self.failed || self.cfg.suspect {
            self.control_failed(id, "the drive is out of service: drop it from the cluster");
            return;
        }
        match req {
            Control::Fence { vol, gen, nonce: _ } => {
                if self.fence(vol, gen, Asker::Control(id)).is_err() {
                    self.control_failed(id, "the fence names no generation, or the drive keeps too many volumes");
                }
            }
            Control::Quiesce { pg, epoch } => self.quiesce(pg, epoch, Asker::Control(id)),
            Control::FreeLayer { layer } => self.free_layer(id, layer),
            Control::Scrub => {
                self.store.start_scrub();
                self.control_done(id);
            }
            Control::Repair { vol, key, block } => {
                self.start_repair(vol, key, block);
                self.control_done(id);
            }
            Control::Shutdown => self.shut_down(id),
        }
    }

    pub(crate) fn control_done(&mut self, id: u64) {
        self.out.push(Action::ControlDone { id, result: ControlResult::Done });
    }

    fn control_failed(&mut self, id: u64, why: &'static str) {
        self.out.push(Action::ControlDone { id, result: ControlResult::Failed(why) });
    }

    fn free_layer(&mut self, id: u64, layer: LayerId) {
        self.remember_freed(layer);
        match self.append(Stream::Small, SpaceClass::Reserve, Record::FreeLayer(layer), Buf::empty()) {
            Ok(token) => self.then(token, Then::LayerFreed { id, layer }),
            Err(_) => self.control_failed(id, "the drive cannot log the order: it failed and must be dropped"),
        }
    }

    /// What the drive kept for the layer goes; with a volume's last layer the volume goes too, so that
    /// dead volumes do not fill the table. Its generation is then unknown, which admits nothing.
    pub(crate) fn layer_freed(&mut self, id: u64, layer: LayerId) {
        if self.freezes.remove(&layer).is_some() {
            let _ = self.append_meta(MetaKey::Freeze(layer), Vec::new());
        }
        let only = |v: &Vol| v.ticket.as_ref().is_some_and(|t| t.chain.len() == 1 && t.head() == Some(layer));
        let mut dead: Vec<VolumeId> = self.vols.iter().filter(|(_, v)| only(v)).map(|(id, _)| *id).collect();
        dead.sort_unstable();
        for vol in dead.into_iter().filter(|vol| !self.store.lineage_exists(*vol)).collect::<Vec<_>>() {
            self.forget_grants(vol);
            self.vols.remove(&vol);
            for key in [MetaKey::Seal(vol), MetaKey::Stable(vol), MetaKey::Grant(vol)] {
                let _ = self.append_meta(key, Vec::new());
            }
        }
        self.control_done(id);
    }

    fn remember_freed(&mut self, layer: LayerId) {
        if self.freed.contains(&layer) {
            return;
        }
        self.freed.push_back(layer);
        if self.freed.len() > FREED_MAX {
            self.freed.pop_front();
        }
        let mut w = Writer::new();
        self.freed.iter().for_each(|l| {
            w.u64(l.0);
        });
        let _ = self.append_meta(MetaKey::Drive(FREED_KEY), w.finish());
    }

    /// Everything known is logged, then every stream is drained.
    fn shut_down(&mut self, id: u64) {
        self.log_due_stables(Micros::MAX);
        self.log_due_pgs(Micros::MAX);
        let op = self.ops.insert(Op { left: 0, then: Then::Control(id) });
        self.store.barrier(op);
    }

    pub(crate) fn on_quiesce(&mut self, peer: PeerId, h: &Header) -> Result<(), Refusal> {
        self.quiesce(h.pg, h.pg_epoch, Asker::Peer(peer, Box::new(*h)));
        Ok(())
    }

    /// Reads of the PG stop now. The answer is proof for a drop, so it survives a restart.
    fn quiesce(&mut self, id: PgId, epoch: Epoch, who: Asker) {
        if let Some(pg) = self.pgs.get_mut(&id) {
            pg.quiesced = pg.quiesced.max(epoch);
            if let Some(token) = self.log_pg(id) {
                self.then(token, Then::QuiesceLogged { pg: id, epoch, who });
                return;
            }
        }
        // Not a member here: it answers no reads anyway, but a map it has not seen may make it one.
        self.answer_quiesce(who, self.map.pg(id).is_some_and(|rec| rec.epoch >= epoch));
    }

    pub(crate) fn quiesce_logged(&mut self, id: PgId, epoch: Epoch, who: Asker) {
        let quiet = self.pgs.get(&id).is_none_or(|pg| pg.quiesced >= epoch || pg.epoch() > epoch);
        self.answer_quiesce(who, quiet);
    }

    fn answer_quiesce(&mut self, who: Asker, quiet: bool) {
        match (who, quiet) {
            (Asker::Peer(peer, hdr), true) => self.send(peer, &hdr, Status::Ok, Vec::new()),
            (Asker::Peer(peer, hdr), false) => self.refuse(peer, &hdr, Refusal::Retry),
            (Asker::Control(id), true) => self.control_done(id),
            (Asker::Control(id), false) => self.control_failed(id, "the drive has not seen this epoch: push the map"),
        }
    }
}
