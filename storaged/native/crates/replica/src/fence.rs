//! R1, R2 and R3: the fences every request meets, and meets again when its answer leaves.

use drystone_store::api::ObjectStore;
use drystone_types::{Header, Rule};

use crate::replica::Replica;
use crate::state::{Refusal, Role};

impl<S: ObjectStore> Replica<S> {
    /// R1 and R3: the epoch is the adopted one and this drive is a member.
    pub(crate) fn check_epoch(&self, h: &Header) -> Result<Role, Refusal> {
        let Some(pg) = self.pgs.get(&h.pg) else { return Err(Refusal::NackEpoch) };
        if self.cfg.rules.on(Rule::R1) && h.pg_epoch != pg.epoch() || pg.draining {
            return Err(Refusal::NackEpoch);
        }
        if pg.role == Role::Out {
            return Err(Refusal::NackEpoch);
        }
        if pg.need_generations.is_some() || pg.checking {
            return Err(Refusal::Retry);
        }
        Ok(pg.role)
    }

    /// R2: exactly the sealed generation, and its seal is durable.
    pub(crate) fn check_gen(&self, h: &Header) -> Result<(), Refusal> {
        if !self.cfg.rules.on(Rule::R2) {
            return Ok(());
        }
        let Some(vol) = self.vols.get(&h.vol) else { return Err(Refusal::NackGen) };
        if h.gen != vol.sealed || h.gen.0 == 0 {
            return Err(Refusal::NackGen);
        }
        if vol.sealing > 0 && self.cfg.rules.on(Rule::SealStops) {
            Err(Refusal::Retry)
        } else {
            Ok(())
        }
    }

    /// R1 to R3 in their order.
    pub(crate) fn check_fences(&self, h: &Header) -> Result<Role, Refusal> {
        let role = self.check_epoch(h)?;
        self.check_gen(h)?;
        Ok(role)
    }

    /// I3, stated once more where state changes.
    pub(crate) fn assert_i3(&mut self, h: &Header) {
        let epoch = self.pgs.get(&h.pg).is_some_and(|pg| pg.epoch() == h.pg_epoch && pg.role != Role::Out);
        let gen = self.vols.get(&h.vol).is_some_and(|v| v.sealed == h.gen);
        self.assert_that(epoch, "I3: a write is applied outside its epoch");
        self.assert_that(gen, "I3, I7: a write of a generation that is not sealed is applied");
    }
}
