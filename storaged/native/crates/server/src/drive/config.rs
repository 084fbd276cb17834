//! Opening a drive and starting its thread.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use drystone_frame::{PeerIdentity, Role};
use drystone_link::{Dialer, Keys, MyIdentity};
use drystone_reactor::{
    channel, give_back_memory, listen_tcp, Config as ReactorConfig, Ctx, Inbox, Reactor, UserToken,
};
use drystone_replica::{Config as ReplicaConfig, Replica};
use drystone_store::{Config as StoreConfig, LogStore, OpenParams};
use drystone_types::trust::{role_key, ticket_key};
use drystone_types::{DriveId, Rev, Rules, Uuid};

use super::dev::Device;
use super::peers::{Gate, Peers};
use super::{DriveCommand, DriveHandler, DriveRemote, CLASS_SLOT, CLOSE_MAX, DIAL, SLOT_PERIOD};
use crate::events::{EventSink, ServerEvent};
use crate::lease::{LeasePage, LeaseView};
use crate::openfile::OpenDrive;

/// Everything a drive's thread needs.
#[derive(Clone)]
pub struct DriveConfig {
    /// Drive.
    pub drive: DriveId,
    /// File or device.
    pub path: PathBuf,
    /// Nonce of this open, recorded in the metadata store before.
    pub nonce: u64,
    /// Highest store revision, persisted with the nonce.
    pub revision: Rev,
    /// Where the drive's reactor listens.
    pub listen: SocketAddr,
    /// Slot in the lease page.
    pub slot: usize,
    /// The device keeps what it has acked when power goes.
    pub power_loss_protected: bool,
    /// The drive was dropped from every in-sync set: a suspicion noted on it is over.
    pub clear_suspect: bool,
    /// Ask a peer for its last stable versions before serving (§6).
    pub peer_check: bool,
    /// Cluster.
    pub cluster: Uuid,
    /// This node.
    pub node: Uuid,
    /// Store incarnation.
    pub incarnation: u32,
    /// Feature level.
    pub feature_level: u32,
    /// Master keys.
    pub keys: Keys,
    /// Key epoch for connections to other drives.
    pub key_epoch: u32,
    /// Lease page of the node.
    pub page: LeasePage,
}

/// Longest look for work before a drive's thread sleeps: at queue depth 1 the next request comes
/// within this time, and the wake-up of an idle CPU costs a third of it.
const SPIN_US: u32 = 150;

/// A drive's thread.
pub struct DriveHandle {
    /// Commands.
    pub remote: DriveRemote,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The thread; it ends after `Stop` or a failure.
    pub thread: JoinHandle<()>,
}

/// Binds the drive's socket and starts its thread, which opens the log and then serves;
/// [`ServerEvent::DriveReady`] or [`ServerEvent::DriveFailed`] follows.
pub fn spawn_drive(config: DriveConfig, events: EventSink) -> io::Result<DriveHandle> {
    let (listener, listen) = listen_tcp(config.listen)?;
    let (remote, inbox) = channel()?;
    let name = format!("drive-{}", config.drive);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let drive = config.drive;
        if let Err(reason) = serve(config, listener, inbox, &events) {
            events.put(ServerEvent::DriveFailed { drive, reason });
        }
    })?;
    Ok(DriveHandle { remote, listen, thread })
}

fn serve(config: DriveConfig, listener: OwnedFd, inbox: Inbox<DriveCommand>, events: &EventSink) -> Result<(), String> {
    let build = open(config, listener, events.clone())?;
    let reactor = Reactor::new(ReactorConfig { spin_us: SPIN_US, ..ReactorConfig::default() }, inbox, build)
        .map_err(|e| e.to_string())?;
    reactor.run().map(|_| ()).map_err(|e| e.to_string())
}

