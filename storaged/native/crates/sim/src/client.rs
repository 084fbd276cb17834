//! Clients: a block daemon's shell around a real sequencer, its consumer, and its calls of the manager.

use std::sync::Arc;

use drystone_replica::Event as ReplicaEvent;
use drystone_sequencer::{
    Action, ActivateError, Config, Event, FenceReason, IoError, IoOk, IoResult, ReportKind, Sequencer, State,
};
use drystone_types::{AttachMode, ClusterMap, DriveId, Gen, LayerId, Ticket, Uuid, Version, VolumeId};

use crate::event::{Answer, End, Ev, Life, News, Proc, Request};
use crate::meta::POOL;
use crate::world::{Place, Time, World, KEY_EPOCH};

/// One attachment of a volume.
pub struct Client {
    /// Its process runs.
    pub alive: bool,
    /// Life of the process.
    pub life: Life,
    /// UUID.
    pub uuid: Uuid,
    /// Volume.
    pub vol: VolumeId,
    /// Attachment nonce.
    pub nonce: u64,
    /// Generation.
    pub gen: Gen,
    /// Its sequencer, once attached.
    pub seq: Option<Sequencer>,
    /// When its timer is set to.
    pub tick_at: Time,
    /// It was ACTIVE once.
    pub was_active: bool,
    /// It is fenced for good.
    pub fenced: bool,
    /// Revision wanted, while a ReadMap is under way.
    pub reading_map: Option<u64>,
    /// Number of the newest attach or activate call.
    pub calls: u32,
    /// Operations it completed.
    pub completed: u64,
    /// Its workload was started.
    pub working: bool,
    /// No new requests.
    pub draining: bool,
    /// When it became the owner, for the liveness oracle.
    pub since: Time,
    /// Map, serial and layers as they were when its attach was sent: what A1 forbids to use.
    pub early: Option<Early>,
    /// Nonces of its daemon's earlier lives.
    pub nonces: Vec<u64>,
}

/// What an attach read before its transaction.
pub type Early = (Arc<ClusterMap>, (u32, Vec<(LayerId, Version)>));

/// An attachment waits this long for the store's answer before it asks again.
const CALL_AGAIN: Time = 1_000_000;

impl World {
    /// A new client of a volume; it attaches at once.
    pub fn add_client(&mut self, vol: VolumeId) -> usize {
        let c = self.clients.len();
        let nonce = self.fresh();
        self.clients.push(Client {
            alive: true,
            life: 1,
            uuid: Uuid([100 + (c % 100) as u8; 16]),
            vol,
            nonce,
            gen: Gen(0),
            seq: None,
            tick_at: Time::MAX,
            was_active: false,
            fenced: false,
            reading_map: None,
            calls: 0,
            completed: 0,
            working: false,
            draining: false,
            since: self.now,
            early: None,
            nonces: Vec::new(),
        });
        self.after(1, Ev::StartClient(c));
        c
    }

    /// The newest client of a volume.
    pub fn owner_of(&self, vol: VolumeId) -> Option<usize> {
        (0..self.clients.len()).rev().find(|c| self.clients[*c].vol == vol)
    }

    /// A1.
    pub fn start_client(&mut self, c: usize) {
        if !self.clients[c].alive {
            return;
        }
        self.trace(|| format!("client{c} attaches"));
        self.counts.hit("client.attaches");
        let first = self.first_call(c);
        self.call_attach(c, first);
    }

    fn call_attach(&mut self, c: usize, request: Request) {
        self.read_early(c);
        let client = &mut self.clients[c];
        client.calls += 1;
        let (life, serial) = (client.life, client.calls);
        self.call(Proc::Client(c), request);
        self.after(CALL_AGAIN, Ev::CallAgain(c, life, serial));
    }

    /// No answer came to an attach or activate call.
    pub fn call_again(&mut self, c: usize, life: Life, serial: u32) {
        let client = &self.clients[c];
        if client.life != life || client.calls != serial || !client.alive {
            return;
        }
        self.counts.hit("client.calls_repeated");
        if client.seq.is_none() {
            let first = self.first_call(c);
            self.call_attach(c, first);
        } else {
            self.sequencer_event(c, life, Event::Activated(Err(ActivateError::Retry)));
        }
    }

