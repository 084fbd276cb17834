//! Attaches that meet other attaches and changes of the map.

use drystone_types::{MsgType, Rule};

use super::{Scenario, Script};
use crate::event::End;
use crate::world::HookVerdict;

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("P15 a superseded attacher activates", Some(Rule::A5), superseded),
        Scenario::new("seal replies spanning an epoch change", Some(Rule::A3), spanning),
        Scenario::new("map read before the generation bump", None, stale_map),
        Scenario::new("CAS succeeded but reply lost", None, lost_reply),
        Scenario::new("P11 an unstable write held only by a joiner", Some(Rule::RollFromJoiner), only_joiner),
        Scenario::new("restart that forgets stable", None, forgets_stable),
    ]
}

/// The SEAL replies of one attacher are late; another attaches and is active; then they arrive.
fn superseded(s: &mut Script) {
    s.write_wait(0, 1);
    let slow = s.w.clients.len();
    s.hook(move |f| !f.to_server && f.hdr.kind == MsgType::Seal && f.from == End::Client(slow));
    s.attach();
    s.run(100_000);
    let next = s.attach();
    s.until_active(next);
    s.write_wait(next, 1);
    s.unhook();
    s.release(|_| true);
    s.run(1_000_000);
    s.read_each(next, 1);
}

/// Replies of two epochs are not one seal of the PG.
fn spanning(s: &mut Script) {
    s.write_wait(0, 1);
    s.w.kill_client(0);
    s.hook(|f| !f.to_server && f.hdr.kind == MsgType::Seal && f.drive != 0);
    let c = s.attach();
    s.run(50_000);
    s.drop_quiesced(2);
    s.push_to_drive(1);
    s.push_to_client(c);
    s.release(|f| f.hdr.drive.0 == 2);
    s.run(20_000);
    s.unhook();
    s.discard_held();
    s.push();
    s.until_active(c);
    s.read_each(c, 1);
}

/// The attacher knows a map from before a join; the joiner must be sealed all the same.
fn stale_map(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    let c = s.attach();
    s.run(600);
    s.join(2);
    for d in 0..3 {
        s.push_to_drive(d);
    }
    s.until_active(c);
    s.write_wait(c, 1);
    s.promote(2);
    s.push();
    s.read_each(c, 1);
}

/// Every reply of the store to a client is lost for a while: calls are repeated, nothing happens twice.
fn lost_reply(s: &mut Script) {
    s.write_wait(0, 1);
    s.w.plan.lost_replies = 1000;
    let c = s.attach();
    s.run(2_500_000);
    let gen = s.w.meta.volumes.get(&super::script::VOL).map(|v| v.gen.0);
    if gen != Some(2) {
        s.w.fail("SCRIPT", format!("repeated attach calls made generation {gen:?}"));
    }
    s.w.plan.lost_replies = 0;
    s.until_active(c);
    s.read_each(c, 1);
}

/// A write reached the joiner alone before its client died: it is fetched from there.
fn only_joiner(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.rule(|f| {
        let copy = f.from == End::Drive(2) && f.to_server && f.hdr.kind == MsgType::Digest;
        let write = f.to_server && f.hdr.kind == MsgType::Write && f.from == End::Client(0) && f.drive != 2;
        if copy || write {
            HookVerdict::Lose
        } else {
            HookVerdict::Pass
        }
    });
    s.join(2);
    s.push();
    s.run(100_000);
    s.write(0, 1);
    s.run(50_000);
    s.w.kill_client(0);
    s.unhook();
    s.push();
    let c = s.attach();
    s.until_active(c);
    s.read_each(c, 1);
    s.promote(2);
    s.push();
    s.read_each(c, 1);
}

/// All servers lose power right after an acknowledged write; the next attacher finds it everywhere.
fn forgets_stable(s: &mut Script) {
    for block in 0..4 {
        s.write_wait(0, block);
    }
    s.w.kill_client(0);
    for n in 0..3 {
        s.w.stop_server(n, true);
    }
    for n in 0..3 {
        s.w.start_server(n);
    }
    let c = s.attach();
    s.until_active(c);
    for block in 0..4 {
        s.read_each(c, block);
    }
}
