//! Placement (engine §5): chunk → PG by a masked hash, PG → drives by weighted rendezvous over
//! failure domains plus a smoothing pass.
//!
//! The result is stored in the metadata store, never recomputed by clients or servers, so this
//! algorithm may change without a protocol change. `chunk_hash` may not: it is a wire format.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod domain;
mod rendezvous;
mod smooth;
mod standing;

pub use domain::{width, Candidate, Domain};
pub use standing::{place_from, Standing};

use drystone_types::DriveId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Hash of a chunk number under a lineage's seed; `PoolMap::pg_of_hash` masks it.
pub fn chunk_hash(seed: u64, chunk: u64) -> u64 {
    xxh3_64_with_seed(&chunk.to_le_bytes(), seed)
}

/// What is to be placed.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Drives that may be used.
    pub drives: &'a [Candidate],
    /// PGs.
    pub pg_count: u32,
    /// Copies wanted; the width may be smaller when there are fewer domains.
    pub copies: u8,
    /// Failure domain.
    pub domain: Domain,
    /// Distinguishes pools that share drives.
    pub salt: u64,
}

/// Why nothing can be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// No drive with a weight above zero.
    NoDrives,
    /// Not a power of two, or zero.
    BadPgCount,
    /// Zero copies.
    NoCopies,
    /// The placement that stands has another number of PGs.
    OtherPgCount,
}

impl core::fmt::Display for PlaceError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            PlaceError::NoDrives => "no drive with a weight above zero: add a drive first",
            PlaceError::BadPgCount => "the number of placement groups must be a power of two",
            PlaceError::NoCopies => "a pool needs at least one copy",
            PlaceError::OtherPgCount => "the placement that stands has another number of placement groups",
        })
    }
}

impl std::error::Error for PlaceError {}

/// Ordered drives of every PG; the first is the preferred one for reads. Each PG has
/// [`width`] drives in distinct failure domains.
pub fn place(plan: &Plan<'_>) -> Result<Vec<Vec<DriveId>>, PlaceError> {
    check(plan)?;
    let usable = usable(plan);
    let (domain, width) = width(&usable, plan.copies, plan.domain);
    if width == 0 {
        return Err(PlaceError::NoDrives);
    }
    let weights = domain::clipped_weights(&usable, domain, width);
    let mut pgs = rendezvous::spread(&usable, &weights, domain, width, plan.pg_count, plan.salt);
    smooth::smooth(&mut pgs, &usable, &weights, domain, &vec![true; usable.len()]);
    Ok(named(&pgs, &usable))
}

fn check(plan: &Plan<'_>) -> Result<(), PlaceError> {
    if plan.copies == 0 {
        return Err(PlaceError::NoCopies);
    }
    if !plan.pg_count.is_power_of_two() {
        return Err(PlaceError::BadPgCount);
    }
    Ok(())
}

fn usable(plan: &Plan<'_>) -> Vec<Candidate> {
    plan.drives.iter().filter(|c| c.weight > 0.0 && c.weight.is_finite()).cloned().collect()
}

fn named(pgs: &[Vec<usize>], usable: &[Candidate]) -> Vec<Vec<DriveId>> {
    pgs.iter().map(|pg| pg.iter().filter_map(|i| usable.get(*i)).map(|c| c.id).collect()).collect()
}

/// PGs of a new pool: 64 × drives / width, rounded to a power of two, within 64 … 8192 (engine §3).
pub fn default_pg_count(drives: usize, width: usize) -> u32 {
    let wanted = (64 * drives / width.max(1)).clamp(64, 8192);
    let up = wanted.next_power_of_two();
    let nearest = if up - wanted > wanted - up / 2 { up / 2 } else { up };
    u32::try_from(nearest).unwrap_or(8192)
}
