//! Rot, wrong drives and failing devices: never wrong bytes, never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::*;
use drystone_store::api::*;
use drystone_store::testing::{CrashDev, MemDev, Rng};
use drystone_store::*;
use drystone_types::*;
use std::collections::BTreeSet;

const K: ObjKey = ObjKey { layer: LayerId(10), chunk: 1 };

/// A drive with a checkpoint, closed segments and an open one; every block has one version.
fn filled(stop: bool) -> CrashDev {
    let mut dev = new_dev(40);
    let (mut store, _) = open(&mut dev, 1);
    let mut rng = Rng(3);
    let mut token = 0;
    for at in (0..200u16).step_by(5) {
        token += 1;
        let (rec, data) = record(BlockKind::Data, K, at, 5, Version::new(1, u64::from(at) + 1));
        store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, token).unwrap();
        if at % 20 == 0 {
            settle(&mut store, &mut dev, &mut rng);
        }
        if at == 100 {
            store.checkpoint_now();
        }
    }
    store
        .append(Stream::Small, SpaceClass::Reserve, Record::Meta(MetaKey::Drive(1), vec![7; 3000]), Buf::empty(), 99)
        .unwrap();
    // The end of a log has no later group that knows of it: what was written last is told apart from
    // a torn write only by the peer check. So nothing that counts here is written last.
    for n in 2..4 {
        settle(&mut store, &mut dev, &mut rng);
        store
            .append(Stream::Small, SpaceClass::Reserve, Record::Meta(MetaKey::Drive(n), vec![7]), Buf::empty(), 99 + n)
            .unwrap();
    }
    if stop {
        store.stop();
    }
    settle(&mut store, &mut dev, &mut rng);
    dev
}

fn version_of(at: u16) -> Version {
    Version::new(1, u64::from(at - at % 5) + 1)
}

/// Whatever opens must not lie: right bytes, `Corrupt`, or a drive that says it is suspect.
fn check_honest(dev: &mut CrashDev, what: &str) {
    let params = OpenParams { nonce: 9, ..OpenParams::default() };
    let Ok((mut store, report)) = LogStore::open(dev, config(), params) else { return };
    let blocks = read(&mut store, dev, 2, &[10], 1, 0, 200);
    for (at, b) in (0u16..).zip(blocks) {
        match b {
            BlockRead::Data(d, _) => assert_eq!(d.as_slice(), block(2, K, at, version_of(at)), "{what}: block {at}"),
            BlockRead::Corrupt | BlockRead::Failed => {}
            other => assert!(report.suspect.is_some(), "{what}: block {at} is {other:?} and nothing is suspected"),
        }
    }
    let value = store.meta(MetaKey::Drive(1));
    assert!(value == Some(&[7; 3000][..]) || report.suspect.is_some(), "{what}: the value is lost silently");
}

#[test]
fn a_flipped_bit_anywhere_never_gives_wrong_bytes_and_never_a_silent_loss() {
    for stop in [false, true] {
        let dev = filled(stop);
        let written: Vec<usize> = (0..dev.bytes().len() / 4096)
            .filter(|s| dev.bytes()[s * 4096..(s + 1) * 4096].iter().any(|b| *b != 0))
            .collect();
        let mut rng = Rng(17);
        for sector in written {
            let mut bad = dev.clone();
            let within = if rng.below(2) == 0 { 200 } else { 4096 };
            let at = sector * 4096 + rng.below(within) as usize;
            let bit = 1 << rng.below(8);
            bad.with_bytes(|b| b[at] ^= bit);
            check_honest(&mut bad, &format!("bit {bit} of byte {at} (slot {sector}, stopped {stop})"));
        }
    }
}

