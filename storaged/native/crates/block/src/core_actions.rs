//! What a sequencer wants done.

use drystone_reactor::Ctx;
use drystone_sequencer::{Action, Event, State};
use drystone_types::VolumeId;

use crate::events::BlockEvent;
use crate::front::reply;
use crate::handler::BlockHandler;

impl BlockHandler {
    /// Gives one event to a volume's sequencer and carries out what follows.
    pub(crate) fn step(&mut self, cx: &mut Ctx, vol: VolumeId, event: Event) {
        let Some(volume) = self.volumes.get_mut(&vol) else { return };
        let mut actions = self.spare_actions.pop().unwrap_or_default();
        volume.seq.step(cx.now_us(), event, &mut actions);
        if !core::mem::replace(&mut volume.dirty, true) {
            self.dirty.push(vol);
        }
        for action in actions.drain(..) {
            self.act(cx, vol, action);
        }
        self.spare_actions.push(actions);
    }

    fn act(&mut self, cx: &mut Ctx, vol: VolumeId, action: Action) {
        match action {
            Action::Send { drive, via, frame } => {
                // A frame that cannot go out is unanswered; the sequencer hears of the
                // connection by DriveDown and of silence by its own clock.
                self.dialer.send(cx, via.unwrap_or(drive), frame);
            }
            Action::Complete { tag, result } => self.complete(cx.now_us(), tag, result),
            Action::Report { drive, kind } => self.events.put(BlockEvent::Report { vol, drive, kind }),
            Action::NeedMap { at_least } => self.events.put(BlockEvent::NeedMap { at_least }),
            Action::WantActivate { gen } => self.events.put(BlockEvent::WantActivate { vol, gen }),
            Action::State(state) => self.state_changed(vol, state),
            Action::Fenced(reason) => {
                let gen = self.volumes.get(&vol).map(|v| v.gen).unwrap_or_default();
                self.events.put(BlockEvent::Fenced { vol, gen, reason });
            }
            Action::TicketInForce { serial } => self.ticket_in_force(vol, serial),
            Action::Detached { clean, .. } => self.detached(cx, vol, clean),
            // Snapshots and hand-over are driven by the manager; nothing asks for them yet.
            Action::Cut { .. } | Action::Frozen { .. } | Action::Yielded { .. } => {}
            Action::Invariant(what) => {
                self.events.put(BlockEvent::Invariant { vol, what });
                self.revoke_later.push(vol);
            }
        }
    }

    fn complete(&mut self, now_us: u64, tag: u64, result: drystone_sequencer::IoResult) {
        let Some(origin) = self.tags.remove(tag) else { return };
        if let Some(volume) = self.volumes.get_mut(&origin.vol) {
            volume.io.end(now_us, origin.started, result.is_ok());
        }
        if let Some((session, out)) = self.nbd.parts(origin.conn) {
            reply(session, out, origin.to, result);
        }
        self.answered.push((origin.conn, origin.vol, tag));
    }

    fn state_changed(&mut self, vol: VolumeId, state: State) {
        let Some(volume) = self.volumes.get_mut(&vol) else { return };
        volume.state = state;
        self.events.put(BlockEvent::State { vol, gen: volume.gen, state });
    }

    fn ticket_in_force(&mut self, vol: VolumeId, serial: u32) {
        let Some(volume) = self.volumes.get_mut(&vol) else { return };
        volume.size = volume.seq.size();
        let size = volume.size;
        let conns: Vec<_> = self.conn_volume.iter().filter(|(_, v)| **v == vol).map(|(c, _)| *c).collect();
        for conn in conns {
            if let Some((session, _)) = self.nbd.parts(conn) {
                session.set_size(size);
            }
        }
        self.events.put(BlockEvent::TicketInForce { vol, serial });
    }
}
