//! What a drive has seen of the metadata store survives, whatever happens while it is written down.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::*;
use drystone_store::api::*;
use drystone_store::testing::Rng;
use drystone_types::*;

#[test]
fn a_revision_that_was_noted_is_on_the_device_without_a_checkpoint() {
    let mut dev = new_dev(40);
    let (mut store, _) = open(&mut dev, 1);
    let mut rng = Rng(2);
    settle(&mut store, &mut dev, &mut rng);
    let checkpoints = store.checkpoints();
    store.note_store(3, 77);
    settle(&mut store, &mut dev, &mut rng);
    assert_eq!(store.checkpoints(), checkpoints);
    store.note_store(2, 50);
    settle(&mut store, &mut dev, &mut rng);
    dev.power_cut(&mut rng);
    let (store, report) = open(&mut dev, 2);
    assert_eq!((store.superblock().incarnation, store.superblock().store_rev), (3, 77), "it never falls");
    assert_eq!(report.suspect, None);
}

#[test]
fn a_power_cut_at_any_moment_of_a_note_loses_nothing_acknowledged() {
    for seed in 0..200 {
        let (mut dev, mut rng) = (new_dev(40), Rng(seed * 7 + 1));
        let (mut store, _) = open(&mut dev, 1);
        let mut acked = Vec::new();
        let mut events = Vec::new();
        let steps = 20 + rng.below(120);
        for n in 0..steps {
            if n % 9 == 0 {
                store.note_store(1, n + 1);
            }
            if n % 31 == 30 {
                store.checkpoint_now();
            }
            let (rec, data) = record(BlockKind::Data, key(10, 1), n as u16, 1, Version::new(1, n + 1));
            store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, n).unwrap();
            step(&mut store, &mut dev, &mut rng, &mut events);
            acked.extend(events.drain(..).filter_map(|e| if let StoreEvent::Durable(t) = e { Some(t) } else { None }));
        }
        dev.power_cut(&mut rng);
        let (mut store, report) = open(&mut dev, 2);
        assert_eq!(report.suspect, None, "seed {seed}");
        let blocks = read(&mut store, &mut dev, 2, &[10], 1, 0, steps as u16);
        for n in acked {
            let wanted = block(2, key(10, 1), n as u16, Version::new(1, n + 1));
            let BlockRead::Data(found, _) = &blocks[n as usize] else { panic!("seed {seed}: block {n} is lost") };
            assert_eq!(found.as_slice(), wanted, "seed {seed}");
        }
    }
}
