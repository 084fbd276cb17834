//! Changes of one PG's member sets, as pure functions of its record: the caller compares and
//! swaps the result in the store. They hold I1 (`insync` never empty) and I2 (`insync` grows only
//! by a drive whose copy was completed in exactly this epoch). The manager has the same rules.

use drystone_types::map::{Joiner, OutSince};
use drystone_types::{DriveId, Epoch, PgRecord};

/// Why a change was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransitionError {
    /// The drive is not a member, so there is nothing to change.
    NotMember,
    /// The drive is a member already.
    AlreadyMember,
    /// It is the last in-sync drive: dropping it would lose every acked write (I1).
    LastCopy,
    /// The epoch moved since the copy was completed (I2), or since what is to end was promised.
    EpochMoved,
    /// The epoch counter is used up.
    EpochOverflow,
    /// The record has no place for another member.
    TooManyMembers,
}

impl core::fmt::Display for TransitionError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            TransitionError::NotMember => "the drive is not a member of the placement group",
            TransitionError::AlreadyMember => "the drive is a member of the placement group already",
            TransitionError::LastCopy => "the drive holds the last in-sync copy",
            TransitionError::EpochMoved => "the epoch moved since",
            TransitionError::EpochOverflow => "the epoch counter is used up",
            TransitionError::TooManyMembers => "the placement group has its most members already",
        })
    }
}

impl std::error::Error for TransitionError {}

fn next_epoch(record: &PgRecord) -> Result<Epoch, TransitionError> {
    record.epoch.0.checked_add(1).map(Epoch).ok_or(TransitionError::EpochOverflow)
}

/// Takes a member out. An in-sync drive is remembered with the epoch before the drop, the last one
/// in which it was in sync; a joiner keeps the `e0` it joined with, because it was not in sync since.
pub fn drop_drive(record: &PgRecord, drive: DriveId, now_s: u64) -> Result<PgRecord, TransitionError> {
    let epoch = next_epoch(record)?;
    let e0 = match record.joiner(drive) {
        Some(joiner) => joiner.e0,
        None if !record.is_insync(drive) => return Err(TransitionError::NotMember),
        None if record.insync.len() == 1 => return Err(TransitionError::LastCopy),
        None => record.epoch,
    };
    let mut next = record.clone();
    next.epoch = epoch;
    next.insync.retain(|d| *d != drive);
    next.joining.retain(|j| j.drive != drive);
    next.out.retain(|o| o.drive != drive);
    next.out.push(OutSince { drive, e0, since_s: now_s });
    Ok(next)
}

/// Lets a drive join: writes flow to it from the new epoch on. A drive the record does not
/// remember is blank (`e0` = 0).
pub fn join(record: &PgRecord, drive: DriveId) -> Result<PgRecord, TransitionError> {
    if record.is_member(drive) {
        return Err(TransitionError::AlreadyMember);
    }
    if record.members().count() >= drystone_types::consts::PG_MEMBERS_MAX {
        return Err(TransitionError::TooManyMembers);
    }
    let epoch = next_epoch(record)?;
    let e0 = record.out.iter().find(|o| o.drive == drive).map_or(Epoch(0), |o| o.e0);
    let mut next = record.clone();
    next.epoch = epoch;
    next.out.retain(|o| o.drive != drive);
    next.joining.push(Joiner { drive, join_epoch: epoch, e0 });
    Ok(next)
}

/// Makes a joiner in-sync. `copied_in` is the epoch in which its copy was completed.
pub fn promote(record: &PgRecord, drive: DriveId, copied_in: Epoch) -> Result<PgRecord, TransitionError> {
    if record.joiner(drive).is_none() {
        return Err(TransitionError::NotMember);
    }
    if record.epoch != copied_in {
        return Err(TransitionError::EpochMoved);
    }
    let mut next = record.clone();
    next.epoch = next_epoch(record)?;
    next.joining.retain(|j| j.drive != drive);
    next.insync.push(drive);
    Ok(next)
}

