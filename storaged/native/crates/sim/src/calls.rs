//! Calls of the metadata store, executed when they arrive there.

use drystone_types::Rule;

use crate::event::{Answer, Ev, Life, Proc, Request};
use crate::world::{Time, World};

/// A leader that does not renew its key for this long loses it.
pub const LEADER_TTL: Time = 2_000_000;

/// A call to a store that is refused for its age is made again.
const REFUSED_AGAIN: Time = 100_000;

impl World {
    /// A call reaches the store and is carried out.
    pub fn call_arrives(&mut self, from: Proc, life: Life, request: Request) {
        if self.store_is_refused() {
            return self.after(REFUSED_AGAIN, Ev::Call(from, life, request));
        }
        // A transaction of a process that died on the way is carried out all the same.
        self.expire_leader();
        let is_txn = !matches!(
            request,
            Request::ReadMap(_) | Request::Generations(..) | Request::ReadShard | Request::Open { .. }
        );
        if let Some(answer) = self.execute(from, request) {
            self.reply(from, life, answer, is_txn);
        }
    }

    fn expire_leader(&mut self) {
        let Some((m, _)) = self.meta.leader else { return };
        let renewed = self.managers.get(m).map_or(0, |m| m.renewed_at);
        if self.now.saturating_sub(renewed) > LEADER_TTL {
            self.trace(|| format!("leader key of manager{m} expires"));
            self.counts.hit("manager.leader_expired");
            self.meta.leader = None;
        }
    }

    fn execute(&mut self, from: Proc, request: Request) -> Option<Answer> {
        Some(match request {
            Request::ReadMap(read_at) => {
                let (as_of, suspects) = self.meta.suspects();
                Answer::Map { read_at, map: self.meta.map(), as_of, suspects }
            }
            Request::Generations(d, since) => {
                let (rev, list) = self.meta.generations(since);
                Answer::Generations(d, rev, list)
            }
            Request::Open { drive: d, nonce, last } => {
                let drive = self.drives.get(d)?;
                let ok = self.meta.open_drive(drive.id, drive.serial, nonce, last);
                Answer::Opened(d, nonce, ok)
            }
            Request::Proven(d, nonce) => {
                let id = self.drives.get(d)?.id;
                self.meta.prove_drive(id, nonce);
                return None;
            }
            Request::Attach
            | Request::ReAdopt(_)
            | Request::Activate(_)
            | Request::NewHead(..)
            | Request::HeadFrozen(..) => {
                let Proc::Client(c) = from else { return None };
                self.execute_client(c, request)?
            }
            Request::Elect => {
                let Proc::Manager(m) = from else { return None };
                let rev = self.meta.elect(m);
                if rev.is_some() {
                    self.managers.get_mut(m)?.renewed_at = self.now;
                }
                Answer::Elected(rev)
            }
            Request::ReadShard => {
                let (rev, records) = self.meta.shard();
                Answer::Shard(rev, records, self.meta.suspects())
            }
            Request::Swap(base, conditions, changes) => match self.meta.swap(base, &conditions, &changes) {
                Ok(result) => {
                    self.count_swap(result.is_ok(), &changes);
                    if result.is_ok() && conditions.suspect.is_some() {
                        self.check_lease_over(&changes);
                    }
                    if result.is_ok() {
                        changes.iter().for_each(|(pg, _)| self.check_remembered(*pg));
                    }
                    self.trace(|| format!("store: {from:?} swaps {changes:?}: {result:?}"));
                    Answer::Swapped(result)
                }
                Err(broken) => {
                    let (oracle, text) = broken.split_once(": ").unwrap_or(("STORE", &broken));
                    self.fail(oracle, text.to_owned());
                    return None;
                }
            },
            Request::Suspect(leader, node) => {
                let suspect = self.meta.suspect(leader, node);
                self.trace(|| format!("store: suspect {suspect:?}"));
                Answer::Suspected(suspect)
            }
            Request::Unsuspect(leader, suspect) => Answer::Unsuspected(suspect, self.meta.unsuspect(leader, suspect)),
        })
    }

