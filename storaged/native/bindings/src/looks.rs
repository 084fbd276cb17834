//! Looking at a drive without changing it: every block, and what its log knows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use drystone_replica::{Facts, PgFacts, StoredRole, VolFacts};
use drystone_server::lookfile::ReadDrive;
use drystone_store::api::BlockKind;
use drystone_store::{BlockLook, Look, PgLook, Superblock, VolLook, Worth};
use drystone_types::{PgId, VolumeId};
use pyo3::prelude::*;
use serde_json::{json, Value};
use sha2::{Digest, Sha256};

use crate::error::refuse;

/// Every block of a drive, verified; see the stub for the lines.
#[pyfunction]
#[pyo3(signature = (path, out=None))]
pub fn drive_blocks(py: Python<'_>, path: &str, out: Option<&str>) -> PyResult<String> {
    let counted = py.detach(|| look(path, |look| list(look, out).map_err(|e| format!("{}: {e}", out.unwrap_or("")))));
    counted.map(|v| v.to_string()).map_err(refuse)
}

/// What the log of a drive knows of its cluster, groups and volumes.
#[pyfunction]
pub fn drive_facts(py: Python<'_>, path: &str) -> PyResult<String> {
    let found = py.detach(|| look(path, |look| Ok(facts(look))));
    found.map(|v| v.to_string()).map_err(refuse)
}

fn look<T>(path: &str, then: impl FnOnce(&mut Look<'_>) -> Result<T, String>) -> Result<T, String> {
    let mut dev = ReadDrive::open(Path::new(path)).map_err(|e| e.to_string())?;
    let mut look = Look::open(&mut dev).map_err(|e| format!("{path}: {e}"))?;
    then(&mut look)
}

fn list(look: &mut Look<'_>, out: Option<&str>) -> io::Result<Value> {
    let mut file = out.map(File::create).transpose()?.map(BufWriter::new);
    let (mut tally, mut failed, mut line) = (Tally::default(), None, String::with_capacity(192));
    look.blocks(|b, bytes| {
        line.clear();
        write_line(&mut line, b, bytes);
        tally.count(b, &line);
        if let Some(Err(e)) = file.as_mut().filter(|_| failed.is_none()).map(|f| f.write_all(line.as_bytes())) {
            failed = Some(e);
        }
    });
    if let Some(e) = failed {
        return Err(e);
    }
    if let Some(mut f) = file {
        f.flush()?;
    }
    Ok(tally.finish(look))
}

fn kind_name(kind: BlockKind) -> &'static str {
    match kind {
        BlockKind::Data => "data",
        BlockKind::Hole => "hole",
        BlockKind::Zero => "zero",
        BlockKind::Bad => "bad",
    }
}

fn worth_name(worth: Worth) -> &'static str {
    match worth {
        Worth::Whole => "ok",
        Worth::Rotten => "rotten",
        Worth::Unproven => "unproven",
        Worth::Unread => "unread",
    }
}

/// Numbers in hexadecimal with all their digits, so that lines sort as their blocks do.
fn write_line(line: &mut String, b: &BlockLook, bytes: &[u8]) {
    use core::fmt::Write as _;
    let version = b.version.map_or("-".to_owned(), |v| format!("{:08x}.{:016x}", v.gen.0, v.seq));
    let csum = b.csum.map_or("-".to_owned(), |c| format!("{c:016x}"));
    let (pg, key) = (b.pg, b.key);
    let at = format_args!("{:03x} {:06x} {:016x} {:016x} {:03x}", pg.pool.0, pg.pg, key.layer.0, key.chunk, b.block);
    // Writing into a string cannot fail.
    let _ = write!(line, "{at} {:016x} {} {version} {csum} ", b.vol.0, kind_name(b.kind));
    if bytes.is_empty() {
        line.push('-');
    } else {
        hex(line, &Sha256::digest(bytes));
    }
    let _ = writeln!(line, " {}", worth_name(b.worth));
}

fn hex(out: &mut String, bytes: &[u8]) {
    use core::fmt::Write as _;
    bytes.iter().for_each(|b| {
        let _ = write!(out, "{b:02x}");
    });
}

#[derive(Default)]
struct Tally {
    kinds: BTreeMap<&'static str, u64>,
    worths: BTreeMap<&'static str, u64>,
    pgs: BTreeMap<PgId, (u64, Sha256)>,
}

