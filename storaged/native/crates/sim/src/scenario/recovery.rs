//! Attaches that must find, or must not believe, what an earlier client left.

use drystone_types::{Flags, MsgType, Rule, Version};

use super::script::VOL;
use super::{Scenario, Script};
use crate::event::End;
use crate::history::What;
use crate::world::{FrameFacts, HookVerdict};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("P3 a ROLL says that everything is stable", Some(Rule::RollStable), roll_says_stable),
        Scenario::new("P4 a copied block is still unstable", Some(Rule::CopyUnstable), copied_unstable),
        Scenario::new("B9 a joiner asks for the generations it missed", None, missed_generations),
        Scenario::new("zombie write after a join", None, zombie_write_after_join),
        Scenario::new("B12 a block that was never written, read by a stale client", None, stale_hole),
        Scenario::new("P12 a restarted daemon does not steal a volume back", None, stolen_back),
    ]
}

fn is_write(f: &FrameFacts) -> bool {
    f.to_server && f.hdr.kind == MsgType::Write
}

/// A write that reaches drive 0 alone.
fn write_on_first_only(s: &mut Script) {
    s.write_wait(0, 1);
    s.hook(|f| is_write(f) && f.drive != 0);
    s.write(0, 1);
    s.run(20_000);
}

/// The stable field of a ROLL is ignored: whoever died after it left blocks that the next one must unify.
fn roll_says_stable(s: &mut Script) {
    write_on_first_only(s);
    s.write(0, 2);
    s.run(20_000);
    s.w.kill_client(0);
    s.discard_held();
    s.hook(|f| is_write(f) && f.hdr.flags.has(Flags::ROLL));
    let c = s.attach();
    s.run(300_000);
    s.demand("the attacher rolls", !s.w.held.is_empty());
    for (_, _, frame) in &mut s.w.held {
        frame.hdr.stable = Version { gen: frame.hdr.gen, seq: 1 << 40 };
    }
    s.release(|f| f.hdr.drive.0 == 2);
    s.run(50_000);
    let taken = s.is_unstable(1, 1) && s.is_unstable(1, 2);
    s.w.kill_client(c);
    s.unhook();
    s.discard_held();
    let next = s.attach();
    s.until_active(next);
    s.read_each(next, 1);
    s.read_each(next, 2);
    s.demand("the ROLL was not taken", taken);
}

/// The only holder of an unacknowledged write fills a joiner and dies: the joiner must report it.
fn copied_unstable(s: &mut Script) {
    s.write_wait(0, 1);
    // Nothing else is unstable: a roll of an older version would hide what is missing.
    s.run(2_000_000);
    s.drop_quiesced(2);
    s.push();
    s.hook(|f| is_write(f) && f.drive != 0);
    s.write(0, 1);
    s.run(20_000);
    s.w.kill_client(0);
    s.discard_held();
    s.rule(|f| {
        let resync = matches!(f.hdr.kind, MsgType::Digest | MsgType::Copy);
        let elsewhere = f.from == End::Drive(2) && f.to_server && f.drive != 0;
        if resync && elsewhere {
            HookVerdict::Lose
        } else {
            HookVerdict::Pass
        }
    });
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    let marked = s.is_unstable(2, 1);
    s.drop_dead(0, true);
    s.unhook();
    s.push();
    let c = s.attach();
    s.until_active(c);
    s.read_each(c, 1);
    s.restart(0);
    s.demand("the copy is not marked unstable", marked);
}

/// A drive is away while a volume changes hands; it joins and must refuse the old owner.
fn missed_generations(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_dead(2, false);
    s.push();
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.restart(2);
    s.join(2);
    // The old owner sends to the joiner as soon as it knows the map, before and after the copy.
    s.push();
    for _ in 0..5 {
        s.write(0, 1);
        s.run(20_000);
    }
    s.promote(2);
    s.push();
    s.write(0, 2);
    s.run(300_000);
    s.read_each(c, 1);
    s.demand("nothing was refused", s.count("zombie.write_refused") > 0);
}

/// A write of the old owner is on its way while its target leaves, joins and is promoted.
fn zombie_write_after_join(s: &mut Script) {
    s.write_wait(0, 1);
    s.hook(|f| is_write(f) && f.from == End::Client(0));
    s.write(0, 1);
    s.run(20_000);
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.drop_quiesced(2);
    s.push();
    s.join(2);
    s.push();
    s.release(|f| f.hdr.drive.0 == 3);
    s.promote(2);
    s.push();
    s.write_wait(c, 2);
    s.unhook();
    s.release(|_| true);
    s.run(500_000);
    s.read_each(c, 1);
    s.read_each(c, 2);
}

/// "Nothing was ever written there" is an answer too, and meets the fence like any other.
fn stale_hole(s: &mut Script) {
    s.write_wait(0, 1);
    let c = s.attach();
    s.until_active(c);
    let op = s.issue(c, What::Write(0), 3, 1);
    s.wait(op);
    let late = s.read(0, 3);
    s.run(1_000_000);
    s.demand("the stale client got no answer", s.w.history.op(late).is_none() || s.w.clients[0].fenced);
    s.read_each(c, 3);
}

/// The old daemon's calls, repeated with its old nonce, change nothing after another took the volume.
fn stolen_back(s: &mut Script) {
    s.write_wait(0, 1);
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    let gen = s.w.clients[0].gen;
    let done = s.w.meta.activate(VOL, gen, true);
    s.demand("an old generation was activated", !done);
    s.write(0, 1);
    s.run(500_000);
    s.read_each(c, 1);
}
