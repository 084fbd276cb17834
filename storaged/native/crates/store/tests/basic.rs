//! The life of records without faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::*;
use drystone_store::api::*;
use drystone_store::testing::Rng;
use drystone_types::*;

#[test]
fn what_was_written_is_read_again_before_and_after_a_restart() {
    let mut dev = new_dev(64);
    let (mut store, report) = open(&mut dev, 11);
    assert!(report.clean && report.suspect.is_none());
    let mut rng = Rng(5);
    let k = key(10, 3);
    let (rec, data) = record(BlockKind::Data, k, 100, 200, Version::new(1, 1));
    store.append(Stream::Large, SpaceClass::Free, Record::Blocks(rec), data, 1).unwrap();
    let (rec, data) = record(BlockKind::Data, k, 150, 1, Version::new(1, 2));
    store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, 2).unwrap();
    let seal = MetaKey::Seal(VolumeId(2));
    store.append(Stream::Small, SpaceClass::Reserve, Record::Meta(seal, vec![5; 9000]), Buf::empty(), 3).unwrap();
    assert_eq!(store.meta(seal).unwrap().len(), 9000);
    store.barrier(4);
    let events = settle(&mut store, &mut dev, &mut rng);
    for want in [StoreEvent::Durable(1), StoreEvent::Durable(2), StoreEvent::Durable(3), StoreEvent::Barrier(4)] {
        assert!(events.contains(&want), "{want:?} in {events:?}");
    }
    let check = |store: &mut drystone_store::LogStore, dev: &mut drystone_store::testing::CrashDev| {
        let blocks = read(store, dev, 2, &[10], 3, 99, 202);
        for (at, b) in (99u16..).zip(&blocks) {
            let version = if at == 150 { Version::new(1, 2) } else { Version::new(1, 1) };
            match b {
                BlockRead::Data(d, _) => assert_eq!(d.as_slice(), block(2, k, at, version)),
                other => assert!(at == 99 || at == 300, "{at}: {other:?}"),
            }
        }
        assert_eq!(store.unstable(VolumeId(2)).len(), 200);
        assert_eq!(store.meta(seal).unwrap().len(), 9000);
        assert_eq!(store.space().live, 200);
    };
    check(&mut store, &mut dev);
    drop(store);
    let (mut store, report) = open(&mut dev, 12);
    assert_eq!((report.suspect, report.previous_nonce, report.clean), (None, 11, false));
    check(&mut store, &mut dev);
    store.stop();
    settle(&mut store, &mut dev, &mut rng);
    assert!(store.is_stopped());
    let (mut store, report) = open(&mut dev, 13);
    assert!(report.clean && report.entries == 0, "{report:?}");
    check(&mut store, &mut dev);
}
