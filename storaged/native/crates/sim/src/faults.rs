//! Faults of a seed, at random times.

use drystone_replica::{Control, Event as ReplicaEvent};
use drystone_types::VolumeId;

use crate::drive::FENCE_ID;
use crate::event::{Ev, Proc};
use crate::plan::Fault;
use crate::rng::Rng;
use crate::schedule::Entry;
use crate::storage;
use crate::world::{Phase, Place, Time, World};

mod drives;

/// Fenced clients that live on per volume at most: each is another actor to simulate.
const ZOMBIES_MAX: usize = 3;

impl World {
    /// A fault is due.
    pub fn fault(&mut self, i: usize) {
        if self.phase == Phase::Healing {
            return;
        }
        // The next node only when the last one is back.
        if self.plan.lone && !(self.whole() && self.nodes.iter().all(|n| n.up)) {
            return;
        }
        let Some(Entry { fault, seed, .. }) = self.schedule.get(i).copied() else { return };
        if self.leaves_a_copy(fault) && self.inject(fault, seed) {
            self.trace(|| format!("fault {fault:?}"));
            self.counts.hit(fault.name());
            self.faults_done += 1;
        }
    }

    /// Injects a fault now, where and how its own seed says: what it draws shifts nothing else. Returns
    /// whether it could be.
    pub fn inject(&mut self, fault: Fault, seed: u64) -> bool {
        let rng = std::mem::replace(&mut self.rng, Rng::new(seed));
        let done = self.inject_drawn(fault);
        self.rng = rng;
        done
    }

    fn inject_drawn(&mut self, fault: Fault) -> bool {
        let n = self.rng.index(self.nodes.len());
        let d = self.rng.index(self.drives.len());
        let vol = VolumeId(1 + self.rng.below(self.plan.volumes as u64));
        match fault {
            Fault::KillServer | Fault::PowerCut => self.stop_soon(n, fault == Fault::PowerCut),
            Fault::FreezeServer => {
                let until = self.now + self.rng.range(100_000, 4_000_000);
                let beacon = self.freeze(Proc::Beacon(n), until);
                self.freeze(Proc::Server(n), until) && beacon
            }
            Fault::HangReactor => {
                let until = self.now + self.rng.range(500_000, 6_000_000);
                self.freeze(Proc::Server(n), until)
            }
            Fault::CrashClient => self.crash_client(vol),
            Fault::StealVolume => self.steal(vol),
            Fault::FreezeClient => {
                let until = self.now + self.rng.range(200_000, 5_000_000);
                self.owner_of(vol).is_some_and(|c| self.freeze(Proc::Client(c), until))
            }
            Fault::Cut => self.cut(),
            Fault::BreakConnection => self.break_some(),
            Fault::RetireDrive => {
                let ok = self.drives[d].replica.is_some();
                if ok {
                    self.retire_drive(d);
                }
                ok
            }
            Fault::BlankDrive => self.blank_drive(d),
            Fault::SlowDrive => {
                self.drives[d].slow = (self.rng.range(5_000, 800_000), self.now + self.rng.range(500_000, 5_000_000));
                true
            }
            Fault::FreezeManager => {
                let Some((m, _)) = self.meta.leader else { return false };
                let until = self.now + self.rng.range(500_000, 6_000_000);
                self.freeze(Proc::Manager(m), until)
            }
            Fault::BitFlip => self.flip_bits(d),
            Fault::Fence => self.fence_volume(vol),
            Fault::NewHead => self.start_new_head(vol),
            Fault::RestartClient => self.restart_owner(vol),
            Fault::ChangeVoters => self.change_voters(),
            Fault::OldBackup => self.old_backup(),
            Fault::WipedDrive => self.wipe_drive(d),
            Fault::OlderImage => self.older_image(d),
            Fault::Partition => self.partition(),
            Fault::Clog => self.clog(),
            Fault::StopClock => self.stop_guest(n),
            Fault::ReadErrors => self.read_errors(d),
            Fault::WriteError | Fault::MisdirectedWrite | Fault::StaleBlock => self.write_goes_wrong(d, fault),
            Fault::LyingCache => self.cache_lies(d),
            Fault::MetadataRot => self.rot_metadata(d),
            Fault::Move => self.move_place(),
            Fault::Recreate => self.lose_for_long(d),
        }
    }

    /// Stops a process until a time. One that stands still already keeps its time: what waits for it
    /// was put off until then, in order.
    fn freeze(&mut self, proc: Proc, until: Time) -> bool {
        let now = self.now;
        self.frozen.retain(|_, t| *t > now);
        let free = !self.frozen.contains_key(&proc);
        if free {
            self.frozen.insert(proc, until);
        }
        free
    }

    /// Mostly in the middle of the node's next write: at any other moment nothing can be torn.
    fn stop_soon(&mut self, n: usize, power: bool) -> bool {
        if !self.nodes[n].up {
            return false;
        }
        let (life, quiet) = (self.nodes[n].life, self.rng.chance(250));
        if !quiet {
            self.nodes[n].armed = Some(power);
        }
        self.after(if quiet { 0 } else { 500_000 }, Ev::Stop(n, life, power));
        true
    }

    fn crash_client(&mut self, vol: VolumeId) -> bool {
        let Some(c) = self.owner_of(vol) else { return false };
        self.kill_client(c);
        self.add_client(vol);
        true
    }

