//! A2 and A3: SEAL replies, and whether they count.

use std::collections::BTreeMap;

use drystone_types::codec::CodecError;
use drystone_types::{Epoch, Flags, Frame, LayerId, PgId, Reader, Rev, Rule, Version};

use crate::attach::Phase;
use crate::drive::{Dx, SEAL};
use crate::engine::Sequencer;
use crate::pg::PgIx;

/// A block that is durable above `stable` on the drive that answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SealEntry {
    pub(crate) layer: LayerId,
    pub(crate) block: u64,
    pub(crate) version: Version,
    /// 1 data, 2 hole, 3 zeros, 4 bad.
    pub(crate) kind: u8,
}

/// What a drive says of one PG.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SealPart {
    pg: PgId,
    epoch: Epoch,
    entries: Vec<SealEntry>,
}

/// PGs of one reply: 10 + 22 bits would allow more, a drive is in at most all PGs of all pools of
/// a ticket.
const PGS_MAX: usize = 1 << 20;
/// Entries of one part; its bytes are bounded by the frame anyway.
const ENTRIES_MAX: usize = 1 << 16;

fn decode(meta: &[u8]) -> Result<Vec<SealPart>, CodecError> {
    let mut r = Reader::new(meta);
    r.u32()?;
    r.u8()?;
    let mut out = Vec::new();
    for _ in 0..r.count(PGS_MAX)? {
        let (pg, epoch) = (PgId::from_wire(r.u32()?), Epoch(r.u32()?));
        let mut entries = Vec::new();
        for _ in 0..r.count(ENTRIES_MAX)? {
            let (layer, block) = (LayerId(r.u64()?), r.u64()?);
            let version = Version { gen: drystone_types::Gen(r.u32()?), seq: r.u64()? };
            entries.push(SealEntry { layer, block, version, kind: r.u8()? });
        }
        out.push(SealPart { pg, epoch, entries });
    }
    r.finish()?;
    Ok(out)
}

impl Sequencer {
    /// Parts of an earlier SEAL do not mix with those of the next.
    pub(crate) fn forget_seal_parts(&mut self, dx: Dx) {
        if let Some(attach) = self.attach.as_mut() {
            attach.parts.remove(&dx);
        }
    }

    /// Keeps one part; true when it was the last.
    pub(crate) fn seal_part(&mut self, dx: Dx, frame: &Frame) -> bool {
        if let Some(d) = self.drive_mut(dx) {
            d.ticket = Some(d.ticket_sent);
        }
        let (Some(attach), Ok(parts)) = (self.attach.as_mut(), decode(&frame.meta)) else { return false };
        attach.parts.entry(dx).or_default().extend(parts);
        frame.hdr.flags.has(Flags::LAST)
    }

    /// The whole reply of a drive is there: its parts are joined by PG before any of it counts.
    pub(crate) fn seal_done(&mut self, dx: Dx, map_rev: Rev) {
        let parts = self.attach.as_mut().and_then(|a| a.parts.remove(&dx)).unwrap_or_default();
        let mut whole: BTreeMap<PgId, (Option<Epoch>, Vec<SealEntry>)> = BTreeMap::new();
        for part in parts {
            let slot = whole.entry(part.pg).or_insert((Some(part.epoch), Vec::new()));
            // Parts of two epochs are of neither.
            slot.0 = slot.0.filter(|e| *e == part.epoch);
            slot.1.extend(part.entries);
        }
        let mut touched: Vec<PgIx> = Vec::new();
        for (pg, (epoch, entries)) in whole {
            let epoch = epoch.unwrap_or(Epoch(0));
            touched.extend(self.take_seal(dx, SealPart { pg, epoch, entries }, map_rev));
        }
        self.check_sealed_all(&touched);
        self.seal_rest(dx);
    }

    /// Counts one PG's part if the drive answered in the map's epoch (A3).
    fn take_seal(&mut self, dx: Dx, part: SealPart, map_rev: Rev) -> Option<PgIx> {
        let pool = self.pools.iter().position(|p| p.id == part.pg.pool)?;
        let ix = PgIx { pool: u16::try_from(pool).ok()?, pg: part.pg.pg };
        let pg = self.pg(ix)?;
        let (epoch, member) = (pg.epoch, pg.is_member(dx));
        if part.epoch > epoch {
            self.need_map(map_rev.max(Rev(self.map_rev.0 + 1)));
        }
        // Without A1 the epochs of an older map would be compared: its switch takes this comparison along.
        if (part.epoch != epoch && self.on(Rule::A3) && self.on(Rule::A1)) || !member {
            self.stats.seals_discarded += 1;
            return None;
        }
        let work = self.attach.as_mut()?.pg(ix).filter(|w| w.phase == Phase::Sealing)?;
        match work.replies.iter_mut().find(|r| r.0 == dx) {
            Some(reply) => reply.1 = part.entries,
            None => work.replies.push((dx, part.entries)),
        }
        Some(ix)
    }

    /// A drive that did not yet count for some PG is sealed again after a back-off: it is behind
    /// the map, or we are.
    fn seal_rest(&mut self, dx: Dx) {
        let Some(attach) = self.attach.as_ref() else { return };
        let lists = self.pools.iter().zip(&attach.work);
        let missing = lists.flat_map(|(p, w)| p.pgs.iter().zip(w)).any(|(pg, work)| {
            work.phase == Phase::Sealing && pg.is_member(dx) && !work.replies.iter().any(|r| r.0 == dx)
        });
        if missing {
            let now = self.now;
            if let Some(ctl) = self.drive_mut(dx).and_then(|d| d.ctl_mut(SEAL)) {
                ctl.want = true;
                ctl.since = now;
            }
            self.ctl_again(dx, SEAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drystone_types::Writer;

    #[test]
    fn a_truncated_or_lying_seal_reply_is_an_error_not_an_allocation() {
        let mut w = Writer::new();
        w.u32(3).u8(1).count(1).u32(5).u32(2).count(u32::MAX as usize);
        let bytes = w.finish();
        assert_eq!(decode(&bytes), Err(CodecError::TooLarge));
        assert!(decode(&bytes[..9]).is_err());
    }
}
