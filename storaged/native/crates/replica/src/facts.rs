//! What a drive's log tells of epochs, generations and stable values, without serving anything: for a person who looks
//! at a drive, and for putting lost metadata together again.

use std::collections::BTreeMap;
use std::sync::Arc;

use drystone_store::api::MetaKey;
use drystone_types::{Epoch, Gen, LayerId, PgId, Reader, Ticket, Version, VolumeId};

use crate::stable::decode_version;
use crate::startup::{StoredPg, StoredRole, DISTRUSTED_KEY, FREED_KEY};
use crate::ticket::decode_seal;

/// What the log keeps of a PG.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PgFacts {
    /// Adopted epoch; of a drive that is out, the one in which it left or learnt that it had.
    pub epoch: Epoch,
    /// Join epoch whose generations are applied; 0 = none.
    pub join: Epoch,
    /// Newest QUIESCE that was answered.
    pub quiesced: Epoch,
    /// What the drive was when that was logged.
    pub role: StoredRole,
    /// Its content failed a check against a peer and was not copied anew since.
    pub distrusted: bool,
}

/// What the log keeps of a volume.
#[derive(Clone, Debug, Default)]
pub struct VolFacts {
    /// Sealed generation.
    pub sealed: Gen,
    /// Nonce of the attachment that sealed it.
    pub nonce: u64,
    /// Its ticket: size, layers, client.
    pub ticket: Option<Arc<Ticket>>,
    /// Durable stable value.
    pub stable: Version,
}

/// Everything that the small values of a log say.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Per PG.
    pub pgs: BTreeMap<PgId, PgFacts>,
    /// Per volume.
    pub vols: BTreeMap<VolumeId, VolFacts>,
    /// Frozen layers with their cut.
    pub frozen: BTreeMap<LayerId, Version>,
    /// Layers freed lately.
    pub freed: Vec<LayerId>,
    /// Values that do not decode: a drive with one is opened only as a blank one.
    pub damaged: Vec<MetaKey>,
}

impl Facts {
    /// Reads the values of a log.
    pub fn read<'v>(metas: impl Iterator<Item = (MetaKey, &'v [u8])>) -> Facts {
        let mut facts = Facts::default();
        for (key, value) in metas.filter(|(_, value)| !value.is_empty()) {
            if facts.take(key, value).is_none() {
                facts.damaged.push(key);
            }
        }
        facts
    }

    fn take(&mut self, key: MetaKey, value: &[u8]) -> Option<()> {
        match key {
            MetaKey::Seal(vol) => {
                let seal = decode_seal(value)?;
                let known = self.vols.entry(vol).or_default();
                (known.sealed, known.nonce, known.ticket) = (seal.sealed, seal.nonce, seal.ticket);
            }
            MetaKey::Stable(vol) => self.vols.entry(vol).or_default().stable = decode_version(value)?,
            MetaKey::Freeze(layer) => {
                self.frozen.insert(layer, decode_version(value)?);
            }
            MetaKey::Adopt(pg) => {
                let stored = StoredPg::decode(value)?;
                let known = self.pgs.entry(pg).or_default();
                (known.epoch, known.join, known.quiesced) = (stored.epoch, stored.join, stored.quiesced);
            }
            MetaKey::Drive(FREED_KEY) => {
                let mut r = Reader::new(value);
                while r.remaining() > 0 {
                    self.freed.push(LayerId(r.u64().ok()?));
                }
            }
            MetaKey::Drive(DISTRUSTED_KEY) => {
                let mut r = Reader::new(value);
                while r.remaining() > 0 {
                    self.pgs.entry(PgId::from_wire(r.u32().ok()?)).or_default().distrusted = true;
                }
            }
            MetaKey::Drive(id) => {
                // Values come in the order of their keys: that of the PG is here already.
                if let Some((pg, epoch, role)) = StoredRole::decode(id, value) {
                    let counts = |known: &PgFacts| role.counts(epoch, known.epoch);
                    if matches!(role, StoredRole::Out | StoredRole::Freed) {
                        // A drive may leave before it noted anything else.
                        self.pgs.entry(pg).or_default();
                    }
                    self.pgs.entry(pg).and_modify(|known| {
                        known.role = if counts(known) { role } else { StoredRole::Unknown };
                        known.epoch = if counts(known) { epoch } else { known.epoch };
                    });
                }
            }
            MetaKey::Grant(_) => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::encode_seal;
    use drystone_types::PoolId;

    const PG: PgId = PgId { pool: PoolId(1), pg: 7 };

    #[test]
    fn the_values_of_a_log_are_told_by_group_and_volume() {
        let stored = StoredPg { epoch: Epoch(9), join: Epoch(4), ..StoredPg::default() }.encode();
        let role = StoredRole::InSync.encode(Epoch(9));
        let (seal, wire) = (encode_seal(Gen(5), 77, &[]), PG.to_wire().to_le_bytes());
        let layers = [11u64.to_le_bytes(), 12u64.to_le_bytes()].concat();
        let values: Vec<(MetaKey, &[u8])> = vec![
            (MetaKey::Adopt(PG), &stored),
            (MetaKey::Seal(VolumeId(3)), &seal),
            (MetaKey::Drive(FREED_KEY), &layers),
            (MetaKey::Drive(DISTRUSTED_KEY), &wire),
            (StoredRole::key(PG), &role),
            (MetaKey::Stable(VolumeId(4)), &[1]),
            (MetaKey::Stable(VolumeId(5)), &[]),
        ];
        let facts = Facts::read(values.into_iter());
        let pg =
            PgFacts { epoch: Epoch(9), join: Epoch(4), quiesced: Epoch(0), role: StoredRole::InSync, distrusted: true };
        assert_eq!(facts.pgs.get(&PG), Some(&pg));
        let later = StoredRole::Joining.encode(Epoch(8));
        let values = vec![(MetaKey::Adopt(PG), stored.as_slice()), (StoredRole::key(PG), later.as_slice())];
        let other = Facts::read(values.into_iter());
        assert_eq!(other.pgs.get(&PG).map(|pg| pg.role), Some(StoredRole::Unknown), "of another epoch");
        for (since, role) in [(8, StoredRole::Unknown), (9, StoredRole::Out), (12, StoredRole::Out)] {
            let out = StoredRole::Out.encode(Epoch(since));
            let values = vec![(MetaKey::Adopt(PG), stored.as_slice()), (StoredRole::key(PG), out.as_slice())];
            let left = Facts::read(values.into_iter()).pgs.get(&PG).copied().unwrap_or_default();
            assert_eq!(
                (left.epoch, left.role),
                (Epoch(since.max(9)), role),
                "a joiner that came back, or a drive that left"
            );
        }
        assert!(facts.vols.get(&VolumeId(3)).is_some_and(|v| v.sealed == Gen(5) && v.nonce == 77));
        assert_eq!(facts.freed, [LayerId(11), LayerId(12)]);
        assert_eq!(facts.damaged, [MetaKey::Stable(VolumeId(4))]);
    }
}
