//! Random histories over three drives: writes in flight, drops, joins, power cuts, client crashes.
//! At the end everything is healed; then all copies must be equal (I6) and hold every write that was
//! acked (I1).

use std::collections::{BTreeMap, BTreeSet};

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Config, Event};
use drystone_types::*;

const BLOCKS: [u64; 5] = [0, 1, 2, 1030, 2050];

/// The last block is written with its neighbours, so that both client streams are used.
fn length(block: u64) -> u32 {
    if block == 2050 {
        20
    } else {
        1
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % n
    }
    fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() {
            None
        } else {
            items.get(self.below(items.len() as u64) as usize).copied()
        }
    }
}

#[derive(Clone)]
struct Write {
    seq: u64,
    block: u64,
    fill: u8,
    trim: bool,
    acks: BTreeSet<u32>,
}

struct Story {
    w: World,
    rules: Rules,
    rng: Rng,
    epoch: u32,
    insync: Vec<u32>,
    joining: Vec<(u32, u32, u32)>,
    out: BTreeMap<u32, u32>,
    gen: u32,
    seq: u64,
    /// Epoch the client knows.
    known: u32,
    open: Vec<Write>,
    /// What each block must read as: `None` = absent.
    acked: BTreeMap<u64, Option<u8>>,
    fills: BTreeMap<(u32, u64), (u8, bool)>,
    nonce: u64,
    /// Everything ever sent: any of it may arrive again at any time.
    sent: Vec<(u32, Frame)>,
}

