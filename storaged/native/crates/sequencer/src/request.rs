//! Request ids: `round:32 | index:24 | kind:4 | member:4`. An answer leads to its operation
//! without a search, and one of an earlier round (another epoch, a reused slot) to nothing.

/// What a request belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Write,
    Read,
    Ctl,
    /// Whether the drive answers over its own connection.
    Ping,
}

/// A decoded request id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReqId {
    pub(crate) kind: Kind,
    pub(crate) index: u32,
    pub(crate) member: u8,
    pub(crate) round: u32,
}

impl ReqId {
    pub(crate) fn new(kind: Kind, index: u32, member: u8, round: u32) -> Self {
        ReqId { kind, index, member, round }
    }

    pub(crate) fn encode(self) -> u64 {
        let kind = match self.kind {
            Kind::Write => 1,
            Kind::Read => 2,
            Kind::Ctl => 3,
            Kind::Ping => 4,
        };
        u64::from(self.round) << 32 | u64::from(self.index & 0xff_ffff) << 8 | kind << 4 | u64::from(self.member & 15)
    }

    pub(crate) fn decode(raw: u64) -> Option<Self> {
        let kind = match raw >> 4 & 15 {
            1 => Kind::Write,
            2 => Kind::Read,
            3 => Kind::Ctl,
            4 => Kind::Ping,
            _ => return None,
        };
        let index = u32::try_from(raw >> 8 & 0xff_ffff).ok()?;
        Some(ReqId { kind, index, member: (raw & 15) as u8, round: (raw >> 32) as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_keeps_every_part() {
        for kind in [Kind::Write, Kind::Read, Kind::Ctl, Kind::Ping] {
            let id = ReqId::new(kind, 0xab_cdef, 15, 0xffff_fff0);
            assert_eq!(ReqId::decode(id.encode()), Some(id));
        }
        assert_eq!(ReqId::decode(0), None);
    }
}