    /// An answer of the store for a client.
    pub fn client_reply(&mut self, c: usize, answer: Answer) {
        let life = self.clients[c].life;
        match answer {
            Answer::Attached(gen, map, serial, chain) if self.clients[c].seq.is_none() => {
                self.clients[c].calls += 1;
                self.make_sequencer(c, gen, (serial, chain));
                self.sequencer_event(c, life, Event::Map(map));
            }
            Answer::NotYours if self.clients[c].seq.is_none() => self.readopt_refused(c),
            Answer::NewHead(gen, serial, chain) if gen == self.clients[c].gen => {
                let bytes = self.ticket(c, gen, (serial, chain));
                self.sequencer_event(c, life, Event::Ticket(bytes));
            }
            Answer::Activated(ok) => {
                self.clients[c].calls += 1;
                let result = if ok { Ok(()) } else { Err(ActivateError::Superseded) };
                self.sequencer_event(c, life, Event::Activated(result));
            }
            Answer::Map { map, .. } => {
                let wanted = self.clients[c].reading_map.take();
                let rev = map.revision.0;
                self.sequencer_event(c, life, Event::Map(map));
                if wanted.is_some_and(|w| w > rev) {
                    self.clients[c].reading_map = wanted;
                    self.after(20_000, Ev::MapAgain(c, life));
                }
            }
            _ => {}
        }
    }

    /// Asks again for a map that was not new enough.
    pub fn map_again(&mut self, c: usize, life: Life) {
        if self.clients[c].life == life && self.clients[c].alive {
            self.call(Proc::Client(c), Request::ReadMap(self.now));
        }
    }

    /// Size of every volume in bytes.
    pub fn volume_size(&self) -> u64 {
        self.plan.chunks << 22
    }

    /// The signed ticket of a generation.
    pub fn ticket(&self, c: usize, gen: Gen, (serial, chain): (u32, Vec<(LayerId, Version)>)) -> Vec<u8> {
        let Client { vol, nonce, uuid: client, .. } = self.clients[c];
        let ticket = Ticket {
            serial,
            vol,
            gen,
            nonce,
            client,
            mode: AttachMode::ReadWrite,
            pool: POOL,
            seed: vol.0,
            size: self.volume_size(),
            chain,
            parents: Vec::new(),
        };
        ticket.seal(&self.ticket_key(), KEY_EPOCH)
    }

    fn make_sequencer(&mut self, c: usize, gen: Gen, chain: (u32, Vec<(LayerId, Version)>)) {
        let vol = self.clients[c].vol;
        let ticket = self.ticket(c, gen, chain);
        let mut near: Vec<DriveId> = self.drives.iter().map(|d| d.id).collect();
        let turn = self.work_rng.index(near.len().max(1));
        near.rotate_left(turn);
        let config = Config { rules: self.rules, near, seed: self.fresh(), ..Config::default() };
        match Sequencer::new(config, &ticket) {
            Ok(seq) => {
                self.trace(|| format!("client{c} has generation {gen} of volume {vol}"));
                self.clients[c].gen = gen;
                self.clients[c].seq = Some(seq);
            }
            Err(e) => self.fail("SEQUENCER", format!("client{c}: {e}")),
        }
    }

    /// Steps a sequencer.
    pub fn sequencer_event(&mut self, c: usize, life: Life, event: Event) {
        let place = Place::Client(c);
        let now = self.local(place);
        let Some(client) = self.clients.get_mut(c) else { return };
        if client.life != life || !client.alive {
            return;
        }
        let Some(seq) = client.seq.as_mut() else { return };
        let mut out = Vec::new();
        seq.step(now, event, &mut out);
        let deadline = seq.next_deadline();
        if let Some(at) = deadline {
            let at = self.global(place, at).max(self.now);
            if at < self.clients[c].tick_at {
                self.clients[c].tick_at = at;
                self.at(at, Ev::SequencerTick(c, life, at));
            }
        }
        for action in out {
            self.sequencer_action(c, life, action);
        }
        self.dial_wanted(c);
    }

