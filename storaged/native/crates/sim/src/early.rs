//! What an attach would read before its transaction instead of in it: only the switches of A1 and B4 use it.

use std::sync::Arc;

use drystone_types::{ClusterMap, LayerId, Rule, Version, VolumeId};

use crate::client::Early;
use crate::world::World;

/// Serial of a ticket, and its layers with what froze each.
pub type Chain = (u32, Vec<(LayerId, Version)>);

impl World {
    /// An attach is sent.
    pub fn read_early(&mut self, c: usize) {
        let late = self.rules.on(Rule::A1) && self.rules.on(Rule::TicketOfA1);
        if late || self.clients[c].early.is_some() {
            return;
        }
        let early: Early = (self.meta.map(), self.meta.ticket_chain(self.clients[c].vol));
        self.clients[c].early = Some(early);
    }

    /// Ticket and map of an attach whose transaction was carried out just now.
    pub fn read_for_attach(&mut self, c: usize, vol: VolumeId) -> (Chain, Arc<ClusterMap>) {
        let (mut ticket, mut map) = (self.meta.ticket_chain(vol), self.meta.map());
        if let Some((early_map, early_ticket)) = self.clients.get(c).and_then(|c| c.early.clone()) {
            // A volume that nobody attached before has no layer to read early.
            if !self.rules.on(Rule::TicketOfA1) && !early_ticket.1.is_empty() {
                ticket = early_ticket;
            }
            if !self.rules.on(Rule::A1) {
                map = early_map;
            }
        }
        (ticket, map)
    }
}
