//! Newer tickets: a resize, or a new head (S2, S3). A ticket is in force when every member of
//! the own lineage has persisted it; a cut falls between two issues.

use drystone_types::{LayerId, Ticket, Version, Writer};

use crate::api::Action;
use crate::drive::{Dx, FREEZE, LAYER};
use crate::engine::Sequencer;

/// An old head being frozen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Freezing {
    pub(crate) layer: LayerId,
    pub(crate) cut: Version,
    /// FREEZE was sent: `stable` has reached the cut.
    pub(crate) sent: bool,
}

/// Metadata of a READ: the own chain from the head down.
pub(crate) fn chain_meta(ticket: &Ticket) -> Vec<u8> {
    layers_meta(ticket.chain.iter().map(|(l, _)| *l))
}

pub(crate) fn layers_meta(layers: impl ExactSizeIterator<Item = LayerId>) -> Vec<u8> {
    let mut w = Writer::new();
    w.count(layers.len());
    layers.for_each(|l| {
        w.u64(l.0);
    });
    w.finish()
}

impl Sequencer {
    pub(crate) fn on_ticket(&mut self, bytes: Vec<u8>) {
        let Ok(ticket) = Ticket::peek(&bytes) else { return };
        let newest = self.next_ticket.as_ref().unwrap_or(&self.ticket).serial;
        let ours = ticket.vol == self.ticket.vol && ticket.gen == self.ticket.gen && ticket.head().is_some();
        if !ours || ticket.serial <= newest {
            return;
        }
        self.ticket_bytes = bytes;
        self.next_ticket = Some(ticket);
        if self.running() {
            self.offer_ticket();
        }
    }

    /// S2: LAYER to every member that lacks the newest ticket.
    pub(crate) fn offer_ticket(&mut self) {
        let Some(serial) = self.next_ticket.as_ref().map(|t| t.serial) else { return };
        for dx in self.own_members() {
            if self.drive(dx).is_some_and(|d| d.ticket.is_none_or(|s| s < serial)) {
                self.ctl_want(dx, LAYER);
            }
        }
        self.try_ticket();
    }

    pub(crate) fn newest_serial(&self) -> u32 {
        self.next_ticket.as_ref().unwrap_or(&self.ticket).serial
    }

    pub(crate) fn layer_done(&mut self, dx: Dx) {
        let newest = self.newest_serial();
        let Some(d) = self.drive_mut(dx) else { return };
        d.ticket = Some(d.ticket_sent);
        if d.ticket_sent < newest {
            self.ctl_want(dx, LAYER);
        }
        self.pump_due = true;
        self.wake(dx);
        self.reads_drive_up(dx);
        self.try_ticket();
    }

    fn try_ticket(&mut self) {
        let Some(serial) = self.next_ticket.as_ref().map(|t| t.serial) else { return };
        let missing = |dx: &Dx| self.drive(*dx).is_none_or(|d| d.ticket.is_none_or(|s| s < serial));
        // One cut at a time: the next waits until the last old head is frozen.
        if !self.running() || self.freezing.is_some() || self.own_members().iter().any(missing) {
            return;
        }
        let Some(ticket) = self.next_ticket.take() else { return };
        let old = core::mem::replace(&mut self.ticket, ticket);
        self.chain_meta = chain_meta(&self.ticket);
        self.parents = crate::parent::groups(&self.ticket);
        self.out.push(Action::TicketInForce { serial });
        if let (Some(layer), true) = (old.head(), old.head() != self.ticket.head()) {
            let cut = Version { gen: self.ticket.gen, seq: self.window.last() };
            self.freezing = Some(Freezing { layer, cut, sent: false });
            self.out.push(Action::Cut { layer, cut });
            self.check_freeze();
        }
    }

    /// S4: everything up to the cut is complete.
    pub(crate) fn check_freeze(&mut self) {
        let stable = self.window.stable();
        let Some(f) = self.freezing.as_mut() else { return };
        if f.sent || stable < f.cut.seq {
            return;
        }
        f.sent = true;
        for dx in self.own_members() {
            self.ctl_want(dx, FREEZE);
        }
        self.freeze_done();
    }

    pub(crate) fn freeze_done(&mut self) {
        self.stats.freezes += 1;
        let Some(f) = self.freezing.filter(|f| f.sent) else { return };
        let open = |dx: &Dx| self.drive(*dx).is_some_and(|d| d.ctl(FREEZE).want);
        if self.own_members().iter().any(open) {
            return;
        }
        self.freezing = None;
        self.out.push(Action::Frozen { layer: f.layer, cut: f.cut });
        self.try_ticket();
    }

    /// New members need the ticket and the freeze in progress; dropped ones are not waited for.
    pub(crate) fn ticket_members_changed(&mut self) {
        if !self.running() {
            return;
        }
        if self.freezing.is_some_and(|f| f.sent) {
            for dx in self.own_members() {
                if self.drive(dx).is_some_and(|d| d.ticket.is_none()) {
                    self.ctl_want(dx, FREEZE);
                }
            }
            self.freeze_done();
        }
        self.offer_ticket();
    }
}