    /// A sequencer's timer.
    pub fn sequencer_tick(&mut self, c: usize, life: Life, at: Time) {
        let client = &mut self.clients[c];
        if client.life != life || client.tick_at != at {
            return;
        }
        client.tick_at = Time::MAX;
        self.sequencer_event(c, life, Event::Tick);
    }

    fn dial_wanted(&mut self, c: usize) {
        let Some(seq) = self.clients[c].seq.as_ref() else { return };
        for id in seq.wanted_drives() {
            let drive = self.drives.iter().position(|d| d.id == id);
            let Some(drive) = drive else { continue };
            if !self.conn_of.contains_key(&(End::Client(c), drive)) {
                self.dial(End::Client(c), drive);
            }
        }
    }

    /// Whether a client still wants a connection.
    pub fn client_wants(&self, c: usize, drive: usize) -> bool {
        let Some(client) = self.clients.get(c) else { return false };
        let Some(d) = self.drives.get(drive) else { return false };
        client.alive && client.seq.as_ref().is_some_and(|s| s.wanted_drives().contains(&d.id))
    }

    fn sequencer_action(&mut self, c: usize, life: Life, action: Action) {
        match action {
            Action::Send { drive, via, frame } => {
                self.check_client_sends(c, &frame);
                let to = via.unwrap_or(drive);
                if via.is_some() {
                    self.counts.hit("net.relayed");
                }
                let target = self.drives.iter().position(|d| d.id == to);
                if let Some(conn) = target.and_then(|t| self.conn_up(End::Client(c), t)) {
                    self.travel(conn, true, frame);
                }
            }
            Action::Complete { tag, result } => self.completed(c, life, tag, result),
            Action::Report { drive, kind } => {
                self.trace(|| format!("client{c} reports {drive}: {kind:?}"));
                self.client_report(drive, kind);
            }
            Action::NeedMap { at_least } => {
                let client = &mut self.clients[c];
                let idle = client.reading_map.is_none();
                client.reading_map = client.reading_map.max(Some(at_least.0));
                if idle {
                    self.call(Proc::Client(c), Request::ReadMap(self.now));
                }
            }
            Action::WantActivate { gen } => self.call_attach(c, Request::Activate(gen)),
            Action::State(state) => self.client_state(c, life, state),
            Action::Fenced(why) => self.client_fenced(c, why),
            Action::Invariant(what) => self.fail("INVARIANT", format!("client{c}: {what}")),
            Action::Frozen { layer, cut } => self.head_frozen(c, layer, cut),
            Action::TicketInForce { .. } | Action::Cut { .. } | Action::Detached { .. } | Action::Yielded { .. } => {}
        }
    }

    fn client_state(&mut self, c: usize, life: Life, state: State) {
        self.trace(|| format!("client{c} is {state:?}"));
        if state == State::Stalled {
            self.counts.hit("client.stalled");
        }
        if state == State::Active && !self.clients[c].was_active {
            let (vol, gen) = (self.clients[c].vol, self.clients[c].gen);
            self.clients[c].was_active = true;
            self.counts.hit("client.active");
            self.check_active(c);
            self.history.active(vol, gen);
            if !self.clients[c].working && !self.scripted {
                self.clients[c].working = true;
                self.after(1, Ev::Work(c, life));
            }
        }
    }

    fn client_fenced(&mut self, c: usize, why: FenceReason) {
        self.trace(|| format!("client{c} fenced: {why:?}"));
        self.clients[c].fenced = true;
        self.counts.hit(match why {
            FenceReason::NewerGeneration(_) => "client.fenced_by_replica",
            FenceReason::Manager => "client.fenced_by_manager",
            FenceReason::LastCopyFailed(_) => "client.last_copy_failed",
        });
        // The consumer attaches again when nobody else has taken the volume.
        let vol = self.clients[c].vol;
        if self.owner_of(vol) == Some(c) && !self.scripted {
            self.add_client(vol);
        }
    }

