//! A drive of format version 1, kept for ever: whatever is released later must open it.
//!
//! The file holds the slots that are not zero: the size of the drive, then number and bytes of each.
//! `STORE_WRITE_FIXTURE=1` makes a missing one; an existing one is never written again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::*;
use drystone_store::api::*;
use drystone_store::testing::{CrashDev, Rng};
use drystone_types::*;
use std::path::PathBuf;

const K: ObjKey = ObjKey { layer: LayerId(10), chunk: 7 };

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1.slots")
}

fn make() -> CrashDev {
    let mut dev = new_dev(16);
    let (mut store, _) = open(&mut dev, 1);
    let mut rng = Rng(3);
    let mut put =
        |store: &mut drystone_store::LogStore, dev: &mut CrashDev, kind, first, count, seq, join: Option<u32>| {
            let (mut rec, data) = record(kind, K, first, count, Version::new(3, seq));
            rec.since_join = join.map(Epoch);
            store.append(Stream::Small, SpaceClass::Free, Record::Blocks(rec), data, seq).unwrap();
            settle(store, dev, &mut rng);
        };
    put(&mut store, &mut dev, BlockKind::Data, 0, 8, 1, None);
    put(&mut store, &mut dev, BlockKind::Data, 2, 1, 2, Some(4));
    put(&mut store, &mut dev, BlockKind::Hole, 3, 1, 3, None);
    store
        .append(
            Stream::Small,
            SpaceClass::Reserve,
            Record::Meta(MetaKey::Seal(VolumeId(2)), vec![6; 2000]),
            Buf::empty(),
            50,
        )
        .unwrap();
    store.checkpoint_now();
    put(&mut store, &mut dev, BlockKind::Zero, 4, 1, 4, None);
    put(&mut store, &mut dev, BlockKind::Bad, 5, 1, 5, None);
    put(&mut store, &mut dev, BlockKind::Data, 9, 1, 6, None);
    let (gone, data) = record(BlockKind::Data, key(11, 7), 0, 2, Version::new(1, 1));
    store.append(Stream::Large, SpaceClass::Free, Record::Blocks(gone), data, 51).unwrap();
    store.append(Stream::Large, SpaceClass::Reserve, Record::FreeLayer(LayerId(11)), Buf::empty(), 52).unwrap();
    store.append(Stream::Small, SpaceClass::Reserve, Record::Touch(K, Epoch(8)), Buf::empty(), 53).unwrap();
    store
        .append(Stream::Small, SpaceClass::Reserve, Record::Meta(MetaKey::Adopt(PG), vec![1, 2, 3]), Buf::empty(), 54)
        .unwrap();
    settle(&mut store, &mut dev, &mut Rng(1));
    dev
}

fn load() -> CrashDev {
    if !path().exists() && std::env::var("STORE_WRITE_FIXTURE").is_ok() {
        let dev = make();
        let mut out = (dev.bytes().len() as u64).to_le_bytes().to_vec();
        for (n, slot) in (0u32..).zip(dev.bytes().chunks(4096)).filter(|(_, s)| s.iter().any(|b| *b != 0)) {
            out.extend(n.to_le_bytes());
            out.extend(slot);
        }
        std::fs::write(path(), out).unwrap();
    }
    let file = std::fs::read(path()).expect("the fixture is part of the sources");
    let mut dev = CrashDev::new(u64::from_le_bytes(file[..8].try_into().unwrap()) as usize);
    dev.with_bytes(|bytes| {
        for part in file[8..].chunks(4100) {
            let at = u32::from_le_bytes(part[..4].try_into().unwrap()) as usize * 4096;
            bytes[at..at + 4096].copy_from_slice(&part[4..]);
        }
    });
    dev
}

#[test]
fn a_drive_of_format_1_opens_and_holds_what_it_held() {
    let mut dev = load();
    assert!(std::fs::metadata(path()).unwrap().len() <= 300 << 10);
    for nonce in 2..4 {
        let (mut store, report) = open(&mut dev, nonce);
        assert_eq!((report.suspect, report.superblock.format), (None, 1));
        assert!(report.checkpoint_objects > 0);
        for (at, b) in (0u16..).zip(read(&mut store, &mut dev, 2, &[10], 7, 0, 11)) {
            let seq = [1, 1, 2, 0, 0, 0, 1, 1, 0, 6, 0][usize::from(at)];
            match (at, b) {
                (3 | 8 | 10, b) => assert_eq!(b, BlockRead::Absent),
                (4, b) => assert_eq!(b, BlockRead::Masked),
                (5, b) => assert_eq!(b, BlockRead::Bad),
                (_, BlockRead::Data(d, _)) => assert_eq!(d.as_slice(), block(2, K, at, Version::new(3, seq))),
                (_, other) => panic!("{at}: {other:?}"),
            }
        }
        assert_eq!(store.meta(MetaKey::Seal(VolumeId(2))), Some(&[6; 2000][..]));
        assert_eq!(store.meta(MetaKey::Adopt(PG)), Some(&[1, 2, 3][..]));
        assert_eq!(store.since_join(K, 2), Some(Epoch(4)));
        assert_eq!(store.max_gen(VolumeId(2)), Gen(3));
        assert_eq!(store.chunk_map(key(11, 7)), [0; 128]);
        let digest = digest(&mut store, &mut dev, 2, 7);
        assert_eq!((digest.len(), digest[0].last_mod_epoch), (1, Epoch(8)));
        assert_eq!(store.unstable(VolumeId(2)).len(), 9);
    }
}
