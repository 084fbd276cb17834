//! One drive under test over the naive store: frames in, answers out, device operations completed
//! when the test says so.

use std::sync::Arc;

use drystone_csum::block_csum;
use drystone_replica::{Action, Config, Control, ControlResult, Event, PeerId, PeerInfo, PeerRole, Replica};
use drystone_store::api::{DevOp, DevResult};
use drystone_store::testing::NaiveStore;
use drystone_types::map::Joiner;
use drystone_types::*;

pub const VOL: VolumeId = VolumeId(7);
pub const LAYER: LayerId = LayerId(70);
pub const CLIENT: Uuid = Uuid([9; 16]);
pub const PEER: PeerId = PeerId(1);
pub const SERVER: PeerId = PeerId(2);
pub const MANAGER: PeerId = PeerId(3);
pub const PG: PgId = PgId { pool: PoolId(1), pg: 0 };
const KEY: trust::Key = [5; 32];

pub fn joiner(drive: u32, join: u32, e0: u32) -> Joiner {
    Joiner { drive: DriveId(drive), join_epoch: Epoch(join), e0: Epoch(e0) }
}

/// The connection over which a drive asks another.
pub fn drive_peer(drive: u32) -> PeerId {
    PeerId(100 + u64::from(drive))
}

/// A map of one pool with one PG.
pub fn map(rev: u64, epoch: u32, insync: &[u32], joining: &[Joiner]) -> Arc<ClusterMap> {
    let rec = PgRecord {
        epoch: Epoch(epoch),
        insync: insync.iter().map(|d| DriveId(*d)).collect(),
        joining: joining.iter().copied().collect(),
        ..PgRecord::default()
    };
    let pool =
        PoolMap { pool: PoolId(1), copies: 3, min_insync: 2, pg_count: 1, shards: vec![MapShard { pgs: vec![rec] }] };
    let drives = (1..=4).map(|d| DriveInfo { id: DriveId(d), ..DriveInfo::default() }).collect();
    Arc::new(ClusterMap { incarnation: 1, revision: Rev(rev), drives, pools: vec![pool], ..ClusterMap::default() })
}

pub fn config(drive: u32) -> Config {
    Config {
        drive: DriveId(drive),
        open_nonce: 1,
        cluster: Uuid::default(),
        incarnation: 1,
        feature_level: 1,
        ticket_keys: Arc::new(|epoch| (epoch == 1).then_some(KEY)),
        suspect: false,
        peer_check: false,
        rules: Rules::ALL,
    }
}

pub fn ticket(gen: u32, nonce: u64) -> Ticket {
    Ticket {
        serial: 1,
        vol: VOL,
        gen: Gen(gen),
        nonce,
        client: CLIENT,
        pool: PoolId(1),
        size: 64 << 20,
        chain: vec![(LAYER, Version::ZERO)],
        ..Ticket::default()
    }
}

pub struct Rig {
    pub r: Replica<NaiveStore>,
    pub now: u64,
    pub out: Vec<Action>,
    pub dev: Vec<u64>,
    pub epoch: u32,
    pub rev: u64,
    next: u64,
}

