//! A small cluster-less world: one drive, its device, and helpers to make records.
#![allow(dead_code)]

pub mod acked;

use drystone_csum::block_csum;
use drystone_store::api::*;
use drystone_store::testing::{CrashDev, Rng};
use drystone_store::{format, Config, DevError, DevGeometry, FormatParams, LogStore, OpenParams, OpenReport, SyncDev};
use drystone_types::*;

pub const SEG: u64 = 256 << 10;

pub fn params() -> FormatParams {
    FormatParams {
        drive: Uuid([7; 16]),
        drive_id: DriveId(3),
        cluster: Uuid([9; 16]),
        segment_bytes: SEG,
        feature_level: 1,
    }
}

pub fn config() -> Config {
    Config { csum_cache_bytes: 64 << 10, ..Config::default() }
}

pub fn new_dev(segments: u64) -> CrashDev {
    let mut dev = CrashDev::new((segments * SEG + 32 * 4096) as usize);
    format(&mut dev, &params()).expect("formats");
    dev
}

pub fn open(dev: &mut CrashDev, nonce: u64) -> (LogStore, OpenReport) {
    LogStore::open(dev, config(), OpenParams { nonce, cluster: Some(Uuid([9; 16])), ..OpenParams::default() })
        .expect("opens")
}

pub fn key(layer: u64, chunk: u64) -> ObjKey {
    ObjKey { layer: LayerId(layer), chunk }
}

pub const PG: PgId = PgId { pool: PoolId(1), pg: 5 };

/// A data block as a function of what it is.
pub fn block(vol: u64, k: ObjKey, at: u16, v: Version) -> Vec<u8> {
    let mut rng =
        Rng(vol ^ k.layer.0 << 8 ^ k.chunk << 16 ^ u64::from(at) << 32 ^ v.seq << 40 ^ u64::from(v.gen.0) << 1);
    let word = rng.next().to_le_bytes();
    word.iter().copied().cycle().take(4096).collect()
}

pub fn record(kind: BlockKind, k: ObjKey, first: u16, count: u16, v: Version) -> (BlockRecord, Buf) {
    let vol = VolumeId(k.layer.0 / 10 + 1);
    let mut data = Vec::new();
    let mut csums = Vec::new();
    if kind == BlockKind::Data {
        for at in first..first + count {
            let b = block(vol.0, k, at, v);
            csums.push(block_csum(vol, k.chunk * 1024 + u64::from(at), &b));
            data.extend(b);
        }
    }
    let rec = BlockRecord {
        vol,
        key: k,
        pg: PG,
        pg_epoch: Epoch(1),
        first,
        count,
        kind,
        version: v,
        since_join: None,
        copy: false,
        csums,
    };
    (rec, Buf::copy_from(&data))
}

/// Runs everything to the end, operations in random order.
pub fn settle(store: &mut LogStore, dev: &mut CrashDev, rng: &mut Rng) -> Vec<StoreEvent> {
    let mut events = Vec::new();
    for round in 0.. {
        assert!(round < 200_000, "the store never comes to rest: {:?} {:?}", store.segments(), dev.describe());
        step(store, dev, rng, &mut events);
        if dev.running().is_empty() {
            let mut ops = Vec::new();
            store.poll(&mut ops);
            store.take_events(&mut events);
            if ops.is_empty() {
                return events;
            }
            ops.into_iter().for_each(|op| dev.start(op));
        }
    }
    events
}

/// Polls, and ends one operation chosen at random.
pub fn step(store: &mut LogStore, dev: &mut CrashDev, rng: &mut Rng, events: &mut Vec<StoreEvent>) {
    let mut ops = Vec::new();
    store.poll(&mut ops);
    store.take_events(events);
    ops.into_iter().for_each(|op| dev.start(op));
    let running = dev.running();
    if let Some(id) = running.get(rng.below(running.len() as u64) as usize) {
        let result = dev.finish(*id);
        store.complete(*id, result, events);
    }
}

/// Reads blocks and returns what they are.
pub fn read(
    store: &mut LogStore,
    dev: &mut CrashDev,
    vol: u64,
    chain: &[u64],
    chunk: u64,
    first: u16,
    count: u16,
) -> Vec<BlockRead> {
    let chain: Vec<LayerId> = chain.iter().map(|l| LayerId(*l)).collect();
    store.read(VolumeId(vol), &chain, chunk, first, count, 999_999);
    let mut rng = Rng(1);
    let mut events = Vec::new();
    for _ in 0..100_000 {
        step(store, dev, &mut rng, &mut events);
        for e in events.drain(..) {
            if let StoreEvent::Read(999_999, blocks) = e {
                return blocks;
            }
        }
    }
    panic!("the read never ended");
}

pub fn digest(store: &mut LogStore, dev: &mut CrashDev, vol: u64, chunk: u64) -> Vec<ObjectDigest> {
    store.digest(VolumeId(vol), chunk, 888_888);
    let mut rng = Rng(1);
    let mut events = Vec::new();
    for _ in 0..100_000 {
        step(store, dev, &mut rng, &mut events);
        for e in events.drain(..) {
            if let StoreEvent::Digest(888_888, d) = e {
                return d;
            }
        }
    }
    panic!("the digest never ended");
}