    fn execute_client(&mut self, c: usize, request: Request) -> Option<Answer> {
        Some(match request {
            Request::Attach => {
                let client = self.clients.get(c)?;
                let vol = client.vol;
                let gen = self.meta.attach(vol, client.uuid, client.nonce);
                self.trace(|| format!("store: client{c} has generation {gen}"));
                let ((serial, chain), map) = self.read_for_attach(c, vol);
                Answer::Attached(gen, map, serial, chain)
            }
            Request::ReAdopt(nonces) => {
                let (vol, uuid, nonce) = self.clients.get(c).map(|c| (c.vol, c.uuid, c.nonce))?;
                let gen = self.meta.re_adopt(vol, uuid, &nonces, nonce);
                self.trace(|| format!("store: client{c} adopts: {gen:?}"));
                let Some(gen) = gen else { return Some(Answer::NotYours) };
                let ((serial, chain), map) = self.read_for_attach(c, vol);
                Answer::Attached(gen, map, serial, chain)
            }
            Request::Activate(gen) => {
                let vol = self.clients.get(c)?.vol;
                let done = self.meta.activate(vol, gen, self.rules.on(Rule::A5));
                if done {
                    self.check_activated(vol, gen);
                    if self.rules.on(Rule::S4Finish) {
                        self.finish_head(vol, gen, None);
                    }
                    self.check_head_finished(vol);
                }
                Answer::Activated(done)
            }
            Request::NewHead(vol, gen) => {
                let (serial, chain) = self.meta.new_head(vol, gen)?;
                Answer::NewHead(gen, serial, chain)
            }
            Request::HeadFrozen(vol, gen, layer, cut) => {
                self.finish_head(vol, gen, Some((layer, cut)));
                return None;
            }
            _ => return None,
        })
    }

    fn count_swap(&mut self, ok: bool, changes: &[(u32, crate::meta::Change)]) {
        use crate::meta::Change;
        if !ok {
            self.counts.hit("store.swap_refused");
            return;
        }
        for (_, change) in changes {
            self.counts.hit(match change {
                Change::Drop(_) => "pg.drops",
                Change::Join(_) => "pg.joins",
                Change::Promote(..) => "pg.promotions",
                Change::Retarget(..) => "pg.retargeted",
                Change::Retire(..) => "pg.retired",
                Change::Forget(_) => "pg.forgotten",
                Change::Renew(..) => "pg.renewed",
            });
        }
    }

    /// An answer of the store reaches the caller.
    pub fn reply_arrives(&mut self, to: Proc, life: Life, answer: Answer) {
        if self.life_of(to) != life {
            return;
        }
        match to {
            Proc::Server(n) | Proc::Beacon(n) => self.server_reply(n, answer),
            Proc::Client(c) => self.client_reply(c, answer),
            Proc::Manager(m) => self.manager_reply(m, answer),
            Proc::Nobody => {}
        }
    }

    /// A map is pushed to every process; some pushes are lost, all are late.
    pub fn push_maps(&mut self) {
        let map = self.meta.map();
        for n in 0..self.nodes.len() {
            if self.nodes[n].opening > 0 || self.rng.chance(self.plan.lost_pushes) {
                continue;
            }
            for d in 0..self.drives.len() {
                if self.drives[d].node == n {
                    let (life, delay) = (self.drives[d].life, self.latency());
                    let event = drystone_replica::Event::Map(map.clone());
                    self.after(delay, Ev::Replica(d, life, Box::new(event)));
                }
            }
        }
        for c in 0..self.clients.len() {
            if self.clients[c].alive && !self.rng.chance(self.plan.lost_pushes) {
                let (life, delay) = (self.clients[c].life, self.latency());
                let event = drystone_sequencer::Event::Map(map.clone());
                self.after(delay, Ev::Sequencer(c, life, Box::new(event)));
            }
        }
    }
}
