//! Power cuts at random moments: every record reported durable is there, and of the others a prefix
//! of each stream, never more and never a mix (I15).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::*;
use drystone_store::api::*;
use drystone_store::testing::{CrashDev, Rng};
use drystone_store::{Config, DevError, DevGeometry, LogStore, OpenParams, OpenReport, SyncDev};
use drystone_types::*;
use std::collections::BTreeMap;

const LAYERS: u64 = 2;
const CHUNKS: u64 = 2;
const BLOCKS: u16 = 150;
const VALUES: u64 = 6;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Cell {
    Block(ObjKey, u16),
    Value(u64),
}

/// What a cell shows: a version and a kind, or nothing; a value shows its number.
type Shown = Option<(Version, BlockKind)>;

struct Done {
    stream: usize,
    cells: Vec<Cell>,
    shown: Shown,
    acked: bool,
}

struct World {
    dev: CrashDev,
    rng: Rng,
    base: BTreeMap<Cell, Shown>,
    log: Vec<Done>,
    seq: u64,
    nonce: u64,
    moved: u64,
}

fn all_cells() -> Vec<Cell> {
    let keys = (0..LAYERS).flat_map(|l| (0..CHUNKS).map(move |c| key(10 + l, c)));
    let blocks = keys.flat_map(|k| (0..BLOCKS).map(move |b| Cell::Block(k, b)));
    blocks.chain((0..VALUES).map(Cell::Value)).collect()
}

impl World {
    fn new(seed: u64) -> World {
        World { dev: new_dev(40), rng: Rng(seed), base: BTreeMap::new(), log: Vec::new(), seq: 0, nonce: 1, moved: 0 }
    }

    fn append(&mut self, store: &mut LogStore) {
        let token = self.log.len() as u64;
        let stream = if self.rng.below(4) == 0 { Stream::Large } else { Stream::Small };
        let (rec, data, cells, shown) = self.some_record();
        if store.append(stream, SpaceClass::Free, rec, data, token).is_ok() {
            self.log.push(Done { stream: stream as usize, cells, shown, acked: false });
        }
    }
    fn some_record(&mut self) -> (Record, Buf, Vec<Cell>, Shown) {
        self.seq += 1;
        let version = Version::new(1, self.seq);
        if self.rng.below(8) == 0 {
            let n = self.rng.below(VALUES);
            let mut value = vec![1; self.rng.below(3) as usize * 1500 + 8];
            value[..8].copy_from_slice(&self.seq.to_le_bytes());
            let shown = Some((version, BlockKind::Data));
            return (Record::Meta(MetaKey::Drive(n), value), Buf::empty(), vec![Cell::Value(n)], shown);
        }
        let k = key(10 + self.rng.below(LAYERS), self.rng.below(CHUNKS));
        let first = self.rng.below(u64::from(BLOCKS)) as u16;
        let longest = if self.rng.below(5) == 0 { 90 } else { 3 };
        let count = (1 + self.rng.below(longest) as u16).min(BLOCKS - first);
        let cells = (first..first + count).map(|b| Cell::Block(k, b)).collect();
        let kind = [BlockKind::Data, BlockKind::Data, BlockKind::Data, BlockKind::Hole, BlockKind::Zero]
            [self.rng.below(5) as usize];
        let (rec, data) = record(kind, k, first, count, version);
        if self.rng.below(12) == 0 {
            let rec = BlockRecord { kind: BlockKind::Hole, csums: Vec::new(), ..rec };
            return (Record::Forget(rec), Buf::empty(), cells, None);
        }
        (Record::Blocks(rec), data, cells, Some((version, kind)))
    }

    /// Works until the power fails.
    fn session(&mut self, store: &mut LogStore) {
        let mut events = Vec::new();
        for _ in 0..self.rng.below(120) {
            for _ in 0..self.rng.below(5) {
                self.append(store);
            }
            for _ in 0..self.rng.below(6) {
                step(store, &mut self.dev, &mut self.rng, &mut events);
            }
            if self.rng.below(60) == 0 {
                store.checkpoint_now();
            }
            for e in events.drain(..) {
                match e {
                    StoreEvent::Durable(t) => self.log[t as usize].acked = true,
                    StoreEvent::Failed(why) => panic!("{why}"),
                    StoreEvent::Rotten(r) | StoreEvent::RottenMoved(r) => panic!("rotten: {r:?}"),
                    _ => {}
                }
            }
        }
        self.dev.power_cut(&mut self.rng);
    }

