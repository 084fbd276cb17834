//! What a restart reads is bounded by the checkpoint and the log since, not by the drive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::acked::Short;
use common::*;
use drystone_store::api::*;
use drystone_store::segment::SegHeader;
use drystone_store::testing::{CrashDev, Rng};
use drystone_store::{LogStore, OpenParams};
use drystone_types::*;

#[test]
fn a_full_drive_opens_by_reading_a_small_part_of_it() {
    let mut dev = new_dev(200);
    let (mut store, _) = open(&mut dev, 1);
    let mut rng = Rng(8);
    let mut seq = 0;
    let mut write = |store: &mut drystone_store::LogStore, rng: &mut Rng| {
        seq += 1;
        let (rec, data) =
            record(BlockKind::Data, key(10, rng.below(8)), rng.below(128) as u16 * 8, 8, Version::new(1, seq));
        let _ = store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, seq);
    };
    while store.space().live < 7500 {
        for _ in 0..8 {
            write(&mut store, &mut rng);
        }
        settle(&mut store, &mut dev, &mut rng);
    }
    store.set_stable(VolumeId(2), Version::new(1, 1 << 40), true);
    store.checkpoint_now();
    settle(&mut store, &mut dev, &mut rng);
    for _ in 0..20 {
        write(&mut store, &mut rng);
    }
    settle(&mut store, &mut dev, &mut rng);
    let size = dev.bytes().len() as u64;
    let (store, report) = open(&mut dev, 2);
    assert!(store.space().live >= 7500);
    // Half of this is the open segment, read whole: 256 KiB of 50 MiB here, 64 MiB of a real drive.
    assert!(report.bytes_read * 30 < size, "{} of {size}: {report:?}", report.bytes_read);
    assert!(report.entries < 200, "{report:?}");
    println!("read {} of {size} bytes", report.bytes_read);
}

/// The same parts for one TiB of random 4 KiB blocks, by the constants of the format.
#[test]
fn a_tebibyte_of_random_blocks_opens_by_reading_less_than_one_percent() {
    let blocks = 1u64 << 28;
    let segments = 1u64 << 14;
    // Checkpoint: first block (2) and location (6) an extent, and the head of an object per chunk.
    let checkpoint = blocks * 8 + (blocks / 1024) * 43;
    let root = segments * 30;
    let free_headers = segments * 4096 * 2;
    // Between two checkpoints the log grows to twenty times the checkpoint, and by as much as an
    // eighth of the log allows while one is written; every single block costs 80 + 24 in a summary.
    let log = 20 * checkpoint + 8 * checkpoint;
    let summaries = log / 8192 * 104;
    let open_segments = 3 * (64 << 20);
    let read = checkpoint + root + free_headers + summaries + open_segments;
    assert!(read * 100 < 1 << 40, "{read}");
}

/// A power cut between the pairs of a checkpoint's superblocks leaves two equal copies and two others. Opens that
/// are cut short themselves must not spoil those two, in whatever order that happens.
#[test]
fn opens_that_are_cut_short_again_and_again_leave_two_equal_superblocks() {
    let mut cut_short = 0;
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let mut dev = new_dev(16);
        let mut nonce = 1;
        for _ in 0..12 {
            nonce += 1;
            let mut short = Short { dev: &mut dev, writes_left: rng.below(5) };
            let opened = LogStore::open(&mut short, config(), OpenParams { nonce, ..OpenParams::default() });
            cut_short += u32::from(opened.is_err());
            dev.power_cut(&mut rng);
        }
        open(&mut dev, nonce + 1);
    }
    assert!(cut_short > 0);
}

/// Appends a block of its own version and runs it to the end, or gives the device operations that it made.
fn write_one(store: &mut LogStore, at: u16) -> Vec<DevOp> {
    let (rec, data) = record(BlockKind::Data, key(10, 0), at, 1, Version::new(1, u64::from(at) + 1));
    store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, u64::from(at)).unwrap();
    let mut ops = Vec::new();
    store.poll(&mut ops);
    ops
}

