//! Crashes of machines and devices.

use drystone_types::{MsgType, Rule};

use super::{Scenario, Script};
use crate::history::What;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::shadow::Seen;
use crate::world::HookVerdict;

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("kill -9 of everything at once", None, kill_everything),
        Scenario::new("power cut of everything at once", None, power_everything),
        Scenario::new("a torn group followed by a valid one", None, torn_then_valid),
        Scenario::new("lying cache: everything since the start is lost", Some(Rule::PeerCheck), liar_loses_all),
        Scenario::new("lying cache: some sectors are lost", None, liar_loses_some),
        Scenario::new(
            "lying cache: who knows better is silent at the next open",
            Some(Rule::DistrustStays),
            liar_again,
        ),
        Scenario::new("P14 an older image of a drive", Some(Rule::PeerCheck), older_image),
        Scenario::new("P14 a copy of a drive in another device", None, other_device),
        Scenario::new("garbage collection under a slow read", None, slow_read).in_world(nearly_full),
        Scenario::new("P13 a move of garbage collection loses its race", Some(Rule::MoveCas), move_races)
            .in_world(nearly_full),
    ]
}

/// A drive that garbage collection never leaves in peace.
fn nearly_full() -> Plan {
    Plan { drive_slots: 2_500, chunks: 8, depth: 16, ..Plan::quiet() }
}

fn everything(s: &mut Script, power: bool) {
    for block in 0..8 {
        s.write_wait(0, block);
    }
    let open: Vec<_> = (0..8).map(|block| s.write(0, block)).collect();
    s.run(260);
    s.demand("nothing was under way", open.iter().any(|op| s.w.history.op(*op).is_some()));
    s.w.kill_client(0);
    for n in 0..3 {
        s.w.stop_server(n, power);
    }
    s.run(50_000);
    for n in 0..3 {
        s.w.start_server(n);
    }
    let c = s.attach();
    s.until_active(c);
    for block in 0..8 {
        s.read_each(c, block);
    }
}

/// Every process ends in the middle of eight writes; every acknowledged one is there.
fn kill_everything(s: &mut Script) {
    everything(s, false);
}

/// The same with the power.
fn power_everything(s: &mut Script) {
    everything(s, true);
}

/// Two groups of a stream are in flight; the first is torn, the second whole: neither counts.
fn torn_then_valid(s: &mut Script) {
    s.write_wait(0, 1);
    s.w.drives[2].slow_least = 20_000;
    let first = s.write(0, 2);
    s.run(1_000);
    let second = s.write(0, 3);
    s.run(5_000);
    s.w.drives[2].dev.keep = Some(|write, sector| write == 1 || sector == 0);
    s.w.stop_server(2, true);
    s.w.drives[2].slow_least = 0;
    s.restart(2);
    s.demand("no valid group was behind a torn one", s.w.drives[2].dev.shadow.seen.behind_torn > 0);
    s.wait(first);
    s.wait(second);
    for block in 1..4 {
        s.read_each(0, block);
    }
}