#[test]
fn a_lost_sector_never_gives_wrong_bytes_and_never_a_silent_loss() {
    let dev = filled(false);
    let mut rng = Rng(23);
    for sector in
        (16..dev.bytes().len() / 4096 - 16).filter(|s| dev.bytes()[s * 4096..(s + 1) * 4096].iter().any(|b| *b != 0))
    {
        let mut bad = dev.clone();
        let other = 16 + rng.below(300) as usize;
        let misdirected = rng.below(2) == 0;
        bad.with_bytes(|b| {
            let new: Vec<u8> = if misdirected { b[other * 4096..(other + 1) * 4096].to_vec() } else { vec![0; 4096] };
            b[sector * 4096..(sector + 1) * 4096].copy_from_slice(&new);
        });
        if misdirected && other == sector {
            continue;
        }
        check_honest(&mut bad, &format!("slot {sector} holds slot {other} ({misdirected})"));
    }
}

#[test]
fn a_suspicion_stays_until_the_drive_was_dropped() {
    let mut dev = filled(false);
    // A header in the middle of the open segment: groups behind it were durable.
    let rotten = (16..).find(|s| {
        u64::from_le_bytes(dev.bytes()[s * 4096 + 8..s * 4096 + 16].try_into().unwrap()) == 0x3150_5552_4759_5244
    });
    let first_group = rotten.unwrap();
    dev.with_bytes(|b| b[first_group * 4096 + 100] ^= 1);
    let mut plain = dev.clone();
    let (_, report) = open(&mut dev, 5);
    if report.suspect.is_some() {
        let (_, again) = open(&mut dev, 6);
        assert_eq!(again.suspect, Some(Suspicion::Noted));
        let params = OpenParams { nonce: 7, clear_suspect: true, ..OpenParams::default() };
        assert_eq!(LogStore::open(&mut dev, config(), params).unwrap().1.suspect, None);
    }
    check_honest(&mut plain, "first group");
}

#[test]
fn damage_that_every_open_finds_ends_when_the_drive_counts_nowhere() {
    let mut dev = filled(false);
    // The slots of a small value: they stay what they are until the segment is used again.
    let value = (16..).find(|s| dev.bytes()[s * 4096..s * 4096 + 3000].iter().all(|b| *b == 7)).unwrap();
    dev.with_bytes(|b| b[value * 4096 + 100] ^= 1);
    assert_eq!(open(&mut dev, 5).1.suspect, Some(Suspicion::ValueLost));
    assert_eq!(open(&mut dev, 6).1.suspect, Some(Suspicion::ValueLost), "it is found again");
    let params = OpenParams { nonce: 7, clear_suspect: true, ..OpenParams::default() };
    let (mut store, report) = LogStore::open(&mut dev, config(), params).unwrap();
    assert!(report.suspect.is_none() && report.began_anew && report.previous_nonce == 6);
    assert!(read(&mut store, &mut dev, 2, &[10], 1, 0, 200).iter().all(|b| matches!(b, BlockRead::Absent)));
    let (_, again) = open(&mut dev, 8);
    assert!(again.suspect.is_none() && !again.began_anew);
}

#[test]
fn wrong_drives_are_told_apart() {
    let mut blank = MemDev::new(8 << 20);
    assert_eq!(inspect(&mut blank), Err(OpenError::Blank));
    let mut foreign = MemDev::new(8 << 20);
    foreign.bytes.iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
    assert_eq!(inspect(&mut foreign), Err(OpenError::NotOurs));
    let mut ours = MemDev::new(8 << 20);
    let sb = format(&mut ours, &params()).unwrap();
    assert_eq!(inspect(&mut ours), Ok(sb));
    let before = ours.bytes.clone();
    inspect(&mut ours).unwrap();
    assert_eq!(ours.bytes, before);
    let other = OpenParams { cluster: Some(Uuid([1; 16])), ..OpenParams::default() };
    assert_eq!(LogStore::open(&mut ours, config(), other).err(), Some(OpenError::OtherCluster(Uuid([9; 16]))));
    let mut cut = MemDev { bytes: before[..6 << 20].to_vec(), bytes_read: 0 };
    assert_eq!(inspect(&mut cut), Err(OpenError::Truncated(6 << 20, 8 << 20)));
    let mut grown = MemDev { bytes: before.clone(), bytes_read: 0 };
    grown.bytes.resize(12 << 20, 0);
    assert_eq!(inspect(&mut grown), Ok(sb));
    assert_eq!(format(&mut MemDev::new(1 << 20), &params()).err(), Some(OpenError::BadGeometry));
}

