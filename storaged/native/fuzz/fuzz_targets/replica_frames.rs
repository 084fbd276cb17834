//! The metadata of every request and of every answer from another drive, behind the replica's own
//! checks: any order of fuzzed frames is answered or ignored, and no invariant breaks.
#![no_main]

use std::sync::Arc;

use drystone_fuzz::{frame, KEY_EPOCH, MASTER};
use drystone_replica::{Action, Config, Event, PeerId, PeerInfo, PeerRole, Replica};
use drystone_store::api::{DevOp, DevResult};
use drystone_store::testing::NaiveStore;
use drystone_types::map::Joiner;
use drystone_types::*;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const VOL: VolumeId = VolumeId(7);
const LAYER: LayerId = LayerId(70);
const PG: PgId = PgId { pool: PoolId(1), pg: 0 };
const ME: DriveId = DriveId(1);

/// The drive alone with two others, in sync or joining.
fn map(rev: u64, joining: bool) -> Arc<ClusterMap> {
    let mut rec = PgRecord { epoch: Epoch(rev as u32), ..PgRecord::default() };
    rec.insync = (if joining { 2..=3 } else { 1..=3 }).map(DriveId).collect();
    if joining {
        rec.joining.push(Joiner { drive: ME, join_epoch: rec.epoch, e0: Epoch(1) });
    }
    let shards = vec![MapShard { pgs: vec![rec] }];
    let pool = PoolMap { pool: PoolId(1), copies: 3, min_insync: 2, pg_count: 1, shards };
    let drives = (1..=4).map(|d| DriveInfo { id: DriveId(d), ..DriveInfo::default() }).collect();
    Arc::new(ClusterMap { incarnation: 1, revision: Rev(rev), drives, pools: vec![pool], ..ClusterMap::default() })
}

fn ticket(gen: u32) -> Vec<u8> {
    let ticket = Ticket {
        serial: 1,
        vol: VOL,
        gen: Gen(gen),
        nonce: 1,
        client: Uuid([9; 16]),
        pool: PoolId(1),
        size: 64 << 20,
        chain: vec![(LAYER, Version::ZERO)],
        ..Ticket::default()
    };
    ticket.seal(&MASTER, KEY_EPOCH)
}

struct Rig {
    replica: Replica<NaiveStore>,
    now: u64,
    /// Requests of the replica to other drives.
    asked: Vec<(DriveId, Frame)>,
    epoch: u32,
    /// The newest answer to a peer.
    last: Option<Status>,
}

impl Rig {
    fn new() -> Rig {
        let cfg = Config {
            drive: ME,
            open_nonce: 1,
            cluster: Uuid::default(),
            incarnation: 1,
            feature_level: 1,
            ticket_keys: Arc::new(|epoch| (epoch == KEY_EPOCH).then_some(MASTER)),
            suspect: false,
            peer_check: false,
            rules: Rules::ALL,
        };
        let replica = Replica::open(cfg, NaiveStore::new(10_000)).expect("a new drive opens");
        let mut rig = Rig { replica, now: 1_000_000, asked: Vec::new(), epoch: 1, last: None };
        for (peer, role) in [(1, PeerRole::Client), (2, PeerRole::Server), (3, PeerRole::Manager)] {
            let uuid = Uuid([if peer == 1 { 9 } else { peer as u8 }; 16]);
            rig.event(Event::PeerUp { peer: PeerId(peer), info: PeerInfo { role, uuid } });
        }
        rig.event(Event::Lease { valid_until: u64::MAX });
        rig.event(Event::Map(map(1, false)));
        let hdr = Header { kind: MsgType::Seal, request: 1, ..rig.header() };
        rig.event(Event::Frame { peer: PeerId(1), frame: Frame::with_meta(hdr, ticket(1)) });
        assert_eq!(rig.last, Some(Status::Ok), "an honest client was refused");
        rig
    }

    fn header(&self) -> Header {
        let epoch = Epoch(self.epoch);
        let (gen, map_rev) = (Gen(1), Rev(u64::from(self.epoch)));
        Header {
            vol: VOL,
            gen,
            origin_gen: gen,
            pg: PG,
            pg_epoch: epoch,
            map_rev,
            drive: ME,
            layer: LAYER,
            ..Header::default()
        }
    }

