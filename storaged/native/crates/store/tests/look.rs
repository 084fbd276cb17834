//! Looking at a drive: it changes nothing, leaves nothing out and vouches for nothing that is damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::*;
use drystone_store::api::*;
use drystone_store::testing::{CrashDev, MemDev, Rng};
use drystone_store::*;
use drystone_types::*;

/// A drive with two layers, overwritten blocks, a hole, and a part of its log behind the checkpoint;
/// `cut`: power goes away while writes are on their way.
fn drive(cut: bool) -> MemDev {
    let mut dev = new_dev(60);
    let (mut store, _) = open(&mut dev, 1);
    let mut rng = Rng(5);
    let mut token = 0;
    let mut put = |store: &mut LogStore, kind, k, first, count| {
        token += 1;
        let (rec, data) = record(kind, k, first, count, Version::new(3, token));
        store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, token).unwrap();
    };
    for round in 0..6u16 {
        for at in 0..40u16 {
            put(&mut store, BlockKind::Data, key(10, u64::from(at % 3)), at * 8 + round, 4);
            put(&mut store, BlockKind::Data, key(20, 7), at, 1);
        }
        settle(&mut store, &mut dev, &mut rng);
        if round == 3 {
            store.checkpoint_now();
            settle(&mut store, &mut dev, &mut rng);
        }
    }
    put(&mut store, BlockKind::Hole, key(10, 0), 2, 3);
    settle(&mut store, &mut dev, &mut rng);
    if cut {
        put(&mut store, BlockKind::Data, key(20, 7), 100, 8);
        let mut events = Vec::new();
        step(&mut store, &mut dev, &mut rng, &mut events);
    }
    MemDev { bytes: dev.bytes().to_vec(), bytes_read: 0 }
}

fn rows(dev: &mut MemDev) -> Vec<(BlockLook, Vec<u8>)> {
    let mut out = Vec::new();
    Look::open(dev).unwrap().blocks(|b, bytes| out.push((b.clone(), bytes.to_vec())));
    out
}

#[test]
fn a_look_changes_no_byte_of_the_drive() {
    for cut in [false, true] {
        let mut dev = drive(cut);
        let before = dev.bytes.clone();
        assert!(!rows(&mut dev).is_empty());
        assert!(dev.bytes == before);
    }
}

#[test]
fn every_block_is_listed_once_in_order_with_what_a_read_gives() {
    let mut dev = drive(true);
    let seen = rows(&mut dev);
    let places: Vec<_> = seen.iter().map(|(b, _)| (b.pg, b.key, b.block)).collect();
    assert!(places.windows(2).all(|w| w[0] < w[1]));
    let mut crash = CrashDev::new(dev.bytes.len());
    dev.bytes.chunks(4096).enumerate().for_each(|(i, c)| crash.write_at(i as u64 * 4096, c).unwrap());
    crash.flush().unwrap();
    let (mut store, _) = open(&mut crash, 2);
    let mut listed = 0;
    for (layer, vol, chunk) in [(10, 2, 0), (10, 2, 1), (10, 2, 2), (20, 3, 7)] {
        for (at, read) in (0u16..).zip(read(&mut store, &mut crash, vol, &[layer], chunk, 0, 1024)) {
            let row = seen.iter().find(|(b, _)| (b.key, b.block) == (key(layer, chunk), at));
            match (read, row) {
                (BlockRead::Data(bytes, csum), Some((b, mine))) => {
                    assert_eq!((b.kind, b.csum, b.worth), (BlockKind::Data, Some(csum), Worth::Whole));
                    assert_eq!(bytes.as_slice(), mine);
                    assert_eq!(block(vol, b.key, at, b.version.unwrap()), *mine);
                    listed += 1;
                }
                (BlockRead::Absent, None) => {}
                (BlockRead::Absent, Some((b, mine))) => {
                    assert!(b.kind == BlockKind::Hole && mine.is_empty());
                    listed += 1;
                }
                other => panic!("{layer} {chunk} {at}: {other:?}"),
            }
        }
    }
    assert_eq!(listed, seen.len());
}

#[test]
fn a_flipped_bit_of_a_block_makes_that_block_rotten_and_no_other() {
    let mut dev = drive(false);
    let clean = rows(&mut dev);
    let (victim, bytes) = clean.iter().find(|(b, _)| b.kind == BlockKind::Data).cloned().unwrap();
    let copies: Vec<usize> =
        (0..dev.bytes.len()).step_by(4096).filter(|at| dev.bytes[*at..*at + 4096] == *bytes).collect();
    copies.iter().for_each(|at| dev.bytes[at + 17] ^= 4);
    let damaged: Vec<_> = rows(&mut dev).into_iter().filter(|(b, _)| b.worth != Worth::Whole).map(|r| r.0).collect();
    assert_eq!(damaged, [BlockLook { worth: Worth::Rotten, ..victim }]);
}

#[test]
fn a_block_whose_header_is_damaged_keeps_its_version_and_proves_nothing() {
    let mut dev = drive(false);
    let clean = rows(&mut dev);
    let magic = 0x3150_5552_4759_5244u64.to_le_bytes();
    let headers: Vec<usize> =
        (0..dev.bytes.len()).step_by(4096).filter(|at| dev.bytes[at + 8..at + 16] == magic).collect();
    // Headers of closed segments: an open one would lose its groups.
    let mut unproven = 0;
    for at in headers {
        dev.bytes[at + 200] ^= 1;
        if let Ok(mut look) = Look::open(&mut dev) {
            let suspect = look.report().suspect.is_some();
            let mut at = 0;
            look.blocks(|b, _| {
                let was = &clean[at.min(clean.len() - 1)].0;
                if b.worth == Worth::Unproven && !suspect && b.kind == BlockKind::Data {
                    assert_eq!((b.key, b.block, b.version), (was.key, was.block, was.version));
                    unproven += 1;
                }
                at += 1;
            });
        }
        dev.bytes[at + 200] ^= 1;
    }
    assert!(unproven > 0);
}

#[test]
fn volumes_and_groups_are_told_with_their_highest_generation_and_epoch() {
    let mut dev = drive(false);
    let look = Look::open(&mut dev).unwrap();
    let vols = look.vols();
    assert_eq!(vols[&VolumeId(2)].max_gen, Gen(3));
    let ends: Vec<_> = vols[&VolumeId(3)].layers.iter().map(|(l, x)| (*l, x.data, x.end)).collect();
    assert_eq!(ends, [(LayerId(20), 40, 7 * 1024 + 40)]);
    let pgs = look.pgs();
    assert_eq!((pgs.len(), pgs[&PG].last_mod, pgs[&PG].objects), (1, Epoch(1), 4));
}

#[test]
fn what_is_no_drive_is_refused() {
    assert_eq!(Look::open(&mut MemDev::new(1 << 20)).err(), Some(OpenError::Blank));
}
