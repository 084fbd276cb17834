//! Rules of a replica that no other schedule needs: each of these fails without its rule.

use drystone_types::{BufMut, DriveId, Flags, Frame, Gen, LayerId, MsgType, Rule};

use super::script::VOL;
use super::spread::one_of_each;
use super::{Scenario, Script};
use crate::event::End;
use crate::history::What;
use crate::meta::Change;
use crate::plan::Plan;
use crate::world::{FrameFacts, HookVerdict, Place, Time};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a dropped drive that knows it answers nobody", Some(Rule::R3), knows_its_drop),
        Scenario::new("bytes that were damaged on their way are not stored", Some(Rule::R4Csum), damaged_frame),
        Scenario::new("a late write above the cut of a frozen layer", Some(Rule::R4Freeze), write_above_cut),
        Scenario::new("an older write arrives after a newer one", Some(Rule::R5Order), older_after_newer),
        Scenario::new(
            "B2 a stable value of a map that a returning drive has not adopted",
            Some(Rule::R7),
            stable_ahead,
        )
        .in_world(two_pgs_of_four)
        .noticing(&[Rule::AdoptRestamps]),
        Scenario::new("B3 a late RECOVERED lowers nothing", Some(Rule::RecoveredMax), late_recovered),
        Scenario::new("B10 two owners of one generation", Some(Rule::SealNonce), two_owners),
        Scenario::new(
            "a write of the old owner arrives while its SEAL waits",
            Some(Rule::SealStops),
            write_during_seal,
        ),
        Scenario::new("an old dead write on a joiner stays dead", Some(Rule::SealVoid), dead_write_on_joiner),
        Scenario::new("B7 a queued group and a join in the next generation", Some(Rule::JoinDrains), queued_over_join),
        Scenario::new("B9 the old owner reaches only the joiner", Some(Rule::GensSince), old_owner_at_joiner),
        Scenario::new("B9 a joiner that has not heard of the generations", Some(Rule::JoinGens), unheard_generations),
        Scenario::new("a read that reaches a joiner", Some(Rule::ReadInSync), read_at_joiner),
    ]
}

const SECOND: Time = 1_000_000;

/// Two PGs that share two of four drives.
fn two_pgs_of_four() -> Plan {
    Plan { nodes: 4, pgs: 2, chunks: 8, ..Plan::quiet() }
}

fn is_write(f: &FrameFacts) -> bool {
    f.to_server && f.hdr.kind == MsgType::Write
}

fn is_copying(f: &FrameFacts) -> bool {
    matches!(f.from, End::Drive(_)) && f.to_server && matches!(f.hdr.kind, MsgType::Digest | MsgType::Copy)
}

/// The write of a block reaches one drive only, and its client dies: nobody knows of it.
fn leave_on(s: &mut Script, d: usize, block: u64) {
    s.hook(move |f| is_write(f) && f.drive != d);
    s.write(0, block);
    s.run(20_000);
    s.w.kill_client(0);
    s.discard_held();
    s.unhook();
}

/// Node 2 hears only clients from here on, until its lease is over.
fn cut_off(s: &mut Script) {
    let until = s.w.now + 60 * SECOND;
    let nodes = (0..s.w.nodes.len()).filter(|n| *n != 2).map(Place::Node);
    for other in nodes.chain([Place::Store, Place::Manager(0), Place::Manager(1)]) {
        s.w.cuts.insert((Place::Node(2), other), until);
        s.w.cuts.insert((other, Place::Node(2)), until);
    }
    s.until("the end of the lease", |w| w.nodes[2].page.iter().all(|until| *until <= w.now));
}

/// It was dropped while nobody could tell it, has read so since, and holds a lease again; the old owner knows nothing.
fn knows_its_drop(s: &mut Script) {
    s.write_wait(0, 1);
    cut_off(s);
    let id = s.id(2);
    s.change(Change::Drop(id));
    s.push_to_drive(0);
    s.push_to_drive(1);
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.hook(|f| f.to_server && f.from == End::Client(0) && f.drive != 2);
    let until = s.w.now + 60 * SECOND;
    s.w.cuts.clear();
    s.w.cuts.insert((Place::Client(0), Place::Store), until);
    s.until("the lease", |w| w.nodes[2].page.iter().all(|until| *until > w.now));
    s.read(0, 1);
    s.run(2 * SECOND);
    s.unhook();
    s.discard_held();
    s.read_each(c, 1);
}

/// A byte flips between the sender and one drive: it asks again instead of storing it.
fn damaged_frame(s: &mut Script) {
    s.write_wait(0, 1);
    s.hook(|f| is_write(f) && f.drive == 2);
    let op = s.write(0, 1);
    s.run(20_000);
    s.demand("nothing to damage", s.w.held.len() == 1);
    for (_, _, frame) in &mut s.w.held {
        let mut bytes = BufMut::with_len(frame.data.len());
        bytes.as_mut_slice().copy_from_slice(frame.data.as_slice());
        bytes.as_mut_slice()[77] ^= 1;
        frame.data = bytes.freeze();
    }
    s.unhook();
    s.release(|_| true);
    s.wait(op);
    s.read_each(0, 1);
}

