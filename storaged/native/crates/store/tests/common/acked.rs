//! What was admitted and acked to a drive, and whether what an open shows can be explained by it: every
//! acked record, and of the others a prefix of each stream (I15), with the right bytes.

use super::*;
use std::collections::BTreeMap;

const LAYERS: u64 = 2;
const CHUNKS: u64 = 2;
const BLOCKS: u16 = 150;
const VALUES: u64 = 6;

/// A block, or a small value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cell {
    Block(ObjKey, u16),
    Value(u64),
}

/// What a cell shows: a version and a kind, or nothing; a value shows its number.
pub type Shown = Option<(Version, BlockKind)>;

/// A record that was admitted.
#[derive(Clone, Debug)]
pub struct Done {
    stream: usize,
    cells: Vec<Cell>,
    shown: Shown,
    admitted: usize,
    acked: Option<usize>,
}

/// Records since `base` was seen. Moments are whatever the caller counts.
#[derive(Clone, Default, Debug)]
pub struct Ledger {
    pub base: BTreeMap<Cell, Shown>,
    pub log: Vec<Done>,
}

/// How many records of each kind were made.
#[derive(Clone, Copy, Default, Debug)]
pub struct Made {
    pub writes: u64,
    pub trims: u64,
    pub values: u64,
}

fn all_cells() -> Vec<Cell> {
    let keys = (0..LAYERS).flat_map(|l| (0..CHUNKS).map(move |c| key(10 + l, c)));
    let blocks = keys.flat_map(|k| (0..BLOCKS).map(move |b| Cell::Block(k, b)));
    blocks.chain((0..VALUES).map(Cell::Value)).collect()
}

/// Appends a record chosen by chance at moment `now`.
pub fn append(store: &mut LogStore, ledger: &mut Ledger, rng: &mut Rng, seq: &mut u64, now: usize) -> Made {
    let token = ledger.log.len() as u64;
    let stream = if rng.below(4) == 0 { Stream::Large } else { Stream::Small };
    *seq += 1;
    let (rec, data, cells, shown) = some_record(rng, *seq);
    let made = match &rec {
        Record::Meta(..) => Made { values: 1, ..Made::default() },
        Record::Blocks(b) if b.kind == BlockKind::Data => Made { writes: 1, ..Made::default() },
        _ => Made { trims: 1, ..Made::default() },
    };
    if store.append(stream, SpaceClass::Free, rec, data, token).is_err() {
        return Made::default();
    }
    ledger.log.push(Done { stream: stream as usize, cells, shown, admitted: now, acked: None });
    made
}

fn some_record(rng: &mut Rng, seq: u64) -> (Record, Buf, Vec<Cell>, Shown) {
    let version = Version::new(1, seq);
    if rng.below(8) == 0 {
        let n = rng.below(VALUES);
        if rng.below(6) == 0 {
            return (Record::Meta(MetaKey::Drive(n), Vec::new()), Buf::empty(), vec![Cell::Value(n)], None);
        }
        let mut value = vec![1; rng.below(3) as usize * 1500 + 8];
        value[..8].copy_from_slice(&seq.to_le_bytes());
        let shown = Some((version, BlockKind::Data));
        return (Record::Meta(MetaKey::Drive(n), value), Buf::empty(), vec![Cell::Value(n)], shown);
    }
    let k = key(10 + rng.below(LAYERS), rng.below(CHUNKS));
    let first = rng.below(u64::from(BLOCKS)) as u16;
    let longest = if rng.below(5) == 0 { 90 } else { 3 };
    let count = (1 + rng.below(longest) as u16).min(BLOCKS - first);
    let cells = (first..first + count).map(|b| Cell::Block(k, b)).collect();
    let kinds = [BlockKind::Data, BlockKind::Data, BlockKind::Data, BlockKind::Hole, BlockKind::Zero];
    let kind = kinds[rng.below(5) as usize];
    let (rec, data) = record(kind, k, first, count, version);
    if rng.below(12) == 0 {
        let rec = BlockRecord { kind: BlockKind::Hole, csums: Vec::new(), ..rec };
        return (Record::Forget(rec), Buf::empty(), cells, None);
    }
    (Record::Blocks(rec), data, cells, Some((version, kind)))
}

/// Notes acks; an honest device gives no reason for anything else.
pub fn note_acks(ledger: &mut Ledger, events: &mut Vec<StoreEvent>, now: usize) {
    for e in events.drain(..) {
        match e {
            StoreEvent::Durable(t) => ledger.log[t as usize].acked = Some(now),
            StoreEvent::Failed(why) => panic!("{why}"),
            StoreEvent::Rotten(r) | StoreEvent::RottenMoved(r) => panic!("rotten: {r:?}"),
            _ => {}
        }
    }
}

