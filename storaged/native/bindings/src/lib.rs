//! Python bindings of the native data path: the only crate that knows PyO3.
//!
//! Everything that takes time releases the interpreter lock; control messages cross as JSON,
//! because they are rare and a person must be able to read them in a log.
#![deny(missing_docs)]

mod beacon;
mod block;
mod drives;
mod error;
mod json;
mod looks;
mod maps;
mod placing;
mod server;
mod server_json;
mod tickets;

use drystone_types::VolumeId;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::{key32, uuid16, NativeError};

/// Version of the native package.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// CRC-64/NVME of any bytes.
#[pyfunction]
fn crc64(data: &[u8]) -> u64 {
    drystone_csum::crc64(data)
}

/// Seeded checksum of one block.
#[pyfunction]
fn block_csum(lineage: u64, block: u64, data: &[u8]) -> u64 {
    drystone_csum::block_csum(VolumeId(lineage), block, data)
}

/// Placement hash of a chunk.
#[pyfunction]
fn chunk_hash(seed: u64, chunk: u64) -> u64 {
    drystone_placement::chunk_hash(seed, chunk)
}

/// Key of a role.
#[pyfunction]
fn role_key<'py>(
    py: Python<'py>,
    master: &[u8],
    role: &str,
    uuid: &[u8],
    key_epoch: u32,
) -> PyResult<Bound<'py, PyBytes>> {
    let key = drystone_types::trust::role_key(&key32(master)?, role, &uuid16(uuid)?, key_epoch);
    Ok(PyBytes::new(py, &key))
}

/// The compiled module.
#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("NativeError", m.py().get_type::<NativeError>())?;
    m.add_function(wrap_pyfunction!(version, m)?)?;
    m.add_function(wrap_pyfunction!(crc64, m)?)?;
    m.add_function(wrap_pyfunction!(block_csum, m)?)?;
    m.add_function(wrap_pyfunction!(chunk_hash, m)?)?;
    m.add_function(wrap_pyfunction!(role_key, m)?)?;
    m.add_function(wrap_pyfunction!(tickets::seal_ticket, m)?)?;
    m.add_function(wrap_pyfunction!(tickets::open_ticket, m)?)?;
    m.add_function(wrap_pyfunction!(placing::place_pool, m)?)?;
    m.add_function(wrap_pyfunction!(maps::map_to_json, m)?)?;
    m.add_function(wrap_pyfunction!(maps::pg_record_to_json, m)?)?;
    m.add_function(wrap_pyfunction!(drives::format_drive, m)?)?;
    m.add_function(wrap_pyfunction!(drives::salvage_drive, m)?)?;
    m.add_function(wrap_pyfunction!(drives::inspect_drive, m)?)?;
    m.add_function(wrap_pyfunction!(looks::drive_blocks, m)?)?;
    m.add_function(wrap_pyfunction!(looks::drive_facts, m)?)?;
    m.add_class::<beacon::BeaconCore>()?;
    m.add_class::<server::ServerCore>()?;
    m.add_class::<block::BlockCore>()?;
    Ok(())
}
