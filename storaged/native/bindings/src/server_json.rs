//! Events and requests of a server as JSON.

use drystone_replica::{Compared, Control, ControlResult, LeaveWhy, Report, StuckWhy};
use drystone_server::ServerEvent;
use drystone_store::api::BlockKind;
use drystone_types::{Epoch, Gen, LayerId, PgId, PoolId, Version, VolumeId};
use pyo3::PyResult;
use serde::Deserialize;
use serde_json::{json, Value};

use crate::error::refuse;

#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Fence { volume: u64, generation: u32, nonce: u64 },
    Quiesce { pool: u16, pg: u32, epoch: u32 },
    FreeLayer { layer: u64 },
    Scrub {},
    Compare { pool: u16, pg: u32 },
    Exercise {},
}

/// What is asked of a drive.
pub enum Asked {
    /// Its core decides.
    Core(Control),
    /// Reads and writes that show how well its device does.
    Exercise,
}

/// A control request.
pub fn request_of(text: &str) -> PyResult<Asked> {
    Ok(Asked::Core(match serde_json::from_str(text).map_err(refuse)? {
        Request::Fence { volume, generation, nonce } => {
            Control::Fence { vol: VolumeId(volume), gen: Gen(generation), nonce }
        }
        Request::Quiesce { pool, pg, epoch } => {
            Control::Quiesce { pg: PgId { pool: PoolId(pool), pg }, epoch: Epoch(epoch) }
        }
        Request::FreeLayer { layer } => Control::FreeLayer { layer: LayerId(layer) },
        Request::Scrub {} => Control::Scrub,
        Request::Compare { pool, pg } => Control::Compare { pg: PgId { pool: PoolId(pool), pg } },
        Request::Exercise {} => return Ok(Asked::Exercise),
    }))
}

fn leave_text(why: LeaveWhy) -> &'static str {
    match why {
        LeaveWhy::Suspect => "the log prefix cannot be proven",
        LeaveWhy::PeerCheck => "a stable version that a peer holds is missing here",
        LeaveWhy::NoSpace => "no space for the copy",
        LeaveWhy::DriveFailed => "the device failed",
        LeaveWhy::Freed => "what it held of the group was freed",
        LeaveWhy::Behind => "it lacks a write that only unreadable copies hold",
    }
}

/// One event.
pub fn event_json(event: &ServerEvent) -> Value {
    match event {
        ServerEvent::DriveReady { drive, replayed_bytes, open_us, suspect } => {
            json!({"kind": "drive_ready", "drive": drive.0, "replayed_bytes": replayed_bytes, "open_us": open_us, "suspect": suspect})
        }
        ServerEvent::DriveFailed { drive, reason } => {
            json!({"kind": "drive_failed", "drive": drive.0, "reason": reason})
        }
        ServerEvent::DriveClosed { drive } => json!({"kind": "drive_closed", "drive": drive.0}),
        ServerEvent::DeviceSlow { drive, p99_us } => {
            json!({"kind": "device_slow", "drive": drive.0, "p99_us": p99_us})
        }
        ServerEvent::Invariant { drive, what } => json!({"kind": "invariant", "drive": drive.0, "what": what}),
        ServerEvent::NeedMap { at_least } => json!({"kind": "need_map", "at_least": at_least.0}),
        ServerEvent::NeedGenerations { drive, pool, since } => {
            json!({"kind": "need_generations", "drive": drive.0, "pool": pool.0, "since": since.0})
        }
        ServerEvent::CopyComplete { drive, pg, epoch } => {
            json!({"kind": "copy_complete", "drive": drive.0, "pool": pg.pool.0, "pg": pg.pg, "epoch": epoch.0})
        }
        ServerEvent::StillQuiet { drive, pg, epoch } => {
            json!({"kind": "still_quiet", "drive": drive.0, "pool": pg.pool.0, "pg": pg.pg, "epoch": epoch.0})
        }
        ServerEvent::LeavePg { drive, pg, why } => {
            json!({"kind": "leave_pg", "drive": drive.0, "pool": pg.pool.0, "pg": pg.pg, "why": leave_text(*why)})
        }
        ServerEvent::ControlDone { drive, id, result } => control_json(drive.0, *id, *result),
        ServerEvent::Exercised { drive, id, result } => exercised_json(drive.0, *id, result),
        ServerEvent::Report { drive, report } => report_json(drive.0, report),
        ServerEvent::Quorum(inside) => json!({"kind": "quorum", "inside": inside}),
        ServerEvent::Vote { node, round, granted } => {
            json!({"kind": "vote", "node": node.to_string(), "round": round.0, "granted": granted})
        }
        ServerEvent::Revoked { round, granted } => json!({"kind": "revoked", "round": round.0, "granted": granted}),
        ServerEvent::LeasePageLost => json!({"kind": "lease_page_lost"}),
        ServerEvent::Silent(nodes) => {
            json!({"kind": "silent", "nodes": nodes.iter().map(ToString::to_string).collect::<Vec<_>>()})
        }
    }
}

