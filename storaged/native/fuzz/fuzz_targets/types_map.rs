//! The cluster map and its parts: what decodes is within its bounds, and encodes to the same.
#![no_main]

use drystone_fuzz::spending;
use drystone_types::map::{MapShard, PgRecord};
use drystone_types::{ClusterMap, Reader, Writer};
use libfuzzer_sys::fuzz_target;

/// A drive of 44 bytes costs about 150 in memory and a growing list twice that; one shard may be
/// made room for before its records are read.
fn limit(bytes: &[u8]) -> usize {
    bytes.len() * 64 + (1 << 17)
}

fn record(bytes: &[u8]) {
    let mut r = Reader::new(bytes);
    let Ok(rec) = PgRecord::decode(&mut r) else { return };
    let mut w = Writer::new();
    rec.encode(&mut w);
    assert_eq!(w.finish(), bytes[..bytes.len() - r.remaining()]);
}

fn shard(bytes: &[u8]) {
    let mut r = Reader::new(bytes);
    let Ok(shard) = spending(limit(bytes), || MapShard::decode(&mut r)) else { return };
    let mut w = Writer::new();
    shard.encode(&mut w);
    assert_eq!(w.finish(), bytes[..bytes.len() - r.remaining()]);
}

fn map(bytes: &[u8]) {
    let Ok(map) = spending(limit(bytes), || ClusterMap::decode(bytes)) else { return };
    let again = map.encode();
    assert_eq!(again.len(), bytes.len());
    assert_eq!(ClusterMap::decode(&again), Ok(map.clone()));
    for pool in &map.pools {
        assert!((0..pool.pg_count).all(|pg| pool.pg(pg).is_some()), "a PG of the pool has no record");
        assert!(pool.pg(pool.pg_of_hash(u64::MAX)).is_some());
    }
}

fuzz_target!(|bytes: &[u8]| {
    record(bytes);
    shard(bytes);
    map(bytes);
});