impl Story {
    fn new(seed: u64, rules: Rules) -> Story {
        let rng = Rng(seed);
        let drives = (1..=3).map(|d| (d, Rig::active_as(Config { rules, ..config(d) }))).collect();
        Story {
            w: World::with(drives),
            rules,
            rng,
            epoch: 1,
            insync: vec![1, 2, 3],
            joining: Vec::new(),
            out: BTreeMap::new(),
            gen: 1,
            seq: 0,
            known: 1,
            open: Vec::new(),
            acked: BTreeMap::new(),
            fills: BTreeMap::new(),
            nonce: 10,
            sent: Vec::new(),
        }
    }
    fn the_map(&self) -> std::sync::Arc<ClusterMap> {
        let joining: Vec<_> = self.joining.iter().map(|(d, j, e0)| joiner(*d, *j, *e0)).collect();
        let mut map = (*map(u64::from(self.epoch), self.epoch, &self.insync, &joining)).clone();
        let rec = map.pool_mut(PoolId(1)).unwrap().pg_mut(0).unwrap();
        for (drive, e0) in &self.out {
            rec.out.push(drystone_types::map::OutSince { drive: DriveId(*drive), e0: Epoch(*e0), since_s: 0 });
        }
        std::sync::Arc::new(map)
    }
    fn tell(&mut self, d: u32) {
        let map = self.the_map();
        let rig = self.w.drive(d);
        rig.rev = map.revision.0;
        rig.epoch = self.epoch;
        rig.event(Event::Map(map));
    }
    /// Answers every drive that asks for the generations.
    fn give_generations(&mut self) {
        self.w.collect();
        let asked: BTreeSet<u32> = (self.w.actions.iter())
            .filter(|(_, a)| matches!(a, drystone_replica::Action::NeedGenerations { .. }))
            .map(|(d, _)| *d)
            .collect();
        self.w.actions.retain(|(_, a)| !matches!(a, drystone_replica::Action::NeedGenerations { .. }));
        for d in asked {
            let list = vec![(VOL, Gen(self.gen), u64::from(self.gen))];
            let revision = Rev(u64::from(self.epoch));
            self.w.drive(d).event(Event::Generations { pool: PoolId(1), revision, list });
        }
    }
    /// A new epoch; some drives hear of it now.
    fn bump(&mut self) {
        self.epoch += 1;
        for d in 1..=3 {
            if self.rng.below(3) > 0 {
                self.tell(d);
            }
        }
    }
    fn members(&self) -> Vec<u32> {
        self.insync.iter().copied().chain(self.joining.iter().map(|j| j.0)).collect()
    }
    fn frame(&mut self, d: u32, write: &Write) -> Frame {
        let stable = self.open.iter().map(|w| w.seq).min().map_or(self.seq, |s| s - 1);
        let (gen, known) = (self.gen, self.known);
        let rig = self.w.drive(d);
        (rig.epoch, rig.rev) = (known, u64::from(known));
        let kind = if write.trim { MsgType::Trim } else { MsgType::Write };
        let mut hdr = rig.hdr(kind, gen);
        (hdr.block, hdr.count, hdr.seq, hdr.stable) =
            (write.block, length(write.block), write.seq, Version::new(gen, stable));
        // The request id names the write and the epoch it was sent in.
        hdr.request = write.seq << 32 | u64::from(known);
        if write.trim {
            Frame::bare(hdr)
        } else {
            data_frame(hdr, write.fill)
        }
    }
    fn send(&mut self, d: u32, write: &Write) {
        let frame = self.frame(d, write);
        self.sent.push((d, frame.clone()));
        self.w.drive(d).send(frame);
    }
    /// A delayed duplicate, possibly of a client that is long dead.
    fn repeat(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let at = self.rng.below(self.sent.len() as u64) as usize;
        let (d, frame) = self.sent[at].clone();
        self.w.drive(d).send(frame);
    }
    fn start_write(&mut self) {
        let block = self.rng.pick(&BLOCKS).unwrap();
        if self.open.iter().any(|w| w.block == block) || self.open.len() > 2 {
            return;
        }
        self.seq += 1;
        let trim = self.rng.below(5) == 0;
        let fill = (self.rng.below(250) + 1) as u8;
        let write = Write { seq: self.seq, block, fill, trim, acks: BTreeSet::new() };
        self.fills.insert((self.gen, self.seq), (fill, trim));
        self.open.push(write.clone());
        for d in self.members() {
            if self.rng.below(4) > 0 {
                self.send(d, &write);
            }
        }
    }
    fn resend(&mut self) {
        for write in self.open.clone() {
            for d in self.members() {
                if !write.acks.contains(&d) {
                    self.send(d, &write);
                }
            }
        }
    }
    /// Reads the answers; a write completes with all acks of one epoch.
    fn collect(&mut self) {
        for d in 1..=3 {
            self.w.collect();
            let answers: Vec<Frame> = {
                let mut found = Vec::new();
                self.w.actions.retain(|(from, action)| match action {
                    drystone_replica::Action::Send { frame, .. } if *from == d => {
                        found.push(frame.clone());
                        false
                    }
                    _ => true,
                });
                found
            };
            for f in answers {
                let sent_in = (f.hdr.request & 0xffff_ffff) as u32;
                match f.hdr.status {
                    Status::Ok if f.hdr.kind != MsgType::Layer && f.hdr.gen.0 == self.gen && sent_in == self.known => {
                        assert_eq!(f.hdr.pg_epoch.0, self.known);
                        if let Some(w) = self.open.iter_mut().find(|w| w.seq == f.hdr.request >> 32) {
                            w.acks.insert(d);
                        }
                    }
                    Status::NackEpoch if self.known < self.epoch => self.refresh(),
                    Status::NeedTicket => {
                        let (gen, nonce) = (self.gen, u64::from(self.gen));
                        let layer = self.w.drive(d).layer_frame(gen, &ticket(gen, nonce));
                        self.w.drive(d).send(layer);
                    }
                    _ => {}
                }
            }
        }
        if self.known != self.epoch {
            return;
        }
        let members = self.members();
        let done = |w: &Write| members.iter().all(|d| w.acks.contains(d));
        for w in self.open.iter().filter(|w| done(w)) {
            self.acked.insert(w.block, (!w.trim).then_some(w.fill));
        }
        self.open.retain(|w| !done(w));
    }
    /// The client takes the newest map: acks of older epochs no longer count (W2).
    fn refresh(&mut self) {
        self.known = self.epoch;
        self.open.iter_mut().for_each(|w| w.acks.clear());
    }
    fn drop_one(&mut self) {
        if self.insync.len() > 1 && self.rng.below(2) == 0 {
            let d = self.rng.pick(&self.insync).unwrap();
            self.insync.retain(|x| *x != d);
            self.out.insert(d, self.epoch);
            self.bump();
        } else if let Some((d, _, e0)) = self.joining.pop() {
            self.out.insert(d, e0);
            self.bump();
        }
    }
    fn join_one(&mut self) {
        let Some((d, e0)) = self.out.pop_first() else { return };
        let e0 = if self.rng.below(4) == 0 { 0 } else { e0 };
        self.joining.push((d, self.epoch + 1, e0));
        self.bump();
    }
    fn promote(&mut self) {
        for (d, epoch) in std::mem::take(&mut self.w.completes) {
            let at = self.joining.iter().position(|j| j.0 == d);
            if let (Some(at), true) = (at, epoch == self.epoch) {
                self.joining.remove(at);
                self.insync.push(d);
                self.bump();
            }
        }
    }
    fn power_cut(&mut self) {
        let d = self.rng.below(3) as u32 + 1;
        self.nonce += 1;
        let nonce = self.nonce;
        let rig = self.w.drives.remove(&d).unwrap();
        let cfg = Config { rules: self.rules, open_nonce: nonce, ..config(d) };
        self.w.drives.insert(d, rig.restart_as(cfg));
        self.w.wire.retain(|(_, to, _, _)| *to != d);
        for other in 1..=3 {
            self.w.drive(other).event(Event::DriveDown { drive: DriveId(d) });
        }
        self.tell(d);
    }
    /// The client dies; the next one seals all members in one epoch, rolls forward and is active.
    fn new_client(&mut self) {
        let dead = std::mem::take(&mut self.open);
        self.heal_maps();
        self.gen += 1;
        let gen = self.gen;
        let mut newest: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        for d in self.members() {
            let reply = self.w.drive(d).seal(gen);
            assert_eq!(reply.pgs, [(PG.to_wire(), self.epoch)]);
            for (_, block, g, s, _) in reply.entries {
                let best = newest.entry(block).or_default();
                *best = (*best).max((g, s));
            }
        }
        for (block, (g, s)) in newest {
            let (fill, trim) = self.fills[&(g, s)];
            for d in self.members() {
                let mut roll = self.w.drive(d).roll(gen, Version::new(g, s), block, fill);
                if trim {
                    roll.hdr.kind = MsgType::Trim;
                    roll = Frame::bare(roll.hdr);
                }
                assert_eq!(self.w.drive(d).call(roll).hdr.status, Status::Ok);
            }
        }
        for d in self.members() {
            let hdr = self.w.drive(d).hdr(MsgType::Recovered, gen);
            assert_eq!(self.w.drive(d).call(Frame::bare(hdr)).hdr.status, Status::Ok);
        }
        // An unfinished write took effect everywhere or never.
        let first = self.insync[0];
        for w in dead {
            let now = self.w.drive(first).byte(gen, w.block);
            let before = self.acked.get(&w.block).copied().flatten();
            let after = (!w.trim).then_some(w.fill);
            assert!(now == before || now == after, "block {}: {now:?}", w.block);
            self.acked.insert(w.block, now);
        }
        self.seq = 0;
        self.w.collect();
        self.w.actions.clear();
    }
    fn heal_maps(&mut self) {
        for d in 1..=3 {
            self.tell(d);
        }
        self.refresh();
        for _ in 0..3 {
            self.w.run_devices();
            self.give_generations();
        }
        self.w.run_devices();
        self.w.collect();
        self.w.actions.clear();
    }
    fn step(&mut self) {
        match self.rng.below(24) {
            0..=6 => self.start_write(),
            7..=8 => self.resend(),
            9 => self.drop_one(),
            10..=11 => self.join_one(),
            12 => self.power_cut(),
            13 if self.rng.below(4) == 0 => self.new_client(),
            14 => {
                let d = self.rng.below(3) as u32 + 1;
                self.tell(d);
            }
            15 => self.w.drives.values_mut().for_each(|d| d.advance(50_000)),
            16..=19 => {
                let d = self.rng.below(3) as u32 + 1;
                if let Some(id) = self.w.drive(d).dev.first().copied() {
                    self.w.drive(d).complete(id);
                }
            }
            20 => self.repeat(),
            _ => {
                self.w.deliver();
            }
        }
        if self.rng.below(3) == 0 {
            self.give_generations();
        }
        self.collect();
        self.promote();
    }
    fn finish(&mut self) {
        for _ in 0..60 {
            self.heal_maps();
            while !self.out.is_empty() {
                self.join_one();
                self.heal_maps();
            }
            self.resend();
            self.w.settle();
            self.collect();
            self.promote();
            if self.open.is_empty() && self.joining.is_empty() && self.insync.len() == 3 {
                break;
            }
        }
        assert!(self.open.is_empty() && self.insync.len() == 3, "no progress");
        self.new_client();
        for block in BLOCKS {
            let expected = self.acked.get(&block).copied().flatten();
            for d in 1..=3 {
                assert_eq!(self.w.drive(d).byte(self.gen, block), expected, "block {block} on drive {d}");
            }
        }
        for d in self.w.drives.values() {
            assert_eq!(d.r.stats().invariants, 0);
        }
    }
}

