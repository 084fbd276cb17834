//! Beacons of a small cluster, stepped by hand in virtual time.
#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

use drystone_membership::beacon::{Action, BeaconConfig, BeaconCore, Event};
use drystone_membership::Suspect;
use drystone_types::consts::BEACON_PERIOD;
use drystone_types::{Rev, Rules, Uuid};

pub fn id(n: u8) -> Uuid {
    Uuid([n; 16])
}

fn config(node: u8, boot: u64) -> BeaconConfig {
    BeaconConfig { node: id(node), boot, master: [9; 32], key_epoch: 1, slots: 1, rules: Rules::ALL }
}

pub struct Cluster {
    pub now: u64,
    pub cores: Vec<BeaconCore>,
    pub lease: Vec<u64>,
    pub counter: u64,
    /// Nodes whose datagrams are lost, in both directions.
    pub cut: Vec<bool>,
    /// Nodes whose answering thread hangs.
    pub hung: Vec<bool>,
    pub votes: Vec<(usize, Suspect, bool)>,
    pub need_map: Vec<bool>,
    /// Answers to REVOKE.
    pub held: Vec<(usize, Rev, bool)>,
    /// Revision that wanted maps are answered with at the end of each period, if any.
    pub answers: Option<Rev>,
}

impl Cluster {
    pub fn new(n: u8) -> Cluster {
        let mut c = Cluster {
            now: 1_000_000,
            cores: (0..n).map(|i| BeaconCore::new(config(i, 1), 1_000_000)).collect(),
            lease: vec![0; n.into()],
            counter: 0,
            cut: vec![false; n.into()],
            hung: vec![false; n.into()],
            votes: vec![],
            need_map: vec![false; n.into()],
            held: vec![],
            answers: Some(Rev(1)),
        };
        for i in 0..n as usize {
            c.begin(i);
        }
        c
    }
    fn begin(&mut self, i: usize) {
        let nodes: Vec<Uuid> = (0..self.cores.len() as u8).map(id).collect();
        self.event(i, Event::Voters { version: 1, voters: nodes.clone(), nodes });
        self.event(i, Event::Suspects { as_of: Rev(1), keys: vec![] });
        self.read_map(i, Rev(1));
    }
    /// The beacon of a node begins anew and remembers nothing.
    pub fn restart(&mut self, i: usize, boot: u64) {
        self.cores[i] = BeaconCore::new(config(i as u8, boot), self.now);
        self.begin(i);
    }
    pub fn read_map(&mut self, i: usize, rev: Rev) {
        self.need_map[i] = false;
        self.event(i, Event::Map { rev, read_at: Some(self.now) });
    }
    pub fn event(&mut self, i: usize, event: Event) {
        let mut out = Vec::new();
        self.cores[i].step(self.now, event, &mut out);
        for action in out {
            match action {
                Action::Send { to, bytes } => {
                    let to = usize::from(to.0[0]);
                    if !self.cut[i] && !self.cut[to] {
                        self.event(to, Event::Datagram(bytes));
                    }
                }
                Action::Lease(page) => self.lease[i] = page[0],
                Action::Vote { suspect, granted } => self.votes.push((i, suspect, granted)),
                Action::NeedMap => self.need_map[i] = true,
                Action::Held { round, granted } => self.held.push((i, round, granted)),
                Action::Quorum(_) => {}
            }
        }
    }
    /// Runs for `periods` heartbeat periods.
    pub fn run(&mut self, periods: usize) {
        for _ in 0..periods {
            self.now += BEACON_PERIOD;
            self.counter += 1;
            for i in 0..self.cores.len() {
                if !self.hung[i] {
                    self.event(i, Event::Slots(vec![self.counter]));
                }
                self.event(i, Event::Tick);
            }
            for i in 0..self.cores.len() {
                if let (true, Some(rev)) = (self.need_map[i], self.answers) {
                    self.read_map(i, rev);
                }
            }
        }
    }
    pub fn has_lease(&self, i: usize) -> bool {
        self.lease[i] > self.now
    }
}
