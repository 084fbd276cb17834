//! Drops, joins and copies.

use drystone_types::{MsgType, Rule};

use super::{Scenario, Script};
use crate::event::End;
use crate::history::What;
use crate::world::HookVerdict;

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("phantom write on a dropped drive", Some(Rule::SourceWins), phantom)
            .noticing(&[Rule::CopyDurable]),
        Scenario::new("acks from two epochs", Some(Rule::R1), old_epoch_ack).noticing(&[Rule::W2]),
        Scenario::new("re-sent write during join, then copy", Some(Rule::R5), resent_then_copy),
        Scenario::new("B1 an OK leaves after the epoch moved", Some(Rule::R6c), late_ok),
        Scenario::new("P2 relayed duplicate, then power cut", Some(Rule::R6b), duplicate_then_cut)
            .noticing(&[Rule::R6]),
        Scenario::new("trim while a drive is out", None, trim_while_out),
        Scenario::new("B2 delta resync and a write admitted before", Some(Rule::AdoptRestamps), delta_skips),
    ]
}

fn is_write(kind: MsgType) -> bool {
    kind == MsgType::Write
}

/// A write reaches only a drive that is dropped; its client dies; the drive returns.
fn phantom(s: &mut Script) {
    s.write_wait(0, 1);
    s.rule(|f| if f.to_server && is_write(f.hdr.kind) && f.drive != 2 { HookVerdict::Lose } else { HookVerdict::Pass });
    s.write(0, 1);
    s.run(20_000);
    s.w.kill_client(0);
    s.drop_dead(2, false);
    s.unhook();
    s.push();
    let c = s.attach();
    s.until_active(c);
    s.restart(2);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    s.run(500_000);
    s.read_each(c, 1);
}

/// The ack of a drive that was dropped and filled again since is of an older epoch.
fn old_epoch_ack(s: &mut Script) {
    s.write_wait(0, 1);
    s.hook(|f| f.to_server && is_write(f.hdr.kind) && f.drive != 2);
    s.write(0, 1);
    s.run(20_000);
    // The drive that has it leaves and returns, filled from copies that lack the write.
    s.drop_quiesced(2);
    s.join(2);
    for d in 0..3 {
        s.push_to_drive(d);
    }
    s.run(20_000);
    s.promote(2);
    for d in 0..3 {
        s.push_to_drive(d);
    }
    s.release(|_| true);
    s.unhook();
    s.push();
    s.run(500_000);
    s.read_each(0, 1);
}

/// The joiner holds the write from before its join; it is sent again; then the copy comes.
fn resent_then_copy(s: &mut Script) {
    s.write_wait(0, 1);
    s.hook(|f| f.to_server && is_write(f.hdr.kind) && f.drive != 2);
    s.write(0, 1);
    s.run(20_000);
    s.drop_quiesced(2);
    s.join(2);
    s.discard_held();
    // The copy is held back until the write was sent again to the joiner and nobody else.
    s.hook(|f| {
        let write = f.to_server && is_write(f.hdr.kind) && f.drive != 2;
        let copy = f.from == End::Drive(2) && matches!(f.hdr.kind, MsgType::Digest | MsgType::Copy) && f.to_server;
        write || copy
    });
    s.push();
    s.run(50_000);
    s.hook(|f| f.to_server && is_write(f.hdr.kind) && f.drive != 2);
    s.release(|f| matches!(f.hdr.kind, MsgType::Digest | MsgType::Copy));
    s.copied(2);
    // The others take the write, and acknowledge it, in the epoch of the join.
    s.unhook();
    s.release(|_| true);
    s.run(50_000);
    s.promote(2);
    s.push();
    s.run(500_000);
    s.read_each(0, 1);
}

/// A source copies for a joiner while it has the write admitted, not durable; its OK is of the old epoch.
fn late_ok(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    // The write is durable at drive 1 at once, at drive 0 late.
    s.w.drives[0].slow = (1, s.w.now + 1_000);
    s.w.drives[0].slow_least = 60_000;
    s.write(0, 1);
    s.run(600);
    s.w.drives[0].slow_least = 0;
    s.join(2);
    s.push_to_drive(0);
    s.push_to_drive(2);
    s.copied(2);
    s.run(100_000);
    s.promote(2);
    s.push();
    s.run(500_000);
    s.read_each(0, 1);
}

/// The same write comes twice, the second time while the first is not durable; then the power goes.
fn duplicate_then_cut(s: &mut Script) {
    s.write_wait(0, 1);
    s.w.drives[2].slow = (3_000_000, s.w.now + 600_000);
    let op = s.write(0, 1);
    s.run(400_000);
    let acked = s.w.history.op(op).is_none();
    s.w.stop_server(2, true);
    s.w.drives[2].slow = (0, 0);
    s.restart(2);
    if acked {
        s.w.kill_client(0);
        let c = s.attach();
        s.until_active(c);
        s.read_each(c, 1);
    } else {
        s.wait(op);
    }
}

/// A block is trimmed while a drive is away: it must not come back with it.
fn trim_while_out(s: &mut Script) {
    s.issue(0, What::Write(0), 0, 4);
    s.run(100_000);
    s.drop_dead(2, true);
    s.push();
    let op = s.issue(0, What::Trim, 1, 2);
    s.wait(op);
    s.run(2_000_000);
    s.restart(2);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    s.run(500_000);
    for block in 0..4 {
        s.read_each(0, block);
    }
}

/// A write is admitted in one epoch and acknowledged in a later one; a drive that was in sync until then
/// returns by delta and must get it.
fn delta_skips(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.run(2_000_000);
    // Drive 0 has the write in this epoch, drive 1 never gets it, drive 2 joins and gets it late.
    s.hook(|f| f.to_server && is_write(f.hdr.kind) && f.drive != 0);
    s.write(0, 1);
    s.run(20_000);
    s.join(2);
    s.push_to_drive(0);
    s.push_to_drive(2);
    s.drop_quiesced(1);
    for d in [0, 2] {
        s.push_to_drive(d);
    }
    s.push_to_client(0);
    s.run(20_000);
    s.join(1);
    s.push_to_drive(0);
    s.push_to_drive(1);
    s.run(20_000);
    s.promote(1);
    s.push_to_drive(0);
    s.push_to_drive(1);
    s.release(|f| f.hdr.drive.0 == 3);
    s.run(20_000);
    s.discard_held();
    s.unhook();
    s.push();
    s.run(200_000);
    s.promote(2);
    s.push();
    s.run(500_000);
    s.read_each(0, 1);
}
