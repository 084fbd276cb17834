//! Space: what is promised is there (I20), figures add up, discards touch nothing that counts; and drives
//! that keep what they acked without FUA.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::*;
use drystone_store::api::*;
use drystone_store::testing::{CrashDev, Rng};
use drystone_store::{Config, LogStore, OpenParams};
use drystone_types::*;
use std::collections::{BTreeMap, BTreeSet};

const VOL: u64 = 2;
const LAYER: u64 = 10;

fn open_as(dev: &mut CrashDev, nonce: u64, cfg: Config) -> LogStore {
    let params = OpenParams { nonce, cluster: Some(Uuid([9; 16])), ..OpenParams::default() };
    let (store, report) = LogStore::open(dev, cfg, params).expect("opens");
    assert_eq!(report.suspect, None);
    store
}

/// A drive and what it must hold.
struct World {
    dev: CrashDev,
    store: LogStore,
    rng: Rng,
    seq: u64,
    /// Versions that were reported durable.
    held: BTreeMap<(u64, u16), u64>,
    usage: i64,
}

impl World {
    fn new(segments: u64, cfg: Config) -> World {
        World::on(new_dev(segments), cfg)
    }
    fn on(mut dev: CrashDev, cfg: Config) -> World {
        let store = open_as(&mut dev, 1, cfg);
        World { dev, store, rng: Rng(7), seq: 0, held: BTreeMap::new(), usage: 0 }
    }
    fn append(&mut self, space: SpaceClass, chunk: u64, first: u16, count: u16) -> Result<(), AppendError> {
        let version = Version::new(1, self.seq + 1);
        let (rec, data) = record(BlockKind::Data, key(LAYER, chunk), first, count, version);
        self.store.append(Stream::Small, space, Record::Blocks(rec), data, self.seq)?;
        self.seq += 1;
        (first..first + count).for_each(|at| {
            self.held.insert((chunk, at), self.seq);
        });
        Ok(())
    }
    fn trim(&mut self, chunk: u64, first: u16, count: u16) -> Result<(), AppendError> {
        self.seq += 1;
        let (rec, _) = record(BlockKind::Hole, key(LAYER, chunk), first, count, Version::new(1, self.seq));
        (first..first + count).for_each(|at| {
            self.held.remove(&(chunk, at));
        });
        self.store.append(Stream::Small, SpaceClass::Reserve, Record::Blocks(rec), Buf::empty(), self.seq)
    }
    fn settle(&mut self) {
        let events = settle(&mut self.store, &mut self.dev, &mut self.rng);
        assert!(
            !events
                .iter()
                .any(|e| matches!(e, StoreEvent::Failed(_) | StoreEvent::Rotten(_) | StoreEvent::RottenMoved(_))),
            "{events:?}"
        );
    }
    /// Fills the drive with client data until it refuses; gives the chunks in use.
    fn fill(&mut self) -> u64 {
        self.fill_by(32)
    }
    fn fill_by(&mut self, run: u16) -> u64 {
        for chunk in 0.. {
            for (n, first) in (0..1024u16).step_by(usize::from(run)).enumerate() {
                if self.append(SpaceClass::Free, chunk, first, run).is_err() {
                    self.settle();
                    return chunk + 1;
                }
                if n % 32 == 31 {
                    self.settle();
                }
            }
        }
        unreachable!("a drive without end")
    }
    /// The figures agree with each other and with what is held.
    fn check_figures(&mut self) {
        let space = self.store.space();
        assert!(space.live + space.granted + space.reserve + space.grantable <= space.total, "{space:?}");
        assert_eq!(space.live, self.held.len() as u64, "{space:?}");
        self.usage += self.store.take_usage().into_iter().map(|(_, _, n)| n).sum::<i64>();
        assert_eq!(self.usage, space.live as i64);
    }
    fn check_content(&mut self) {
        let chunks: BTreeSet<u64> = self.held.keys().map(|(chunk, _)| *chunk).collect();
        for chunk in chunks {
            let blocks = read(&mut self.store, &mut self.dev, VOL, &[LAYER], chunk, 0, 1024);
            for (at, b) in (0u16..).zip(blocks) {
                let Some(seq) = self.held.get(&(chunk, at)) else {
                    assert_eq!(b, BlockRead::Absent, "chunk {chunk} block {at}");
                    continue;
                };
                let want = block(VOL, key(LAYER, chunk), at, Version::new(1, *seq));
                assert!(matches!(&b, BlockRead::Data(d, _) if d.as_slice() == want), "chunk {chunk} block {at}: {b:?}");
            }
        }
    }
}