/// A consumer's code that went wrong writes to its old head, which is a snapshot by now.
fn write_above_cut(s: &mut Script) {
    s.write_wait(0, 1);
    let old = LayerId(VOL.0 * 10);
    let begun = s.w.start_new_head(VOL);
    s.demand("no new head", begun);
    s.until("the frozen head", |w| w.checks.frozen.contains_key(&old));
    s.rule(|f| if is_write(f) && f.drive == 2 { HookVerdict::Keep } else { HookVerdict::Pass });
    s.write_wait(0, 1);
    s.unhook();
    s.demand("nothing was kept", s.w.held.len() == 1);
    for (_, _, frame) in &mut s.w.held {
        frame.hdr.layer = old;
    }
    s.release(|_| true);
    s.run(100_000);
    s.read_each(0, 1);
}

/// While another write does not end, nothing newer is stable: only the order of versions tells old from new.
fn older_after_newer(s: &mut Script) {
    s.write_wait(0, 1);
    s.rule(|f| match (is_write(f), f.hdr.block) {
        (true, 3) if f.drive != 0 => HookVerdict::Hold,
        (true, 1) if f.drive == 2 => HookVerdict::Keep,
        _ => HookVerdict::Pass,
    });
    let open = s.write(0, 3);
    s.write_wait(0, 1);
    s.hook(|f| is_write(f) && f.hdr.block == 3 && f.drive != 0);
    s.write_wait(0, 1);
    s.demand("a write ended without its members", s.w.history.op(open).is_some());
    s.release(|f| f.hdr.block == 1);
    s.run(100_000);
    s.read_each(0, 1);
    s.unhook();
    s.release(|_| true);
    s.wait(open);
}

/// A drive has a write that nobody knows of. While it hears no map, an epoch with it and one without it pass, and the
/// next owner, which it serves for another PG, goes on: what it holds of the first PG must not count as stable, or its
/// delta copy skips the object and the dead write counts again.
fn stable_ahead(s: &mut Script) {
    let [block, other] = one_of_each(s);
    s.run(2 * SECOND);
    leave_on(s, 2, block);
    let until = s.w.now + 4 * SECOND;
    s.w.cuts.insert((Place::Node(2), Place::Store), until);
    let (out, fourth) = (s.id(2), s.id(3));
    s.change_in(0, Change::Join(fourth));
    (0..4).filter(|d| *d != 2).for_each(|d| s.push_to_drive(d));
    // The others' beacons tell of a newer map: without it there is no lease.
    s.until("the end of the lease", |w| w.nodes[2].page.iter().all(|until| *until <= w.now));
    s.change_in(0, Change::Drop(out));
    (0..4).filter(|d| *d != 2).for_each(|d| s.push_to_drive(d));
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, other);
    s.run(200_000);
    s.demand("the drive has heard of the map", s.w.now < until);
    s.until("the lease", |w| w.nodes[2].page.iter().all(|until| *until > w.now));
    s.write_wait(c, other);
    s.run(2 * SECOND);
    s.change_in(0, Change::Join(out));
    s.push();
    s.until("the copy", |w| w.meta.pg(0).is_some_and(|r| w.meta.copied.contains(&(0, out, r.epoch))));
    let epoch = s.w.meta.pg(0).map(|r| r.epoch).unwrap_or_default();
    s.change_in(0, Change::Promote(out, epoch));
    s.push();
    s.run(SECOND);
    s.read_each(c, block);
}

/// RECOVERED comes a second time when writes of its generation are stable and their versions forgotten.
fn late_recovered(s: &mut Script) {
    s.write_wait(0, 1);
    s.rule(|f| match f.hdr.kind {
        MsgType::Recovered if f.to_server && f.drive == 2 => HookVerdict::Keep,
        _ => HookVerdict::Pass,
    });
    let c = s.attach();
    s.until_active(c);
    s.run(50_000);
    s.rule(|f| if is_write(f) && f.drive == 2 { HookVerdict::Keep } else { HookVerdict::Pass });
    s.write_wait(c, 1);
    s.unhook();
    s.write_wait(c, 1);
    s.run(3 * SECOND);
    s.demand("an old version is known still", !s.is_unstable(2, 1));
    s.release(|f| f.hdr.kind == MsgType::Recovered);
    s.release(is_write_frame);
    s.run(100_000);
    s.read_each(c, 1);
}

fn is_write_frame(f: &Frame) -> bool {
    f.hdr.kind == MsgType::Write
}

/// The store is put back to before an attach and gives its generation a second time.
fn two_owners(s: &mut Script) {
    s.write_wait(0, 1);
    let backup = s.w.meta.volumes.get(&VOL).cloned().unwrap_or_default();
    let first = s.attach();
    s.until_active(first);
    s.write_wait(first, 1);
    s.w.meta.volumes.insert(VOL, backup);
    let second = s.attach();
    s.run(SECOND);
    let gen = s.w.clients[second].gen;
    s.demand("the generation was not given twice", gen == s.w.clients[first].gen && gen == Gen(2));
    s.write_wait(first, 1);
    s.write(second, 1);
    s.run(SECOND);
    let next = s.attach();
    s.until_active(next);
    s.read_each(next, 1);
}

