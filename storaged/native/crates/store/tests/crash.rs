//! Power cuts at random moments: every record reported durable is there, and of the others a prefix
//! of each stream, never more and never a mix (I15).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::acked::{append, note_acks, observe, wrong_bytes, Ledger, Short};
use common::*;
use drystone_store::testing::{CrashDev, Rng};
use drystone_store::{Config, LogStore, OpenParams, OpenReport};

struct World {
    dev: CrashDev,
    rng: Rng,
    ledger: Ledger,
    seq: u64,
    nonce: u64,
}

impl World {
    fn new(seed: u64) -> World {
        World { dev: new_dev(40), rng: Rng(seed), ledger: Ledger::default(), seq: 0, nonce: 1 }
    }

    /// Works until the power fails.
    fn session(&mut self, store: &mut LogStore) {
        let mut events = Vec::new();
        for _ in 0..self.rng.below(120) {
            for _ in 0..self.rng.below(5) {
                append(store, &mut self.ledger, &mut self.rng, &mut self.seq, 0);
            }
            for _ in 0..self.rng.below(6) {
                step(store, &mut self.dev, &mut self.rng, &mut events);
            }
            if self.rng.below(60) == 0 {
                store.checkpoint_now();
            }
            note_acks(&mut self.ledger, &mut events, 0);
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

    fn check(&mut self, store: &mut LogStore) {
        let seen = observe(store, &mut self.dev);
        let (_, mut wrong) = self.ledger.judge(&seen, 0);
        wrong.extend(wrong_bytes(store, &mut self.dev, &seen, &mut self.rng));
        assert_eq!(wrong, [""; 0]);
        self.ledger = Ledger { base: seen, log: Vec::new() };
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
