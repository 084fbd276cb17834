//! Placement that starts from the one that stands: only what has to move does, then the smoothing pass.

use drystone_types::DriveId;

use crate::domain::{clipped_weights, width, Candidate};
use crate::smooth::smooth;
use crate::{rendezvous, PlaceError, Plan};

/// The placement that stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Drives of every PG, in order of preference.
    pub pgs: &'a [Vec<DriveId>],
    /// Candidates that keep what they have and get nothing more: drives that are down for a moment.
    pub closed: &'a [DriveId],
}

struct Ground<'a> {
    usable: &'a [Candidate],
    names: &'a [String],
    open: &'a [bool],
    width: usize,
}

impl Ground<'_> {
    fn fits(&self, picked: &[Option<usize>], i: usize) -> bool {
        let name = self.names.get(i);
        picked.iter().flatten().all(|other| self.names.get(*other) != name)
    }

    /// What stays of a PG: drives that are candidates still, one a domain, each in its slot.
    fn kept(&self, standing: &[DriveId]) -> Vec<Option<usize>> {
        let mut picked: Vec<Option<usize>> = Vec::with_capacity(self.width);
        for drive in standing.iter().take(self.width) {
            let found = self.usable.iter().position(|c| c.id == *drive);
            let fits = found.filter(|i| self.fits(&picked, *i));
            picked.push(fits);
        }
        picked.resize(self.width, None);
        picked
    }

    /// The same with every empty slot filled, best first; an empty slot stays out where nothing open fits.
    fn filled(&self, standing: &[DriveId], ranked: &[usize]) -> Vec<usize> {
        let mut picked = self.kept(standing);
        for i in ranked {
            if !self.open.get(*i).copied().unwrap_or(false) || !self.fits(&picked, *i) {
                continue;
            }
            if let Some(slot) = picked.iter_mut().find(|slot| slot.is_none()) {
                *slot = Some(*i);
            }
        }
        picked.into_iter().flatten().collect()
    }
}

/// Ordered drives of every PG as [`crate::place`] gives them, with the fewest slots changed against `standing`.
///
/// A slot changes when its drive is no candidate any more or shares a domain with an earlier slot, and then to
/// bring drives near their shares. Placing again from the result changes nothing.
pub fn place_from(plan: &Plan<'_>, standing: &Standing<'_>) -> Result<Vec<Vec<DriveId>>, PlaceError> {
    crate::check(plan)?;
    if standing.pgs.len() != plan.pg_count as usize {
        return Err(PlaceError::OtherPgCount);
    }
    let usable = crate::usable(plan);
    let (domain, width) = width(&usable, plan.copies, plan.domain);
    if width == 0 {
        return Err(PlaceError::NoDrives);
    }
    let weights = clipped_weights(&usable, domain, width);
    let names: Vec<String> = usable.iter().map(|c| c.domain(domain)).collect();
    let open: Vec<bool> = usable.iter().map(|c| !standing.closed.contains(&c.id)).collect();
    let ground = Ground { usable: &usable, names: &names, open: &open, width };
    let mut pgs: Vec<Vec<usize>> = (0u32..)
        .zip(standing.pgs)
        .map(|(pg, drives)| ground.filled(drives, &rendezvous::ranked(&usable, &weights, pg, plan.salt)))
        .collect();
    smooth(&mut pgs, &usable, &weights, domain, &open);
    Ok(crate::named(&pgs, &usable))
}