/// The same members in a new epoch: what was promised for the epochs up to `asked` ends. `drive` is the one that
/// promised, and is in sync still.
pub fn renew(record: &PgRecord, drive: DriveId, asked: Epoch) -> Result<PgRecord, TransitionError> {
    if !record.is_insync(drive) {
        return Err(TransitionError::NotMember);
    }
    if record.epoch != asked {
        return Err(TransitionError::EpochMoved);
    }
    Ok(PgRecord { epoch: next_epoch(record)?, ..record.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(insync: &[u32]) -> PgRecord {
        PgRecord { epoch: Epoch(5), insync: insync.iter().map(|d| DriveId(*d)).collect(), ..PgRecord::default() }
    }

    #[test]
    fn a_dropped_drive_is_remembered_with_the_epoch_before_the_drop() {
        let next = drop_drive(&record(&[1, 2, 3]), DriveId(2), 77).unwrap();
        assert_eq!(next.epoch, Epoch(6));
        assert_eq!(next.out.as_slice(), &[OutSince { drive: DriveId(2), e0: Epoch(5), since_s: 77 }]);
        assert_eq!(next.insync.as_slice(), &[DriveId(1), DriveId(3)]);
    }

    #[test]
    fn the_last_in_sync_drive_is_never_dropped() {
        assert_eq!(drop_drive(&record(&[1]), DriveId(1), 0), Err(TransitionError::LastCopy));
    }

    #[test]
    fn a_joiner_that_is_dropped_keeps_the_epoch_in_which_it_was_last_in_sync() {
        let out = drop_drive(&record(&[1, 2]), DriveId(2), 0).unwrap();
        let joined = join(&out, DriveId(2)).unwrap();
        assert_eq!(joined.joiner(DriveId(2)).map(|j| (j.join_epoch, j.e0)), Some((Epoch(7), Epoch(5))));
        let again = drop_drive(&joined, DriveId(2), 0).unwrap();
        assert_eq!(again.out[0].e0, Epoch(5));
    }

    #[test]
    fn a_drive_the_record_does_not_remember_joins_blank() {
        assert_eq!(join(&record(&[1]), DriveId(9)).unwrap().joining[0].e0, Epoch(0));
    }

    #[test]
    fn promotion_needs_the_epoch_in_which_the_copy_ended() {
        let joined = join(&record(&[1]), DriveId(2)).unwrap();
        assert_eq!(promote(&joined, DriveId(2), Epoch(5)), Err(TransitionError::EpochMoved));
        assert_eq!(promote(&joined, DriveId(2), Epoch(6)).unwrap().insync.as_slice(), &[DriveId(1), DriveId(2)]);
    }

    #[test]
    fn a_renewal_changes_nothing_but_the_epoch_and_only_the_one_that_was_promised_for() {
        let old = join(&drop_drive(&record(&[1, 2, 3]), DriveId(3), 77).unwrap(), DriveId(3)).unwrap();
        let next = renew(&old, DriveId(2), Epoch(7)).unwrap();
        assert_eq!(next, PgRecord { epoch: Epoch(8), ..old.clone() });
        assert_eq!(next.joiner(DriveId(3)).map(|j| j.join_epoch), Some(Epoch(7)));
        assert_eq!(renew(&next, DriveId(2), Epoch(7)), Err(TransitionError::EpochMoved));
        assert_eq!(renew(&old, DriveId(3), Epoch(7)), Err(TransitionError::NotMember));
    }

    proptest! {
        #[test]
        fn no_sequence_of_changes_breaks_i1_or_i2(steps in proptest::collection::vec((0u8..4, 0u32..5, any::<bool>()), 0..60)) {
            let mut rec = record(&[0, 1, 2]);
            for (what, drive, fresh) in steps {
                let drive = DriveId(drive);
                let copied = if fresh { rec.epoch } else { Epoch(rec.epoch.0 - 1) };
                let next = match what {
                    0 => drop_drive(&rec, drive, 0),
                    1 => join(&rec, drive),
                    3 => renew(&rec, drive, copied),
                    _ => promote(&rec, drive, copied),
                };
                let Ok(next) = next else { continue };
                prop_assert!(!next.insync.is_empty());
                prop_assert_eq!(next.epoch.0, rec.epoch.0 + 1);
                for d in &next.insync {
                    prop_assert!(rec.is_insync(*d) || (what == 2 && *d == drive && fresh && rec.joiner(drive).is_some()));
                }
                rec = next;
            }
        }
    }
}