    fn client_report(&mut self, drive: DriveId, kind: ReportKind) {
        match kind {
            ReportKind::Stall => {
                self.counts.hit("report.stall");
                self.tell_managers(News::Stall(drive));
            }
            ReportKind::Refused => {
                self.counts.hit("report.refused");
                self.tell_managers(News::Refused(drive));
            }
            ReportKind::DriveError | ReportKind::Full => {
                self.counts.hit("report.drive_error");
                self.tell_managers(News::DriveError(drive));
            }
            ReportKind::BadBlock { pg, layer, block } => {
                self.counts.hit("report.bad_block");
                self.heal(drive, pg, layer, block);
            }
        }
    }

    /// The manager's order to repair a block that a read found bad: a scrub of that drive does it.
    fn heal(&mut self, drive: DriveId, _pg: drystone_types::PgId, layer: LayerId, block: u64) {
        let Some(d) = self.drives.iter().position(|d| d.id == drive) else { return };
        let (vol, life) = (VolumeId(layer.0 / 10), self.drives[d].life);
        let key = drystone_types::ObjKey { layer, chunk: block / 1024 };
        let req = drystone_replica::Control::Repair { vol, key, block: (block % 1024) as u16 };
        self.after(5_000, Ev::Replica(d, life, Box::new(ReplicaEvent::Control { id: 2, req })));
    }

    /// An answer to the consumer.
    fn completed(&mut self, c: usize, life: Life, tag: u64, result: IoResult) {
        self.gaps.ended(tag, self.now, result.is_ok());
        let verdict = match result {
            Ok(IoOk::Data(pieces)) => {
                self.trace(|| format!("client{c} op{tag} returns data"));
                self.history.returned(tag, &pieces)
            }
            Ok(_) => {
                self.trace(|| format!("client{c} op{tag} acknowledged"));
                self.history.acked(tag)
            }
            Err(IoError::Fenced) if self.requeue(tag) => return,
            Err(error) => {
                self.trace(|| format!("client{c} op{tag} fails: {error:?}"));
                self.count_error(error);
                // Unissued: nothing of it was sent. Fenced: it may have taken effect before the next generation.
                let ended = matches!(error, IoError::Fenced)
                    || self.clients[c].fenced
                    || self.clients[c].seq.as_ref().is_some_and(|s| s.state() == State::Fenced);
                self.history.failed(tag, ended);
                Ok(())
            }
        };
        if let Err(broken) = verdict {
            self.fail(broken.oracle, broken.text);
        }
        self.operations += 1;
        self.clients[c].completed += 1;
        let delay = self.rng.range(1, 30);
        self.after(delay, Ev::Sequencer(c, life, Box::new(Event::Answered { tag })));
    }

    fn count_error(&mut self, error: IoError) {
        self.counts.hit(match error {
            IoError::Eio => "io.eio",
            IoError::NoSpace => "io.no_space",
            IoError::Invalid => "io.invalid",
            IoError::ReadOnly => "io.read_only",
            IoError::Busy => "io.busy",
            IoError::Fenced => "io.fenced",
            IoError::Unissued => "io.unissued",
        });
    }

    /// Ends a client's process.
    pub fn kill_client(&mut self, c: usize) {
        if !self.clients[c].alive {
            return;
        }
        self.trace(|| format!("client{c} dies"));
        self.collect_client(c);
        let client = &mut self.clients[c];
        (client.alive, client.seq) = (false, None);
        client.life += 1;
        self.frozen.remove(&Proc::Client(c));
        self.history.client_gone(c);
        self.gaps.client_gone(c);
        self.break_client_conns(c);
    }

    /// Adds a sequencer's counters to the run's before it goes.
    pub fn collect_client(&mut self, c: usize) {
        let Some(seq) = self.clients[c].seq.as_ref() else { return };
        let stats = format!("{:?}", seq.stats());
        self.counts.add_fields("sequencer", &stats);
    }
}
