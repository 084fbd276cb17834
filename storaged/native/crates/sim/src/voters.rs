//! The list of voters: who counts for a majority of echoes and of votes (engine §4.5, B14).

use drystone_membership::beacon::Event as BeaconEvent;
use drystone_membership::DropPolicy;
use drystone_types::{Rule, Uuid};

use crate::event::Ev;
use crate::meta::Meta;
use crate::net::node_uuid;
use crate::world::{Phase, Place, World};

/// Fewer would make one beacon decide alone.
const VOTERS_MIN: usize = 3;

impl Meta {
    /// A new list. Majorities of two lists that differ by one node have a node in common; so the list before must be
    /// known everywhere (`seen`), and only one node may change.
    pub fn set_voters(&mut self, voters: Vec<Uuid>, seen: u64) -> bool {
        let come = voters.iter().filter(|v| !self.voters.contains(v)).count();
        let go = self.voters.iter().filter(|v| !voters.contains(v)).count();
        let one = come + go <= 1 && seen >= self.voters_version;
        if !one && self.rules.on(Rule::OneVoter) {
            return false;
        }
        (self.voters, self.voters_version) = (voters, self.voters_version + 1);
        true
    }
}

impl World {
    /// Lowest version of the list that any beacon shows.
    pub fn voters_seen(&self) -> u64 {
        let of = |n: &usize| self.nodes[*n].beacon.as_ref().map(|b| b.voters_version_seen(self.local(Place::Node(*n))));
        (0..self.nodes.len()).map(|n| of(&n).unwrap_or(0)).min().unwrap_or(0)
    }

    /// What a beacon is told of the list.
    pub fn voters_event(&self) -> BeaconEvent {
        let nodes = (0..self.nodes.len()).map(node_uuid).collect();
        BeaconEvent::Voters { version: self.meta.voters_version, voters: self.meta.voters.clone(), nodes }
    }

    /// The managers, and the beacons of these nodes, learn the list.
    pub fn tell_voters(&mut self, nodes: &[usize]) {
        for n in nodes {
            let (life, delay) = (self.nodes[*n].beacon_life, self.latency());
            let event = self.voters_event();
            self.after(delay, Ev::Beacon(*n, life, Box::new(event)));
        }
        for m in 0..self.managers.len() {
            let policy = DropPolicy::new(self.meta.voters.clone()).with_rules(self.rules);
            self.managers[m].learns_voters(policy);
        }
    }

    /// Fault: a node becomes a voter, or is one no more.
    pub fn change_voters(&mut self) -> bool {
        let seen = self.voters_seen();
        let node = node_uuid(self.rng.index(self.nodes.len()));
        let mut voters = self.meta.voters.clone();
        match voters.iter().position(|v| *v == node) {
            Some(at) if voters.len() > VOTERS_MIN => drop(voters.remove(at)),
            Some(_) => return false,
            None => voters.push(node),
        }
        if self.phase != Phase::Faulty || self.newest.is_some() || !self.meta.set_voters(voters, seen) {
            return false;
        }
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.tell_voters(&all);
        true
    }
}
