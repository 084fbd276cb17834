//! Where frames arrive: an answer leads to its operation by its request id.

use drystone_types::{DriveId, Frame, Status};

use crate::api::State;
use crate::drive::STABLE;
use crate::engine::Sequencer;
use crate::request::{Kind, ReqId};

impl Sequencer {
    pub(crate) fn on_frame(&mut self, from: DriveId, frame: Frame) {
        if matches!(self.state, State::Fenced | State::Detached) || !frame.hdr.is_resp() {
            return;
        }
        let Some(id) = ReqId::decode(frame.hdr.request) else { return };
        // The header names the drive that answers; `from` is only the connection it came by.
        let Some(dx) = self.drive_ix.get(&frame.hdr.drive).copied() else { return };
        let direct = from == frame.hdr.drive;
        self.note_way(dx, from);
        self.note_credits(dx, direct, id.round, &frame.hdr);
        match id.kind {
            Kind::Ping => {}
            Kind::Write => self.write_frame_in(id, dx, &frame),
            Kind::Read => self.on_read_answer(id, dx, frame),
            Kind::Ctl => {
                let open = self.drive(dx).is_some_and(|d| d.ctl(id.member).round == id.round);
                let mine = u32::from(dx) == id.index && open;
                if mine && id.member == STABLE && matches!(frame.hdr.status, Status::Ok | Status::Full) {
                    self.note_space(dx, frame.hdr.status, &frame.meta);
                }
                if mine {
                    self.on_ctl_answer(dx, id.member, id.round, frame);
                }
            }
        }
    }

    fn write_frame_in(&mut self, id: ReqId, dx: u16, frame: &Frame) {
        // An answer of an earlier round is one of another epoch, or of a slot used again (W2).
        let Some(op) = self.writes.get(id.index).filter(|op| op.round == id.round) else { return };
        if op.members.get(usize::from(id.member)).is_some_and(|m| m.drive == dx) {
            self.on_write_answer(id.index, id.member, frame);
        }
    }
}
