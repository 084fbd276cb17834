//! WRITE+ROLL+UNREAD: an attacher found a version that every in-sync member has and none can read now. Nothing is
//! written; this joiner must get it by its copy, so what it has of the block must be void.

use drystone_store::api::{Held, ObjectStore};
use drystone_types::{Header, LayerId, ObjKey, PgId, Version};

use super::{ChunkId, Phase, Resync};
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
        let stable = self.vols.get(&h.vol).map_or(Version::ZERO, |v| v.stable);
        if h.version() <= stable {
            // Acknowledged by this member too, or before it joined; so it did not name it.
            return Ok(());
        }
        // An in-sync member without it has nothing to wait for: the version was never acknowledged.
        let Role::Joining(join) = role else { return Err(Refusal::Invalid) };
        for block in first..first + count {
            let has = self.has_version(key, block, h.version());
            if matches!(self.store.held(key, block), Held::Known { durable: false, .. }) {
                // A digest does not see what is only admitted.
                return Err(Refusal::Retry);
            }
            if self.store.since_join(key, block) != Some(join) {
                self.copy_again(h.pg, (h.vol, key.chunk), (key.layer, block), has)?;
            } else if !has {
                return Err(self.leave_behind(h.pg));
            }
        }
        Ok(())
    }

    fn has_version(&self, key: ObjKey, block: u16, wanted: Version) -> bool {
        matches!(self.store.held(key, block), Held::Known { version, .. } if version >= wanted)
    }

    /// Makes sure that the copy still brings this chunk, from answers that are yet to be given. Only what is void may be
    /// fetched anew: on the strength of what is copied, writes of this epoch were answered OK (R6b, I9).
    fn copy_again(
        &mut self,
        id: PgId,
        chunk: ChunkId,
        (layer, block): (LayerId, u16),
        has: bool,
    ) -> Result<(), Refusal> {
        let Some(mut rs) = self.take_resync(id) else { return Err(Refusal::Retry) };
        // What every member has lost becomes BAD at the end, whatever is here now.
        let has = has && !rs.lost.contains_key(&(chunk, layer, block));
        let comes = rs.still_comes(chunk);
        self.put_resync(id, rs);
        match comes {
            Some(true) => {
                self.pump(id);
                Ok(())
            }
            // Copied since it was asked what it has.
            Some(false) if has => Ok(()),
            Some(false) => Err(self.leave_behind(id)),
            None => Err(Refusal::Retry),
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

impl Resync {
    /// Whether a chunk will be fetched by requests that are not made yet; `Some(false)` = it is copied, `None` = this
    /// drive leaves. Arranges for it where a list or a fetch is under way whose answer may be older.
    fn still_comes(&mut self, chunk: ChunkId) -> Option<bool> {
        match self.phase {
            Phase::Held => return Some(true),
            Phase::Draining | Phase::Complete => return Some(false),
            Phase::Stopped => return None,
            Phase::NeedList | Phase::Listing | Phase::Page => {}
        }
        if self.cursor.is_some_and(|cursor| chunk <= cursor) || self.done.contains(&chunk) {
            return Some(false);
        }
        if self.phase == Phase::Listing {
            // The answer under way may not name the chunk: another list, which does.
            self.phase = Phase::NeedList;
        }
        let running = self.jobs.iter().find(|(_, job)| job.chunk == chunk).map(|(job, _)| *job);
        let in_page = self.phase == Phase::Page && self.page_end.is_none_or(|end| chunk <= end);
        if let Some(job) = running {
            self.requeue(job);
        } else if in_page && !self.queue.contains(&chunk) {
            self.queue.push_back(chunk);
        }
        Some(true)
    }
}