fn control_json(drive: u32, id: u64, result: ControlResult) -> Value {
    let (ok, sealed, reason) = match result {
        ControlResult::Done => (true, None, None),
        ControlResult::Fenced(gen) => (true, Some(gen.0), None),
        ControlResult::Compared(_) => (true, None, None),
        ControlResult::Failed(text) => (false, None, Some(text)),
    };
    let mut doc =
        json!({"kind": "control_done", "drive": drive, "id": id, "ok": ok, "sealed": sealed, "reason": reason});
    if let (Some(fields), ControlResult::Compared(seen)) = (doc.as_object_mut(), result) {
        fields.insert("compared".to_owned(), compared_json(&seen));
    }
    doc
}

fn compared_json(seen: &Compared) -> Value {
    json!({
        "chunks": seen.chunks, "blocks": seen.blocks, "unstable": seen.unstable,
        "bad_here": seen.bad_here, "bad_there": seen.bad_there, "divergent": seen.divergent,
    })
}

/// Kind and version of what one side holds.
fn side_json(side: Option<(BlockKind, Version)>) -> Value {
    side.map_or(Value::Null, |(kind, v)| {
        let kind = match kind {
            BlockKind::Data => "data",
            BlockKind::Hole => "hole",
            BlockKind::Zero => "zero",
            BlockKind::Bad => "bad",
        };
        json!({"kind": kind, "generation": v.gen.0, "sequence": v.seq})
    })
}

fn exercised_json(drive: u32, id: u64, result: &Result<(u64, u64), String>) -> Value {
    let mut doc = control_json(drive, id, ControlResult::Done);
    match (doc.as_object_mut(), result) {
        (Some(fields), Ok((p99_us, errors))) => {
            fields.insert("p99_us".to_owned(), json!(p99_us));
            fields.insert("errors".to_owned(), json!(errors));
        }
        (Some(fields), Err(reason)) => {
            fields.insert("ok".to_owned(), json!(false));
            fields.insert("reason".to_owned(), json!(reason));
        }
        (None, _) => {}
    }
    doc
}

fn report_json(drive: u32, report: &Report) -> Value {
    let mut doc = match report {
        Report::Usage(layers) => {
            let items = layers.iter().map(|(l, pg, d)| (l.0, pg.pool.0, pg.pg, *d));
            json!({"what": "usage", "layers": items.collect::<Vec<_>>()})
        }
        Report::Healed { vol, key, block } => {
            json!({"what": "healed", "volume": vol.0, "layer": key.layer.0, "chunk": key.chunk, "block": block})
        }
        Report::Unrepaired { vol, key, block } => {
            json!({"what": "unrepaired", "volume": vol.0, "layer": key.layer.0, "chunk": key.chunk, "block": block})
        }
        Report::ScrubDone { blocks, bad, healed } => {
            json!({"what": "scrub_done", "blocks": blocks, "bad": bad, "healed": healed})
        }
        Report::ScrubProgress { blocks, of } => json!({"what": "scrub_progress", "blocks": blocks, "of": of}),
        Report::Divergent { pg, vol, key, block, drive, ours, theirs } => {
            json!({
                "what": "divergent", "pool": pg.pool.0, "pg": pg.pg, "volume": vol.0, "layer": key.layer.0,
                "chunk": key.chunk, "block": block, "other": drive.0, "ours": side_json(*ours),
                "theirs": side_json(*theirs),
            })
        }
        Report::Resync { pg, chunks, bytes } => {
            json!({"what": "resync", "pool": pg.pool.0, "pg": pg.pg, "chunks": chunks, "bytes": bytes})
        }
        Report::CopyStuck { pg, sources, blocks, why } => {
            let why = match why {
                StuckWhy::Lost => "lost",
                StuckWhy::Unreadable => "unreadable",
            };
            let sources: Vec<u32> = sources.iter().map(|d| d.0).collect();
            json!({"what": "copy_stuck", "pool": pg.pool.0, "pg": pg.pg, "sources": sources, "blocks": blocks, "why": why})
        }
        Report::CopyFreed { pg } => json!({"what": "copy_freed", "pool": pg.pool.0, "pg": pg.pg}),
        Report::Freeing { pg } => json!({"what": "freeing", "pool": pg.pool.0, "pg": pg.pg}),
        Report::Freed { pg } => json!({"what": "freed", "pool": pg.pool.0, "pg": pg.pg}),
        Report::DriveFailed(text) => json!({"what": "drive_failed", "reason": text}),
        Report::MapRefused(text) => json!({"what": "map_refused", "reason": text}),
    };
    if let Some(fields) = doc.as_object_mut() {
        fields.insert("kind".to_owned(), json!("report"));
        fields.insert("drive".to_owned(), json!(drive));
    }
    doc
}
