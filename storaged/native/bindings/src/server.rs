//! `ServerCore`: one storage server's native threads behind a Python object.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drystone_link::{mailbox, EventSource, Keys};
use drystone_membership::BeaconConfig;
use drystone_reactor::{bind_udp, Remote};
use drystone_server::beacon::{spawn_beacon, BeaconCommand};
use drystone_server::lease_file::attach_server;
use drystone_server::lease_watch::{spawn_watch, WatchCommand};
use drystone_server::{
    spawn_drive, DeviceStats, DriveCommand, DriveConfig, DriveHandle, EventSink, LeasePage, ServerEvent,
};
use drystone_store::LogStats;
use drystone_types::{ClusterMap, DriveId, Gen, PoolId, Rev, Rules, Uuid, VolumeId};
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::{json, Map, Value};

use crate::beacon::{suspects_of, voters_of};
use crate::error::refuse;
use crate::json::{key, latency_json, uuid};
use crate::server_json::{event_json, request_of, Asked};

/// A drive whose thread does not answer within this time is left out of the figures.
const STATS_MAX: Duration = Duration::from_millis(200);
/// Longest wait for a clean end of all drives; then the process ends anyway and recovery replays.
const STOP_MAX: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    cluster: String,
    node: String,
    incarnation: u32,
    feature_level: u32,
    masters: Vec<(u32, String)>,
    key_epoch: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenConfig {
    drive: u32,
    path: PathBuf,
    nonce: u64,
    revision: u64,
    listen: SocketAddr,
    slot: usize,
    #[serde(default)]
    power_loss_protected: bool,
    #[serde(default)]
    clear_suspect: bool,
}

#[derive(Default)]
struct Threads {
    drives: BTreeMap<DriveId, DriveHandle>,
    beacon: Option<Remote<BeaconCommand>>,
    /// Of a beacon that is another process.
    watch: Option<Remote<WatchCommand>>,
    page: LeasePage,
    map: Option<Arc<ClusterMap>>,
}

/// The native side of one storage server.
#[pyclass(frozen)]
pub struct ServerCore {
    cluster: Uuid,
    node: Uuid,
    incarnation: u32,
    feature_level: u32,
    keys: Keys,
    key_epoch: u32,
    sink: EventSink,
    source: EventSource<ServerEvent>,
    threads: Mutex<Threads>,
}

impl ServerCore {
    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, drive: u32, command: DriveCommand) -> PyResult<()> {
        let threads = self.threads();
        let handle = threads.drives.get(&DriveId(drive));
        let handle = handle.ok_or_else(|| refuse(format_args!("drive {drive} is not open here")))?;
        handle.remote.send(command).map_err(|_| refuse(format_args!("drive {drive} has ended")))
    }

    fn tell_beacon(&self, command: BeaconCommand) {
        // Without a beacon (single drive tests) there is nobody to tell.
        if let Some(beacon) = &self.threads().beacon {
            let _ = beacon.send(command);
        }
    }
}

#[pymethods]
impl ServerCore {
    #[new]
    fn new(config: &str) -> PyResult<ServerCore> {
        let c: Config = serde_json::from_str(config).map_err(refuse)?;
        let mut keys = Keys::default();
        for (epoch, text) in &c.masters {
            keys.masters.push((*epoch, key(text)?));
        }
        if keys.master(c.key_epoch).is_none() {
            return Err(refuse("masters does not contain key_epoch"));
        }
        let (sink, source) = mailbox().map_err(refuse)?;
        Ok(ServerCore {
            cluster: uuid(&c.cluster)?,
            node: uuid(&c.node)?,
            incarnation: c.incarnation,
            feature_level: c.feature_level,
            keys,
            key_epoch: c.key_epoch,
            sink,
            source,
            threads: Mutex::new(Threads::default()),
        })
    }

    fn event_fd(&self) -> i32 {
        self.source.fd()
    }

    fn events(&self) -> Vec<String> {
        self.source.take().iter().map(|e| event_json(e).to_string()).collect()
    }

