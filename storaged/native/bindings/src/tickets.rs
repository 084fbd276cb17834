//! Attach tickets as JSON.

use drystone_types::trust::ticket_key;
use drystone_types::{AttachMode, Gen, LayerId, ParentRef, PoolId, Ticket, Uuid, Version, VolumeId};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::{Deserialize, Serialize};

use crate::error::{key32, refuse};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    layer: u64,
    #[serde(default)]
    cut_gen: u32,
    #[serde(default)]
    cut_seq: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parent {
    lineage: u64,
    layer: u64,
    cut_gen: u32,
    cut_seq: u64,
    size: u64,
    seed: u64,
    pool: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    serial: u32,
    volume: u64,
    generation: u32,
    nonce: u64,
    /// Hexadecimal.
    client: String,
    /// rw, ro, snapshot or service.
    mode: String,
    pool: u16,
    seed: u64,
    size: u64,
    chain: Vec<Link>,
    #[serde(default)]
    parents: Vec<Parent>,
}

fn mode_of(name: &str) -> PyResult<AttachMode> {
    Ok(match name {
        "rw" => AttachMode::ReadWrite,
        "ro" => AttachMode::ReadOnly,
        "snapshot" => AttachMode::Snapshot,
        "service" => AttachMode::Service,
        other => return Err(refuse(format_args!("unknown attach mode {other:?}: use rw, ro, snapshot or service"))),
    })
}

fn mode_name(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::ReadWrite => "rw",
        AttachMode::ReadOnly => "ro",
        AttachMode::Snapshot => "snapshot",
        AttachMode::Service => "service",
    }
}

fn parent_of(p: &Parent) -> ParentRef {
    ParentRef {
        lineage: VolumeId(p.lineage),
        layer: LayerId(p.layer),
        cut: Version { gen: Gen(p.cut_gen), seq: p.cut_seq },
        size: p.size,
        seed: p.seed,
        pool: PoolId(p.pool),
    }
}

fn fields_of(t: &Ticket) -> Fields {
    let chain = t.chain.iter().map(|(l, c)| Link { layer: l.0, cut_gen: c.gen.0, cut_seq: c.seq }).collect();
    let parents = t.parents.iter().map(|p| Parent {
        lineage: p.lineage.0,
        layer: p.layer.0,
        cut_gen: p.cut.gen.0,
        cut_seq: p.cut.seq,
        size: p.size,
        seed: p.seed,
        pool: p.pool.0,
    });
    Fields {
        serial: t.serial,
        volume: t.vol.0,
        generation: t.gen.0,
        nonce: t.nonce,
        client: t.client.to_string(),
        mode: mode_name(t.mode).to_owned(),
        pool: t.pool.0,
        seed: t.seed,
        size: t.size,
        chain,
        parents: parents.collect(),
    }
}

/// Signed attach ticket from its JSON fields.
#[pyfunction]
pub fn seal_ticket<'py>(py: Python<'py>, fields: &str, master: &[u8], key_epoch: u32) -> PyResult<Bound<'py, PyBytes>> {
    let f: Fields = serde_json::from_str(fields).map_err(refuse)?;
    let ticket = Ticket {
        serial: f.serial,
        vol: VolumeId(f.volume),
        gen: Gen(f.generation),
        nonce: f.nonce,
        client: Uuid::parse(&f.client).ok_or_else(|| refuse("client is not a 128-bit id in hexadecimal"))?,
        mode: mode_of(&f.mode)?,
        pool: PoolId(f.pool),
        seed: f.seed,
        size: f.size,
        chain: f.chain.iter().map(|l| (LayerId(l.layer), Version { gen: Gen(l.cut_gen), seq: l.cut_seq })).collect(),
        parents: f.parents.iter().map(parent_of).collect(),
    };
    Ok(PyBytes::new(py, &ticket.seal(&ticket_key(&key32(master)?, key_epoch), key_epoch)))
}

/// JSON fields of a ticket after checking its MAC.
#[pyfunction]
pub fn open_ticket(ticket: &[u8], master: &[u8], key_epoch: u32) -> PyResult<String> {
    let master = key32(master)?;
    let key_of = |epoch| (epoch == key_epoch).then(|| ticket_key(&master, epoch));
    let ticket = Ticket::open(ticket, key_of).map_err(|e| refuse(format_args!("not a valid ticket: {e:?}")))?;
    serde_json::to_string(&fields_of(&ticket)).map_err(refuse)
}