#[test]
fn two_copies_of_the_superblock_are_enough_and_one_is_not() {
    let mut dev = MemDev::new(8 << 20);
    let sb = format(&mut dev, &params()).unwrap();
    let places = sb.layout.superblocks();
    for slot in &places[..2] {
        dev.bytes[*slot as usize * 4096 + 30] ^= 1;
    }
    assert_eq!(inspect(&mut dev), Ok(sb));
    dev.bytes[places[2] as usize * 4096 + 30] ^= 1;
    assert!(matches!(inspect(&mut dev), Err(OpenError::SuperblocksLost { .. })));
}

#[test]
fn a_failed_write_fails_the_drive_and_a_failed_read_only_its_blocks() {
    let mut dev = filled(true);
    let (mut store, _) = open(&mut dev, 4);
    store.read(VolumeId(2), &[LayerId(10)], 1, 0, 4, 5);
    let mut ops = Vec::new();
    store.poll(&mut ops);
    let mut events = Vec::new();
    for op in ops {
        if let DevOp::Read { id, .. } = op {
            store.complete(id, DevResult::Failed("EIO"), &mut events);
        }
    }
    assert!(matches!(&events[..], [StoreEvent::Read(5, b)] if b.iter().all(|x| *x == BlockRead::Failed)));
    let (rec, data) = record(BlockKind::Data, K, 0, 1, Version::new(2, 1));
    store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec.clone()), data.clone(), 6).unwrap();
    let mut ops = Vec::new();
    store.poll(&mut ops);
    let id = ops.iter().find_map(|o| if let DevOp::Write { id, .. } = o { Some(*id) } else { None }).unwrap();
    events.clear();
    store.complete(id, DevResult::Failed("EIO"), &mut events);
    assert!(matches!(&events[..], [StoreEvent::Failed(_)]));
    assert_eq!(store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, 7), Err(AppendError::Failed));
}

#[test]
fn scrub_and_collection_report_rot_and_keep_it_corrupt() {
    let mut dev = filled(true);
    let bytes = block(2, K, 50, version_of(50));
    let at = dev.bytes().chunks(4096).position(|c| c == bytes).unwrap();
    dev.with_bytes(|b| b[at * 4096 + 9] ^= 1);
    let (mut store, _) = open(&mut dev, 4);
    let mut rng = Rng(1);
    store.start_scrub();
    let events = settle(&mut store, &mut dev, &mut rng);
    assert!(events.contains(&StoreEvent::Rotten(vec![(VolumeId(2), K, 50)])), "{events:?}");
    assert!(events.contains(&StoreEvent::ScrubDone(200, 1)), "{events:?}");
    // Overwrite other objects at random until collection meets the block.
    let mut seq = 1000;
    let mut rotten = 0;
    for (first, count) in [(0, 50), (51, 149)] {
        let (rec, data) = record(BlockKind::Data, K, first, count, Version::new(1, seq));
        store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, seq).unwrap();
    }
    while rotten == 0 {
        for _ in 0..8 {
            seq += 1;
            let (rec, data) = record(BlockKind::Data, key(10, 2), rng.below(250) as u16 * 4, 4, Version::new(1, seq));
            let _ = store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, seq);
        }
        let events = settle(&mut store, &mut dev, &mut rng);
        rotten += events.iter().filter(|e| matches!(e, StoreEvent::RottenMoved(_))).count();
        assert!(seq < 40_000, "{}", store.describe());
    }
    assert!(store.moved_blocks() > 0);
    for reopen in [false, true] {
        if reopen {
            let (again, report) = open(&mut dev, 5);
            assert_eq!(report.suspect, None);
            store = again;
        }
        let blocks = read(&mut store, &mut dev, 2, &[10], 1, 0, 200);
        for (at, b) in (0u16..).zip(blocks) {
            let good = matches!(&b, BlockRead::Data(d, _) if d.as_slice() == block(2, K, at, Version::new(1, 1000)));
            assert!(good != (at == 50), "block {at}: {b:?}");
        }
    }
    let (rec, data) = record(BlockKind::Data, K, 50, 1, Version::new(1, seq + 1));
    store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, 1).unwrap();
    settle(&mut store, &mut dev, &mut rng);
    assert!(matches!(&read(&mut store, &mut dev, 2, &[10], 1, 50, 1)[..], [BlockRead::Data(..)]));
}

