//! Formatting and inspecting drives.

use std::path::Path;

use drystone_reactor::FileError;
use drystone_server::openfile::OpenDrive;
use drystone_store::{format, inspect, salvage, FormatParams, OpenError};
use drystone_types::consts::SEGMENT_SIZE;
use drystone_types::DriveId;
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::{json, Value};

use crate::error::refuse;
use crate::json::uuid;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    cluster: String,
    uuid: String,
    feature_level: u32,
    #[serde(default)]
    incarnation: u32,
    #[serde(default)]
    create_bytes: Option<u64>,
    #[serde(default)]
    segment_bytes: Option<u64>,
}

/// Creates and formats a drive; refuses one that is not blank.
#[pyfunction]
pub fn format_drive(py: Python<'_>, path: &str, spec: &str) -> PyResult<String> {
    let (spec, params) = read_spec(spec)?;
    // The incarnation is written with the first open, which the metadata store has recorded.
    let _ = spec.incarnation;
    py.detach(|| format_blank(path, spec.create_bytes, &params)).map_err(refuse)?;
    inspect_drive(py, path)
}

/// Writes the superblocks of a drive anew that lost them, if its segments name it; it is suspect from then on.
#[pyfunction]
pub fn salvage_drive(py: Python<'_>, path: &str, spec: &str) -> PyResult<String> {
    let (_, params) = read_spec(spec)?;
    let rescue = || {
        let mut dev = OpenDrive::open(Path::new(path), None).map_err(|e| e.to_string())?;
        salvage(&mut dev, &params).map(|_| ()).map_err(|e| e.to_string())
    };
    py.detach(rescue).map_err(refuse)?;
    inspect_drive(py, path)
}

fn read_spec(spec: &str) -> PyResult<(Spec, FormatParams)> {
    let spec: Spec = serde_json::from_str(spec).map_err(refuse)?;
    let params = FormatParams {
        drive: uuid(&spec.uuid)?,
        drive_id: DriveId(0),
        cluster: uuid(&spec.cluster)?,
        segment_bytes: spec.segment_bytes.unwrap_or(SEGMENT_SIZE),
        feature_level: spec.feature_level,
    };
    Ok((spec, params))
}

fn format_blank(path: &str, create: Option<u64>, params: &FormatParams) -> Result<(), String> {
    let mut dev = OpenDrive::open(Path::new(path), create).map_err(|e| e.to_string())?;
    match inspect(&mut dev) {
        Err(OpenError::Blank) => format(&mut dev, params).map(|_| ()).map_err(|e| e.to_string()),
        Ok(_) => Err(format!("{path}: holds a Drystone drive already; it is not formatted again")),
        Err(e) => Err(format!("{path}: is not blank ({e}); wipe it by hand if its data may go")),
    }
}

/// What is on a drive, changing nothing.
#[pyfunction]
pub fn inspect_drive(py: Python<'_>, path: &str) -> PyResult<String> {
    Ok(py.detach(|| look(path)).to_string())
}

fn look(path: &str) -> Value {
    let mut dev = match OpenDrive::open(Path::new(path), None) {
        Ok(dev) => dev,
        Err(e) => {
            let state = match &e {
                FileError::Missing(_) => "missing",
                FileError::InUse(_) => "in-use",
                _ => "damaged",
            };
            return json!({"state": state, "reason": e.to_string(), "size": 0});
        }
    };
    let size = dev.size();
    match inspect(&mut dev) {
        Ok(sb) => json!({
            "state": "drystone", "reason": "", "size": size, "uuid": sb.drive.to_string(), "cluster": sb.cluster.to_string(),
            "drive": sb.drive_id.0, "nonce": sb.nonce, "incarnation": sb.incarnation, "revision": sb.store_rev,
            "feature_level": sb.feature_level,
        }),
        Err(e) => {
            let state = match &e {
                OpenError::Blank => "blank",
                OpenError::NotOurs => "foreign",
                _ => "damaged",
            };
            json!({"state": state, "reason": e.to_string(), "size": size})
        }
    }
}
