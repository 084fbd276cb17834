//! One sequencer over perfect replicas, a map and a clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use drystone_sequencer::*;
use drystone_types::*;

use crate::replica::Rep;

pub const VOL: VolumeId = VolumeId(7);
pub const HEAD: LayerId = LayerId(70);
pub const SIZE: u64 = 64 << 20;

pub struct World {
    pub now: u64,
    pub map: ClusterMap,
    pub reps: BTreeMap<DriveId, Rep>,
    pub seq: Sequencer,
    /// Frames to these drives stay here until released.
    pub held: VecDeque<(DriveId, Option<DriveId>, Frame)>,
    pub hold: BTreeSet<DriveId>,
    pub cut_off: BTreeSet<DriveId>,
    pub done: BTreeMap<u64, IoResult>,
    pub log: Vec<Action>,
    /// Whether `Answered` follows each completion at once.
    pub answer: bool,
    pub activate: bool,
    /// Broken invariants are logged, not fatal (mutation tests).
    pub catch: bool,
    next_tag: u64,
}

pub fn map_of(drives: u32, pgs: u32) -> ClusterMap {
    let record = PgRecord { epoch: Epoch(1), insync: (1..=drives).map(DriveId).collect(), ..PgRecord::default() };
    let pool = |id: u16| PoolMap {
        pool: PoolId(id),
        copies: 3,
        min_insync: 2.min(drives as u8),
        pg_count: pgs,
        shards: vec![MapShard { pgs: vec![record.clone(); pgs as usize] }],
    };
    let drive = |id| DriveInfo { id: DriveId(id), nonce: 1, ..DriveInfo::default() };
    ClusterMap {
        revision: Rev(10),
        drives: (1..=drives + 2).map(drive).collect(),
        pools: vec![pool(1), pool(2)],
        ..ClusterMap::default()
    }
}

pub fn ticket(gen: u32) -> Ticket {
    Ticket {
        serial: 1,
        vol: VOL,
        gen: Gen(gen),
        nonce: 1,
        pool: PoolId(1),
        seed: 5,
        size: SIZE,
        chain: vec![(HEAD, Version::ZERO)],
        ..Ticket::default()
    }
}

pub fn sealed(t: &Ticket) -> Vec<u8> {
    t.seal(&[0; 32], 1)
}

impl World {
    /// Three drives, all up; nothing has happened yet.
    pub fn idle(pgs: u32, t: &Ticket, cfg: Config) -> World {
        let map = map_of(3, pgs);
        let mut lineages: BTreeMap<LayerId, VolumeId> = t.chain.iter().map(|(l, _)| (*l, t.vol)).collect();
        lineages.extend(t.parents.iter().map(|p| (p.layer, p.lineage)));
        lineages.insert(LayerId(71), VOL);
        let reps = (1..=5).map(DriveId).map(|id| (id, Rep::new(id, map.clone(), lineages.clone()))).collect();
        let seq = Sequencer::new(cfg, &sealed(t)).expect("a ticket");
        World {
            now: 1_000_000,
            map,
            reps,
            seq,
            held: VecDeque::new(),
            hold: BTreeSet::new(),
            cut_off: BTreeSet::new(),
            done: BTreeMap::new(),
            log: Vec::new(),
            answer: true,
            activate: true,
            catch: false,
            next_tag: 0,
        }
    }

    pub fn attached() -> World {
        World::attached_with(1, &ticket(1), Config::default())
    }

    pub fn attached_with(pgs: u32, t: &Ticket, cfg: Config) -> World {
        let mut w = World::idle(pgs, t, cfg);
        w.attach();
        assert_eq!(w.seq.state(), State::Active);
        w
    }

    pub fn attach(&mut self) {
        for d in 1..=3 {
            self.up(d);
        }
        self.step(Event::Map(Arc::new(self.map.clone())));
    }

    /// A successor of the same volume over the same replicas.
    pub fn successor(&mut self, gen: u32) {
        self.seq = Sequencer::new(Config::default(), &sealed(&ticket(gen))).expect("a ticket");
        self.log.clear();
        self.held.clear();
        self.hold.clear();
    }

    pub fn up(&mut self, drive: u32) {
        let nonce = self.reps[&DriveId(drive)].nonce;
        self.step(Event::DriveUp { drive: DriveId(drive), nonce });
    }

    pub fn rep(&mut self, drive: u32) -> &mut Rep {
        self.reps.get_mut(&DriveId(drive)).unwrap()
    }

