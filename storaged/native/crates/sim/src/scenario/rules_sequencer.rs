//! Rules of the sequencer and of its shell: each schedule here breaks without one of them.

use drystone_types::{Flags, MsgType, Rule};

use super::{Scenario, Script};
use crate::event::End;
use crate::history::What;
use crate::plan::Plan;
use crate::storage;
use crate::world::{FrameFacts, HookVerdict, Place, Time};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("an attach with a map of before its bump", Some(Rule::A1), early_map),
        Scenario::new("a member that is not sealed yet", Some(Rule::A2Majority), one_unsealed),
        Scenario::new("a joiner that is not sealed yet", Some(Rule::A2Joiners), joiner_unsealed),
        Scenario::new("P5 one member is full, the others take it", Some(Rule::W0), one_full).in_world(small_drive),
        Scenario::new("L2 a joiner that is full fails no write", Some(Rule::FullInSync), full_joiner)
            .in_world(small_drive),
        Scenario::new("B3 a ticket given again while another copy is rolled", None, ticket_again),
        Scenario::new("P19 a joiner that cannot read the generations", Some(Rule::Backoff), no_generations),
        Scenario::new("a write that a fence ended is not issued again", Some(Rule::Requeue), fenced_write),
    ]
}

const SECOND: Time = 1_000_000;

fn small_drive() -> Plan {
    Plan { chunks: 10, depth: 8, ..Plan::quiet() }
}

/// A drive joins between the read of the map and the bump of the generation: it knows the old owner alone. Nobody else
/// has heard of the join when the new owner attaches, so no answer tells it of a newer map.
fn early_map(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.rule(|f| {
        let copy = f.from == End::Drive(2) && f.to_server && f.hdr.kind == MsgType::Digest;
        if copy {
            HookVerdict::Lose
        } else {
            HookVerdict::Pass
        }
    });
    let c = s.w.clients.len();
    let until = s.w.now + 20_000;
    s.w.cuts.insert((Place::Client(c), Place::Store), until);
    s.attach();
    s.run(1_000);
    s.join(2);
    s.push_to_drive(2);
    s.push_to_client(0);
    s.run(5_000);
    s.until_active(c);
    // The joiner would take it.
    s.write(0, 1);
    s.run(50_000);
    s.push();
    s.write_wait(c, 2);
    s.unhook();
    s.promote(2);
    s.push();
    s.read_each(c, 1);
}

fn seal_of(s: &mut Script, drive: usize) -> usize {
    // Also what comes through another drive.
    let id = s.id(drive);
    s.hook(move |f| f.to_server && f.hdr.kind == MsgType::Seal && f.hdr.drive == id);
    let c = s.attach();
    s.run(SECOND);
    c
}

/// Two of three members are sealed: the third one still takes what the old owner writes.
fn one_unsealed(s: &mut Script) {
    s.write_wait(0, 1);
    let c = seal_of(s, 2);
    s.demand("active without a member", !s.w.clients[c].was_active);
    s.unhook();
    s.release(|_| true);
    s.until_active(c);
    s.read_each(c, 1);
}

/// Every in-sync member is sealed, a joiner is not.
fn joiner_unsealed(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.join(2);
    s.push();
    let c = seal_of(s, 2);
    s.demand("active without a joiner", !s.w.clients[c].was_active);
    s.unhook();
    s.release(|_| true);
    s.until_active(c);
    s.promote(2);
    s.push();
    s.read_each(c, 1);
}

/// A blank drive of this many slots takes the place of drive 2.
fn small_third(s: &mut Script, slots: u64) {
    s.drop_dead(2, true);
    s.push();
    s.w.new_drive(2, storage::blank_device(slots));
    s.w.start_server(2);
    s.until("the small drive", |w| w.drives[2].replica.is_some());
    s.run(SECOND);
    s.join(2);
    s.push();
}

