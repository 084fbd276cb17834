//! Control requests per drive (SEAL, LAYER, RECOVERED, STABLE, FREEZE): each is repeated until
//! it is answered OK, on silence through another drive, and again on reconnect.

use drystone_types::consts::{RETRY_SILENCE, STALL};
use drystone_types::{Flags, Frame, MsgType, Rule, Status};

use crate::api::{Action, FenceReason, ReportKind};
use crate::drive::{Ctl, Drive, Dx, FREEZE, LAYER, RECOVERED, SEAL, STABLE};
use crate::engine::Sequencer;
use crate::request::{Kind, ReqId};
use crate::timers::Timer;

/// Repetition after the first report.
pub(crate) const REPEAT: u64 = 1_000_000;

impl Sequencer {
    pub(crate) fn ctl_want(&mut self, dx: Dx, kind: u8) {
        let now = self.now;
        let Some(ctl) = self.drive_mut(dx).and_then(|d| d.ctl_mut(kind)) else { return };
        if !ctl.want {
            *ctl = Ctl { want: true, since: now, round: ctl.round, ..Ctl::default() };
        }
        if !ctl.open {
            self.ctl_send(dx, kind);
        }
    }

    pub(crate) fn ctl_send(&mut self, dx: Dx, kind: u8) {
        if kind == SEAL {
            self.forget_seal_parts(dx);
        }
        let round = self.next_round();
        let up = self.drive(dx).is_some_and(|d| d.up);
        let Some(ctl) = self.drive_mut(dx).and_then(|d| d.ctl_mut(kind)) else { return };
        ctl.round = round;
        ctl.open = true;
        // A drive without a connection is told the rest at reconnect; only what something
        // waits for has a deadline, so that an idle volume has none.
        if up {
            let frame = self.ctl_frame(dx, kind, round);
            let id = frame.hdr.drive;
            self.out.push(Action::Send { drive: id, via: None, frame });
        }
        if up || matches!(kind, SEAL | LAYER | FREEZE) {
            self.timers.rare(self.now + STALL, Timer::Ctl(dx, kind, round));
        }
    }

    fn ctl_frame(&mut self, dx: Dx, kind: u8, round: u32) -> Frame {
        let request = ReqId::new(Kind::Ctl, u32::from(dx), kind, round).encode();
        let msg = match kind {
            SEAL => MsgType::Seal,
            LAYER => MsgType::Layer,
            RECOVERED => MsgType::Recovered,
            FREEZE => MsgType::Freeze,
            _ => MsgType::Stable,
        };
        let mut hdr = self.header(msg, request, dx);
        match kind {
            SEAL | LAYER => {
                let serial = self.newest_serial();
                if let Some(d) = self.drive_mut(dx) {
                    d.ticket_sent = serial;
                }
                Frame::with_meta(hdr, self.ticket_bytes.clone())
            }
            FREEZE => {
                let freezing = self.freezing.unwrap_or_default();
                hdr.layer = freezing.layer;
                hdr.origin_gen = freezing.cut.gen;
                hdr.seq = freezing.cut.seq;
                Frame::bare(hdr)
            }
            STABLE => self.stable_frame(dx, hdr),
            _ => Frame::bare(hdr),
        }
    }

    /// No answer: report, and try through another drive; the same round, so either answer counts.
    pub(crate) fn ctl_silent(&mut self, dx: Dx, kind: u8) {
        self.report(dx, ReportKind::Stall);
        let Some(d) = self.drive(dx) else { return };
        let (ctl, waits) = (d.ctl(kind), d.starved || !d.waiters.is_empty());
        let round = ctl.round;
        if kind != STABLE {
            self.ctl_around(dx, kind, round);
        } else if waits {
            // Nothing else is sent to it by these writes, so nothing else would find out that its connection is dead.
            self.poll_around(dx);
        }
        let soon = self.now.saturating_sub(ctl.since) < 2 * STALL;
        self.timers.rare(self.now + if soon { STALL } else { REPEAT }, Timer::Ctl(dx, kind, round));
    }

    fn ctl_around(&mut self, dx: Dx, kind: u8, round: u32) {
        let Some(via) = self.way_around(dx, kind) else { return };
        let mut frame = self.ctl_frame(dx, kind, round);
        frame.hdr.flags = frame.hdr.flags.with(Flags::RELAY);
        let drive = frame.hdr.drive;
        self.stats.relays += 1;
        self.out.push(Action::Send { drive, via: Some(via), frame });
    }

    /// Another drive that may reach this one, each time the next: the first may be cut off from it as well. Those that
    /// answer over their own connections come first.
    fn way_around(&mut self, dx: Dx, kind: u8) -> Option<drystone_types::DriveId> {
        let others = |good: fn(&Drive) -> bool| {
            let other = move |(i, d): &(usize, &Drive)| good(d) && *i != usize::from(dx);
            self.drives.iter().enumerate().filter(other).map(|(_, d)| d.id)
        };
        let good: fn(&Drive) -> bool = if others(Drive::direct).next().is_some() { Drive::direct } else { |d| d.up };
        let turn = usize::from(self.drive(dx)?.ctl(kind).turn);
        let count = others(good).count();
        // From the one on that reached it last.
        let known = self.drive(dx)?.around;
        let first = others(good).position(|id| Some(id) == known).unwrap_or(0);
        let via = others(good).nth((first + turn) % count.max(1))?;
        if let Some(ctl) = self.drive_mut(dx).and_then(|d| d.ctl_mut(kind)) {
            ctl.turn = ctl.turn.wrapping_add(1);
        }
        Some(via)
    }