/// Some blocks in a segment that is still open; one of them rots.
fn open_and_rotten() -> (CrashDev, LogStore) {
    let mut dev = new_dev(40);
    let (mut store, _) = open(&mut dev, 1);
    let mut rng = Rng(3);
    for (token, stream) in [(1, Stream::Small), (2, Stream::Large)] {
        let (rec, data) = record(BlockKind::Data, K, token as u16 * 10, 5, Version::new(1, token));
        store.append(stream, SpaceClass::Free, Record::Blocks(rec), data, token).unwrap();
        settle(&mut store, &mut dev, &mut rng);
    }
    let bytes = block(2, K, 21, Version::new(1, 2));
    let at = dev.bytes().chunks(4096).position(|c| c == bytes).unwrap();
    dev.with_bytes(|b| b[at * 4096 + 9] ^= 1);
    (dev, store)
}

#[test]
fn a_scrub_covers_segments_that_are_still_open() {
    let (mut dev, mut store) = open_and_rotten();
    store.start_scrub();
    let events = settle(&mut store, &mut dev, &mut Rng(1));
    assert!(events.contains(&StoreEvent::Rotten(vec![(VolumeId(2), K, 21)])), "{events:?}");
    assert!(events.contains(&StoreEvent::ScrubDone(10, 1)), "{events:?}");
    // Again: what was repaired or written since lies in an open segment again.
    let (rec, data) = record(BlockKind::Data, K, 21, 1, Version::new(1, 3));
    store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, 3).unwrap();
    settle(&mut store, &mut dev, &mut Rng(1));
    store.start_scrub();
    let events = settle(&mut store, &mut dev, &mut Rng(1));
    assert!(events.contains(&StoreEvent::ScrubDone(10, 0)), "{events:?}");
    let (mut store, report) = open(&mut dev, 2);
    assert_eq!(report.suspect, None);
    assert!(matches!(&read(&mut store, &mut dev, 2, &[10], 1, 20, 2)[..], [BlockRead::Data(..), BlockRead::Data(..)]));
}

#[test]
fn a_scrub_ends_under_load_and_never_calls_a_running_write_rotten() {
    for seed in 0..20 {
        let (mut dev, mut store) = open_and_rotten();
        let mut rng = Rng(seed);
        let mut events = Vec::new();
        store.start_scrub();
        let mut token = 100;
        while !events.iter().any(|e| matches!(e, StoreEvent::ScrubDone(..))) {
            assert!(token < 5_000, "the scrub never ends: {}", store.describe());
            token += 1;
            let (chunk, first) = (2 + rng.below(2), rng.below(200) as u16);
            let (rec, data) = record(BlockKind::Data, key(10, chunk), first, 3, Version::new(1, token));
            let _ = store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, token);
            for _ in 0..rng.below(3) {
                step(&mut store, &mut dev, &mut rng, &mut events);
            }
        }
        let rotten: Vec<_> = events.iter().filter(|e| matches!(e, StoreEvent::Rotten(_))).collect();
        assert_eq!(rotten, [&StoreEvent::Rotten(vec![(VolumeId(2), K, 21)])], "seed {seed}");
    }
}

