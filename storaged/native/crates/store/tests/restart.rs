//! What a restart reads is bounded by the checkpoint and the log since, not by the drive.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::*;
use drystone_store::api::*;
use drystone_store::testing::Rng;
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