    fn steal(&mut self, vol: VolumeId) -> bool {
        let alive: Vec<usize> =
            (0..self.clients.len()).filter(|c| self.clients[*c].vol == vol && self.clients[*c].alive).collect();
        if alive.len() > ZOMBIES_MAX {
            self.kill_client(alive[0]);
        }
        self.add_client(vol);
        true
    }

    fn fence_volume(&mut self, vol: VolumeId) -> bool {
        let Some(c) = self.owner_of(vol) else { return false };
        if self.newest.is_some() {
            return false;
        }
        let nonce = self.clients[c].nonce;
        let Some(gen) = self.meta.fence(vol, nonce) else { return false };
        for d in 0..self.drives.len() {
            let (life, delay) = (self.drives[d].life, self.latency());
            let req = Control::Fence { vol, gen, nonce };
            self.after(delay, Ev::Replica(d, life, Box::new(ReplicaEvent::Control { id: FENCE_ID, req })));
        }
        let delay = self.rng.range(1_000, 500_000);
        let next = self.clients.len();
        self.add_client(vol);
        self.frozen.insert(Proc::Client(next), self.now + delay);
        true
    }

    fn cut(&mut self) -> bool {
        if self.guest_stopped() {
            return false;
        }
        let mut places: Vec<Place> = (0..self.nodes.len()).map(Place::Node).collect();
        places.extend((0..self.clients.len()).filter(|c| self.clients[*c].alive).map(Place::Client));
        places.extend((0..self.managers.len()).map(Place::Manager));
        let a = places[self.rng.index(places.len())];
        let isolated = self.rng.chance(400);
        let others: Vec<Place> = if isolated {
            places.iter().copied().filter(|p| *p != a).chain([Place::Store]).collect()
        } else {
            vec![places[self.rng.index(places.len())]]
        };
        let until = self.now + self.rng.range(200_000, 5_000_000);
        let (out, back) = [(true, true), (true, false), (false, true)][self.rng.index(3)];
        for b in others {
            if b == a {
                continue;
            }
            if out {
                self.cuts.insert((a, b), until);
            }
            if back {
                self.cuts.insert((b, a), until);
            }
            self.break_cut_conns(a, b);
        }
        true
    }

    /// Some connections over a cut die, the others only stall.
    pub(crate) fn break_cut_conns(&mut self, a: Place, b: Place) {
        for id in 0..self.conns.len() {
            let conn = &self.conns[id];
            let ends = (self.place_of(conn.from), Place::Node(self.drives[conn.drive].node));
            if !conn.broken && (ends == (a, b) || ends == (b, a)) && self.rng.chance(500) {
                self.break_conn(id, true);
            }
        }
    }

    fn break_some(&mut self) -> bool {
        let open: Vec<usize> =
            (0..self.conns.len()).filter(|id| !self.conns[*id].broken && self.conns[*id].up).collect();
        let Some(id) = self.rng.pick(&open).copied() else { return false };
        let slow = self.rng.chance(500);
        self.break_conn(id, slow);
        true
    }

    /// A drive dies for good and a blank one with a new id takes its bay, if every PG keeps two other copies.
    fn blank_drive(&mut self, d: usize) -> bool {
        let (old, n) = (self.drives[d].id, self.drives[d].node);
        if !self.may_lose(d) || !self.nodes[n].up {
            return false;
        }
        self.stop_server(n, true);
        if let Err(why) = self.meta.remove_drive(old) {
            self.fail("STORE", why);
        }
        self.new_drive(d, storage::blank_device(self.plan.drive_slots));
        let back = self.rng.range(20_000, 3_000_000);
        self.after(back, Ev::StartServer(n));
        true
    }

    /// Flips bits of one copy, then scrubs that drive.
    fn flip_bits(&mut self, d: usize) -> bool {
        if !self.may_spoil(d) {
            return false;
        }
        let mut rng = self.rng.fork(self.now);
        let drive = &mut self.drives[d];
        let Some(replica) = drive.replica.as_mut() else { return false };
        let flipped = storage::flip(replica.store_mut(), &mut drive.dev, &mut rng);
        if flipped == 0 {
            return false;
        }
        self.counts.add("bits.flipped", flipped);
        self.spoilt(d);
        true
    }

    /// Ends every fault: machines up, nothing frozen, nothing cut, the network without tricks.
    pub fn heal_world(&mut self) {
        // What stands still goes on by itself within seconds.
        self.phase = Phase::Healing;
        self.healed_at = self.now;
        self.cuts.clear();
        self.clogs.clear();
        let plan = &mut self.plan;
        (plan.duplicates, plan.reorder, plan.delays, plan.datagram_loss) = (0, 0, 0, 0);
        (plan.lost_replies, plan.slow_store, plan.lost_pushes) = (0, 0, 0);
        for d in &mut self.drives {
            d.slow = (0, 0);
        }
        self.heal_drives();
        for n in 0..self.nodes.len() {
            if !self.nodes[n].up {
                self.after(1_000, Ev::StartServer(n));
            }
        }
        for v in 1..=self.plan.volumes as u64 {
            let vol = VolumeId(v);
            let live = self.owner_of(vol).is_some_and(|c| self.clients[c].alive && !self.clients[c].fenced);
            if !live {
                self.add_client(vol);
            }
        }
        for c in 0..self.clients.len() {
            self.clients[c].draining = true;
        }
    }
}
