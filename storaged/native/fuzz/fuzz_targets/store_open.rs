//! Opening a drive some slots of which are damaged, with their checksums made right again or not:
//! it opens, or says why not, and what opens can be read, scrubbed and written.
#![no_main]

use std::sync::OnceLock;

use drystone_csum::block_csum;
use drystone_fuzz::spending;
use drystone_store::api::{
    BlockKind, BlockRecord, DevOp, DevResult, ObjectStore, Record, SpaceClass, StoreEvent, Stream,
};
use drystone_store::loc::SLOT;
use drystone_store::testing::MemDev;
use drystone_store::{checksum, format, Config, FormatParams, LogStore, OpenParams, SyncDev};
use drystone_types::{Buf, BufMut, DriveId, Epoch, LayerId, ObjKey, PgId, PoolId, Uuid, Version, VolumeId};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const SEGMENT: u64 = 256 << 10;
const BYTES: usize = 20 * SEGMENT as usize + 32 * SLOT;
const VOL: VolumeId = VolumeId(1);
/// Open needs the index, one segment and one chunk of a checkpoint at a time; far less than this
/// many times a drive of 5 MiB, whatever the lengths on it say.
const SPEND_MAX: usize = 64 << 20;
/// Device operations of one run: far more than a whole drive has.
const STEPS_MAX: usize = 20_000;

fn open(dev: &mut MemDev, nonce: u64) -> Option<LogStore> {
    let cfg = Config { csum_cache_bytes: 64 << 10, ..Config::default() };
    LogStore::open(dev, cfg, OpenParams { nonce, ..OpenParams::default() }).ok().map(|(store, _)| store)
}

fn run(dev: &mut MemDev, op: DevOp) -> (u64, DevResult) {
    let done = |ok: bool| if ok { DevResult::Ok(Buf::empty()) } else { DevResult::Failed("the device refused") };
    match op {
        DevOp::Write { id, mut offset, bufs, .. } => {
            let mut ok = true;
            for buf in bufs {
                ok &= dev.write_at(offset, buf.as_slice()).is_ok();
                offset += buf.len() as u64;
            }
            (id, done(ok))
        }
        DevOp::Read { id, offset, len } => {
            let mut buf = BufMut::zeroed(len as usize);
            let ok = dev.read_at(offset, buf.as_mut_slice()).is_ok();
            (id, if ok { DevResult::Ok(buf.freeze()) } else { done(false) })
        }
        DevOp::Flush { id } | DevOp::Discard { id, .. } => (id, done(true)),
    }
}

/// Carries out what the store asks for until it asks for nothing.
fn settle(store: &mut LogStore, dev: &mut MemDev) -> Vec<StoreEvent> {
    let (mut events, mut ops) = (Vec::new(), Vec::new());
    for _ in 0..STEPS_MAX {
        store.poll(&mut ops);
        store.take_events(&mut events);
        if ops.is_empty() {
            return events;
        }
        for op in ops.drain(..) {
            let (id, result) = run(dev, op);
            store.complete(id, result, &mut events);
        }
    }
    panic!("the store never comes to rest");
}

fn write(store: &mut LogStore, chunk: u64, first: u16, count: u16, seq: u64) -> bool {
    let data = vec![seq as u8; usize::from(count) * SLOT];
    let numbers = (chunk * 1024 + u64::from(first)..).zip(data.chunks_exact(SLOT));
    let record = BlockRecord {
        vol: VOL,
        key: ObjKey { layer: LayerId(10), chunk },
        pg: PgId { pool: PoolId(1), pg: 5 },
        pg_epoch: Epoch(1),
        first,
        count,
        kind: BlockKind::Data,
        version: Version::new(1, seq),
        since_join: None,
        copy: false,
        csums: numbers.map(|(number, block)| block_csum(VOL, number, block)).collect(),
    };
    let data = Buf::copy_from(&data);
    store.append(Stream::Small, SpaceClass::Free, Record::Blocks(record), data, seq).is_ok()
}

/// A drive with a checkpoint, closed segments, and a log after them; and its slots that hold something.
fn image() -> &'static (MemDev, Vec<usize>) {
    static IMAGE: OnceLock<(MemDev, Vec<usize>)> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let mut dev = MemDev::new(BYTES);
        let id = Uuid([7; 16]);
        let params =
            FormatParams { drive: id, drive_id: DriveId(3), cluster: id, segment_bytes: SEGMENT, feature_level: 1 };
        format(&mut dev, &params).expect("formats");
        for nonce in 1..=3 {
            let mut store = open(&mut dev, nonce).expect("opens");
            for seq in nonce * 100..nonce * 100 + 60 {
                assert!(write(&mut store, seq % 3, (seq % 50 * 7) as u16, (seq % 4 + 1) as u16, seq));
                settle(&mut store, &mut dev);
            }
            if nonce == 2 {
                store.checkpoint_now();
                settle(&mut store, &mut dev);
            }
        }
        let used = dev.bytes.chunks(SLOT).enumerate().filter(|(_, slot)| slot.iter().any(|b| *b != slot[0]));
        let used = used.map(|(at, _)| at).collect();
        (dev, used)
    })
}

/// Changes some bytes of one slot; mostly makes the checksum right again, as each kind of slot has it.
fn damage(u: &mut Unstructured, dev: &mut MemDev, used: &[usize]) -> Result<()> {
    let at = *u.choose(used)? * SLOT;
    for _ in 0..u.int_in_range(1..=4u8)? {
        // Fields lie at the start, and entries behind 128 bytes.
        let last = if u.ratio(3u8, 4u8)? { 255u16 } else { 4095 };
        let byte = u.int_in_range(0..=last)?;
        dev.bytes[at + usize::from(byte)] = u.arbitrary()?;
    }
    let slot = &mut dev.bytes[at..at + SLOT];
    match u.int_in_range(0..=3u8)? {
        0 => {}
        1 => {
            let crc = checksum(&slot[16..]).to_le_bytes();
            slot[8..16].copy_from_slice(&crc);
        }
        _ => {
            let len = u32::from_le_bytes([slot[28], slot[29], slot[30], slot[31]]) as usize;
            // A chunk of a checkpoint covers its payload only.
            let end = if u.arbitrary()? { (40 + len).min(SLOT) } else { SLOT };
            let crc = checksum(&slot[8..end]).to_le_bytes();
            slot[..8].copy_from_slice(&crc);
        }
    }
    Ok(())
}

fn fuzz(mut u: Unstructured) -> Result<()> {
    let (honest, used) = image();
    let mut dev = honest.clone();
    for _ in 0..u.int_in_range(1..=6u8)? {
        if damage(&mut u, &mut dev, used).is_err() {
            break;
        }
    }
    let Some(mut store) = spending(SPEND_MAX, || open(&mut dev, 9)) else { return Ok(()) };
    for chunk in 0..3 {
        store.read(VOL, &[LayerId(10)], chunk, 0, 256, 1);
        store.digest(VOL, chunk, 2);
    }
    store.start_scrub();
    settle(&mut store, &mut dev);
    write(&mut store, 1, 3, 2, 999);
    store.checkpoint_now();
    settle(&mut store, &mut dev);
    let _ = open(&mut dev, 10);
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzz(Unstructured::new(bytes));
});