impl Rig {
    pub fn new(drive: u32) -> Rig {
        Rig::open(config(drive), NaiveStore::new(100_000))
    }
    /// The same events as `active`, for another configuration.
    pub fn active_as(cfg: Config) -> Rig {
        let mut rig = Rig::open(cfg, NaiveStore::new(100_000));
        rig.map(map(1, 1, &[1, 2, 3], &[]));
        rig.seal(1);
        rig
    }
    pub fn open(cfg: Config, store: NaiveStore) -> Rig {
        let r = Replica::open(cfg, store).unwrap();
        let mut rig = Rig { r, now: 1_000_000, out: Vec::new(), dev: Vec::new(), epoch: 1, rev: 1, next: 0 };
        rig.event(Event::PeerUp { peer: PEER, info: PeerInfo { role: PeerRole::Client, uuid: CLIENT } });
        rig.event(Event::PeerUp { peer: SERVER, info: PeerInfo { role: PeerRole::Server, uuid: Uuid([2; 16]) } });
        rig.event(Event::PeerUp { peer: MANAGER, info: PeerInfo { role: PeerRole::Manager, uuid: Uuid([3; 16]) } });
        for drive in 1..=4 {
            let info = PeerInfo { role: PeerRole::Server, uuid: Uuid([drive; 16]) };
            rig.event(Event::PeerUp { peer: drive_peer(u32::from(drive)), info });
        }
        rig.event(Event::Lease { valid_until: u64::MAX });
        rig
    }
    /// A drive in sync in epoch 1 with generation 1 sealed by the client.
    pub fn active(drive: u32) -> Rig {
        Rig::active_as(config(drive))
    }
    /// Power cut: what is durable comes back under a new nonce; the map is not told yet.
    pub fn restart(self, nonce: u64) -> Rig {
        let drive = self.drive();
        self.restart_as(Config { open_nonce: nonce, ..config(drive.0) })
    }
    pub fn restart_as(self, cfg: Config) -> Rig {
        let mut store = self.r.store().clone();
        store.restart();
        let mut rig = Rig::open(cfg, store);
        rig.now = self.now + 1;
        rig.epoch = self.epoch;
        rig.rev = self.rev;
        rig
    }
    pub fn drive(&self) -> DriveId {
        self.r.drive()
    }
    pub fn event(&mut self, event: Event) {
        self.now += 1;
        self.r.step(self.now, event, &mut self.out);
        self.flush();
    }
    pub fn flush(&mut self) {
        self.r.flush(self.now, &mut self.out);
        let mut kept = Vec::new();
        for action in self.out.drain(..) {
            match action {
                Action::Dev(
                    DevOp::Write { id, .. } | DevOp::Read { id, .. } | DevOp::Flush { id } | DevOp::Discard { id, .. },
                ) => self.dev.push(id),
                other => kept.push(other),
            }
        }
        self.out = kept;
    }
    pub fn complete(&mut self, id: u64) {
        self.dev.retain(|d| *d != id);
        self.event(Event::Dev { id, result: DevResult::Ok(Buf::empty()) });
    }
    /// Completes device operations until none is left.
    pub fn run(&mut self) {
        while let Some(id) = self.dev.first().copied() {
            self.complete(id);
        }
    }
    pub fn advance(&mut self, micros: u64) {
        self.now += micros;
        self.event(Event::Tick);
    }
    pub fn map(&mut self, map: Arc<ClusterMap>) {
        self.rev = map.revision.0;
        self.epoch = map.pg(PG).map_or(0, |rec| rec.epoch.0);
        self.event(Event::Map(map));
        self.run();
    }
    pub fn generations(&mut self, rev: u64, list: &[(VolumeId, Gen, u64)]) {
        self.event(Event::Generations { pool: PoolId(1), revision: Rev(rev), list: list.to_vec() });
        self.run();
    }
    /// A request header in the current epoch and map.
    pub fn hdr(&mut self, kind: MsgType, gen: u32) -> Header {
        self.next += 1;
        Header {
            kind,
            request: self.next,
            vol: VOL,
            gen: Gen(gen),
            origin_gen: Gen(gen),
            pg: PG,
            pg_epoch: Epoch(self.epoch),
            map_rev: Rev(self.rev),
            drive: self.drive(),
            layer: LAYER,
            ..Header::default()
        }
    }
    pub fn write_frame(&mut self, gen: u32, seq: u64, block: u64, count: u32, fill: u8) -> Frame {
        let hdr = Header { block, count, seq, ..self.hdr(MsgType::Write, gen) };
        data_frame(hdr, fill)
    }
    pub fn send_from(&mut self, peer: PeerId, frame: Frame) {
        self.event(Event::Frame { peer, frame });
    }
    pub fn send(&mut self, frame: Frame) {
        self.send_from(PEER, frame);
    }
    /// Sends, completes the device and gives the one answer.
    pub fn call_from(&mut self, peer: PeerId, frame: Frame) -> Frame {
        let request = frame.hdr.request;
        self.send_from(peer, frame);
        self.run();
        let mut answers = self.take_answers();
        let at = answers.iter().position(|f| f.hdr.request == request).expect("an answer");
        answers.remove(at)
    }
    pub fn call(&mut self, frame: Frame) -> Frame {
        self.call_from(PEER, frame)
    }
    pub fn take_answers(&mut self) -> Vec<Frame> {
        let mut answers = Vec::new();
        let mut kept = Vec::new();
        for action in self.out.drain(..) {
            match action {
                Action::Send { frame, .. } => answers.push(frame),
                other => kept.push(other),
            }
        }
        self.out = kept;
        answers
    }
    pub fn statuses(&mut self) -> Vec<Status> {
        self.take_answers().into_iter().map(|f| f.hdr.status).collect()
    }
    pub fn seal_frame(&mut self, gen: u32, ticket: &Ticket) -> Frame {
        Frame::with_meta(self.hdr(MsgType::Seal, gen), ticket.seal(&KEY, 1))
    }
    pub fn seal(&mut self, gen: u32) -> SealReply {
        let frame = self.seal_frame(gen, &ticket(gen, u64::from(gen)));
        let answer = self.call(frame);
        assert_eq!(answer.hdr.status, Status::Ok);
        seal_reply(&answer)
    }
    pub fn layer_frame(&mut self, gen: u32, ticket: &Ticket) -> Frame {
        Frame::with_meta(self.hdr(MsgType::Layer, gen), ticket.seal(&KEY, 1))
    }
    pub fn write(&mut self, gen: u32, seq: u64, block: u64, fill: u8) -> Status {
        let frame = self.write_frame(gen, seq, block, 1, fill);
        self.call(frame).hdr.status
    }
    pub fn read_frame(&mut self, gen: u32, block: u64, count: u32) -> Frame {
        let hdr = Header { block, count, ..self.hdr(MsgType::Read, gen) };
        let mut w = Writer::new();
        w.u32(1).u64(LAYER.0);
        Frame::with_meta(hdr, w.finish())
    }
    pub fn read(&mut self, gen: u32, block: u64) -> Frame {
        let frame = self.read_frame(gen, block, 1);
        self.call(frame)
    }
    /// First byte of a block, `None` when absent.
    pub fn byte(&mut self, gen: u32, block: u64) -> Option<u8> {
        let answer = self.read(gen, block);
        assert_eq!(answer.hdr.status, Status::Ok);
        answer.data.as_slice().first().copied()
    }
    pub fn roll(&mut self, gen: u32, version: Version, block: u64, fill: u8) -> Frame {
        let mut hdr = self.hdr(MsgType::Write, gen);
        hdr.flags = Flags::ROLL;
        hdr.origin_gen = version.gen;
        hdr.seq = version.seq;
        hdr.block = block;
        hdr.count = 1;
        data_frame(hdr, fill)
    }
    pub fn stable(&mut self, gen: u32, stable: Version) -> Frame {
        let hdr = Header { stable, ..self.hdr(MsgType::Stable, gen) };
        self.call(Frame::bare(hdr))
    }
    pub fn control(&mut self, req: Control) -> ControlResult {
        self.event(Event::Control { id: 99, req });
        self.run();
        let found = self.out.iter().find_map(|a| match a {
            Action::ControlDone { id: 99, result } => Some(*result),
            _ => None,
        });
        found.expect("a result")
    }
    pub fn has(&self, wanted: impl Fn(&Action) -> bool) -> bool {
        self.out.iter().any(wanted)
    }
    pub fn count(&self, name: &str) -> u64 {
        self.r.stats().list().into_iter().find(|(n, _)| *n == name).expect("a counter").1
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.r.stats().invariants, 0, "an invariant broke");
        }
    }
}

