//! What clients asked and were told, checked sector by sector against [`Register`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher};

use drystone_sequencer::Pieces;
use drystone_types::{Buf, BufMut, Gen, VolumeId};

use crate::register::{OpId, Register, Tag};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Read.
    Read,
    /// Write of bytes made from the tag.
    Write(Tag),
    /// Zeros over the whole range.
    Zero,
    /// Zeros over the whole blocks of the range.
    Trim,
}

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct Op {
    /// Number.
    pub id: OpId,
    /// Client.
    pub client: usize,
    /// Volume.
    pub vol: VolumeId,
    /// Generation of the client.
    pub gen: Gen,
    /// What.
    pub what: What,
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub count: u64,
}

impl Op {
    /// Sectors whose value the operation changes or sees.
    fn sectors(&self) -> std::ops::Range<u64> {
        match self.what {
            What::Trim => self.first.next_multiple_of(8)..(self.first + self.count) / 8 * 8,
            _ => self.first..self.first + self.count,
        }
    }
}

/// Why a history cannot be explained.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Oracle.
    pub oracle: &'static str,
    /// What was seen.
    pub text: String,
}

/// Spreads (volume, sector) over a table; nobody here attacks it.
#[derive(Clone, Copy, Debug, Default)]
struct Spread(u64);

impl BuildHasher for Spread {
    type Hasher = Spread;
    fn build_hasher(&self) -> Spread {
        Spread(0)
    }
}
impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// Sectors of a block.
const PER_BLOCK: u64 = 8;

/// Registers of all sectors, a block at a time: most requests cover whole blocks.
#[derive(Debug, Default)]
struct Sectors(HashMap<(VolumeId, u64), Box<[Register; PER_BLOCK as usize]>, Spread>);

impl Sectors {
    fn get(&self, vol: VolumeId, sector: u64) -> Option<&Register> {
        self.0.get(&(vol, sector / PER_BLOCK)).and_then(|b| b.get((sector % PER_BLOCK) as usize))
    }
    /// Calls `f` for each sector of a range, until one fails.
    fn each<E>(
        &mut self,
        vol: VolumeId,
        range: std::ops::Range<u64>,
        mut f: impl FnMut(u64, &mut Register) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut next = range.start;
        while next < range.end {
            let block = self.0.entry((vol, next / PER_BLOCK)).or_default();
            let end = range.end.min((next / PER_BLOCK + 1) * PER_BLOCK);
            for sector in next..end {
                f(sector, &mut block[(sector % PER_BLOCK) as usize])?;
            }
            next = end;
        }
        Ok(())
    }
    /// The same where nothing can fail.
    fn all(&mut self, vol: VolumeId, range: std::ops::Range<u64>, mut f: impl FnMut(&mut Register)) {
        let _: Result<(), std::convert::Infallible> = self.each(vol, range, |_, register| {
            f(register);
            Ok(())
        });
    }
}

/// Everything asked and told.
#[derive(Debug, Default)]
pub struct History {
    sectors: Sectors,
    open: BTreeMap<OpId, Op>,
    /// Writes whose outcome is unknown until the next generation, by volume.
    unknown: BTreeMap<OpId, Op>,
    touched: BTreeMap<VolumeId, BTreeSet<u64>>,
    next: OpId,
}

impl History {
    /// A number for an operation; also its tag.
    pub fn next_id(&mut self) -> OpId {
        self.next += 1;
        self.next
    }
    /// An operation starts.
    pub fn invoke(&mut self, op: Op) {
        self.sectors.all(op.vol, op.sectors(), |register| match op.what {
            What::Read => register.invoke_read(op.id),
            What::Write(tag) => register.invoke_write(op.id, tag),
            What::Zero | What::Trim => register.invoke_write(op.id, 0),
        });
        let range = op.sectors();
        if op.what != What::Read && !range.is_empty() {
            let touched = self.touched.entry(op.vol).or_default();
            touched.extend(range.start / PER_BLOCK..range.end.div_ceil(PER_BLOCK));
        }
        self.open.insert(op.id, op);
    }
    /// Operations open of one client on overlapping sectors, to bound the oracle's work.
    pub fn crowded(&self, vol: VolumeId, first: u64, count: u64, limit: usize) -> bool {
        (first..first + count).any(|s| self.sectors.get(vol, s).is_some_and(|r| r.open_count() >= limit))
    }
    /// An open operation.
    pub fn op(&self, id: OpId) -> Option<&Op> {
        self.open.get(&id)
    }
    /// Operations open of a client.
    pub fn open_of(&self, client: usize) -> usize {
        self.open.values().filter(|o| o.client == client).count()
    }

