//! Rules of the log that no other schedule needs: each of these fails without its rule.

use drystone_types::{LayerId, MsgType, ObjKey, Rule};

use super::{Scenario, Script};
use crate::history::What;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::world::{HookVerdict, Time};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a torn group and two restarts", None, torn_twice),
        Scenario::new("a small write over a large one, then a restart", Some(Rule::ReplayOrder), small_over_large),
        Scenario::new(
            "B8 a drive is given up before the stable value is logged",
            Some(Rule::HoleStays),
            hole_and_member,
        ),
        Scenario::new("a segment is emptied while it is read", Some(Rule::ReuseWaits), long_read).in_world(very_full),
        Scenario::new("rot inside the acknowledged prefix is no torn tail", Some(Rule::TornRotten), rotten_prefix),
    ]
}

const SECOND: Time = 1_000_000;

/// The header of a group is whole, its data is torn: the first open cuts it off, and no later one may take it up.
fn torn_twice(s: &mut Script) {
    for block in 1..4 {
        s.write_wait(0, block);
    }
    s.w.drives[2].slow_least = 20_000;
    s.hook(|f| f.to_server && f.hdr.kind == MsgType::Write && f.drive != 2);
    s.write(0, 2);
    s.run(5_000);
    s.w.kill_client(0);
    s.discard_held();
    s.unhook();
    s.w.drives[2].dev.keep = Some(|_, sector| sector == 0);
    s.w.stop_server(2, true);
    s.w.drives[2].slow_least = 0;
    s.restart(2);
    let c = s.attach();
    s.until_active(c);
    for block in 4..9 {
        s.write_wait(c, block);
    }
    s.w.stop_server(2, true);
    s.restart(2);
    for block in 1..9 {
        s.read_each(c, block);
    }
}

/// Two streams hold two versions of a block; a restart applies them as they were admitted.
fn small_over_large(s: &mut Script) {
    for _ in 0..2 {
        let op = s.issue(0, What::Write(0), 0, 64);
        s.wait(op);
        s.write_wait(0, 5);
        let op = s.issue(0, What::Write(0), 128, 64);
        s.wait(op);
    }
    s.w.stop_server(2, true);
    s.restart(2);
    s.read_each(0, 5);
    s.read_each(0, 6);
}

/// Larger than what a peer remembers of the newest stable versions.
const NEWER: u64 = 80;

/// The header of an acknowledged group rots while its drive is off. The peers ask for newer versions only, and those are
/// in another stream: the log alone can tell.
fn rotten_prefix(s: &mut Script) {
    s.w.managed = true;
    for block in 0..8 {
        s.write_wait(0, block);
    }
    for run in 0..NEWER {
        let op = s.issue(0, What::Write(0), 512 + run % 4 * 100, 64);
        s.wait(op);
    }
    let key = ObjKey { layer: LayerId(10), chunk: 0 };
    let slot = s.w.drives[2].dev.shadow.model.cell(key, 4).map_or(0, |c| c.loc.slot());
    s.w.stop_server(2, true);
    let flipped = s.w.drives[2].dev.flip(slot - 1, 100);
    s.demand("there was nothing to spoil", flipped);
    s.w.flipped.insert(2);
    s.w.drives[2].dev.shadow.distrust();
    s.w.start_server(2);
    let (id, until) = (s.id(2), s.w.now + 4 * SECOND);
    s.until("the drive leaves or serves", |w| w.counts.get("leave.suspect") > 0 || w.now > until);
    s.until("it is in sync", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    for block in 0..8 {
        s.read_each(0, block);
    }
    s.demand("the drive did not leave", s.count("leave.suspect") > 0);
}

/// A trimmed block is at a drive whose stable value is not logged; the drive that was out is given up, so that nobody
/// needs the hole. The power goes: without the hole a late duplicate would be the newest version.
fn hole_and_member(s: &mut Script) {
    s.write_wait(0, 3);
    s.drop_dead(1, false);
    s.push();
    s.run(3 * SECOND);
    s.rule(|f| match f.to_server && f.hdr.kind == MsgType::Write && f.drive == 2 {
        true => HookVerdict::Keep,
        false => HookVerdict::Pass,
    });
    s.write_wait(0, 1);
    s.unhook();
    let op = s.issue(0, What::Trim, 1, 1);
    s.wait(op);
    s.run(120_000);
    let given_up = s.id(1);
    s.w.meta.give_up(0, given_up);
    s.push();
    s.w.stop_server(2, true);
    s.restart(2);
    s.redeliver(0, 2);
    s.read_each(0, 1);
}

/// A drive that has only a few free segments left.
fn very_full() -> Plan {
    Plan { drive_slots: 2_500, chunks: 8, depth: 16, ..Plan::quiet() }
}

/// Blocks written in the full drives of these schedules.
const FILLED: u64 = 6_000;

fn fill(s: &mut Script) {
    for run in 0..FILLED / 16 {
        let op = s.issue(0, What::Write(0), run * 16, 16);
        s.wait(op);
    }
    s.demand("the drives are too small", s.count("io.no_space") == 0);
}

/// Single reads of one drive take two seconds, in which garbage collection turns its segments over.
fn long_read(s: &mut Script) {
    fill(s);
    s.rule(|f| match f.to_server && f.hdr.kind == MsgType::Read && f.drive != 2 {
        true => HookVerdict::Lose,
        false => HookVerdict::Pass,
    });
    let mut dice = Rng::new(8);
    for i in 0..6_000 {
        s.issue(0, What::Write(0), dice.below(FILLED), 1);
        if i % 100 == 0 {
            s.w.drives[2].slow_reads = 2 * SECOND;
            s.read(0, dice.below(FILLED));
            s.run(200);
            s.w.drives[2].slow_reads = 0;
        }
        s.run(400);
    }
    s.until("every request", |w| w.history.open_of(0) == 0);
    let seen = s.w.drives[2].dev.shadow.seen;
    s.demand("no segment was used again", seen.reused > 10 && seen.moves > 100);
}