fn run(seed: u64, rules: Rules) -> Story {
    let mut story = Story::new(seed, rules);
    for _ in 0..250 {
        story.step();
    }
    story.finish();
    story
}

#[test]
fn random_histories_end_with_equal_copies_that_hold_every_acked_write() {
    let (mut joins, mut kept, mut copied, mut nacks) = (0, 0, 0, 0);
    let seeds = std::env::var("REPLICA_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(300u64);
    let first = std::env::var("REPLICA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0u64);
    for seed in first..first + seeds {
        eprintln!("seed {seed}");
        let mut story = run(seed, Rules::ALL);
        for d in 1..=3 {
            joins += story.w.drive(d).count("joins");
            kept += story.w.drive(d).count("resync_kept");
            copied += story.w.drive(d).count("resync_blocks");
            nacks += story.w.drive(d).count("late_nacks");
        }
    }
    assert!(seeds < 100 || (joins > 0 && kept > 0 && copied > 0 && nacks > 0), "{joins} {kept} {copied} {nacks}");
}

/// The histories are strong enough to notice a missing rule.
#[cfg(feature = "mutations")]
#[test]
fn a_rule_switched_off_is_caught_by_a_random_history() {
    for rule in [Rule::R1, Rule::R6b, Rule::R6c, Rule::AdoptRestamps, Rule::SourceWins] {
        let caught = (0..400).any(|seed| std::panic::catch_unwind(|| run(seed, Rules::without(rule))).is_err());
        assert!(caught, "{rule:?} is not missed by any history");
    }
}
