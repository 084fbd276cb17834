//! Requests in flight: who gets the answer.

use drystone_fe_nbd::ReplyTo;
use drystone_reactor::ConnId;
use drystone_types::VolumeId;

use crate::io_stats::Started;

/// Where an answer goes.
#[derive(Clone, Copy)]
pub struct Origin {
    pub vol: VolumeId,
    pub conn: ConnId,
    pub to: ReplyTo,
    pub started: Started,
}

/// Slab of open requests; a tag is its index and a count of reuses, so a stale tag finds nothing.
#[derive(Default)]
pub struct Tags {
    slots: Vec<(u32, Option<Origin>)>,
    free: Vec<u32>,
}

impl Tags {
    pub fn insert(&mut self, origin: Origin) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let Some(slot) = self.slots.get_mut(index as usize) else { return u64::MAX };
        slot.0 = slot.0.wrapping_add(1);
        slot.1 = Some(origin);
        u64::from(slot.0) << 32 | u64::from(index)
    }

    /// Requests under way.
    pub fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn remove(&mut self, tag: u64) -> Option<Origin> {
        let index = u32::try_from(tag & 0xffff_ffff).ok()?;
        let slot = self.slots.get_mut(index as usize).filter(|s| u64::from(s.0) == tag >> 32)?;
        let origin = slot.1.take()?;
        self.free.push(index);
        Some(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io_stats::{IoKind, IoStats};
    use drystone_fe_nbd::{Export, Limits, Op, Session, Step};

    fn reply_to() -> ReplyTo {
        // The only way to a ReplyTo is a request, as in real life.
        let mut out = Vec::new();
        let mut session = Session::new(Export::new("", 4096), Limits::default(), &mut out);
        let mut input = 3u32.to_be_bytes().to_vec();
        input.extend_from_slice(b"IHAVEOPT");
        input.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
        input.extend_from_slice(&0x2560_9513u32.to_be_bytes());
        input.extend_from_slice(&[0; 4]);
        input.extend_from_slice(&[0; 16]);
        input.extend_from_slice(&512u32.to_be_bytes());
        let mut at = 0;
        loop {
            let (used, step) = session.decode(&input[at..], &mut out).unwrap();
            at += used;
            if let Step::Request(r) = step {
                assert!(matches!(r.op, Op::Read { .. }));
                return r.to;
            }
        }
    }

    #[test]
    fn a_tag_is_good_for_one_answer_and_a_stale_one_for_none() {
        let mut tags = Tags::default();
        let started = IoStats::default().begin(0, IoKind::Read, 512);
        let origin = Origin { vol: VolumeId(1), conn: ConnId(1), to: reply_to(), started };
        let first = tags.insert(origin);
        assert!(tags.remove(first).is_some());
        assert!(tags.remove(first).is_none());
        assert_eq!(tags.open(), 0);
        let second = tags.insert(origin);
        assert_eq!(tags.open(), 1);
        assert_ne!(first, second);
        assert!(tags.remove(first).is_none());
        assert!(tags.remove(second).is_some());
    }
}