/// Whoever asks for one block after the other of a chunk must not read all its headers each time.
#[test]
fn a_digest_of_some_blocks_reads_their_headers_only() {
    let mut dev = new_dev(40);
    let (mut store, _) = open(&mut dev, 1);
    let mut rng = Rng(3);
    for block in 0..40 {
        let (rec, data) = record(BlockKind::Data, K, block, 1, Version::new(1, 1 + u64::from(block)));
        store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, u64::from(block)).unwrap();
        settle(&mut store, &mut dev, &mut rng);
    }
    let whole = digest(&mut store, &mut dev, 2, K.chunk).remove(0);
    store.digest_blocks(VolumeId(2), K, &[(3, 1), (7, 2)], 5);
    let mut ops = Vec::new();
    store.poll(&mut ops);
    let reads = ops.iter().filter(|op| matches!(op, DevOp::Read { len: 4096, .. })).count();
    assert_eq!((reads, ops.len()), (3, 3), "three headers");
    ops.into_iter().for_each(|op| dev.start(op));
    let events = settle(&mut store, &mut dev, &mut rng);
    let runs = whole.runs.into_iter().filter(|r| [3, 7, 8].contains(&r.first)).collect();
    assert_eq!(events, [StoreEvent::Digest(5, vec![ObjectDigest { runs, ..whole }])]);
    // Of nothing, and of another volume's.
    for (vol, key) in [(2, key(10, 99)), (3, K)] {
        store.digest_blocks(VolumeId(vol), key, &[(0, 1024)], 6);
        assert_eq!(settle(&mut store, &mut dev, &mut rng), [StoreEvent::Digest(6, Vec::new())]);
    }
}

#[test]
fn a_scrub_of_an_empty_drive_ends_at_once() {
    let mut dev = new_dev(40);
    let (mut store, _) = open(&mut dev, 1);
    store.start_scrub();
    let events = settle(&mut store, &mut dev, &mut Rng(1));
    assert_eq!(events, [StoreEvent::ScrubDone(0, 0)]);
}

#[test]
fn a_rotten_group_header_does_not_hide_the_version_that_the_summary_has() {
    let (mut dev, mut store) = open_and_rotten();
    let mut rng = Rng(9);
    // A scrub closes the segments; the header is three slots before the data of block 22.
    store.start_scrub();
    settle(&mut store, &mut dev, &mut rng);
    store.set_stable(VolumeId(2), Version::new(1, 2), true);
    let bytes = block(2, K, 22, Version::new(1, 2));
    let at = dev.bytes().chunks(4096).position(|c| c == bytes).unwrap();
    dev.with_bytes(|b| b[(at - 3) * 4096 + 100] ^= 1);
    store.digest(VolumeId(2), K.chunk, 77);
    let events = settle(&mut store, &mut dev, &mut rng);
    let runs: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            StoreEvent::Digest(77, o) => {
                Some(o.iter().flat_map(|o| o.runs.iter().map(|r| (r.first, r.count, r.version))).collect::<Vec<_>>())
            }
            _ => None,
        })
        .collect();
    assert!(runs[0].iter().all(|r| r.2 > Version::ZERO), "{runs:?}");
}

#[test]
fn a_version_below_a_header_that_cannot_be_read_is_not_called_missing() {
    let (mut dev, mut store) = open_and_rotten();
    let mut rng = Rng(9);
    store.set_stable(VolumeId(2), Version::new(1, 2), true);
    store.read_exact(VolumeId(2), K, 22, Version::new(1, 2), 7);
    let mut ops = Vec::new();
    store.poll(&mut ops);
    let mut events = Vec::new();
    for op in ops {
        if let DevOp::Read { id, .. } = op {
            store.complete(id, DevResult::Failed("EIO"), &mut events);
        }
    }
    assert_eq!(events, [StoreEvent::ReadExact(7, Some((BlockKind::Data, BlockRead::Failed)))]);
    let bytes = block(2, K, 22, Version::new(1, 2));
    let at = dev.bytes().chunks(4096).position(|c| c == bytes).unwrap();
    dev.with_bytes(|b| b[(at - 3) * 4096 + 100] ^= 1);
    store.read_exact(VolumeId(2), K, 22, Version::new(1, 2), 8);
    let events = settle(&mut store, &mut dev, &mut rng);
    assert_eq!(events, [StoreEvent::ReadExact(8, Some((BlockKind::Data, BlockRead::Corrupt)))]);
}