#[test]
fn i20_what_was_granted_is_there_when_the_drive_is_full() {
    let mut w = World::new(64, config());
    w.store.grant(400);
    assert_eq!(w.store.space().granted, 400);
    let chunks = w.fill();
    w.check_figures();
    assert!(w.store.space().grantable < 33);
    // Every slot that was promised, in writes of one block: two slots each.
    for at in 0..200u16 {
        assert_eq!(w.append(SpaceClass::Granted, chunks, at, 1), Ok(()), "{:?}", w.store.space());
        if at % 16 == 0 {
            w.settle();
        }
    }
    w.settle();
    assert_eq!(w.store.space().granted, 0);
    w.check_figures();
    w.check_content();
}

#[test]
fn i20_overwrites_trims_and_small_values_never_meet_no_space() {
    let mut w = World::new(256, config());
    let chunks = w.fill();
    for round in 0..2_000u64 {
        let (chunk, at) = (w.rng.below(chunks - 1), w.rng.below(1000) as u16);
        assert_eq!(w.append(SpaceClass::Reserve, chunk, at, 4), Ok(()), "round {round}: {:?}", w.store.space());
        if round % 10 == 0 {
            let value = Record::Meta(MetaKey::Stable(VolumeId(round % 7)), vec![1; 12]);
            assert_eq!(w.store.append(Stream::Small, SpaceClass::Reserve, value, Buf::empty(), 9_999_999), Ok(()));
        }
        if round % 8 == 0 {
            w.settle();
        }
    }
    assert!(w.store.collected() > 0, "the log went round");
    assert_eq!(w.append(SpaceClass::Free, chunks, 0, 64), Err(AppendError::Full), "new data still finds none");
    assert_eq!(w.trim(0, 0, 1024), Ok(()));
    w.settle();
    w.check_figures();
    w.check_content();
    assert_eq!(w.append(SpaceClass::Free, chunks, 0, 64), Ok(()), "what was trimmed can be used");
}

#[test]
fn i20_a_small_drive_full_of_single_blocks_still_turns_over() {
    for segments in [16, 32] {
        let seg = 1 << 20;
        let mut dev = CrashDev::new((segments * seg + 32 * 4096) as usize);
        drystone_store::format(&mut dev, &drystone_store::FormatParams { segment_bytes: seg, ..params() }).unwrap();
        let mut w = World::on(dev, config());
        let chunks = w.fill_by(1);
        for round in 0..400u64 {
            let (chunk, at) = (w.rng.below(chunks - 1), w.rng.below(1000) as u16);
            assert_eq!(w.append(SpaceClass::Reserve, chunk, at, 1), Ok(()), "round {round}: {:?}", w.store.space());
            if round % 8 == 0 {
                w.settle();
                assert!(w.store.is_idle(), "overwrites wait for ever: {}", w.store.describe());
            }
        }
        w.settle();
        w.check_figures();
        w.check_content();
    }
}

#[test]
fn a_full_drive_at_rest_is_not_rewritten_for_ever() {
    let mut w = World::new(64, config());
    w.fill();
    // `settle` fails when the store never comes to rest; what it moved before that is little.
    let moved = w.store.moved_blocks();
    w.settle();
    assert_eq!(w.store.moved_blocks(), moved);
    assert!(moved <= 4 * w.store.space().live, "{moved}");
}

#[test]
fn figures_add_up_after_every_restart() {
    let mut w = World::new(64, config());
    for nonce in 2..8 {
        for _ in 0..60 {
            let (chunk, at, n) = (w.rng.below(3), w.rng.below(900) as u16, 1 + w.rng.below(60) as u16);
            if w.rng.below(4) == 0 {
                w.trim(chunk, at, n).unwrap();
            } else {
                let _ = w.append(SpaceClass::Free, chunk, at, n);
            }
        }
        w.settle();
        w.check_figures();
        if nonce % 2 == 0 {
            w.store.stop();
            w.settle();
        } else {
            w.dev.power_cut(&mut w.rng);
        }
        w.store = open_as(&mut w.dev, nonce, config());
        w.store.take_usage();
        let space = w.store.space();
        assert_eq!((space.live, space.granted), (w.held.len() as u64, 0));
        w.check_content();
    }
}