    /// A write waits for credits of a drive that cannot be asked over its own connection, or does not answer on it, so
    /// another one is asked to ask it. It may arrive beside one that was sent directly: what it settles counts once.
    pub(crate) fn poll_around(&mut self, dx: Dx) {
        let Some(round) = self.drive(dx).map(|d| d.ctl(STABLE).round) else { return };
        let Some(via) = self.way_around(dx, STABLE) else { return };
        let mut hdr = self.header(MsgType::Stable, ReqId::new(Kind::Ctl, u32::from(dx), STABLE, round).encode(), dx);
        hdr.flags = hdr.flags.with(Flags::RELAY);
        let (drive, seq) = (hdr.drive, hdr.stable.seq);
        if let Some(d) = self.drive_mut(dx).filter(|d| !d.up) {
            d.stable_sent = seq;
        }
        self.stats.relays += 1;
        let meta = self.stable_meta(dx, 0);
        self.out.push(Action::Send { drive, via: Some(via), frame: Frame::with_meta(hdr, meta) });
    }

    pub(crate) fn on_ctl_answer(&mut self, dx: Dx, kind: u8, round: u32, frame: Frame) {
        let Some(ctl) = self.drive(dx).map(|d| d.ctl(kind)) else { return };
        if !ctl.want || ctl.round != round {
            return;
        }
        let hdr = frame.hdr;
        if kind == STABLE && !matches!(hdr.status, Status::Ok | Status::Full) {
            self.stable_refused(dx);
        }
        match hdr.status {
            Status::Ok => self.ctl_done(dx, kind, frame),
            Status::Full if kind == STABLE => self.ctl_done(dx, kind, frame),
            Status::NackGen if hdr.gen > self.ticket.gen || (kind == SEAL && hdr.gen == self.ticket.gen) => {
                self.fence(FenceReason::NewerGeneration(hdr.gen));
            }
            Status::NeedTicket => {
                self.need_ticket(dx);
                self.ctl_again(dx, kind);
            }
            Status::NackEpoch => {
                self.adopt_nack(&frame);
                self.ctl_again(dx, kind);
            }
            Status::NackGen | Status::Retry => self.ctl_again(dx, kind),
            Status::Full | Status::Eio | Status::Invalid | Status::Denied | Status::BadChecksum => {
                self.report(dx, ReportKind::DriveError);
                self.ctl_again(dx, kind);
            }
        }
    }

    fn ctl_done(&mut self, dx: Dx, kind: u8, frame: Frame) {
        if kind == SEAL && !self.seal_part(dx, &frame) {
            return;
        }
        let Some(ctl) = self.drive_mut(dx).and_then(|d| d.ctl_mut(kind)) else { return };
        ctl.want = false;
        ctl.open = false;
        match kind {
            SEAL => self.seal_done(dx, frame.hdr.map_rev),
            LAYER => self.layer_done(dx),
            STABLE => self.stable_done(dx),
            FREEZE => self.freeze_done(),
            _ => {}
        }
    }

    /// Sends it again after a back-off; RETRY for more than 1 s counts as silence.
    pub(crate) fn ctl_again(&mut self, dx: Dx, kind: u8) {
        let round = self.next_round();
        let now = self.now;
        let Some(ctl) = self.drive_mut(dx).and_then(|d| d.ctl_mut(kind)) else { return };
        if !ctl.want {
            return;
        }
        ctl.tries = ctl.tries.saturating_add(1);
        ctl.round = round;
        ctl.open = true;
        let (tries, since) = (ctl.tries, ctl.since);
        if now.saturating_sub(since) > RETRY_SILENCE {
            self.report(dx, ReportKind::Stall);
        }
        let wait = self.backoff(tries);
        self.timers.rare(now + wait, Timer::CtlAgain(dx, kind, round));
    }

    /// After a reconnect: everything still wanted is sent again.
    pub(crate) fn ctl_reconnect(&mut self, dx: Dx) {
        for kind in 0..crate::drive::CTLS {
            let again = kind != STABLE || self.on(Rule::StableAgain);
            if again && self.drive(dx).is_some_and(|d| d.ctl(kind).want) {
                self.ctl_send(dx, kind);
            }
        }
    }

    /// Without a connection nothing that merely informs has a deadline (see `ctl_send`).
    pub(crate) fn ctl_disconnect(&mut self, dx: Dx) {
        let round = self.next_round();
        for kind in [RECOVERED, STABLE] {
            if let Some(ctl) = self.drive_mut(dx).and_then(|d| d.ctl_mut(kind)) {
                ctl.round = round;
            }
        }
    }

    /// The drive no longer has anything to do with the volume.
    pub(crate) fn ctl_forget(&mut self, dx: Dx) {
        if let Some(d) = self.drive_mut(dx) {
            for c in &mut d.ctl {
                c.want = false;
                c.open = false;
            }
        }
    }
}