    fn open_drive(&self, config: &str) -> PyResult<()> {
        let c: OpenConfig = serde_json::from_str(config).map_err(refuse)?;
        let config = DriveConfig {
            drive: DriveId(c.drive),
            path: c.path,
            nonce: c.nonce,
            revision: Rev(c.revision),
            listen: c.listen,
            slot: c.slot,
            power_loss_protected: c.power_loss_protected,
            clear_suspect: c.clear_suspect,
            peer_check: true,
            cluster: self.cluster,
            node: self.node,
            incarnation: self.incarnation,
            feature_level: self.feature_level,
            keys: self.keys.clone(),
            key_epoch: self.key_epoch,
            page: self.threads().page.clone(),
        };
        let handle = spawn_drive(config, self.sink.clone()).map_err(refuse)?;
        let mut threads = self.threads();
        if let Some(map) = &threads.map {
            let _ = handle.remote.send(DriveCommand::Map(Arc::clone(map)));
        }
        threads.drives.insert(DriveId(c.drive), handle);
        Ok(())
    }

    fn close_drive(&self, drive: u32) -> PyResult<()> {
        self.tell(drive, DriveCommand::Stop)?;
        self.threads().drives.remove(&DriveId(drive));
        Ok(())
    }

    fn use_beacon(&self, py: Python<'_>, run_dir: PathBuf, instance: u64) -> PyResult<()> {
        if instance == 0 {
            return Err(refuse("an instance is not 0"));
        }
        // May wait two seconds for a predecessor that is being killed.
        let (page, seat) = py.detach(|| attach_server(&run_dir, instance)).map_err(refuse)?;
        let (watch, _thread) = spawn_watch(page.clone(), seat, self.sink.clone()).map_err(refuse)?;
        let mut threads = self.threads();
        threads.page = page;
        threads.watch = Some(watch);
        Ok(())
    }

    fn start_beacon(&self, listen: &str, boot: u64) -> PyResult<String> {
        let addr: SocketAddr = listen.parse().map_err(|_| refuse(format_args!("{listen:?} is not host:port")))?;
        let (socket, real) = bind_udp(addr).map_err(|e| refuse(format_args!("beacon at {listen}: {e}")))?;
        let master = self.keys.master(self.key_epoch).unwrap_or_default();
        let config = BeaconConfig {
            node: self.node,
            boot,
            master,
            key_epoch: self.key_epoch,
            slots: drystone_server::lease::SLOTS,
            rules: Rules::ALL,
        };
        let page = self.threads().page.clone();
        let (remote, _thread) = spawn_beacon(config, socket, page, self.sink.clone()).map_err(refuse)?;
        self.threads().beacon = Some(remote);
        Ok(real.to_string())
    }

    #[pyo3(signature = (data, read_began_us))]
    fn map(&self, data: &[u8], read_began_us: Option<u64>) -> PyResult<()> {
        let map = ClusterMap::decode(data).map_err(|e| refuse(format_args!("not a cluster map: {e:?}")))?;
        let map = Arc::new(map);
        let mut threads = self.threads();
        if threads.map.as_ref().is_none_or(|old| old.revision < map.revision) {
            threads.map = Some(Arc::clone(&map));
            for handle in threads.drives.values() {
                let _ = handle.remote.send(DriveCommand::Map(Arc::clone(&map)));
            }
        }
        if threads.page.is_shared() {
            // After every drive's queue has it (B11).
            threads.page.publish_map(map.revision, read_began_us);
        }
        drop(threads);
        self.tell_beacon(BeaconCommand::Map { rev: map.revision, read_at: read_began_us });
        Ok(())
    }

    fn generations(&self, drive: u32, pool: u16, revision: u64, entries: Vec<(u64, u32, u64)>) -> PyResult<()> {
        let list = entries.into_iter().map(|(v, g, n)| (VolumeId(v), Gen(g), n)).collect();
        self.tell(drive, DriveCommand::Generations { pool: PoolId(pool), revision: Rev(revision), list })
    }

