//! Control requests: fence, quiesce, orders, scrub, repair, shutdown.

use drystone_store::api::{AppendError, MetaKey, ObjectStore, Record, SpaceClass, Stream};
use drystone_types::consts::Micros;
use drystone_types::{Buf, Epoch, Header, LayerId, PgId, Status, VolumeId, Writer};

use crate::api::{Action, Control, ControlResult, PeerId};
use crate::bad_blocks::FoundBy;
use crate::replica::Replica;
use crate::startup::{EXERCISE_KEY, FREED_KEY, FREED_MAX};
use crate::state::{Asker, Op, Refusal, Then, Vol};

const OTHER_OWNER: &str =
    "the drive has this generation sealed for another owner: the metadata store is an old backup, \
                           stop the manager and put the newest store back";

/// Why an order was not carried out.
fn refused_order(error: AppendError) -> &'static str {
    match error {
        AppendError::Full => "the drive has no room to log the order now: it is to be repeated",
        AppendError::Failed | AppendError::Invalid => "the drive cannot log the order: it failed and must be dropped",
    }
}

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn on_control(&mut self, id: u64, req: Control) {
        if self.failed || self.cfg.suspect {
            self.control_failed(id, "the drive is out of service: drop it from the cluster");
            return;
        }
        match req {
            Control::Fence { vol, gen, nonce } => match self.fence(vol, gen, nonce, Asker::Control(id)) {
                Ok(()) => {}
                Err(Refusal::NackGen) => self.control_failed(id, OTHER_OWNER),
                Err(_) => self.control_failed(id, "the fence names no generation, or the drive keeps too many volumes"),
            },
            Control::Quiesce { pg, epoch } => self.quiesce(pg, epoch, Asker::Control(id)),
            Control::FreeLayer { layer } => self.free_layer(id, layer),
            Control::Scrub => {
                self.repairs.scrub_begins();
                self.store.start_scrub();
                self.control_done(id);
            }
            Control::Compare { pg } => self.start_compare(id, pg),
            Control::Repair { vol, key, block } => {
                self.repair_found(vec![(vol, key, block)], FoundBy::Read);
                self.control_done(id);
            }
            Control::Exercise => self.exercise(id),
            Control::Shutdown => self.shut_down(id),
        }
    }

    pub(crate) fn control_done(&mut self, id: u64) {
        self.out.push(Action::ControlDone { id, result: ControlResult::Done });
    }

    pub(crate) fn control_failed(&mut self, id: u64, why: &'static str) {
        self.out.push(Action::ControlDone { id, result: ControlResult::Failed(why) });
    }

    fn exercise(&mut self, id: u64) {
        // Always the same key: the log keeps one of them.
        match self.append_meta(MetaKey::Drive(EXERCISE_KEY), vec![1]) {
            Ok(token) => self.then(token, Then::Control(id)),
            Err(_) => self.control_failed(id, "the drive cannot log a small record now"),
        }
    }

    /// The list of freed layers comes first: a peer that has the layer still must not find it missing here after a
    /// restart. What is refused is reported, so that the order is repeated; each part may be done twice.
    fn free_layer(&mut self, id: u64, layer: LayerId) {
        let freed = self.remember_freed(layer);
        let freed = freed
            .and_then(|()| self.append(Stream::Small, SpaceClass::Reserve, Record::FreeLayer(layer), Buf::empty()));
        match freed {
            Ok(token) => {
                self.cancel_repairs(layer);
                self.then(token, Then::LayerFreed { id, layer });
            }
            Err(error) => self.control_failed(id, refused_order(error)),
        }
    }

    /// What the drive kept for the layer goes; with a volume's last layer the volume goes too, so that
    /// dead volumes do not fill the table. Its generation is then unknown, which admits nothing.
    ///
    /// The order is done when all of that is durable: nobody asks for it a second time.
    pub(crate) fn layer_freed(&mut self, id: u64, layer: LayerId) {
        match self.forget_layer(layer) {
            Ok(None) => self.control_done(id),
            // The last of one stream is durable after all of them.
            Ok(Some(token)) => self.then(token, Then::Control(id)),
            Err(error) => self.control_failed(id, refused_order(error)),
        }
    }

    /// What the log refuses to delete stays known here, so that the repeated order finds it.
    fn forget_layer(&mut self, layer: LayerId) -> Result<Option<u64>, AppendError> {
        let mut last = None;
        if self.freezes.contains_key(&layer) {
            last = Some(self.append_meta(MetaKey::Freeze(layer), Vec::new())?);
            self.freezes.remove(&layer);
        }
        let only = |v: &Vol| v.ticket.as_ref().is_some_and(|t| t.chain.len() == 1 && t.head() == Some(layer));
        let mut dead: Vec<VolumeId> = self.vols.iter().filter(|(_, v)| only(v)).map(|(id, _)| *id).collect();
        dead.sort_unstable();
        for vol in dead.into_iter().filter(|vol| !self.store.lineage_exists(*vol)).collect::<Vec<_>>() {
            // The seal goes last: by it a restart knows what else belongs to the volume.
            for key in [MetaKey::Grant(vol), MetaKey::Stable(vol), MetaKey::Seal(vol)] {
                last = Some(self.append_meta(key, Vec::new())?);
            }
            self.forget_grants(vol);
            self.vols.remove(&vol);
        }
        Ok(last)
    }

    fn remember_freed(&mut self, layer: LayerId) -> Result<(), AppendError> {
        if self.freed.contains(&layer) {
            return Ok(());
        }
        let skip = (self.freed.len() + 1).saturating_sub(FREED_MAX);
        let mut w = Writer::new();
        self.freed.iter().skip(skip).chain([&layer]).for_each(|l| {
            w.u64(l.0);
        });
        self.append_meta(MetaKey::Drive(FREED_KEY), w.finish())?;
        self.freed.drain(..skip);
        self.freed.push_back(layer);
        Ok(())
    }

    /// Everything known is logged, then every stream is drained.
    fn shut_down(&mut self, id: u64) {
        self.stopping = true;
        self.log_due_stables(Micros::MAX);
        self.log_due_pgs(Micros::MAX);
        let op = self.ops.insert(Op { left: 0, then: Then::Control(id) });
        self.store.barrier(op);
    }

    pub(crate) fn on_quiesce(&mut self, peer: PeerId, h: &Header) -> Result<(), Refusal> {
        self.quiesce(h.pg, h.pg_epoch, Asker::Peer(peer, Box::new(*h)));
        Ok(())
    }

    /// Reads of the PG stop now. The answer is proof for a drop. A manager's drop compares the open nonce of
    /// the process that it asked, so its proof need not outlive that process: a device that hangs would never
    /// let it, and is the one that must be dropped. A peer compares nothing: its proof survives a restart.
    fn quiesce(&mut self, id: PgId, epoch: Epoch, who: Asker) {
        if let Some(pg) = self.pgs.get_mut(&id) {
            pg.quiesced = pg.quiesced.max(epoch);
            self.watch_quiet(id);
            match (self.log_pg(id), &who) {
                (_, Asker::Control(_)) => self.answer_quiesce(who, true),
                (Some(token), Asker::Peer(..)) => self.then(token, Then::QuiesceLogged { pg: id, epoch, who }),
                // Quiet now, but a restart would not know it: no proof.
                (None, Asker::Peer(..)) => self.answer_quiesce(who, false),
            }
            return;
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
            (Asker::Control(id), false) => self.control_failed(
                id,
                "the drive cannot promise it now, or has not seen this epoch: push the map and repeat",
            ),
        }
    }
}