/// Everything that the drive shows.
pub fn observe(store: &mut LogStore, dev: &mut CrashDev) -> BTreeMap<Cell, Shown> {
    let mut out: BTreeMap<Cell, Shown> = all_cells().into_iter().map(|c| (c, None)).collect();
    for chunk in 0..CHUNKS {
        for object in digest(store, dev, 2, chunk) {
            let k = ObjKey { layer: object.layer, chunk };
            for run in object.runs {
                for at in run.first..run.first + run.count {
                    out.insert(Cell::Block(k, at), Some((run.version, run.kind)));
                }
            }
        }
    }
    for n in 0..VALUES {
        let seq = store.meta(MetaKey::Drive(n)).map(|v| u64::from_le_bytes(v[..8].try_into().unwrap()));
        out.insert(Cell::Value(n), seq.map(|s| (Version::new(1, s), BlockKind::Data)));
    }
    out
}

impl Ledger {
    /// Acked records that what is seen does not hold, and what else cannot be explained; and how many acked
    /// records there were. Only what happened up to `until` counts.
    pub fn judge(&self, seen: &BTreeMap<Cell, Shown>, until: usize) -> (u64, Vec<String>) {
        let log: Vec<&Done> = self.log.iter().take_while(|d| d.admitted <= until).collect();
        let mut wrong = Vec::new();
        let at = self.explain(&log, seen, &mut wrong);
        let mut present = [-1i64; 3];
        for (cell, i) in &at {
            if *i >= 0 && seen[cell].is_some() {
                let s = log[*i as usize].stream;
                present[s] = present[s].max(*i);
            }
        }
        let mut count = 0;
        for (i, d) in log.iter().enumerate() {
            let acked = d.acked.is_some_and(|at| at <= until);
            count += u64::from(acked);
            let must = acked || (i as i64) < present[d.stream];
            if let Some(cell) = d.cells.iter().find(|c| must && at.get(*c).is_some_and(|at| *at < i as i64)) {
                wrong.push(format!("record {i} (acked {acked}) is lost at {cell:?}: {:?}", seen[cell]));
            }
        }
        (count, wrong)
    }

    /// For each cell the newest record that can explain what it shows; −1 = what was there before.
    fn explain(&self, log: &[&Done], seen: &BTreeMap<Cell, Shown>, wrong: &mut Vec<String>) -> BTreeMap<Cell, i64> {
        let mut history: BTreeMap<Cell, Vec<usize>> = BTreeMap::new();
        for (i, d) in log.iter().enumerate() {
            d.cells.iter().for_each(|c| history.entry(*c).or_default().push(i));
        }
        let mut at = BTreeMap::new();
        for (cell, shown) in seen {
            let newest = history.get(cell).and_then(|list| list.iter().rev().find(|i| log[**i].shown == *shown));
            match newest {
                Some(i) => {
                    at.insert(*cell, *i as i64);
                }
                None if self.base.get(cell).copied().flatten() == *shown => {
                    at.insert(*cell, -1);
                }
                None => wrong.push(format!("{cell:?} shows {shown:?}, which nobody wrote")),
            }
        }
        at
    }
}

/// Blocks of one object, chosen by chance, whose bytes are not those of what the drive says it holds.
pub fn wrong_bytes(
    store: &mut LogStore,
    dev: &mut CrashDev,
    seen: &BTreeMap<Cell, Shown>,
    rng: &mut Rng,
) -> Vec<String> {
    let k = key(10 + rng.below(LAYERS), rng.below(CHUNKS));
    let mut wrong = Vec::new();
    let blocks = read(store, dev, 2, &[k.layer.0], k.chunk, 0, BLOCKS);
    for (at, b) in (0u16..).zip(blocks) {
        let right = match seen[&Cell::Block(k, at)] {
            None | Some((_, BlockKind::Hole)) => b == BlockRead::Absent,
            Some((_, BlockKind::Zero)) => b == BlockRead::Masked,
            Some((v, _)) => matches!(&b, BlockRead::Data(d, _) if d.as_slice() == block(2, k, at, v)),
        };
        if !right {
            wrong.push(format!("{k:?} block {at}: {b:?} for {:?}", seen[&Cell::Block(k, at)]));
        }
    }
    wrong
}

/// A device that stops taking writes: an open that is interrupted.
pub struct Short<'a> {
    pub dev: &'a mut CrashDev,
    pub writes_left: u64,
}

impl SyncDev for Short<'_> {
    fn geometry(&self) -> DevGeometry {
        self.dev.geometry()
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DevError> {
        self.dev.read_at(offset, buf)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), DevError> {
        if self.writes_left == 0 {
            return Err(DevError("stopped"));
        }
        self.writes_left -= 1;
        self.dev.write_at(offset, buf)
    }
    fn flush(&mut self) -> Result<(), DevError> {
        self.dev.flush()
    }
}