#[test]
fn a_scrub_names_bad_blocks_too() {
    let mut dev = new_dev(40);
    let (mut store, _) = open(&mut dev, 1);
    let mut rng = Rng(3);
    for (token, kind) in [(1, BlockKind::Data), (2, BlockKind::Bad)] {
        let (rec, data) = record(kind, K, token as u16 * 10, 2, Version::new(1, token));
        store.append(Stream::Large, SpaceClass::Reserve, Record::Blocks(rec), data, token).unwrap();
        settle(&mut store, &mut dev, &mut rng);
    }
    store.start_scrub();
    let events = settle(&mut store, &mut dev, &mut rng);
    let bad = [20, 21].map(|block| (VolumeId(2), K, block)).to_vec();
    assert!(events.contains(&StoreEvent::Rotten(bad)), "{events:?}");
}

/// An open drive whose segments were closed, and then lost all their bytes.
fn wiped(dev: &mut CrashDev) -> LogStore {
    let (mut store, _) = open(dev, 4);
    // A scrub closes what is open.
    store.start_scrub();
    settle(&mut store, dev, &mut Rng(1));
    dev.with_bytes(|b| {
        let edge = 16 * 4096;
        let end = b.len() - edge;
        b[edge..end].fill(0);
    });
    store
}

#[test]
fn a_scrub_finds_blocks_whose_header_and_summary_are_lost() {
    let mut dev = filled(true);
    let mut store = wiped(&mut dev);
    store.start_scrub();
    let events = settle(&mut store, &mut dev, &mut Rng(1));
    let bad: BTreeSet<u16> = rotten(&events).map(|(_, _, block)| *block).collect();
    assert_eq!(bad, (0..200).collect(), "{events:?}");
    assert_eq!(events.last(), Some(&StoreEvent::ScrubDone(200, 200)));
    // What is written anew lies elsewhere; the rest is found again.
    let (rec, data) = record(BlockKind::Data, K, 10, 100, Version::new(1, 5000));
    store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, 1).unwrap();
    settle(&mut store, &mut dev, &mut Rng(1));
    store.start_scrub();
    let events = settle(&mut store, &mut dev, &mut Rng(1));
    assert_eq!(events.last(), Some(&StoreEvent::ScrubDone(200, 100)), "{events:?}");
}

fn rotten(events: &[StoreEvent]) -> impl Iterator<Item = &(VolumeId, ObjKey, u16)> {
    let lists = events.iter().filter_map(|e| if let StoreEvent::Rotten(list) = e { Some(list) } else { None });
    lists.flatten()
}

#[test]
fn a_scrub_waits_while_what_it_found_is_to_be_healed() {
    let mut dev = filled(true);
    let mut store = wiped(&mut dev);
    let mut rng = Rng(1);
    store.start_scrub();
    let (mut events, mut rounds) = (Vec::new(), 0);
    while !matches!(events.last(), Some(StoreEvent::ScrubDone(..))) {
        let before = rotten(&events).count();
        while rotten(&events).count() == before && !matches!(events.last(), Some(StoreEvent::ScrubDone(..))) {
            step(&mut store, &mut dev, &mut rng, &mut events);
        }
        store.hold_scrub(true);
        let held = rotten(&events).count();
        assert!(held - before <= 64, "{} at once", held - before);
        events.extend(settle(&mut store, &mut dev, &mut rng));
        if !matches!(events.last(), Some(StoreEvent::ScrubDone(..))) {
            assert_eq!(rotten(&events).count(), held, "it goes on while it is held");
        }
        store.hold_scrub(false);
        rounds += 1;
        assert!(rounds < 1000, "{}", store.describe());
    }
    assert_eq!((rotten(&events).count(), events.last()), (200, Some(&StoreEvent::ScrubDone(200, 200))));
    assert!(rounds > 3);
}