#[test]
fn a_freed_layer_gives_its_space_back_to_the_last_slot() {
    let mut w = World::new(64, config());
    let before = w.store.space();
    w.fill();
    let order = Record::FreeLayer(LayerId(LAYER));
    w.store.append(Stream::Small, SpaceClass::Reserve, order, Buf::empty(), 1).unwrap();
    w.held.clear();
    w.settle();
    w.check_figures();
    assert_eq!(w.store.space(), before);
    // And it can be used again: a full round of the log.
    assert!(w.fill() > 1);
    w.check_figures();
    w.check_content();
}

#[test]
fn i20_a_full_drive_takes_any_number_of_overwrites_and_everything_that_deletes() {
    let mut w = World::new(64, config());
    let chunks = w.fill_by(256);
    let space = w.store.space();
    // Far more than the reserve at once: all of it waits for its turn, nothing is refused.
    let runs = (space.reserve * 2 / 256).min((chunks - 1) * 4);
    assert!(runs * 256 > space.reserve);
    for n in 0..runs {
        let at = (n % 4) as u16 * 256;
        assert_eq!(w.append(SpaceClass::Reserve, n / 4, at, 256), Ok(()), "overwrite {n}");
    }
    // Data where none was adds to what is live: that much room there is not.
    assert_eq!(w.append(SpaceClass::Reserve, chunks + 1, 0, 256), Err(AppendError::Full));
    assert_eq!(w.trim(0, 0, 1024), Ok(()));
    let records = [Record::Meta(MetaKey::Seal(VolumeId(1)), Vec::new()), Record::FreeLayer(LayerId(999))];
    for (n, record) in records.into_iter().enumerate() {
        let token = 1_000_000 + n as u64;
        assert_eq!(w.store.append(Stream::Small, SpaceClass::Reserve, record, Buf::empty(), token), Ok(()));
    }
    w.settle();
    w.check_figures();
    w.check_content();
}

/// Runs operations one by one and checks that no discard meets anything that counts or is on its way.
fn run_checked(w: &mut World, seen: &mut u64) {
    let overlap = |a: (u64, u64), b: (u64, u64)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
    let mut discards: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut events = Vec::new();
    loop {
        let mut ops = Vec::new();
        w.store.poll(&mut ops);
        w.store.take_events(&mut events);
        for op in ops {
            match &op {
                DevOp::Discard { id, offset, len } => {
                    assert_eq!((offset - 16 * 4096) % SEG, 0, "from the start of a segment");
                    assert_eq!(*len, SEG - 4096, "its footer stays");
                    *seen += 1;
                    discards.insert(*id, (*offset, *len));
                }
                DevOp::Write { offset, bufs, .. } => {
                    let len = bufs.iter().map(|b| b.len() as u64).sum();
                    assert!(
                        !discards.values().any(|d| overlap(*d, (*offset, len))),
                        "a segment is written while it is being discarded"
                    );
                }
                DevOp::Read { offset, len, .. } => {
                    let read = (*offset, u64::from(*len));
                    assert!(!discards.values().any(|d| overlap(*d, read)), "something that counts is being discarded");
                }
                DevOp::Flush { .. } => {}
            }
            w.dev.start(op);
        }
        let running = w.dev.running();
        let Some(id) = running.get(w.rng.below(running.len() as u64) as usize).copied() else { break };
        discards.remove(&id);
        let result = w.dev.finish(id);
        w.store.complete(id, result, &mut events);
    }
    assert!(
        !events.iter().any(|e| matches!(e, StoreEvent::Failed(_) | StoreEvent::Rotten(_) | StoreEvent::RottenMoved(_))),
        "{events:?}"
    );
}

