//! Three drives and a block daemon in one process, without a manager: for profiles and smoke
//! tests of the native data path. `mini-cluster DIR DRIVE_BYTES VOLUME_BYTES [SPIN_US]` serves the
//! volume at `DIR/nbd.sock` until standard input ends. Everything in DIR is made anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use drystone_block::{spawn_block, BlockCommand, BlockConfig, BlockEvent};
use drystone_frame::{PeerIdentity, Role};
use drystone_link::{mailbox, Keys, MyIdentity};
use drystone_server::openfile::OpenDrive;
use drystone_server::{spawn_drive, DriveCommand, DriveConfig, DriveHandle, LeasePage, ServerEvent};
use drystone_store::{format, FormatParams};
use drystone_types::trust::{role_key, ticket_key};
use drystone_types::*;

const MASTER: [u8; 32] = [7; 32];
const CLUSTER: Uuid = Uuid([1; 16]);
const CLIENT: Uuid = Uuid([2; 16]);
const PGS: u32 = 64;

fn start_drive(dir: &Path, id: u32, bytes: u64, events: &drystone_server::EventSink) -> DriveHandle {
    let path: PathBuf = dir.join(format!("{id}.img"));
    let _ = std::fs::remove_file(&path);
    let mut dev = OpenDrive::open(&path, Some(bytes)).unwrap();
    let uuid = Uuid([id as u8; 16]);
    let params = FormatParams {
        drive: uuid,
        drive_id: DriveId(id),
        cluster: CLUSTER,
        segment_bytes: 64 << 20,
        feature_level: 1,
    };
    format(&mut dev, &params).unwrap();
    drop(dev);
    let page = LeasePage::default();
    page.set(&[u64::MAX]);
    let config = DriveConfig {
        drive: DriveId(id),
        path,
        nonce: u64::from(id),
        revision: Rev(1),
        listen: "127.0.0.1:0".parse().unwrap(),
        slot: 0,
        power_loss_protected: std::env::var_os("PLP").is_some(),
        clear_suspect: false,
        peer_check: false,
        cluster: CLUSTER,
        node: uuid,
        incarnation: 1,
        feature_level: 1,
        keys: Keys { masters: vec![(1, MASTER)] },
        key_epoch: 1,
        page,
    };
    spawn_drive(config, events.clone()).unwrap()
}

fn the_map(drives: &[DriveHandle]) -> ClusterMap {
    let ids: Vec<DriveId> = (1..=drives.len() as u32).map(DriveId).collect();
    let record = |pg: u32| {
        let mut insync: map::Members = ids.iter().copied().collect();
        insync.rotate_left(pg as usize % ids.len());
        PgRecord { epoch: Epoch(1), target: insync.clone(), insync, ..PgRecord::default() }
    };
    let pool = PoolMap {
        pool: PoolId(1),
        copies: 3,
        min_insync: 2,
        pg_count: PGS,
        shards: vec![MapShard { pgs: (0..PGS).map(record).collect() }],
    };
    let info = |id: &DriveId| DriveInfo {
        id: *id,
        uuid: Uuid([id.0 as u8; 16]),
        node: Uuid([id.0 as u8; 16]),
        node_name: format!("node-{id}"),
        addr: drives[id.0 as usize - 1].listen.to_string(),
        nonce: u64::from(id.0),
        state: 0,
    };
    ClusterMap {
        cluster: CLUSTER,
        incarnation: 1,
        feature_level: 1,
        revision: Rev(10),
        drives: ids.iter().map(info).collect(),
        pools: vec![pool],
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = PathBuf::from(&args[1]);
    std::fs::create_dir_all(&dir).unwrap();
    let (drive_bytes, size): (u64, u64) = (args[2].parse().unwrap(), args[3].parse().unwrap());
    let spin_us = args.get(4).map_or(0, |s| s.parse().unwrap());
    let (sink, source) = mailbox::<ServerEvent>().unwrap();
    let drives: Vec<DriveHandle> = (1..=3).map(|id| start_drive(&dir, id, drive_bytes, &sink)).collect();
    let map = Arc::new(the_map(&drives));
    for d in &drives {
        let _ = d.remote.send(DriveCommand::Map(Arc::clone(&map)));
    }
    let who = PeerIdentity { role: Role::Client, uuid: CLIENT, cluster: CLUSTER };
    let me = MyIdentity { who, key: role_key(&MASTER, "client", &CLIENT.0, 1), key_epoch: 1 };
    let (bsink, bsource) = mailbox::<BlockEvent>().unwrap();
    let (block, _thread) = spawn_block(BlockConfig { me, spin_us }, bsink).unwrap();
    let ticket = Ticket {
        serial: 1,
        vol: VolumeId(1),
        gen: Gen(1),
        nonce: 99,
        client: CLIENT,
        pool: PoolId(1),
        seed: 5,
        size,
        chain: vec![(LayerId(1), Version::ZERO)],
        ..Ticket::default()
    };
    let _ = block.send(BlockCommand::Map(Arc::clone(&map)));
    let socket = dir.join("nbd.sock");
    let _ = block.send(BlockCommand::Attach {
        ticket: ticket.seal(&ticket_key(&MASTER, 1), 1),
        socket,
        export: "v".into(),
        recover: true,
        near_node: None,
    });
    std::thread::spawn(move || loop {
        for event in source.take() {
            match event {
                ServerEvent::NeedGenerations { drive, pool, .. } => {
                    let list = vec![(VolumeId(1), Gen(1), 99)];
                    let command = DriveCommand::Generations { pool, revision: Rev(10), list };
                    let _ = drives[drive.0 as usize - 1].remote.send(command);
                }
                ServerEvent::Report { .. } => {}
                other => eprintln!("server: {other:?}"),
            }
        }
        for event in bsource.take() {
            if let BlockEvent::WantActivate { vol, gen } = event {
                let _ = block.send(BlockCommand::Activated { vol, gen, result: Ok(()) });
            }
            eprintln!("block: {event:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
