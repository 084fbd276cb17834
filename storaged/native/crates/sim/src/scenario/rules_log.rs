//! Rules of the log that show only after a restart: what a checkpoint, a summary and a logged bound are for.

use drystone_types::{LayerId, MsgType, ObjKey, Rule};

use super::script::VOL;
use super::{Scenario, Script};
use crate::history::What;
use crate::plan::Plan;
use crate::world::{HookVerdict, Place, Time};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a segment is emptied whose log no checkpoint covers", Some(Rule::ReuseCkpt), emptied_log)
            .in_world(small),
        Scenario::new("B8 a checkpoint without the hole, a power cut without the stable value", None, swept_hole)
            .noticing(&[Rule::HoleDurable, Rule::HoleStays]),
        Scenario::new("rot in a tail that an open has settled", Some(Rule::CloseTails), settled_tail),
        Scenario::new("L3 another volume fills the drives before the promises are redeemed", None, redeemed_late)
            .noticing(&[Rule::GrantBound])
            .in_world(two_small),
    ]
}

const SECOND: Time = 1_000_000;

/// Drives of 26 segments.
fn small() -> Plan {
    Plan { drive_slots: 600, chunks: 8, ..Plan::quiet() }
}

fn two_small() -> Plan {
    Plan { volumes: 2, drive_slots: 600, chunks: 10, depth: 8, ..Plan::quiet() }
}

/// The same blocks are written again and again: each segment of the log is emptied by the next ones, long before a
/// checkpoint covers it. Then the power goes. What recovery starts from is the checkpoint and the whole log since: no
/// segment of that log may hold something else by then.
fn emptied_log(s: &mut Script) {
    for run in 0..15 {
        let op = s.issue(0, What::Write(0), run * 200, 200);
        s.wait(op);
    }
    for overwrites in [8, 11, 14, 17] {
        for _ in 0..overwrites {
            if s.w.failure.is_some() {
                // Without the rule the next request would pile up on those that never end.
                return;
            }
            let op = s.issue(0, What::Write(0), 0, 200);
            s.wait(op);
        }
        s.w.stop_server(2, true);
        s.restart(2);
        s.read_each(0, 100);
    }
    s.demand("the drives are too small", s.count("io.no_space") == 0);
    let reused = s.w.drives[2].dev.shadow.seen.reused;
    s.demand("no segment was used again", reused > 10);
}

/// Block 1 was written and trimmed; the drive that was out is given up, so that nobody needs the hole; the drive
/// writes a checkpoint, and loses power before it has logged that the trim is stable. A late duplicate of the write
/// comes: only the hole says that it is old.
fn swept_hole(s: &mut Script) {
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
    let before = s.w.drives[2].replica.as_ref().map_or(0, |r| r.store().checkpoints());
    if let Some(r) = s.w.drives[2].replica.as_mut() {
        r.store_mut().checkpoint_now();
    }
    // The next message is what drives the log on.
    s.read_each(0, 3);
    s.until("a checkpoint", |w| w.drives[2].replica.as_ref().is_some_and(|r| r.store().checkpoints() > before));
    s.w.stop_server(2, true);
    s.restart(2);
    s.redeliver(0, 2);
    s.read_each(0, 1);
}

/// A restart writes the summary of the segment that was open. The header of one of its groups rots afterwards: the
/// summary tells the same, so the next restart loses nothing and the drive stays.
fn settled_tail(s: &mut Script) {
    for block in 0..8 {
        s.write_wait(0, block);
    }
    let key = ObjKey { layer: LayerId(10), chunk: 0 };
    let slot = s.w.drives[2].dev.shadow.model.cell(key, 4).map_or(0, |c| c.loc.slot());
    s.w.stop_server(2, true);
    s.restart(2);
    s.write_wait(0, 20);
    s.w.stop_server(2, true);
    let flipped = s.w.drives[2].dev.flip(slot - 1, 100);
    s.demand("there was nothing to spoil", flipped);
    s.w.flipped.insert(2);
    s.w.drives[2].dev.shadow.distrust();
    s.w.start_server(2);
    let until = s.w.now + 4 * SECOND;
    s.until("the drive leaves or serves", |w| w.counts.get("leave.suspect") > 0 || w.now > until);
    let left = s.count("leave.suspect") > 0;
    s.must("SUSPECT", "a header rotted whose summary is whole, and the drive gave everything up", !left);
    for block in 0..8 {
        // What it cannot read it gets from a peer, and keeps.
        s.read_each_run(0, block, 1);
    }
    s.run(3 * SECOND);
}

/// A write is on its way, within its credits, when every server restarts, and its client does not get through to them for
/// long. Another volume takes all the space there is. What was promised before the restart must not be part of it.
fn redeemed_late(s: &mut Script) {
    s.until("both volumes", |w| (0..2).all(|c| w.clients[c].was_active));
    for run in 0..4 {
        let op = s.issue(0, What::Write(0), run * 200, 200);
        s.wait(op);
    }
    s.hook(|f| f.to_server && f.hdr.kind == MsgType::Write && f.hdr.vol == VOL);
    let late = s.issue(0, What::Write(0), 4 * 200, 200);
    s.run(20_000);
    s.demand("nothing is on its way", !s.w.held.is_empty());
    for n in 0..3 {
        s.w.stop_server(n, true);
        let (client, node, until) = (Place::Client(0), Place::Node(n), s.w.now + 600 * SECOND);
        s.w.cuts.extend([((client, node), until), ((node, client), until)]);
    }
    s.discard_held();
    s.unhook();
    for n in 0..3 {
        s.w.start_server(n);
    }
    s.until("every server", |w| {
        let serves = |d: &crate::server::Drive| d.replica.is_some();
        w.drives.iter().all(serves) && w.nodes.iter().all(|n| n.page.iter().all(|u| *u > w.now) && !n.page.is_empty())
    });
    let full = (0..45).any(|run| {
        let before = s.count("io.no_space");
        let op = s.issue(1, What::Write(0), run * 200, 200);
        s.wait(op);
        s.count("io.no_space") > before
    });
    s.demand("the drives never became full", full);
    s.w.cuts.clear();
    s.wait(late);
    s.read_each(0, 900);
}