#[test]
fn what_an_open_has_cut_off_stays_away_when_the_summary_that_says_so_is_lost() {
    for writes_after in [0u16, 1, 3] {
        let (mut dev, mut rng) = (new_dev(16), Rng(5));
        let (mut store, _) = open(&mut dev, 1);
        for at in [0, 1] {
            write_one(&mut store, at).into_iter().for_each(|op| dev.start(op));
            settle(&mut store, &mut dev, &mut rng);
        }
        // The power fails: of two writes the second one had reached the media, and the header of the first one.
        let torn = write_one(&mut store, 2).into_iter().chain(write_one(&mut store, 3)).enumerate();
        for (n, mut op) in torn {
            if let (0, DevOp::Write { bufs, .. }) = (n, &mut op) {
                bufs.truncate(1);
            }
            dev.start(op);
        }
        dev.running().into_iter().for_each(|id| drop(dev.finish(id)));
        let (mut store, report) = open(&mut dev, 2);
        assert_eq!(report.groups_discarded, 2);
        for at in 10..10 + writes_after {
            write_one(&mut store, at).into_iter().for_each(|op| dev.start(op));
            settle(&mut store, &mut dev, &mut rng);
        }
        let cut_off = block(2, key(10, 0), 3, Version::new(1, 4));
        let slot = dev.bytes().chunks(4096).position(|b| b == cut_off).expect("it is on the media");
        let footer = 16 + (slot - 16) / 64 * 64 + 63;
        dev.with_bytes(|b| b[footer * 4096..(footer + 1) * 4096].fill(0));
        let (mut store, report) = open(&mut dev, 3);
        assert_eq!(report.suspect, None, "{writes_after} writes later");
        let blocks = read(&mut store, &mut dev, 2, &[10], 0, 0, 20);
        let here: Vec<u16> = (0..20).filter(|at| matches!(blocks[usize::from(*at)], BlockRead::Data(..))).collect();
        let want: Vec<u16> = [0, 1].into_iter().chain(10..10 + writes_after).collect();
        assert_eq!(here, want, "{writes_after} writes later");
    }
}

/// Header of a segment as the device has it.
fn head_of(dev: &CrashDev, seg: u64) -> Vec<u8> {
    let at = (16 + seg * 64) as usize * 4096;
    dev.bytes()[at..at + 4096].to_vec()
}

/// A write that begins a segment anew carries its header and its first group. Where only the group has reached the
/// media, the header of an earlier use stands before it.
#[test]
fn a_group_behind_the_header_of_an_earlier_use_is_found() {
    let (mut dev, mut rng) = (new_dev(16), Rng(6));
    let (mut store, _) = open(&mut dev, 1);
    store.set_stable(VolumeId(2), Version::new(1, 1 << 40), true);
    let mut heads: Vec<Vec<u8>> = (0..16).map(|seg| head_of(&dev, seg)).collect();
    for seq in 1..4000 {
        let (rec, data) = record(BlockKind::Data, key(10, 0), 0, 1, Version::new(1, seq));
        store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, seq).unwrap();
        settle(&mut store, &mut dev, &mut rng);
        if seq % 100 == 0 {
            store.checkpoint_now();
            settle(&mut store, &mut dev, &mut rng);
        }
        let decodes = |bytes: &[u8]| SegHeader::decode(bytes).is_ok();
        let again = (0..16).find(|seg| head_of(&dev, *seg) != heads[*seg as usize] && decodes(&heads[*seg as usize]));
        heads = (0..16)
            .zip(&heads)
            .map(|(seg, was)| if Some(seg) == again { was.clone() } else { head_of(&dev, seg) })
            .collect();
        let Some(seg) = again else { continue };
        let at = (16 + seg * 64) as usize * 4096;
        dev.with_bytes(|b| b[at..at + 4096].copy_from_slice(&heads[seg as usize]));
        let (mut store, report) = open(&mut dev, 2);
        assert_eq!((report.suspect, report.groups_discarded), (None, 0));
        let blocks = read(&mut store, &mut dev, 2, &[10], 0, 0, 1);
        let want = block(2, key(10, 0), 0, Version::new(1, seq));
        assert!(matches!(&blocks[0], BlockRead::Data(buf, _) if buf.as_slice() == want), "{seq}: {:?}", blocks[0]);
        return;
    }
    panic!("no segment was used again");
}