impl Tally {
    fn count(&mut self, b: &BlockLook, line: &str) {
        *self.kinds.entry(kind_name(b.kind)).or_default() += 1;
        *self.worths.entry(worth_name(b.worth)).or_default() += 1;
        let (blocks, digest) = self.pgs.entry(b.pg).or_default();
        // A hole is dropped by each copy in its own time once nobody needs it: it is nothing already.
        if b.kind != BlockKind::Hole {
            *blocks += 1;
            digest.update(line.as_bytes());
        }
    }
    fn finish(self, look: &Look<'_>) -> Value {
        let of = |m: &BTreeMap<&str, u64>, k: &str| m.get(k).copied().unwrap_or(0);
        let pgs: Vec<Value> = self
            .pgs
            .into_iter()
            .filter(|(_, (blocks, _))| *blocks > 0)
            .map(|(pg, (blocks, digest))| {
                let mut text = String::new();
                hex(&mut text, &digest.finalize());
                json!({"pool": pg.pool.0, "pg": pg.pg, "blocks": blocks, "digest": text})
            })
            .collect();
        json!({
            "drive": look.superblock().drive_id.0, "uuid": look.superblock().drive.to_string(),
            "suspect": look.report().suspect.map(|s| format!("{s:?}")),
            "data": of(&self.kinds, "data"), "holes": of(&self.kinds, "hole"),
            "zeros": of(&self.kinds, "zero"), "bad": of(&self.kinds, "bad"),
            "rotten": of(&self.worths, "rotten"), "unproven": of(&self.worths, "unproven"),
            "unread": of(&self.worths, "unread"), "pgs": pgs,
        })
    }
}

fn facts(look: &Look<'_>) -> Value {
    let known = Facts::read(look.metas());
    let (objects, lineages) = (look.pgs(), look.vols());
    let pgs: BTreeMap<PgId, ()> = known.pgs.keys().chain(objects.keys()).map(|pg| (*pg, ())).collect();
    let vols: BTreeMap<VolumeId, ()> = known.vols.keys().chain(lineages.keys()).map(|v| (*v, ())).collect();
    let pgs = pgs.into_keys().map(|pg| {
        let (stored, indexed) = (known.pgs.get(&pg).copied(), objects.get(&pg).copied());
        pg_facts(pg, stored.unwrap_or_default(), indexed.unwrap_or_default())
    });
    let vols = vols.into_keys().map(|v| {
        let (none, nothing) = (VolFacts::default(), VolLook::default());
        volume_facts(v, known.vols.get(&v).unwrap_or(&none), lineages.get(&v).unwrap_or(&nothing))
    });
    let frozen =
        known.frozen.iter().map(|(layer, cut)| json!({"layer": layer.0, "generation": cut.gen.0, "seq": cut.seq}));
    let mut out = drive_facts_of(look.superblock(), look);
    let more = json!({
        "pgs": pgs.collect::<Vec<_>>(), "volumes": vols.collect::<Vec<_>>(), "frozen": frozen.collect::<Vec<_>>(),
        "freed": known.freed.iter().map(|l| l.0).collect::<Vec<_>>(),
        "damaged": known.damaged.iter().map(|k| format!("{k:?}")).collect::<Vec<_>>(),
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut out, more) {
        all.extend(more);
    }
    out
}

fn drive_facts_of(sb: &Superblock, look: &Look<'_>) -> Value {
    json!({
        "cluster": sb.cluster.to_string(), "uuid": sb.drive.to_string(), "drive": sb.drive_id.0, "nonce": sb.nonce,
        "incarnation": sb.incarnation, "revision": sb.store_rev, "format": sb.format, "feature_level": sb.feature_level,
        "clean": sb.clean, "suspect": look.report().suspect.map(|s| format!("{s:?}")),
    })
}

fn pg_facts(pg: PgId, stored: PgFacts, indexed: PgLook) -> Value {
    json!({
        "pool": pg.pool.0, "pg": pg.pg, "epoch": stored.epoch.0, "join": stored.join.0, "quiesced": stored.quiesced.0,
        "role": role_name(stored.role), "distrusted": stored.distrusted, "highest_epoch": stored.epoch.max(indexed.last_mod).0,
        "objects": indexed.objects, "blocks": indexed.blocks,
    })
}

fn role_name(role: StoredRole) -> &'static str {
    match role {
        StoredRole::Unknown => "unknown",
        StoredRole::InSync => "in-sync",
        StoredRole::Joining => "joining",
        StoredRole::Out => "out",
        StoredRole::Freed => "freed",
    }
}

fn volume_facts(vol: VolumeId, log: &VolFacts, index: &VolLook) -> Value {
    let layers: Vec<Value> =
        index.layers.iter().map(|(l, x)| json!({"layer": l.0, "data_blocks": x.data, "end_block": x.end})).collect();
    let ticket = log.ticket.as_ref().map(|t| {
        let chain: Vec<u64> = t.chain.iter().map(|(l, _)| l.0).collect();
        json!({
            "serial": t.serial, "generation": t.gen.0, "size": t.size, "pool": t.pool.0, "seed": t.seed, "chain": chain,
            "parents": t.parents.len(), "client": t.client.to_string(),
        })
    });
    json!({
        "volume": vol.0, "sealed_generation": log.sealed.0, "nonce": log.nonce, "ticket": ticket,
        "max_generation": index.max_gen.0, "stable": {"generation": log.stable.gen.0, "seq": log.stable.seq},
        "layers": layers,
    })
}