pub fn data_frame(hdr: Header, fill: u8) -> Frame {
    let data = Buf::copy_from(&vec![fill; hdr.count as usize * 4096]);
    let blocks = (hdr.block..).take(hdr.count as usize).enumerate();
    let csums = blocks.map(|(i, b)| block_csum(hdr.vol, b, data.block(i).as_slice())).collect();
    Frame { hdr, csums, meta: Vec::new(), data }
}

#[derive(Debug, PartialEq)]
pub struct SealReply {
    pub sealed: u32,
    pub exists: bool,
    pub pgs: Vec<(u32, u32)>,
    /// (layer, block, generation, sequence, kind)
    pub entries: Vec<(u64, u64, u32, u64, u8)>,
}

pub fn seal_reply(frame: &Frame) -> SealReply {
    let mut r = Reader::new(&frame.meta);
    let mut reply =
        SealReply { sealed: r.u32().unwrap(), exists: r.u8().unwrap() == 1, pgs: Vec::new(), entries: Vec::new() };
    for _ in 0..r.u32().unwrap() {
        reply.pgs.push((r.u32().unwrap(), r.u32().unwrap()));
        for _ in 0..r.u32().unwrap() {
            let entry = (r.u64().unwrap(), r.u64().unwrap(), r.u32().unwrap(), r.u64().unwrap(), r.u8().unwrap());
            reply.entries.push(entry);
        }
    }
    r.finish().unwrap();
    reply
}

/// Drive 3 joins in epoch 2 having been in sync before; sealed generation 1 is known from then.
pub fn joining() -> Rig {
    let mut rig = Rig::active(3);
    assert_eq!(rig.write(1, 9, 0, 9), Status::Ok);
    rig.map(map(2, 2, &[1, 2], &[]));
    rig.map(map(3, 3, &[1, 2], &[joiner(3, 3, 1)]));
    rig
}
