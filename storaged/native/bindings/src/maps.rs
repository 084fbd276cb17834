//! Maps and records in readable form, for tests and support.

use drystone_types::codec::Reader;
use drystone_types::{ClusterMap, PgRecord};
use pyo3::prelude::*;
use serde_json::{json, Value};

use crate::error::refuse;

fn record(r: &PgRecord) -> Value {
    json!({
        "epoch": r.epoch.0,
        "insync": r.insync.iter().map(|d| d.0).collect::<Vec<_>>(),
        "joining": r.joining.iter().map(|j| json!({"drive": j.drive.0, "join_epoch": j.join_epoch.0, "e0": j.e0.0})).collect::<Vec<_>>(),
        "out": r.out.iter().map(|o| json!({"drive": o.drive.0, "e0": o.e0.0, "since_s": o.since_s})).collect::<Vec<_>>(),
        "target": r.target.iter().map(|d| d.0).collect::<Vec<_>>(),
    })
}

/// A cluster map as JSON.
#[pyfunction]
pub fn map_to_json(data: &[u8]) -> PyResult<String> {
    let map = ClusterMap::decode(data).map_err(|e| refuse(format_args!("not a cluster map: {e:?}")))?;
    let drives: Vec<Value> = map
        .drives
        .iter()
        .map(|d| json!({"id": d.id.0, "uuid": d.uuid.to_string(), "node": d.node.to_string(), "node_name": d.node_name, "addr": d.addr, "nonce": d.nonce, "state": d.state}))
        .collect();
    let pools: Vec<Value> = map
        .pools
        .iter()
        .map(|p| {
            let pgs: Vec<Value> = p.shards.iter().flat_map(|s| s.pgs.iter()).map(record).collect();
            json!({"pool": p.pool.0, "copies": p.copies, "min_insync": p.min_insync, "pg_count": p.pg_count, "pgs": pgs})
        })
        .collect();
    let doc = json!({
        "cluster": map.cluster.to_string(), "incarnation": map.incarnation, "feature_level": map.feature_level,
        "revision": map.revision.0, "drives": drives, "pools": pools,
    });
    Ok(doc.to_string())
}

/// One PG record as JSON.
#[pyfunction]
pub fn pg_record_to_json(data: &[u8]) -> PyResult<String> {
    let mut reader = Reader::new(data);
    let rec = PgRecord::decode(&mut reader).map_err(refuse)?;
    reader.finish().map_err(refuse)?;
    Ok(record(&rec).to_string())
}
