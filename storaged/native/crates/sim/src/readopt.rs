//! A block daemon that ends and starts again under a consumer that lives on: it adopts its attachment by (client,
//! nonce) (engine §4.4, P12, L5).

use drystone_types::{Gen, Rule, Uuid, VolumeId};

use crate::event::{Proc, Request};
use crate::meta::Meta;
use crate::world::World;

impl Meta {
    /// A1 of a daemon that knows the nonces of its earlier lives: only the owner takes over from itself. Repeating it
    /// changes nothing.
    pub fn re_adopt(&mut self, vol: VolumeId, client: Uuid, nonces: &[u64], new: u64) -> Option<Gen> {
        let record = self.volumes.get(&vol)?;
        let mine = |nonce: u64| record.owner == nonce && record.attachments.contains(&(client, nonce));
        let owner = mine(new) || nonces.iter().any(|n| mine(*n));
        if !owner && self.rules.on(Rule::ReAdopt) {
            return None;
        }
        Some(self.attach(vol, client, new))
    }
}

impl World {
    /// A client's daemon ends and starts again. Returns its new life as a client.
    pub fn restart_client(&mut self, c: usize) -> usize {
        let (uuid, vol, nonce) = (self.clients[c].uuid, self.clients[c].vol, self.clients[c].nonce);
        let mut nonces = self.clients[c].nonces.clone();
        nonces.push(nonce);
        self.kill_client(c);
        let next = self.add_client(vol);
        (self.clients[next].uuid, self.clients[next].nonces) = (uuid, nonces);
        self.counts.hit("client.restarts");
        next
    }

    /// What a client asks of the store first.
    pub fn first_call(&self, c: usize) -> Request {
        match self.clients[c].nonces.as_slice() {
            [] => Request::Attach,
            nonces => Request::ReAdopt(nonces.to_vec()),
        }
    }

    /// The attachment is another's by now: the daemon gives its consumer an error.
    pub fn readopt_refused(&mut self, c: usize) {
        self.trace(|| format!("client{c} may not adopt its volume"));
        self.counts.hit("client.readopt_refused");
        self.clients[c].calls += 1;
        self.clients[c].fenced = true;
        let vol = self.clients[c].vol;
        if self.owner_of(vol) == Some(c) && !self.scripted {
            self.add_client(vol);
        }
    }

    /// Fault: the daemon of a volume's owner is restarted.
    pub fn restart_owner(&mut self, vol: VolumeId) -> bool {
        let Some(c) = self.owner_of(vol).filter(|c| self.clients[*c].alive && !self.clients[*c].fenced) else {
            return false;
        };
        let still = self.frozen.get(&Proc::Client(c)).is_some_and(|t| *t > self.now);
        if still || self.clients[c].seq.is_none() {
            return false;
        }
        self.restart_client(c);
        true
    }
}
