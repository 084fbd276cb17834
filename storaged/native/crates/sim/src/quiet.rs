//! Promises to answer no reads that led to no drop: the drive says so, and the manager makes a new epoch with the same
//! members, which ends them.

use drystone_types::{DriveId, Epoch, PgRecord};

use crate::meta::Change;
use crate::world::World;

impl World {
    /// Renewals that were asked for and are due still, one for each PG: all in one transaction. A drop that rests on
    /// one of these promises names the epoch that ends here (`Plan::covers`, `Change::Retire`), so it is left out, and
    /// one that is on its way to the store compares the shard as it was.
    pub(crate) fn renewals(&mut self, m: usize, records: &[PgRecord]) -> Vec<(u32, Change)> {
        let asked = std::mem::take(&mut self.managers[m].renews);
        let due = |(pg, (drive, epoch)): (u32, (DriveId, Epoch))| {
            let record = records.get(pg as usize)?;
            (record.epoch == epoch && record.is_insync(drive)).then_some((pg, Change::Renew(drive, epoch)))
        };
        asked.into_iter().filter_map(due).collect()
    }
}
