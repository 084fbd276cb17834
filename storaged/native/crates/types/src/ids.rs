//! Newtypes of every identifier, so that one cannot be passed for another.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(/// Drive id given by the metadata store, never reused (0 = none).
    DriveId(u32));
id!(/// Volume id from the metadata store, never reused. A volume's id is also the id of its *lineage*.
    VolumeId(u64));
id!(/// One mutable head or immutable snapshot of a lineage.
    LayerId(u64));
id!(/// Pool id, at most 10 bits on the wire.
    PoolId(u16));
id!(/// Epoch of one PG's member sets.
    Epoch(u32));
id!(/// Generation of a volume: the single-writer fence. 0 = never attached.
    Gen(u32));
id!(/// Revision of the metadata store.
    Rev(u64));

/// One placement group: pool (10 bits) and index within the pool (22 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PgId {
    /// Pool.
    pub pool: PoolId,
    /// Index within the pool, `< pg_count`.
    pub pg: u32,
}

impl PgId {
    /// Packs into the wire's `pool:10, pg:22`.
    pub fn to_wire(self) -> u32 {
        (u32::from(self.pool.0) & 0x3ff) << 22 | (self.pg & 0x3f_ffff)
    }
    /// Unpacks the wire's `pool:10, pg:22`.
    pub fn from_wire(raw: u32) -> Self {
        let pool = u16::try_from(raw >> 22).unwrap_or(0);
        PgId { pool: PoolId(pool), pg: raw & 0x3f_ffff }
    }
}

impl fmt::Display for PgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.pool.0, self.pg)
    }
}

/// Version of a block: totally ordered, generation first (§3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Version {
    /// Generation of the writer that created the version.
    pub gen: Gen,
    /// Sequence number within the generation, from 1.
    pub seq: u64,
}

impl Version {
    /// A version from raw numbers.
    pub fn new(gen: u32, seq: u64) -> Self {
        Version { gen: Gen(gen), seq }
    }
    /// Below every real version.
    pub const ZERO: Version = Version { gen: Gen(0), seq: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.gen.0, self.seq)
    }
}

/// Key of an object on a drive: one chunk of one layer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ObjKey {
    /// Layer.
    pub layer: LayerId,
    /// Chunk number within the volume.
    pub chunk: u64,
}

/// 128-bit identifier: cluster, drive, node or client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl Uuid {
    /// Parses the 8-4-4-4-12 form or 32 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut nibbles = text.bytes().filter(|b| *b != b'-').map(hex_digit);
        let mut out = [0u8; 16];
        for byte in &mut out {
            *byte = nibbles.next()?? << 4 | nibbles.next()??;
        }
        nibbles.next().is_none().then_some(Uuid(out))
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}