    pub fn step(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            let mut out = Vec::new();
            self.seq.step(self.now, event, &mut out);
            for action in out {
                if let Action::Invariant(what) = action {
                    assert!(self.catch, "invariant: {what}");
                }
                self.act(action, &mut queue);
            }
        }
    }

    fn act(&mut self, action: Action, queue: &mut VecDeque<Event>) {
        self.log.push(action.clone());
        match action {
            Action::Send { via: Some(via), .. } if self.cut_off.contains(&via) => {}
            Action::Send { drive, via, frame } if self.hold.contains(&via.unwrap_or(drive)) => {
                self.held.push_back((drive, via, frame));
            }
            Action::Send { drive, via, frame } => self.deliver(drive, via, &frame, queue),
            Action::Complete { tag, result } => {
                self.done.insert(tag, result);
                if self.answer {
                    queue.push_back(Event::Answered { tag });
                }
            }
            Action::WantActivate { .. } if self.activate => queue.push_back(Event::Activated(Ok(()))),
            Action::NeedMap { at_least } if self.map.revision >= at_least => {
                queue.push_back(Event::Map(Arc::new(self.map.clone())))
            }
            _ => {}
        }
    }

    fn deliver(&mut self, drive: DriveId, via: Option<DriveId>, frame: &Frame, queue: &mut VecDeque<Event>) {
        let rep = self.reps.get_mut(&drive).expect("a drive");
        for answer in rep.handle(frame) {
            queue.push_back(Event::Frame { drive: via.unwrap_or(drive), frame: answer });
        }
    }

    /// Delivers what was held for one drive, and holds no more.
    pub fn release(&mut self, drive: u32) {
        let drive = DriveId(drive);
        self.hold.remove(&drive);
        let held = core::mem::take(&mut self.held);
        let (mine, rest): (Vec<_>, Vec<_>) = held.into_iter().partition(|h| h.1.unwrap_or(h.0) == drive);
        self.held = rest.into();
        for (to, via, frame) in mine {
            let mut queue = VecDeque::new();
            self.deliver(to, via, &frame, &mut queue);
            for event in queue {
                self.step(event);
            }
        }
    }

    /// It reaches no other drive: what it is asked to relay is lost.
    pub fn lose_relays(&mut self, via: u32) {
        self.cut_off.insert(DriveId(via));
    }

    /// What was held for one drive is lost, and nothing more is held.
    pub fn forget_held(&mut self, drive: u32) {
        self.hold.remove(&DriveId(drive));
        self.held.retain(|h| h.1.unwrap_or(h.0) != DriveId(drive));
    }

    pub fn hold(&mut self, drive: u32) {
        self.hold.insert(DriveId(drive));
    }

    pub fn io(&mut self, io: Io) -> u64 {
        self.next_tag += 1;
        self.step(Event::Io { tag: self.next_tag, io });
        self.next_tag
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> u64 {
        self.io(Io::Write { offset, data: Buf::copy_from(data) })
    }

    pub fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        let tag = self.io(Io::Read { offset, len });
        self.bytes(tag)
    }

    pub fn bytes(&self, tag: u64) -> Vec<u8> {
        match self.done.get(&tag) {
            Some(Ok(IoOk::Data(pieces))) => pieces.iter().flat_map(|p| p.as_slice().to_vec()).collect(),
            other => panic!("request {tag}: {other:?}"),
        }
    }

    pub fn ok(&self, tag: u64) -> bool {
        self.done.get(&tag) == Some(&Ok(IoOk::Done))
    }

    pub fn open(&self, tag: u64) -> bool {
        !self.done.contains_key(&tag)
    }

    /// Lets time pass, deadline by deadline.
    pub fn pass(&mut self, micros: u64) {
        let end = self.now + micros;
        let mut steps = 0;
        while let Some(at) = self.seq.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step(Event::Tick);
            steps += 1;
            assert!(steps < 100_000, "a deadline repeats without time passing");
        }
        self.now = end;
    }

    /// Changes every PG's record in the store; replicas named adopt it at once.
    pub fn change(&mut self, insync: &[u32], joining: &[u32], adopt: &[u32]) {
        self.map.revision.0 += 1;
        for pool in &mut self.map.pools {
            for pg in &mut pool.shards[0].pgs {
                pg.epoch.0 += 1;
                let epoch = pg.epoch;
                pg.insync = insync.iter().map(|d| DriveId(*d)).collect();
                pg.joining = joining
                    .iter()
                    .map(|d| map::Joiner { drive: DriveId(*d), join_epoch: epoch, e0: Epoch(0) })
                    .collect();
            }
        }
        for d in adopt {
            let map = self.map.clone();
            self.rep(*d).map = map;
        }
    }

    pub fn push_map(&mut self) {
        self.step(Event::Map(Arc::new(self.map.clone())));
    }

    pub fn reports(&self) -> Vec<(u32, ReportKind)> {
        let of = |a: &Action| if let Action::Report { drive, kind } = a { Some((drive.0, *kind)) } else { None };
        self.log.iter().filter_map(of).collect()
    }

    pub fn sent(&self, kind: MsgType) -> Vec<(u32, Frame)> {
        let of = |a: &Action| match a {
            Action::Send { drive, frame, .. } if frame.hdr.kind == kind => Some((drive.0, frame.clone())),
            _ => None,
        };
        self.log.iter().filter_map(of).collect()
    }
}

pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ seed ^ (i >> 8) as u8).collect()
}
