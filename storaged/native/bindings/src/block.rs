//! `BlockCore`: the block daemon's native thread behind a Python object.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drystone_block::{spawn_block, BlockCommand, BlockConfig, BlockEvent, BlockRemote, IoStats, OpStats};
use drystone_frame::{PeerIdentity, Role};
use drystone_link::{mailbox, EventSource, MyIdentity};
use drystone_sequencer::{ActivateError, ReportKind, State};
use drystone_types::{ClusterMap, Gen, VolumeId};
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::{json, Map, Value};

use crate::error::refuse;
use crate::json::{key, latency_json, uuid};

/// The thread answers between turns; longer silence means that it hangs.
const STATS_MAX: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    cluster: String,
    client: String,
    key: String,
    key_epoch: u32,
    #[serde(default = "spin_us")]
    spin_us: u32,
}

/// As in the servers: at queue depth 1 an answer comes within this time.
const fn spin_us() -> u32 {
    150
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttachConfig {
    socket: PathBuf,
    export: String,
    recover: bool,
    #[serde(default)]
    near_node: Option<String>,
}

/// The native side of a block daemon.
#[pyclass(frozen)]
pub struct BlockCore {
    remote: BlockRemote,
    source: EventSource<BlockEvent>,
}

impl BlockCore {
    fn tell(&self, command: BlockCommand) -> PyResult<()> {
        self.remote.send(command).map_err(|_| refuse("the block thread has ended"))
    }
}

#[pymethods]
impl BlockCore {
    #[new]
    fn new(config: &str) -> PyResult<BlockCore> {
        let c: Config = serde_json::from_str(config).map_err(refuse)?;
        let who = PeerIdentity { role: Role::Client, uuid: uuid(&c.client)?, cluster: uuid(&c.cluster)? };
        let me = MyIdentity { who, key: key(&c.key)?, key_epoch: c.key_epoch };
        let (sink, source) = mailbox().map_err(refuse)?;
        let (remote, _thread) = spawn_block(BlockConfig { me, spin_us: c.spin_us }, sink).map_err(refuse)?;
        Ok(BlockCore { remote, source })
    }

    fn event_fd(&self) -> i32 {
        self.source.fd()
    }

    fn events(&self) -> Vec<String> {
        self.source.take().iter().map(|e| event_json(e).to_string()).collect()
    }

    fn map(&self, data: &[u8]) -> PyResult<()> {
        let map = ClusterMap::decode(data).map_err(|e| refuse(format_args!("not a cluster map: {e:?}")))?;
        self.tell(BlockCommand::Map(Arc::new(map)))
    }

    fn attach(&self, ticket: Vec<u8>, config: &str) -> PyResult<()> {
        let c: AttachConfig = serde_json::from_str(config).map_err(refuse)?;
        let near_node = c.near_node.as_deref().map(uuid).transpose()?;
        self.tell(BlockCommand::Attach { ticket, socket: c.socket, export: c.export, recover: c.recover, near_node })
    }

    fn activated(&self, volume: u64, generation: u32, outcome: &str) -> PyResult<()> {
        let result = match outcome {
            "ok" => Ok(()),
            "superseded" => Err(ActivateError::Superseded),
            "retry" => Err(ActivateError::Retry),
            other => return Err(refuse(format_args!("outcome {other:?}: use ok, superseded or retry"))),
        };
        self.tell(BlockCommand::Activated { vol: VolumeId(volume), gen: Gen(generation), result })
    }

    fn ticket(&self, volume: u64, ticket: Vec<u8>) -> PyResult<()> {
        self.tell(BlockCommand::Ticket { vol: VolumeId(volume), ticket })
    }

    fn detach(&self, volume: u64) -> PyResult<()> {
        self.tell(BlockCommand::Detach(VolumeId(volume)))
    }

    fn revoked(&self, volume: u64) -> PyResult<()> {
        self.tell(BlockCommand::Revoked(VolumeId(volume)))
    }

    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        let (reply, answer) = std::sync::mpsc::channel();
        self.tell(BlockCommand::Stats(reply))?;
        let stats = py
            .detach(move || answer.recv_timeout(STATS_MAX))
            .map_err(|_| refuse("the block thread does not answer"))?;
        let mut volumes = Map::new();
        for v in &stats.volumes {
            let counters: Map<String, Value> = v.counters.iter().map(|(k, n)| ((*k).to_owned(), json!(n))).collect();
            let doc = json!({"state": state_name(v.state), "generation": v.gen.0, "size": v.size,
                "connections": v.connections, "counters": counters, "io": io_json(&v.io)});
            volumes.insert(v.vol.0.to_string(), doc);
        }
        let up: Vec<u32> = stats.drives_up.iter().map(|d| d.0).collect();
        Ok(json!({"volumes": volumes, "drives_up": up}).to_string())
    }

    fn stop(&self) {
        // Already ended is what was wanted.
        let _ = self.remote.send(BlockCommand::Stop);
    }
}

fn io_json(io: &IoStats) -> Value {
    json!({"in_flight": io.in_flight, "read": op_json(&io.read), "write": op_json(&io.write),
        "flush": op_json(&io.flush), "trim": op_json(&io.trim), "status": op_json(&io.status),
        "read_latency": latency_json(&io.read_latency), "write_latency": latency_json(&io.write_latency)})
}

fn op_json(op: &OpStats) -> Value {
    json!({"completed": op.completed, "failed": op.failed, "bytes": op.bytes})
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Detached => "detached",
        State::Attaching => "attaching",
        State::Sealing => "sealing",
        State::Rolling => "rolling",
        State::Activating => "activating",
        State::Active => "active",
        State::Stalled => "stalled",
        State::Fenced => "fenced",
    }
}

fn report_name(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::Stall => "stall",
        ReportKind::Refused => "refused",
        ReportKind::DriveError => "error",
        ReportKind::Full => "full",
        ReportKind::BadBlock { .. } => "bad_block",
    }
}

fn event_json(event: &BlockEvent) -> Value {
    match event {
        BlockEvent::State { vol, gen, state } => {
            json!({"kind": "state", "volume": vol.0, "generation": gen.0, "state": state_name(*state)})
        }
        BlockEvent::Fenced { vol, gen, reason } => {
            json!({"kind": "fenced", "volume": vol.0, "generation": gen.0, "reason": drystone_block::fence_text(*reason)})
        }
        BlockEvent::WantActivate { vol, gen } => json!({"kind": "want_activate", "volume": vol.0, "generation": gen.0}),
        BlockEvent::NeedMap { at_least } => json!({"kind": "need_map", "at_least": at_least.0}),
        BlockEvent::Report { vol, drive, kind } => {
            json!({"kind": "report", "volume": vol.0, "drive": drive.0, "what": report_name(*kind)})
        }
        BlockEvent::TicketInForce { vol, serial } => {
            json!({"kind": "ticket_in_force", "volume": vol.0, "serial": serial})
        }
        BlockEvent::Detached { vol, clean } => json!({"kind": "detached", "volume": vol.0, "clean": clean}),
        BlockEvent::AttachFailed { vol, reason } => json!({"kind": "attach_failed", "volume": vol.0, "reason": reason}),
        BlockEvent::Invariant { vol, what } => json!({"kind": "invariant", "volume": vol.0, "what": what}),
    }
}