    /// A write, zero or trim was acknowledged.
    pub fn acked(&mut self, id: OpId) -> Result<(), Broken> {
        let Some(op) = self.open.remove(&id) else { return Ok(()) };
        self.sectors.each(op.vol, op.sectors(), |sector, register| {
            register.write_done(id).map_err(|v| {
                let text = format!(
                    "{:?} op{id} of client{} (volume {} generation {}) was acknowledged but can not have taken effect at sector {sector}; possible {:?}",
                    op.what, op.client, op.vol, op.gen, v.possible
                );
                Broken { oracle: "LINEARIZABILITY", text }
            })
        })
    }
    /// A read returned bytes.
    pub fn returned(&mut self, id: OpId, pieces: &Pieces) -> Result<(), Broken> {
        let Some(op) = self.open.remove(&id) else { return Ok(()) };
        let slices: Vec<&[u8]> = pieces.iter().map(|p| p.as_slice()).collect();
        let bytes = slices.concat();
        if bytes.len() as u64 != op.count * SECTOR {
            return Err(Broken {
                oracle: "LENGTH",
                text: format!("read op{id} returned {} bytes of {}", bytes.len(), op.count * SECTOR),
            });
        }
        let mut data = bytes.chunks(SECTOR as usize);
        self.sectors.each(op.vol, op.sectors(), |sector, register| {
            let data = data.next().unwrap_or_default();
            let Some(tag) = read_tag(op.vol, sector, data) else {
                let text = format!(
                    "read op{id} of client{} returned bytes nobody wrote to volume {} sector {sector}",
                    op.client, op.vol
                );
                return Err(Broken { oracle: "I16", text });
            };
            register.read_done(id, tag).map_err(|v| {
                let text = format!(
                    "read op{id} of client{} (generation {}) returned {tag} for volume {} sector {sector} (block {}); possible {:?}",
                    op.client, op.gen, op.vol, sector / 8, v.possible
                );
                Broken { oracle: "LINEARIZABILITY", text }
            })
        })
    }
    /// An operation failed. `ended`: the generation is over, so a write may still take effect until the next is active.
    pub fn failed(&mut self, id: OpId, ended: bool) {
        let Some(op) = self.open.remove(&id) else { return };
        if op.what != What::Read && ended {
            self.unknown.insert(id, op);
            return;
        }
        self.sectors.all(op.vol, op.sectors(), |register| match op.what {
            What::Read => register.read_gone(id),
            _ => register.write_failed(id),
        });
    }
    /// A client says nothing more: its reads do not matter, its writes are unknown.
    pub fn client_gone(&mut self, client: usize) {
        let ids: Vec<OpId> = self.open.values().filter(|o| o.client == client).map(|o| o.id).collect();
        for id in ids {
            self.failed(id, true);
        }
    }
    /// A generation became active: writes of older ones took effect by now, or never.
    pub fn active(&mut self, vol: VolumeId, gen: Gen) {
        let older = |o: &&Op| o.vol == vol && o.gen < gen && o.what != What::Read;
        let unknown: Vec<Op> = self.unknown.values().filter(older).cloned().collect();
        let open: Vec<Op> = self.open.values().filter(older).cloned().collect();
        for op in unknown.iter().chain(&open) {
            self.sectors.all(vol, op.sectors(), |register| {
                register.fence(|id| unknown.iter().chain(&open).any(|o| o.id == id));
                register.forget(|id| unknown.iter().any(|o| o.id == id));
            });
        }
        for op in unknown {
            self.unknown.remove(&op.id);
        }
    }
    /// Blocks ever written, trimmed or zeroed.
    pub fn blocks(&self, vol: VolumeId) -> Vec<u64> {
        self.touched.get(&vol).map(|s| s.iter().copied().collect()).unwrap_or_default()
    }
    /// Operations neither acknowledged nor failed.
    pub fn pending(&self) -> usize {
        self.open.len()
    }
    /// Values a sector may have.
    pub fn possible(&self, vol: VolumeId, sector: u64) -> Vec<Tag> {
        self.sectors.get(vol, sector).map(Register::possible).unwrap_or_else(|| vec![0])
    }
}

fn word(vol: VolumeId, sector: u64, tag: Tag, i: u64) -> u64 {
    (tag ^ sector.rotate_left(32) ^ vol.0.rotate_left(48)).wrapping_mul(0x9e37_79b9_7f4a_7c15 | 1).wrapping_add(i)
}

/// The bytes of a tag over a range of sectors.
pub fn pattern(vol: VolumeId, first: u64, count: u64, tag: Tag) -> Buf {
    let mut out = BufMut::with_len((count * SECTOR) as usize);
    for (s, sector) in out.as_mut_slice().chunks_mut(SECTOR as usize).enumerate() {
        for (i, bytes) in sector.chunks_mut(8).enumerate() {
            let value = if i == 0 { tag } else { word(vol, first + s as u64, tag, i as u64) };
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
    out.freeze()
}

/// The tag of a sector; `None` when the bytes are of no tag.
pub fn read_tag(vol: VolumeId, sector: u64, data: &[u8]) -> Option<Tag> {
    let mut words = data.chunks(8).map(|b| b.try_into().map(u64::from_le_bytes).unwrap_or(0));
    let tag = words.next()?;
    let ok = words.zip(1u64..).all(|(w, i)| w == if tag == 0 { 0 } else { word(vol, sector, tag, i) });
    ok.then_some(tag)
}