#[test]
fn discards_meet_only_segments_that_hold_nothing() {
    let cfg = Config { discard: true, ..config() };
    let mut w = World::new(40, cfg);
    let mut seen = 0;
    for nonce in 2..6 {
        for _ in 0..300 {
            let (chunk, at) = (w.rng.below(2), w.rng.below(500) as u16);
            let _ = w.append(SpaceClass::Free, chunk, at, 8);
            run_checked(&mut w, &mut seen);
        }
        w.check_content();
        w.dev.power_cut(&mut w.rng);
        w.store = open_as(&mut w.dev, nonce, cfg);
        w.check_content();
    }
    assert!(seen > 20, "{seen} discards");
}

#[test]
fn without_the_setting_nothing_is_discarded() {
    let mut w = World::new(40, config());
    let mut seen = 0;
    for _ in 0..600 {
        let (chunk, at) = (w.rng.below(2), w.rng.below(500) as u16);
        let _ = w.append(SpaceClass::Free, chunk, at, 8);
        run_checked(&mut w, &mut seen);
    }
    assert!(w.store.collected() > 0);
    assert_eq!(seen, 0);
}

/// Whether group writes ask for FUA.
fn asks_for_fua(cfg: Config) -> bool {
    let mut w = World::new(40, cfg);
    w.append(SpaceClass::Free, 0, 0, 1).unwrap();
    let mut ops = Vec::new();
    w.store.poll(&mut ops);
    let fua: Vec<bool> =
        ops.iter().filter_map(|o| if let DevOp::Write { durable, .. } = o { Some(*durable) } else { None }).collect();
    assert_eq!(fua.len(), 1);
    fua[0]
}

#[test]
fn only_a_drive_that_declares_power_loss_protection_is_written_without_fua() {
    assert!(asks_for_fua(config()));
    assert!(!asks_for_fua(Config { power_loss_protected: true, ..config() }));
}

#[test]
fn a_drive_with_power_loss_protection_loses_nothing_that_it_acked() {
    let cfg = Config { power_loss_protected: true, ..config() };
    for seed in 0..60 {
        let mut w = World::new(40, cfg);
        w.dev.protected = true;
        w.rng = Rng(seed);
        let mut acked: BTreeMap<(u64, u16), u64> = BTreeMap::new();
        let mut cells = Vec::new();
        for nonce in 2..5 {
            for _ in 0..w.rng.below(60) {
                let (chunk, at) = (w.rng.below(2), w.rng.below(300) as u16);
                if w.append(SpaceClass::Free, chunk, at, 1).is_ok() {
                    cells.push((chunk, at));
                }
                let mut events = Vec::new();
                for _ in 0..w.rng.below(4) {
                    step(&mut w.store, &mut w.dev, &mut w.rng, &mut events);
                }
                for e in events {
                    if let StoreEvent::Durable(token) = e {
                        let cell = acked.entry(cells[token as usize]).or_default();
                        *cell = (*cell).max(token + 1);
                    }
                }
            }
            w.dev.power_cut(&mut w.rng);
            w.store = open_as(&mut w.dev, nonce, cfg);
            for ((chunk, at), seq) in &acked {
                let b = read(&mut w.store, &mut w.dev, VOL, &[LAYER], *chunk, *at, 1);
                let good = |s: u64| {
                    let want = block(VOL, key(LAYER, *chunk), *at, Version::new(1, s));
                    matches!(&b[0], BlockRead::Data(d, _) if d.as_slice() == want)
                };
                assert!((*seq..=w.seq).any(good), "seed {seed}: chunk {chunk} block {at} of {seq} is {:?}", b[0]);
            }
        }
    }
}

#[test]
fn a_nearly_full_drive_stops_with_records_in_its_queue() {
    for left in (0..40).step_by(4) {
        let mut w = World::new(20, config());
        w.fill();
        // Overwrites need no room for good, but segments until their checkpoint, which a stop has to make.
        for n in 0..200 + left {
            w.append(SpaceClass::Reserve, 0, (n * 7 % 400) as u16, 3).unwrap();
        }
        w.store.stop();
        w.settle();
        assert!(w.store.is_stopped(), "{}", w.store.describe());
        w.store = open_as(&mut w.dev, 2, config());
        w.check_content();
    }
}