/// One drive acknowledges what only its cache holds; the power goes; it must not count as a copy any more.
fn lying(s: &mut Script, keep: u64) {
    s.w.drives[2].dev.cache_kept = Some(keep);
    s.w.managed = true;
    s.w.drives[2].dev.lies = true;
    for block in 0..40 {
        s.write_wait(0, block);
    }
    s.run(3_000_000);
    s.w.stop_server(2, true);
    s.run(100_000);
    s.w.start_server(2);
    let id = s.id(2);
    s.run(5_000_000);
    s.until("it joins again and is filled", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    for block in 0..40 {
        s.read_each(0, block);
    }
    let left = s.count("leave.peer_check") + s.count("leave.suspect") > 0;
    s.demand("the drive that lost writes did not leave", left);
}

fn liar_loses_all(s: &mut Script) {
    lying(s, 0);
}

fn liar_loses_some(s: &mut Script) {
    lying(s, 500);
}

/// A drive learns that it lost writes while no manager leads. It opens again, and no peer answers its check.
fn liar_again(s: &mut Script) {
    s.w.drives[2].dev.cache_kept = Some(0);
    s.w.drives[2].dev.lies = true;
    for block in 0..40 {
        s.write_wait(0, block);
    }
    s.run(3_000_000);
    s.w.stop_server(2, true);
    s.restart(2);
    s.run(3_000_000);
    s.demand("it did not learn it", s.count("leave.peer_check") > 0);
    s.w.stop_server(2, false);
    s.rule(|f| if f.hdr.kind == MsgType::PeerCheck { HookVerdict::Lose } else { HookVerdict::Pass });
    s.restart(2);
    s.run(3_000_000);
    for block in 0..40 {
        s.read_each_run(0, block, 1);
    }
    let (id, asked) = (s.id(2), s.count("leave.peer_check"));
    s.run(4_000_000);
    s.demand("it does not ask to leave", s.count("leave.peer_check") > asked);
    s.w.managed = true;
    s.run(5_000_000);
    s.until("it joins again and is filled", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    for block in 0..40 {
        s.read_each(0, block);
    }
}

/// Blocks are overwritten while garbage collection moves them, and the power goes now and then.
fn move_races(s: &mut Script) {
    for run in 0..300 {
        let op = s.issue(0, What::Write(0), run * 16, 16);
        s.wait(op);
    }
    let mut dice = Rng::new(7);
    for round in 0..24 {
        for _ in 0..400 {
            s.issue(0, What::Write(0), dice.below(4_800), 1);
            s.run(300);
        }
        s.until("the writes", |w| w.history.open_of(0) == 0);
        let n = (round % 3) as usize;
        s.w.nodes[n].armed = Some(round % 2 == 0);
        s.write(0, dice.below(4_800));
        s.until("the stop", move |w| !w.nodes[n].up);
        s.until("the start", move |w| w.nodes[n].up && w.drives[n].replica.is_some());
        s.until("the write", |w| w.history.open_of(0) == 0);
    }
    let seen = |f: fn(&Seen) -> u64| (0..3).map(|d| f(&s.w.drives[d].dev.shadow.seen)).sum::<u64>();
    let (moves, lost) = (seen(|x| x.moves), seen(|x| x.moves_lost));
    s.demand("garbage collection moved nothing", moves > 1_000);
    s.demand("no move lost its race", lost > 0);
}

/// The medium of a drive is put back to what it was before the last writes, the device is the same.
fn older_image(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    s.run(3_000_000);
    s.w.stop_server(2, false);
    s.restart(2);
    let old = s.w.drives[2].dev.copy();
    for block in 0..20 {
        s.write_wait(0, block);
    }
    s.run(3_000_000);
    s.w.stop_server(2, false);
    s.w.drives[2].dev = old;
    // Nothing is known of this medium any more.
    s.w.drives[2].dev.lies = true;
    s.w.drives[2].dev.shadow.distrust();
    s.w.start_server(2);
    let id = s.id(2);
    s.run(5_000_000);
    s.until("it joins again and is filled", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    for block in 0..20 {
        s.read_each(0, block);
    }
    let left = s.count("leave.peer_check") + s.count("leave.suspect") > 0;
    s.demand("the old image did not leave", left);
}

/// A drive cloned block by block onto another device may not be opened in its place.
fn other_device(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    s.w.stop_server(2, false);
    let (own, other) = (s.w.drives[2].serial, s.w.fresh());
    s.w.drives[2].serial = other;
    s.w.start_server(2);
    s.run(500_000);
    let refused = s.count("drive.open_refused") > 0 && s.w.drives[2].replica.is_none();
    s.demand("a copy on another device was opened", refused);
    s.w.stop_server(2, false);
    s.w.drives[2].serial = own;
    s.restart(2);
    let id = s.id(2);
    s.until("it is in sync again", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    s.read_each(0, 1);
}

/// Reads of one drive take thirty milliseconds while its segments are emptied and used again.
fn slow_read(s: &mut Script) {
    for run in 0..300 {
        let op = s.issue(0, What::Write(0), run * 16, 16);
        s.wait(op);
    }
    s.w.drives[2].slow_reads = 30_000;
    // Reads go to the slow drive.
    s.rule(|f| {
        let elsewhere = f.to_server && f.hdr.kind == MsgType::Read && f.drive != 2;
        if elsewhere {
            HookVerdict::Lose
        } else {
            HookVerdict::Pass
        }
    });
    let mut dice = Rng::new(8);
    for i in 0..6_000 {
        s.issue(0, What::Write(0), dice.below(4_800), 1);
        if i % 4 == 0 {
            s.read(0, dice.below(4_800));
        }
        s.run(400);
    }
    s.until("every request", |w| w.history.open_of(0) == 0);
    s.w.drives[2].slow_reads = 0;
    let seen = s.w.drives[2].dev.shadow.seen;
    s.demand("no segment was used again", seen.reused > 10 && seen.moves > 100);
}