    fn open(&mut self) -> (LogStore, OpenReport) {
        self.nonce += 1;
        // Some opens are cut short themselves.
        while self.rng.below(4) == 0 {
            let mut short = Short { dev: &mut self.dev, writes_left: self.rng.below(8) };
            let params = OpenParams { nonce: self.nonce, ..OpenParams::default() };
            let _ = LogStore::open(&mut short, Config::default(), params);
            self.dev.power_cut(&mut self.rng);
            self.nonce += 1;
        }
        open(&mut self.dev, self.nonce)
    }

    fn observe(&mut self, store: &mut LogStore) -> BTreeMap<Cell, Shown> {
        let mut out: BTreeMap<Cell, Shown> = all_cells().into_iter().map(|c| (c, None)).collect();
        for chunk in 0..CHUNKS {
            for object in digest(store, &mut self.dev, 2, chunk) {
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

    /// For each cell the newest record of the session that can explain what it shows; −1 = what was
    /// there before.
    fn explain(&self, seen: &BTreeMap<Cell, Shown>) -> BTreeMap<Cell, i64> {
        let mut history: BTreeMap<Cell, Vec<usize>> = BTreeMap::new();
        for (i, d) in self.log.iter().enumerate() {
            d.cells.iter().for_each(|c| history.entry(*c).or_default().push(i));
        }
        let none = Vec::new();
        let explain_one = |(cell, shown): (&Cell, &Shown)| {
            let list = history.get(cell).unwrap_or(&none);
            let newest = list.iter().rev().find(|i| self.log[**i].shown == *shown);
            let before = self.base.get(cell).copied().flatten() == *shown;
            match newest {
                Some(i) => (*cell, *i as i64),
                None if before => (*cell, -1),
                None => panic!("{cell:?} shows {shown:?}, which nobody wrote"),
            }
        };
        seen.iter().map(explain_one).collect()
    }

    fn check(&mut self, store: &mut LogStore) {
        let seen = self.observe(store);
        let at = self.explain(&seen);
        let mut present = [-1i64; 3];
        for (cell, i) in &at {
            if *i >= 0 && seen[cell].is_some() {
                let s = self.log[*i as usize].stream;
                present[s] = present[s].max(*i);
            }
        }
        for (i, d) in self.log.iter().enumerate() {
            let must = d.acked || (i as i64) < present[d.stream];
            let lost = d.cells.iter().find(|c| must && at[*c] < i as i64);
            assert!(lost.is_none(), "record {i} (acked {}) is lost at {lost:?}: {:?}", d.acked, seen[lost.unwrap()]);
        }
        self.check_bytes(store, &seen);
        self.base = seen;
        self.log.clear();
    }
    fn check_bytes(&mut self, store: &mut LogStore, seen: &BTreeMap<Cell, Shown>) {
        let k = key(10 + self.rng.below(LAYERS), self.rng.below(CHUNKS));
        let blocks = read(store, &mut self.dev, 2, &[k.layer.0], k.chunk, 0, BLOCKS);
        for (at, b) in (0u16..).zip(blocks) {
            let want = match seen[&Cell::Block(k, at)] {
                None | Some((_, BlockKind::Hole)) => b == BlockRead::Absent,
                Some((_, BlockKind::Zero)) => b == BlockRead::Masked,
                Some((v, _)) => matches!(&b, BlockRead::Data(d, _) if d.as_slice() == block(2, k, at, v)),
            };
            assert!(want, "{k:?} block {at}: {b:?} for {:?}", seen[&Cell::Block(k, at)]);
        }
    }
}

/// A device that stops taking writes: an open that is interrupted.
struct Short<'a> {
    dev: &'a mut CrashDev,
    writes_left: u64,
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

fn crash_many(seeds: core::ops::Range<u64>, cuts: u64) {
    let mut moved = 0;
    let mut discarded = 0;
    for seed in seeds {
        let mut w = World::new(seed);
        for cut in 0..cuts {
            let (mut store, report) = w.open();
            assert_eq!(report.suspect, None, "seed {seed}, cut {cut}: {report:?}");
            discarded += report.groups_discarded;
            w.check(&mut store);
            w.session(&mut store);
            moved += store.moved_blocks();
        }
        w.moved += moved;
    }
    assert!(moved > 0 && discarded > 0, "collection and torn tails took part: {moved}, {discarded}");
}

/// Worlds of 18 power cuts each; with the second test at least 1000 cuts.
fn worlds() -> u64 {
    std::env::var("STORE_CRASH_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(28)
}

#[test]
fn after_a_power_cut_the_index_is_the_durable_prefix_of_each_stream() {
    crash_many(0..worlds(), 18);
}

#[test]
fn so_it_is_on_drives_of_other_histories() {
    crash_many(1000..1000 + worlds(), 18);
}
