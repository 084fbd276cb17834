//! Cached members of every PG of the pools in the ticket.

use drystone_types::{Epoch, PgId, PoolId};
use smallvec::SmallVec;

use crate::drive::Dx;

/// Index of a PG: position of its pool in `Sequencer::pools`, and the PG.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PgIx {
    pub(crate) pool: u16,
    pub(crate) pg: u32,
}

/// A short list of drives.
pub(crate) type DxList = SmallVec<[Dx; 4]>;

/// Members of one PG in one epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pg {
    pub(crate) epoch: Epoch,
    pub(crate) insync: DxList,
    pub(crate) joining: DxList,
}

impl Pg {
    pub(crate) fn members(&self) -> impl Iterator<Item = Dx> + '_ {
        self.insync.iter().chain(self.joining.iter()).copied()
    }

    pub(crate) fn is_member(&self, dx: Dx) -> bool {
        self.members().any(|m| m == dx)
    }
}

/// One pool of the ticket.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) id: PoolId,
    pub(crate) min_insync: usize,
    pub(crate) pgs: Vec<Pg>,
}

impl Pool {
    /// PG of a chunk by its placement hash (masked, so that a PG splits in place).
    pub(crate) fn pg_of_hash(&self, hash: u64) -> u32 {
        let mask = (self.pgs.len() as u64).max(1) - 1;
        u32::try_from(hash & mask).unwrap_or(0)
    }

    pub(crate) fn pg_id(&self, pg: u32) -> PgId {
        PgId { pool: self.id, pg }
    }
}
