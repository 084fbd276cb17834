//! Placement as JSON.

use drystone_placement::{default_pg_count, place, place_from, width, Candidate, Domain, Plan, Standing};
use drystone_types::DriveId;
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::refuse;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drive {
    id: u32,
    weight: f64,
    fault_set: String,
    node: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    drives: Vec<Drive>,
    #[serde(default)]
    pg_count: Option<u32>,
    copies: u8,
    domain: String,
    #[serde(default)]
    salt: u64,
    /// Drives of every PG now: the fewest slots change.
    #[serde(default)]
    current: Option<Vec<Vec<u32>>>,
    /// Drives that keep what they have and get nothing more; only with `current`.
    #[serde(default)]
    closed: Vec<u32>,
}

#[derive(Serialize)]
struct Placed {
    domain: &'static str,
    width: usize,
    pg_count: u32,
    pgs: Vec<Vec<u32>>,
}

fn domain_of(name: &str) -> PyResult<Domain> {
    Ok(match name {
        "auto" => Domain::Auto,
        "fault-set" => Domain::FaultSet,
        "node" => Domain::Node,
        "drive" => Domain::Drive,
        other => {
            return Err(refuse(format_args!("unknown failure domain {other:?}: use auto, fault-set, node or drive")))
        }
    })
}

fn domain_name(domain: Domain) -> &'static str {
    match domain {
        Domain::Auto => "auto",
        Domain::FaultSet => "fault-set",
        Domain::Node => "node",
        Domain::Drive => "drive",
    }
}

fn ids(drives: &[u32]) -> Vec<DriveId> {
    drives.iter().map(|d| DriveId(*d)).collect()
}

/// Ordered drives of every placement group.
#[pyfunction]
pub fn place_pool(py: Python<'_>, spec: &str) -> PyResult<String> {
    let spec: Spec = serde_json::from_str(spec).map_err(refuse)?;
    let domain = domain_of(&spec.domain)?;
    let drives: Vec<Candidate> = spec
        .drives
        .into_iter()
        .map(|d| Candidate { id: DriveId(d.id), weight: d.weight, fault_set: d.fault_set, node: d.node })
        .collect();
    let (used, width) = width(&drives, spec.copies, domain);
    let pg_count = spec.pg_count.unwrap_or_else(|| default_pg_count(drives.len(), width));
    let plan = Plan { drives: &drives, pg_count, copies: spec.copies, domain, salt: spec.salt };
    let current: Option<Vec<Vec<DriveId>>> = spec.current.map(|pgs| pgs.iter().map(|pg| ids(pg)).collect());
    let closed = ids(&spec.closed);
    let pgs = py
        .detach(|| match &current {
            Some(pgs) => place_from(&plan, &Standing { pgs, closed: &closed }),
            None => place(&plan),
        })
        .map_err(refuse)?;
    let pgs = pgs.into_iter().map(|pg| pg.into_iter().map(|d| d.0).collect()).collect();
    serde_json::to_string(&Placed { domain: domain_name(used), width, pg_count, pgs }).map_err(refuse)
}
