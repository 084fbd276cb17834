//! R7: the stable value of a volume, RECOVERED and STABLE, and its logging.

use drystone_store::api::{MetaKey, ObjectStore};
use drystone_types::consts::Micros;
use drystone_types::{Frame, Gen, Header, Reader, Rule, Status, Version, VolumeId, Writer};

use crate::api::PeerId;
use crate::limits::STABLE_LOG_DELAY;
use crate::replica::Replica;
use crate::state::{Refusal, Then};

impl<S: ObjectStore> Replica<S> {
    /// R7 for a frame that passed its fences: only when this drive has adopted the sender's map.
    pub(crate) fn raise_stable(&mut self, h: &Header) {
        if h.map_rev <= self.adopted_rev || !self.cfg.rules.on(Rule::R7) {
            self.set_stable(h.vol, h.stable);
        }
    }

    /// A maximum, never an assignment (B3).
    fn set_stable(&mut self, vol_id: VolumeId, stable: Version) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        // Only RECOVERED can be below what is known: it says nothing of its own generation's writes.
        let lowers = stable.seq == 0 && !self.cfg.rules.on(Rule::RecoveredMax);
        if stable <= vol.stable && !lowers {
            return;
        }
        vol.stable = stable;
        if !vol.stable_dirty {
            vol.stable_dirty = true;
            self.stable_queue.push_back((self.now + STABLE_LOG_DELAY, vol_id));
        }
        self.store.set_stable(vol_id, stable, false);
    }

    pub(crate) fn on_recovered(&mut self, peer: PeerId, h: &Header) -> Result<(), Refusal> {
        self.check_gen(h)?;
        self.ticket_of(h, peer)?;
        self.stats.recovered += 1;
        self.set_stable(h.vol, Version { gen: h.gen, seq: 0 });
        self.free_old_grants(h.vol);
        self.top_up(h.vol, h.gen);
        self.send_ok(peer, h);
        Ok(())
    }

    pub(crate) fn on_stable(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        let h = &frame.hdr;
        self.check_gen(h)?;
        self.ticket_of(h, peer)?;
        if h.stable.gen > h.gen {
            return Err(Refusal::Invalid);
        }
        self.raise_stable(h);
        if !frame.meta.is_empty() {
            let (returned, settled, nonce) = read_poll(&frame.meta).ok_or(Refusal::Invalid)?;
            // What was counted for an earlier open says nothing about the grants of this one.
            if nonce == self.cfg.open_nonce {
                self.settle_slots(h.vol, h.gen, settled, returned > 0);
            }
        }
        self.polled(h.vol);
        self.top_up(h.vol, h.gen);
        let mut w = Writer::new();
        w.u32(self.recall_wanted(h.vol, h.gen));
        let status = if self.is_out_of_space(h.vol, h.gen) { Status::Full } else { Status::Ok };
        self.send(peer, h, status, w.finish());
        Ok(())
    }

    /// Logs the values that have been waiting; at most one second late (§4.3).
    pub(crate) fn log_due_stables(&mut self, until: Micros) {
        while self.stable_queue.front().is_some_and(|(at, _)| *at <= until) {
            let Some((_, vol_id)) = self.stable_queue.pop_front() else { break };
            let Some(vol) = self.vols.get_mut(&vol_id) else { continue };
            vol.stable_dirty = false;
            let stable = vol.stable;
            let value = encode_version(stable);
            match self.append_meta(MetaKey::Stable(vol_id), value) {
                Ok(token) => self.then(token, Then::StableLogged(vol_id, stable)),
                Err(_) => {
                    // No room just now: a value that is never logged keeps its holes for ever.
                    self.stable_again(vol_id);
                    break;
                }
            }
        }
    }

    fn stable_again(&mut self, vol_id: VolumeId) {
        if let Some(vol) = self.vols.get_mut(&vol_id) {
            vol.stable_dirty = true;
            self.stable_queue.push_back((self.now + STABLE_LOG_DELAY, vol_id));
        }
    }

    /// Holes at or below this value may be dropped from now on (P10, B8).
    pub(crate) fn stable_logged(&mut self, vol_id: VolumeId, stable: Version) {
        self.stats.stables_logged += 1;
        if let Some(vol) = self.vols.get_mut(&vol_id) {
            vol.stable_logged = vol.stable_logged.max(stable);
        }
        self.store.set_stable(vol_id, stable, true);
    }
}

fn read_poll(meta: &[u8]) -> Option<(u32, u32, u64)> {
    let mut r = Reader::new(meta);
    let poll = (r.u32().ok()?, r.u32().ok()?, r.u64().ok()?);
    r.finish().ok()?;
    Some(poll)
}

pub(crate) fn encode_version(v: Version) -> Vec<u8> {
    let mut w = Writer::new();
    w.u32(v.gen.0).u64(v.seq);
    w.finish()
}

pub(crate) fn decode_version(value: &[u8]) -> Option<Version> {
    let mut r = Reader::new(value);
    let v = Version { gen: Gen(r.u32().ok()?), seq: r.u64().ok()? };
    r.finish().ok()?;
    Some(v)
}
