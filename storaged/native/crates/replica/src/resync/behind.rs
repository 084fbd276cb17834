//! WRITE+ROLL+UNREAD: an attacher found a version that every in-sync member has and none can read now. Nothing is
//! written; this joiner must get it by its copy, so what it has of the block must be void.

use drystone_store::api::{Held, ObjectStore};
use drystone_types::{Header, ObjKey, PgId, Version};

use super::Phase;
use crate::api::LeaveWhy;
use crate::replica::Replica;
use crate::state::{Refusal, Role};

impl<S: ObjectStore> Replica<S> {
    /// OK once the copy is sure to bring these blocks at this version, or they are here. A block that was written
    /// since the join at an older version is kept by the copy: then only a new join helps, and this drive leaves.
    pub(crate) fn await_copy(
        &mut self,
        h: &Header,
        role: Role,
        key: ObjKey,
        first: u16,
        count: u16,
    ) -> Result<(), Refusal> {
        // An in-sync member is one of those that have the version.
        let Role::Joining(join) = role else { return Err(Refusal::Invalid) };
        let stable = self.vols.get(&h.vol).map_or(Version::ZERO, |v| v.stable);
        if h.version() <= stable {
            // Acknowledged by this member too, or before it joined.
            return Ok(());
        }
        for block in first..first + count {
            if self.store.since_join(key, block) != Some(join) {
                self.copy_again(h.pg)?;
            } else if !self.has_version(key, block, h.version()) {
                return Err(self.leave_behind(h.pg));
            }
        }
        Ok(())
    }

    fn has_version(&self, key: ObjKey, block: u16, wanted: Version) -> bool {
        matches!(self.store.held(key, block), Held::Known { version, .. } if version >= wanted)
    }

    /// What was copied, or is on its way, may be older than the version: it does not count.
    fn copy_again(&mut self, id: PgId) -> Result<(), Refusal> {
        let Some(mut rs) = self.take_resync(id) else { return Err(Refusal::Retry) };
        let phase = rs.phase;
        match phase {
            // Void and nothing under way.
            Phase::Held => {}
            Phase::NeedList | Phase::Listing | Phase::Page => rs.begin_again(),
            // Told, or about to be: the manager may count on it already.
            Phase::Draining | Phase::Complete | Phase::Stopped => {}
        }
        self.put_resync(id, rs);
        match phase {
            Phase::Stopped => Err(Refusal::Retry),
            Phase::Draining | Phase::Complete => Err(self.leave_behind(id)),
            _ => {
                self.pump(id);
                Ok(())
            }
        }
    }

    /// Asks to be dropped until it is; the attacher waits for the new epoch.
    fn leave_behind(&mut self, id: PgId) -> Refusal {
        if let Some(mut rs) = self.take_resync(id) {
            if rs.phase != Phase::Stopped {
                rs.phase = Phase::Stopped;
                rs.leaves = LeaveWhy::Behind;
                rs.tell_again = 0;
            }
            self.put_resync(id, rs);
            self.pump(id);
        }
        Refusal::Retry
    }
}