    fn control(&self, drive: u32, request_id: u64, request: &str) -> PyResult<()> {
        if request_id == 0 {
            return Err(refuse("request ids start at 1"));
        }
        let command = match request_of(request)? {
            Asked::Core(req) => DriveCommand::Control { id: request_id, req },
            Asked::Exercise => DriveCommand::Exercise { id: request_id },
        };
        self.tell(drive, command)
    }

    fn voters(&self, version: u64, voters: Vec<String>, nodes: Vec<(String, String)>) -> PyResult<()> {
        self.tell_beacon(voters_of(version, &voters, &nodes)?);
        Ok(())
    }

    fn suspects(&self, as_of: u64, keys: Vec<(String, u64)>) -> PyResult<()> {
        self.tell_beacon(suspects_of(as_of, &keys)?);
        Ok(())
    }

    fn ask_vote(&self, node: &str, round: u64) -> PyResult<()> {
        self.tell_beacon(BeaconCommand::AskVote { node: uuid(node)?, round: Rev(round) });
        Ok(())
    }

    fn stats(&self, py: Python<'_>) -> String {
        let remotes: Vec<_> = self.threads().drives.iter().map(|(d, h)| (*d, h.remote.clone())).collect();
        py.detach(|| stats_of(&remotes)).to_string()
    }

    fn stop(&self, py: Python<'_>) {
        let threads = core::mem::take(&mut *self.threads());
        py.detach(|| stop_all(threads));
    }
}

fn stats_of(remotes: &[(DriveId, drystone_server::DriveRemote)]) -> Value {
    let mut drives = Map::new();
    for (drive, remote) in remotes {
        let (reply, answer) = std::sync::mpsc::channel();
        if remote.send(DriveCommand::Stats(reply)).is_err() {
            continue;
        }
        let Ok(s) = answer.recv_timeout(STATS_MAX) else { continue };
        let counters: Map<String, Value> = s.counters.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let [total, live, grantable, granted, reserve] = s.space;
        let space = json!({"total_slots": total, "live_slots": live, "grantable_slots": grantable,
            "granted_slots": granted, "reserve_slots": reserve});
        // No turn since the last look: the margin is not known to be small.
        let margin = (s.lease_margin_us != u64::MAX).then_some(s.lease_margin_us);
        let doc = json!({"counters": counters, "space": space, "oldest_io_us": s.oldest_io_us, "peers": s.peers,
            "device": device_json(&s.device), "lease_margin_us": margin,
            "resync_bytes_left": s.resync_bytes_left, "log": log_json(&s.log), "refused": counts_json(&s.refused)});
        drives.insert(drive.to_string(), doc);
    }
    json!({ "drives": drives })
}

fn device_json(d: &DeviceStats) -> Value {
    json!({"p99_us": d.p99_us, "ops": d.ops, "slow": d.slow, "queue_depth": d.queue_depth,
        "read": latency_json(&d.read), "write": latency_json(&d.write), "flush": latency_json(&d.flush)})
}

fn log_json(l: &LogStats) -> Value {
    json!({"moved_blocks": l.moved_blocks, "collected_segments": l.collected, "checkpoints": l.checkpoints,
        "segments": {"free": l.free, "open": l.open, "closed": l.closed, "emptied": l.emptied,
            "discarding": l.discarding, "checkpoint": l.checkpoint, "stuck": l.stuck}})
}

/// Counts by name.
pub fn counts_json(counts: &[(&'static str, u64)]) -> Value {
    Value::Object(counts.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect())
}

fn stop_all(threads: Threads) {
    let deadline = std::time::Instant::now() + STOP_MAX;
    for handle in threads.drives.values() {
        let _ = handle.remote.send(DriveCommand::Stop);
    }
    for handle in threads.drives.into_values() {
        // Polled, because a thread handle has no wait with a deadline.
        while !handle.thread.is_finished() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    if let Some(beacon) = threads.beacon {
        let _ = beacon.send(BeaconCommand::Stop);
    }
    if let Some(watch) = threads.watch {
        // Last: whoever sees that there is no server any more may believe that nothing is answered.
        let _ = watch.send(WatchCommand::Stop);
    }
}