/// ENOSPC is decided before anything is sent: no member ever refuses what another one has.
fn one_full(s: &mut Script) {
    s.write_wait(0, 1);
    small_third(s, 700);
    s.promote(2);
    s.push();
    let mut refused = 0;
    for run in 0..45 {
        let op = s.issue(0, What::Write(0), run * 200, 200);
        s.run(SECOND);
        let full = s.count("check.i20_write_full");
        s.must("P5", "a member refused for space what others have taken", full == 0);
        s.wait(op);
        refused = s.count("io.no_space");
        if refused > 0 {
            break;
        }
    }
    s.demand("the small drive never became full", refused > 0);
    let whole = s.w.meta.pg(0).is_some_and(|r| r.insync.len() == 3);
    s.demand("a copy was dropped for want of space", whole);
    s.read_each(0, 1);
}

/// A joiner has no room: writes wait until it is out, and none is refused.
fn full_joiner(s: &mut Script) {
    for run in 0..3 {
        let op = s.issue(0, What::Write(0), run * 200, 200);
        s.wait(op);
    }
    small_third(s, 700);
    // Its copy would make it leave; here it only takes writes.
    s.rule(|f| {
        let copy = f.from == End::Drive(2) && f.to_server && f.hdr.kind == MsgType::Digest;
        if copy {
            HookVerdict::Lose
        } else {
            HookVerdict::Pass
        }
    });
    let ops: Vec<_> = (3..45).map(|run| s.issue(0, What::Write(0), run * 200, 200)).collect();
    s.run(2 * SECOND);
    let refused = s.count("io.no_space");
    s.must("L2", "a joiner's want of space failed a write", refused == 0);
    let waits = ops.iter().any(|op| s.w.history.op(*op).is_some());
    s.demand("the joiner did not become full", waits);
    s.drop_quiesced(2);
    s.push();
    for op in ops {
        s.wait(op);
    }
    s.read_each(0, 1);
}

/// The consumer's shell hands over to the next owner while a write of the old one is open.
fn fenced_write(s: &mut Script) {
    s.write_wait(0, 1);
    s.hook(|f| f.to_server && f.hdr.kind == MsgType::Write && f.from == End::Client(0));
    s.write(0, 1);
    s.run(20_000);
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.unhook();
    s.release(|_| true);
    s.until("the fence of the old owner", |w| w.clients[0].fenced);
    s.run(SECOND);
    s.read_each(c, 1);
}

/// Before ACTIVE nothing is stable, whatever is sent: a drive that restarts is given its ticket while others lack
/// what it alone holds.
fn ticket_again(s: &mut Script) {
    s.write_wait(0, 1);
    s.hook(|f| f.to_server && f.hdr.kind == MsgType::Write && f.drive != 0);
    s.write(0, 1);
    s.run(20_000);
    s.w.kill_client(0);
    s.discard_held();
    let roll = |f: &FrameFacts| f.to_server && f.hdr.flags.has(Flags::ROLL);
    s.hook(roll);
    let c = s.attach();
    s.run(300_000);
    s.demand("nothing is rolled", !s.w.held.is_empty());
    s.w.stop_server(0, false);
    s.discard_held();
    s.restart(0);
    s.hook(move |f| roll(f) && f.hdr.kind == MsgType::Write);
    s.run(3 * SECOND);
    s.demand("the other copies have it", !s.w.held.is_empty());
    s.w.kill_client(c);
    s.unhook();
    s.discard_held();
    let next = s.attach();
    s.until_active(next);
    s.read_each(next, 1);
}

/// Frames that a second of refusals may cost at most: back-off ends at 50 ms.
const STORM_MAX: u64 = 100;

/// Until it knows the generations a joiner says RETRY: the pause between two tries grows.
fn no_generations(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    let until = s.w.now + 3 * SECOND;
    for (a, b) in [(Place::Node(2), Place::Store), (Place::Store, Place::Node(2))] {
        s.w.cuts.insert((a, b), until);
    }
    s.join(2);
    s.push();
    let (op, before) = (s.write(0, 1), s.count("answer.retry"));
    s.run(SECOND);
    let refused = s.count("answer.retry") - before;
    s.must("P19", "refusals storm", refused <= STORM_MAX);
    s.demand("nothing was refused", refused > 0);
    s.demand("a write ended without a member", s.w.history.op(op).is_some());
    s.wait(op);
    s.promote(2);
    s.push();
    s.read_each(0, 1);
}
