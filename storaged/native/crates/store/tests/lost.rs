//! A lost checkpoint and lost superblocks: nothing is shown and nothing written until the cluster counts on nothing
//! here; then the drive begins anew under its name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::*;
use drystone_store::api::*;
use drystone_store::superblock::Superblock;
use drystone_store::testing::{CrashDev, Rng};
use drystone_store::*;
use drystone_types::*;

const K: ObjKey = ObjKey { layer: LayerId(10), chunk: 0 };

/// A drive with closed segments and a checkpoint, and its superblock.
fn filled() -> (CrashDev, Superblock) {
    let mut dev = new_dev(20);
    let (mut store, _) = open(&mut dev, 1);
    let mut rng = Rng(3);
    for at in 0..300u16 {
        let (rec, data) = record(BlockKind::Data, K, at, 1, Version::new(1, u64::from(at) + 1));
        store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, u64::from(at)).unwrap();
        if at % 10 == 0 {
            settle(&mut store, &mut dev, &mut rng);
        }
    }
    store.stop();
    settle(&mut store, &mut dev, &mut rng);
    let sb = *store.superblock();
    (dev, sb)
}

fn spoil(dev: &mut CrashDev, slots: &[u64]) {
    dev.with_bytes(|b| slots.iter().for_each(|s| b[*s as usize * 4096 + 40] ^= 1));
}

fn params_of(nonce: u64, clear_suspect: bool) -> OpenParams {
    OpenParams { nonce, clear_suspect, cluster: Some(Uuid([9; 16])), ..OpenParams::default() }
}

/// Shows nothing, takes nothing, writes nothing, and stops.
fn check_hollow(dev: &mut CrashDev, nonce: u64, why: Suspicion) {
    let before = dev.bytes().to_vec();
    let (mut store, report) = LogStore::open(dev, config(), params_of(nonce, false)).expect("opens hollow");
    assert_eq!(report.suspect, Some(why));
    assert!(store.metas().is_empty());
    let (rec, data) = record(BlockKind::Data, K, 0, 1, Version::new(2, 1));
    assert_eq!(store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, 1), Err(AppendError::Failed));
    store.checkpoint_now();
    store.start_scrub();
    store.stop();
    settle(&mut store, dev, &mut Rng(1));
    assert!(store.is_stopped());
    let edge = 16 * 4096;
    let inner = edge..before.len() - edge;
    assert!(dev.bytes()[inner.clone()] == before[inner], "a drive that may be the last copy was written to");
}

/// Begins anew, holds nothing of its earlier life, and works.
fn check_blank(dev: &mut CrashDev, nonce: u64, previous: u64, sb: &Superblock) {
    let (mut store, report) = LogStore::open(dev, config(), params_of(nonce, true)).expect("opens blank");
    assert_eq!((report.suspect, report.previous_nonce), (None, previous));
    let now = report.superblock;
    assert_eq!((now.drive, now.drive_id, now.cluster, now.nonce), (sb.drive, sb.drive_id, sb.cluster, nonce));
    assert!(store.metas().is_empty() && digest(&mut store, dev, 2, 0).is_empty());
    let mut rng = Rng(2);
    for at in 0..200u16 {
        let (rec, data) = record(BlockKind::Data, K, at, 1, Version::new(3, u64::from(at) + 1));
        store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, u64::from(at)).unwrap();
        settle(&mut store, dev, &mut rng);
    }
    for n in 1..4 {
        let (mut store, report) = open(dev, nonce + n);
        assert_eq!(report.suspect, None);
        let blocks = read(&mut store, dev, 2, &[10], 0, 0, 300);
        let here = blocks.iter().filter(|b| matches!(b, BlockRead::Data(..))).count();
        assert_eq!(here, 200, "something of the earlier life is back");
    }
}

#[test]
fn a_drive_with_a_lost_checkpoint_shows_nothing_and_begins_anew_when_it_may() {
    let (whole, sb) = filled();
    for slot in [sb.root.slot, sb.root.slot - 1] {
        let mut dev = whole.clone();
        spoil(&mut dev, &[slot]);
        check_hollow(&mut dev, 5, Suspicion::CheckpointLost);
        check_hollow(&mut dev, 6, Suspicion::CheckpointLost);
        check_blank(&mut dev, 7, 6, &sb);
    }
}

#[test]
fn a_drive_that_lost_every_superblock_is_known_by_its_segments() {
    let (mut dev, sb) = filled();
    spoil(&mut dev, &sb.layout.superblocks());
    assert_eq!(inspect(&mut dev), Err(OpenError::SuperblocksLost { segments_found: true }));
    let other = FormatParams { drive: Uuid([1; 16]), ..params() };
    let before = dev.bytes().to_vec();
    assert_eq!(salvage(&mut dev, &other), Err(OpenError::SuperblocksLost { segments_found: true }));
    assert!(dev.bytes() == before, "a drive of another name was written to");
    let found = salvage(&mut dev, &params()).expect("its segments name it");
    assert_eq!((found.drive, found.nonce, found.layout), (sb.drive, sb.nonce, sb.layout));
    check_hollow(&mut dev, 5, Suspicion::SuperblocksLost);
    check_blank(&mut dev, 7, 5, &sb);
}

#[test]
fn salvage_leaves_alone_what_has_superblocks_or_nothing_of_ours() {
    let (mut dev, sb) = filled();
    spoil(&mut dev, &sb.layout.superblocks()[..2]);
    let before = dev.bytes().to_vec();
    assert_eq!(salvage(&mut dev, &params()), Ok(sb));
    let mut blank = CrashDev::new(before.len());
    assert_eq!(salvage(&mut blank, &params()), Err(OpenError::Blank));
    let mut young = new_dev(20);
    spoil(&mut young, &sb.layout.superblocks());
    assert_eq!(salvage(&mut young, &params()), Err(OpenError::SuperblocksLost { segments_found: false }));
    assert!(dev.bytes() == before);
}

#[test]
fn beginning_anew_may_be_cut_short_at_any_write() {
    let (whole, sb) = filled();
    let mut rng = Rng(9);
    for writes_left in 0..50 {
        let mut dev = whole.clone();
        spoil(&mut dev, &[sb.root.slot]);
        let mut short = common::acked::Short { dev: &mut dev, writes_left };
        let _ = LogStore::open(&mut short, config(), params_of(5, true));
        dev.power_cut(&mut rng);
        let nonce = inspect(&mut dev).expect("its superblocks stay").nonce;
        check_blank(&mut dev, 7, nonce, &sb);
    }
}