    /// Takes an event, and completes every operation of the device that follows from it.
    fn event(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.now += 1;
            let mut out = Vec::new();
            self.replica.step(self.now, event, &mut out);
            self.replica.flush(self.now, &mut out);
            for action in out {
                match action {
                    Action::Dev(
                        DevOp::Write { id, .. }
                        | DevOp::Read { id, .. }
                        | DevOp::Flush { id }
                        | DevOp::Discard { id, .. },
                    ) => events.push(Event::Dev { id, result: DevResult::Ok(Buf::empty()) }),
                    Action::SendDrive { drive, frame } => self.asked.push((drive, frame)),
                    Action::Send { frame, .. } => self.last = Some(frame.hdr.status),
                    _ => {}
                }
            }
        }
        assert_eq!(self.replica.stats().invariants, 0, "an invariant broke");
    }
}

/// A frame most fields of which are those of the volume, the PG and the moment.
fn request(u: &mut Unstructured, rig: &Rig) -> Result<Frame> {
    let mut frame = frame(u)?;
    let good = rig.header();
    let keep: u16 = u.arbitrary()?;
    let bit = |n: u16| keep >> n & 1 == 0;
    let h = &mut frame.hdr;
    // The shell never hands an answer in as a request.
    h.flags = Flags(h.flags.0 & 0xfe);
    (h.vol, h.pg, h.drive) = (good.vol, good.pg, good.drive);
    h.gen = if bit(0) { good.gen } else { h.gen };
    h.origin_gen = if bit(1) { good.gen } else { h.origin_gen };
    h.pg_epoch = if bit(2) { good.pg_epoch } else { h.pg_epoch };
    h.layer = if bit(3) { LAYER } else { h.layer };
    h.map_rev = if bit(4) { good.map_rev } else { h.map_rev };
    h.block = if bit(5) { h.block % 2048 } else { h.block };
    h.count = if bit(6) { frame.csums.len() as u32 } else { h.count % 2000 };
    h.seq = if bit(7) { h.seq % 32 } else { h.seq };
    h.stable = if bit(8) { Version::new(1, h.stable.seq % 16) } else { h.stable };
    if matches!(h.kind, MsgType::Seal | MsgType::Layer) && bit(9) {
        frame.meta = ticket(h.gen.0);
    }
    Ok(frame)
}

/// An answer to what the replica asked, with fuzzed contents.
fn answer(u: &mut Unstructured, asked: &Frame) -> Result<Frame> {
    let mut frame = frame(u)?;
    let status = if u.ratio(3u8, 4u8)? { Status::Ok } else { frame.hdr.status };
    frame.hdr = Header { pg_epoch: asked.hdr.pg_epoch, ..asked.hdr.reply(status) };
    frame.hdr.flags.0 |= u.arbitrary::<u16>()? & Flags::LAST.with(Flags::BAD).0;
    Ok(frame)
}

fn run(mut u: Unstructured) -> Result<()> {
    let mut rig = Rig::new();
    while !u.is_empty() {
        match u.int_in_range(0..=9u8)? {
            0 => {
                rig.now += u64::from(u.arbitrary::<u16>()?) * 16;
                rig.event(Event::Tick);
            }
            1 if rig.epoch < 6 => {
                rig.epoch += 1;
                let map = map(u64::from(rig.epoch), u.arbitrary()?);
                rig.event(Event::Map(map));
                rig.event(Event::Generations {
                    pool: PoolId(1),
                    revision: Rev(u64::from(rig.epoch)),
                    list: Vec::new(),
                });
            }
            2..=5 if !rig.asked.is_empty() => {
                let (drive, asked) = rig.asked.swap_remove(u.choose_index(rig.asked.len())?);
                let frame = answer(&mut u, &asked)?;
                rig.event(Event::DriveReply { drive, frame });
            }
            _ => {
                let frame = request(&mut u, &rig)?;
                let peer = PeerId(u.int_in_range(1..=3)?);
                rig.event(Event::Frame { peer, frame });
            }
        }
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = run(Unstructured::new(bytes));
});
