//! Fences, seals and the order of requests.

use drystone_types::{MsgType, Rule};

use super::{Scenario, Script};
use crate::event::End;
use crate::meta::Change;
use crate::world::{HookVerdict, Place};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("late packet of the old client after a takeover", Some(Rule::R2), late_packet),
        Scenario::new("overlapping read and write, then client crash", Some(Rule::W1), overlap),
        Scenario::new("P1 seal overtakes a queued write", Some(Rule::SealDrains), seal_overtakes),
        Scenario::new("a write is acknowledged without a member", Some(Rule::StoreCasBeforeAck), silent_member),
        Scenario::new("crash in ROLLING", Some(Rule::A4), crash_in_rolling),
        Scenario::new("zombie read after a takeover", None, zombie_read),
        Scenario::new("zombie read from a dropped, unfenced drive", Some(Rule::ReadLease), unfenced_drive),
    ]
}

fn is_write(kind: MsgType) -> bool {
    kind == MsgType::Write
}

/// A write of the old client arrives between the SEAL replies and RECOVERED of the new one.
fn late_packet(s: &mut Script) {
    s.write_wait(0, 1);
    s.hook(|f| f.to_server && (is_write(f.hdr.kind) && f.from == End::Client(0) || after_active(f.hdr.kind)));
    s.write(0, 1);
    s.run(100_000);
    // The same daemon attaches again, so that its ticket does not stop the packet.
    let c = s.attach();
    s.w.clients[c].uuid = s.w.clients[0].uuid;
    s.until_active(c);
    read_at(s, c, 0);
    read_at(s, c, 1);
    let late = |f: &drystone_types::Frame| is_write(f.hdr.kind) && f.hdr.drive.0 == 2;
    s.release(late);
    s.run(100_000);
    read_at(s, c, 1);
    read_at(s, c, 0);
    s.unhook();
    s.discard_held();
}

/// RECOVERED and STABLE make old versions harmless; a script keeps them away.
fn after_active(kind: MsgType) -> bool {
    matches!(kind, MsgType::Recovered | MsgType::Stable)
}

/// A read of block 1 that only one drive answers.
fn read_at(s: &mut Script, c: usize, drive: usize) {
    let hold = move |f: &crate::world::FrameFacts| {
        let elsewhere = f.hdr.kind == MsgType::Read && f.drive != drive;
        f.to_server && (is_write(f.hdr.kind) || after_active(f.hdr.kind) || elsewhere)
    };
    s.hook(hold);
    s.read(c, 1);
    // With the rule on, a read that overlaps a write in flight waits for it: not an end of the script.
    s.run(1_500_000);
}

/// A write is at one copy only while reads run: they may not flip.
fn overlap(s: &mut Script) {
    s.write_wait(0, 1);
    s.hook(|f| f.to_server && is_write(f.hdr.kind) && f.drive != 0);
    s.write(0, 1);
    s.run(20_000);
    read_at(s, 0, 0);
    read_at(s, 0, 1);
    s.w.kill_client(0);
    s.unhook();
    s.discard_held();
    let c = s.attach();
    s.until_active(c);
    s.read_each(c, 1);
}

/// The device of one drive is slow: a write is admitted there, not durable, while the SEAL comes.
fn seal_overtakes(s: &mut Script) {
    s.w.drives[2].slow = (2_000_000, s.w.now + 400_000);
    s.hook(|f| f.to_server && is_write(f.hdr.kind) && f.drive != 2);
    s.issue(0, crate::history::What::Write(0), 1, 40);
    s.run(2_000);
    s.w.kill_client(0);
    s.unhook();
    s.discard_held();
    let c = s.attach();
    s.until_active(c);
    s.run(3_000_000);
    for block in [1, 20, 40] {
        s.read_each(c, block);
    }
}

/// A member is cut off; nothing may be acknowledged without it before the store took it out.
fn silent_member(s: &mut Script) {
    s.rule(|f| if f.to_server && is_write(f.hdr.kind) && f.drive == 2 { HookVerdict::Lose } else { HookVerdict::Pass });
    let op = s.write(0, 1);
    s.run(1_500_000);
    s.w.hook = Some(Box::new(|f| {
        let other =
            f.to_server && (f.hdr.kind == MsgType::Read && f.drive != 2 || is_write(f.hdr.kind) && f.drive == 2);
        if other {
            HookVerdict::Lose
        } else {
            HookVerdict::Pass
        }
    }));
    if s.w.history.op(op).is_none() {
        let read = s.read(0, 1);
        s.until("the read", |w| w.history.op(read).is_none());
    }
    s.drop_dead(2, false);
    s.push();
    s.wait(op);
}

/// The attacher dies while it rolls forward; the next one repeats it with the original versions.
fn crash_in_rolling(s: &mut Script) {
    s.hook(|f| f.to_server && is_write(f.hdr.kind) && f.drive != 0);
    s.write(0, 1);
    s.run(20_000);
    s.w.kill_client(0);
    s.discard_held();
    s.rule(|f| {
        let second = f.to_server && f.hdr.flags.has(drystone_types::Flags::ROLL) && f.drive == 2;
        if second {
            HookVerdict::Lose
        } else {
            HookVerdict::Pass
        }
    });
    let c = s.attach();
    s.run(200_000);
    s.w.kill_client(c);
    s.unhook();
    let c = s.attach();
    s.until_active(c);
    s.read_each(c, 1);
}

/// The old client lives on and reads: every answer after the takeover is a refusal.
fn zombie_read(s: &mut Script) {
    s.write_wait(0, 1);
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.read(0, 1);
    s.run(500_000);
    s.write(0, 1);
    s.run(500_000);
    s.read_each(c, 1);
}

/// A drive that hears nobody was dropped, the next owner never sealed it, and the old owner still reads there.
fn unfenced_drive(s: &mut Script) {
    s.write_wait(0, 1);
    let until = s.w.now + 60_000_000;
    for other in [Place::Node(0), Place::Node(1), Place::Store, Place::Manager(0), Place::Manager(1)] {
        s.w.cuts.insert((Place::Node(2), other), until);
        s.w.cuts.insert((other, Place::Node(2)), until);
    }
    s.until("the end of the lease", |w| w.nodes[2].page.iter().all(|until| *until <= w.now));
    let id = s.id(2);
    s.change(Change::Drop(id));
    s.push_to_drive(0);
    s.push_to_drive(1);
    // The next owner knows the map and does not ask the dropped drive; the old one knows nothing.
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.hook(|f| f.to_server && f.hdr.kind == MsgType::Read && f.from == End::Client(0) && f.drive != 2);
    s.read(0, 1);
    s.run(2_000_000);
    s.unhook();
    s.read_each(c, 1);
}
