//! Orders: a layer is deleted at every drive that may hold some of it, also at those that are out (engine §5.6).

use std::collections::BTreeSet;

use drystone_replica::{Control, Event as ReplicaEvent};
use drystone_types::{DriveId, LayerId, PgRecord, Rule};

use crate::event::Ev;
use crate::world::{Time, World};

/// Control requests above this are orders; the rest of the number is the layer.
pub const ORDER_ID: u64 = 1 << 41;
/// An order that was not confirmed is given again.
const AGAIN: Time = 200_000;

/// A layer to be deleted.
#[derive(Clone, Debug)]
pub struct Order {
    /// Layer.
    pub layer: LayerId,
    /// Drives that have done it.
    pub done: BTreeSet<DriveId>,
}

impl World {
    /// A layer is deleted; the order stands until every drive that may hold some of it has done it.
    pub fn delete_layer(&mut self, layer: LayerId) {
        if self.orders.is_empty() {
            self.after(1, Ev::Orders);
        }
        self.orders.push(Order { layer, done: BTreeSet::new() });
        self.counts.hit("order.given");
    }

    /// Whose confirmation an order waits for.
    fn holders(&self) -> BTreeSet<DriveId> {
        let all = self.rules.on(Rule::OrderWaits);
        let of = |r: &PgRecord| {
            let out = r.out.iter().filter(|_| all).map(|o| o.drive);
            r.members().chain(out).collect::<Vec<_>>()
        };
        let known = |id: &DriveId| self.drives.iter().any(|d| d.id == *id);
        self.truth().shard().1.iter().flat_map(of).filter(known).collect()
    }

    /// Gives what is not done to the drives that serve, and ends what is.
    pub fn give_orders(&mut self) {
        let holders = self.holders();
        self.orders.retain(|o| !holders.is_subset(&o.done));
        for order in self.orders.clone() {
            for d in 0..self.drives.len() {
                let drive = &self.drives[d];
                if drive.replica.is_none() || order.done.contains(&drive.id) {
                    continue;
                }
                let (life, delay) = (drive.life, self.latency());
                let event = ReplicaEvent::Control {
                    id: ORDER_ID + order.layer.0,
                    req: Control::FreeLayer { layer: order.layer },
                };
                self.after(delay, Ev::Replica(d, life, Box::new(event)));
            }
        }
        if !self.orders.is_empty() {
            self.after(AGAIN, Ev::Orders);
        }
    }

    /// A drive has done an order.
    pub fn order_done(&mut self, d: usize, layer: LayerId) {
        let id = self.drives[d].id;
        for order in self.orders.iter_mut().filter(|o| o.layer == layer) {
            order.done.insert(id);
        }
        self.counts.hit("order.done");
    }
}