#[test]
fn writes_and_collection_during_a_scrub_of_lost_groups_are_never_called_rotten() {
    for seed in 0..10 {
        let mut dev = filled(true);
        let mut store = wiped(&mut dev);
        let (mut rng, mut events, mut token) = (Rng(seed), Vec::new(), 6000);
        let mut fresh = BTreeSet::new();
        store.start_scrub();
        while !events.iter().any(|e| matches!(e, StoreEvent::ScrubDone(..))) {
            assert!(token < 16_000, "the scrub never ends: {}", store.describe());
            token += 1;
            let (chunk, first) = (1 + rng.below(2), rng.below(190) as u16);
            let (rec, data) = record(BlockKind::Data, key(10, chunk), first, 3, Version::new(1, token));
            let admitted = store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, token).is_ok();
            let known = events.len();
            for _ in 0..rng.below(4) {
                step(&mut store, &mut dev, &mut rng, &mut events);
            }
            for (_, k, block) in rotten(&events[known..]) {
                assert!(*k == K && !fresh.contains(block), "seed {seed}: block {block} was written anew");
            }
            let durable = events.contains(&StoreEvent::Durable(token));
            if admitted && durable && chunk == K.chunk {
                fresh.extend(first..first + 3);
            }
        }
    }
}

/// Overwrites single blocks until garbage collection has read a few spans; those reads fail.
fn collect_blindly(store: &mut LogStore, dev: &mut CrashDev) -> (Vec<u64>, u32) {
    let (mut rng, mut held, mut failed) = (Rng(5), vec![0u64; 1024], 0);
    let mut seq = 0;
    for round in 0..4000 {
        let at = if round < 1024 { round as u16 } else { rng.below(1024) as u16 };
        seq += 1;
        let (rec, data) = record(BlockKind::Data, K, at, 1, Version::new(1, seq));
        store.append(Stream::Small, SpaceClass::Reserve, Record::Blocks(rec), data, seq).unwrap();
        held[usize::from(at)] = seq;
        let mut events = Vec::new();
        for _ in 0..64 {
            let mut ops = Vec::new();
            store.poll(&mut ops);
            if ops.is_empty() {
                break;
            }
            for op in ops {
                // Nothing but the walk of a collection reads more than two slots here.
                let blind = matches!(op, DevOp::Read { len, .. } if len > 4 * 4096) && failed < 3;
                let (DevOp::Write { id, .. }
                | DevOp::Read { id, .. }
                | DevOp::Flush { id }
                | DevOp::Discard { id, .. }) = op;
                dev.start(op);
                let done = dev.finish(id);
                failed += u32::from(blind);
                store.complete(id, if blind { DevResult::Failed("EIO") } else { done }, &mut events);
            }
        }
        assert!(!events.iter().any(|e| matches!(e, StoreEvent::Failed(_))), "{events:?}");
    }
    (held, failed)
}

#[test]
fn garbage_collection_leaves_what_it_cannot_read_as_it_is() {
    let mut dev = new_dev(40);
    let (mut store, _) = open(&mut dev, 1);
    let (held, failed) = collect_blindly(&mut store, &mut dev);
    assert_eq!(failed, 3, "it never read");
    settle(&mut store, &mut dev, &mut Rng(1));
    for (at, seq) in (0u16..).zip(&held) {
        let want = block(2, K, at, Version::new(1, *seq));
        let got = read(&mut store, &mut dev, 2, &[10], 1, at, 1);
        assert!(matches!(&got[..], [BlockRead::Data(d, _)] if d.as_slice() == want), "block {at}: {got:?}");
    }
}