/// A SEAL waits until what was admitted is durable; meanwhile a large write of the old owner comes.
fn write_during_seal(s: &mut Script) {
    s.write_wait(0, 1);
    s.w.drives[2].slow_least = 150_000;
    s.hook(|f| is_write(f) && f.drive != 2);
    s.write(0, 3);
    s.run(1_000);
    s.hook(|f| is_write(f) && f.from == End::Client(0));
    s.issue(0, What::Write(0), 100, 64);
    s.run(1_000);
    // The same daemon attaches again, so that its ticket does not stop the write.
    let c = s.attach();
    s.w.clients[c].uuid = s.w.clients[0].uuid;
    s.run(50_000);
    s.w.drives[2].slow_least = SECOND;
    s.release(|f| f.hdr.drive == DriveId(3) && f.hdr.count == 64);
    s.w.drives[2].slow_least = 0;
    s.until_active(c);
    s.run(2 * SECOND);
    for block in [3, 100, 130] {
        s.read_each(c, block);
    }
    s.discard_held();
}

/// A drive kept a write that died with its client; since then the block was written again. It joins, and so does
/// another; a client attaches before anything is copied.
fn dead_write_on_joiner(s: &mut Script) {
    s.write_wait(0, 1);
    leave_on(s, 2, 1);
    s.drop_dead(2, false);
    s.push();
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.run(2 * SECOND);
    s.drop_quiesced(1);
    s.push();
    s.w.kill_client(c);
    s.restart(2);
    s.rule(|f| if is_copying(f) { HookVerdict::Lose } else { HookVerdict::Pass });
    s.join(2);
    s.join(1);
    s.push();
    s.run(100_000);
    let next = s.attach();
    s.until_active(next);
    s.unhook();
    s.promote(2);
    s.push();
    s.promote(1);
    s.push();
    s.read_each(next, 1);
}

/// A write is admitted on a slow device when its drive leaves; the next owner never hears of it; the drive joins again
/// in the same process, and its copy finds nothing to do. Then the device is done.
fn queued_over_join(s: &mut Script) {
    s.write_wait(0, 1);
    s.run(2 * SECOND);
    s.w.drives[2].slow_least = 2 * SECOND;
    leave_on(s, 2, 1);
    s.w.drives[2].slow_least = 0;
    let id = s.id(2);
    s.change(Change::Drop(id));
    s.push();
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 2);
    s.run(100_000);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    s.run(2 * SECOND);
    s.read_each(c, 1);
}

/// A drive is away while a volume changes hands; the old owner hears of its join, and reaches nobody else.
fn back_to_the_old_owner(s: &mut Script, deaf: Time) {
    s.write_wait(0, 1);
    s.rule(|f| match f.to_server && f.from == End::Client(0) && f.drive != 2 || is_copying(f) {
        true => HookVerdict::Lose,
        false => HookVerdict::Pass,
    });
    s.drop_dead(2, false);
    for d in 0..2 {
        s.push_to_drive(d);
    }
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    s.restart(2);
    s.until("the old owner's connection", |w| w.conn_up(End::Client(0), 2).is_some());
    let until = s.w.now + deaf;
    s.w.cuts.insert((Place::Node(2), Place::Store), until);
    s.join(2);
    for d in 0..3 {
        s.push_to_drive(d);
    }
    s.push_to_client(0);
    s.write(0, 1);
    s.run(600_000);
    s.unhook();
    s.push();
    s.promote(2);
    s.push();
    s.read_each(c, 1);
}

/// The joiner asks for what changed since it last asked, not since it joined.
fn old_owner_at_joiner(s: &mut Script) {
    back_to_the_old_owner(s, 0);
}

/// It cannot ask yet: until it could it serves nobody.
fn unheard_generations(s: &mut Script) {
    back_to_the_old_owner(s, SECOND);
}

/// A client that takes a joiner for in sync asks it.
fn read_at_joiner(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.write_wait(0, 1);
    s.rule(|f| if is_copying(f) { HookVerdict::Lose } else { HookVerdict::Pass });
    s.join(2);
    s.push();
    s.run(100_000);
    s.hook(|f| is_copying(f) || f.to_server && f.hdr.kind == MsgType::Read);
    let op = s.read(0, 1);
    s.run(20_000);
    let conn = s.w.conn_up(End::Client(0), 2).unwrap_or_default();
    s.demand("no read is on its way", s.w.held.iter().any(|h| h.2.hdr.kind == MsgType::Read));
    for (at, _, frame) in s.w.held.iter_mut().filter(|h| h.2.hdr.kind == MsgType::Read) {
        (*at, frame.hdr.drive) = (conn, DriveId(3));
    }
    s.release(|f| f.hdr.kind == MsgType::Read && !f.hdr.flags.has(Flags::ROLL));
    s.run(50_000);
    s.unhook();
    s.discard_held();
    s.wait(op);
    s.promote(2);
    s.push();
    s.read_each(0, 1);
}