/// Opens the log; what it returns makes the handler on the reactor that serves it.
pub(super) fn open(
    config: DriveConfig,
    listener: OwnedFd,
    events: EventSink,
) -> Result<impl FnOnce(&mut Ctx) -> DriveHandler, String> {
    let started = Instant::now();
    let mut dev = OpenDrive::open(&config.path, None).map_err(|e| e.to_string())?;
    let options = StoreConfig {
        power_loss_protected: config.power_loss_protected,
        csum_cache_bytes: csum_cache(dev.size()),
        ..StoreConfig::default()
    };
    let params = OpenParams {
        nonce: config.nonce,
        cluster: Some(config.cluster),
        store: (u64::from(config.incarnation), config.revision.0),
        clear_suspect: config.clear_suspect,
        drive_id: Some(config.drive),
    };
    let (store, report) = LogStore::open(&mut dev, options, params).map_err(|e| e.to_string())?;
    let ready = ServerEvent::DriveReady {
        drive: config.drive,
        replayed_bytes: report.bytes_read,
        open_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        suspect: report.suspect.map(|s| format!("{s:?}")),
    };
    let replica = open_replica(&config, store, report.suspect.is_some())?;
    give_back_memory();
    Ok(move |cx: &mut Ctx| {
        let layout = replica.store().superblock().layout;
        let file = dev.is_file().then_some(layout);
        let device = Device::new(
            cx.adopt(dev.into_fd()),
            file,
            #[cfg(feature = "fault-hooks")]
            super::faults::Faults::new(&config.path),
        );
        let handler = build(cx, config, replica, device, listener, events.clone());
        events.put(ready);
        handler
    })
}

/// Memory for checksums: a quarter of what the index of a full drive takes at most, so that both
/// together stay within 1.75 GiB for each TiB; never more than the store's own limit.
fn csum_cache(drive_bytes: u64) -> usize {
    const FLOOR: usize = 1 << 20;
    let share = usize::try_from(drive_bytes / 4096).unwrap_or(usize::MAX);
    share.clamp(FLOOR, StoreConfig::default().csum_cache_bytes)
}

fn open_replica(config: &DriveConfig, store: LogStore, suspect: bool) -> Result<Replica<LogStore>, String> {
    let keys = config.keys.clone();
    let replica = ReplicaConfig {
        drive: config.drive,
        open_nonce: config.nonce,
        cluster: config.cluster,
        incarnation: config.incarnation,
        feature_level: config.feature_level,
        ticket_keys: Arc::new(move |epoch| keys.master(epoch).map(|m| ticket_key(&m, epoch))),
        suspect,
        peer_check: config.peer_check,
        rules: Rules::ALL,
    };
    Replica::open(replica, store).map_err(|e| e.to_string())
}

fn build(
    cx: &mut Ctx,
    config: DriveConfig,
    replica: Replica<LogStore>,
    device: Device,
    listener: OwnedFd,
    events: EventSink,
) -> DriveHandler {
    let listener = cx.adopt(listener);
    let gate = Gate { keys: config.keys.clone(), cluster: config.cluster, node: config.node };
    cx.timer(SLOT_PERIOD, UserToken::new(CLASS_SLOT, 0));
    DriveHandler {
        drive: config.drive,
        slot: config.slot,
        lease: LeaseView::default(),
        replica,
        device,
        peers: Peers::new(cx, listener, gate),
        dialer: Dialer::new(identity(&config), DIAL),
        known: BTreeMap::new(),
        page: config.page,
        events,
        actions: Vec::new(),
        tick: None,
        lease_margin: drystone_types::consts::Micros::MAX,
        exercise: None,
        exercise_due: false,
        noted_at: None,
        stopping: false,
        closing: false,
        close_max: CLOSE_MAX,
        #[cfg(feature = "fault-hooks")]
        faults_took: 0,
    }
}

/// This server as the connecting side of resync and relays.
fn identity(config: &DriveConfig) -> MyIdentity {
    let master = config.keys.master(config.key_epoch).unwrap_or_default();
    let who = PeerIdentity { role: Role::Server, uuid: config.node, cluster: config.cluster };
    MyIdentity {
        who,
        key: role_key(&master, Role::Server.name(), &config.node.0, config.key_epoch),
        key_epoch: config.key_epoch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_checksums_follows_the_size_of_the_drive_up_to_the_limit_of_the_store() {
        let limit = StoreConfig::default().csum_cache_bytes;
        assert_eq!(csum_cache(8 << 30), 2 << 20);
        assert_eq!(csum_cache(1 << 40), limit);
        assert_eq!(csum_cache(0), 1 << 20);
        assert!((32..44).all(|bits| csum_cache(1 << bits) as u64 <= (1 << bits) / 4096));
    }
}
