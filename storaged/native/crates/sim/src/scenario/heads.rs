//! Switches of the head layer, daemons that restart, and deletions: the transactions of a volume.

use drystone_types::{LayerId, MsgType, ObjKey, Rule};

use super::script::VOL;
use super::{Scenario, Script};
use crate::event::{End, Proc, Request};
use crate::plan::Plan;
use crate::world::{Place, Time};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("P8 a fenced sequencer's switch does not commit", Some(Rule::S1Gen), fenced_switch),
        Scenario::new("P8 crash between cut and S4", Some(Rule::S4Finish), crash_before_s4),
        Scenario::new("B4 a next head between A1 and the seal", Some(Rule::TicketOfA1), next_head_before_a1),
        Scenario::new("P12 a daemon that restarts takes no volume back", Some(Rule::ReAdopt), takes_nothing_back),
        Scenario::new("L5 a restarted daemon adopts its attachment again", None, adopts_again),
        Scenario::new("layer deleted while a drive is out", Some(Rule::OrderWaits), deleted_while_out)
            .in_world(two_volumes),
    ]
}

const SECOND: Time = 1_000_000;

fn two_volumes() -> Plan {
    Plan { volumes: 2, ..Plan::quiet() }
}

/// The old owner's S1 arrives while the next one seals: it would freeze the head that one writes to.
fn fenced_switch(s: &mut Script) {
    s.write_wait(0, 1);
    let c = s.w.clients.len();
    s.hook(move |f| f.to_server && f.hdr.kind == MsgType::Seal && f.from == End::Client(c));
    s.attach();
    s.until("A1", |w| w.meta.volumes.get(&VOL).is_some_and(|v| v.gen.0 == 2));
    // The answer does not reach it: every drive still takes the next one's writes to the old head.
    let until = s.w.now + 20 * SECOND;
    s.w.cuts.insert((Place::Store, Place::Client(0)), until);
    let gen = s.w.clients[0].gen;
    s.w.call(Proc::Client(0), Request::NewHead(VOL, gen));
    s.run(50_000);
    s.unhook();
    s.release(|_| true);
    s.until_active(c);
    s.write_wait(c, 1);
    s.run(200_000);
    s.write_wait(c, 2);
    s.read_each(c, 1);
}

/// Every member froze the old head, and nobody told the store.
fn crash_before_s4(s: &mut Script) {
    s.write_wait(0, 1);
    s.w.new_head(VOL);
    s.until("S1", |w| w.meta.volumes.get(&VOL).is_some_and(|v| v.next_head.is_some()));
    let until = s.w.now + 20 * SECOND;
    s.w.cuts.insert((Place::Client(0), Place::Store), until);
    s.write_wait(0, 2);
    s.run(500_000);
    s.w.kill_client(0);
    let c = s.attach();
    s.until_active(c);
    let ended = s.w.meta.volumes.get(&VOL).is_some_and(|v| v.next_head.is_none() && v.chain.len() == 2);
    s.must("S4", "a cut was left half done", ended);
    s.write_wait(c, 1);
    s.read_each(c, 1);
    s.read_each(c, 2);
}

/// The ticket of an attach holds the head that was begun before its transaction.
fn next_head_before_a1(s: &mut Script) {
    s.write_wait(0, 1);
    let c = s.w.clients.len();
    let until = s.w.now + 50_000;
    s.w.cuts.insert((Place::Client(c), Place::Store), until);
    s.attach();
    s.run(10_000);
    let gen = s.w.clients[0].gen;
    let begun = s.w.meta.new_head(VOL, gen).is_some();
    s.demand("S1 did not happen", begun);
    s.until_active(c);
    s.write_wait(c, 1);
    s.write_wait(c, 2);
    s.run(500_000);
    let next = s.attach();
    s.until_active(next);
    s.read_each(next, 1);
}

/// Another client took the volume while the daemon was away.
fn takes_nothing_back(s: &mut Script) {
    s.write_wait(0, 1);
    let c = s.attach();
    s.until_active(c);
    s.write_wait(c, 1);
    let back = s.w.restart_client(0);
    s.run(3 * SECOND);
    let gen = s.w.meta.volumes.get(&VOL).map(|v| v.gen);
    s.must("P12", "a restarted daemon took the volume of its successor", gen == Some(s.w.clients[c].gen));
    s.demand("it was not refused", s.w.clients[back].fenced);
    s.write_wait(c, 1);
    s.read_each(c, 1);
}

/// The daemon starts again, and the store's answers are lost for a while: one generation more, not several.
fn adopts_again(s: &mut Script) {
    s.write_wait(0, 1);
    let late = s.write(0, 2);
    s.w.plan.lost_replies = 1000;
    let back = s.w.restart_client(0);
    s.run(2_500_000);
    let gen = s.w.meta.volumes.get(&VOL).map(|v| v.gen.0);
    s.demand("it did not take its attachment over once", gen == Some(2));
    s.w.plan.lost_replies = 0;
    s.until_active(back);
    s.demand("the write of the old daemon hangs", s.w.history.op(late).is_none());
    s.write_wait(back, 1);
    s.read_each(back, 1);
    s.read_each(back, 2);
}

/// The order waits for a drive that is out and holds the layer: it is given when the drive is back.
fn deleted_while_out(s: &mut Script) {
    let layer = LayerId(20);
    s.until("both volumes", |w| (0..2).all(|c| w.clients[c].was_active));
    for c in [0, 1] {
        s.write_wait(c, 1);
    }
    s.run(SECOND);
    // In a later epoch: what the drive held before is not compared when it returns.
    s.drop_quiesced(1);
    s.push();
    s.join(1);
    s.push();
    s.promote(1);
    s.push();
    s.run(SECOND);
    s.drop_dead(2, false);
    s.push();
    s.write_wait(0, 1);
    s.w.kill_client(1);
    s.w.delete_layer(layer);
    // More than a drive remembers to tell its joiners of.
    for other in 0..300 {
        s.w.delete_layer(LayerId(1_000 + other));
    }
    s.run(2 * SECOND);
    let holds = |s: &Script, d: usize| {
        let key = ObjKey { layer, chunk: 0 };
        s.w.drives[d].dev.shadow.model.objects.get(&key).is_some_and(|o| o.cells.values().any(|c| c.shows()))
    };
    let freed = !holds(s, 0) && !holds(s, 1);
    s.demand("the drives that serve kept the layer", freed);
    s.restart(2);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    s.until("the end of the order", |w| w.orders.is_empty());
    s.run(SECOND);
    let kept = holds(s, 2);
    s.must("ORDER", "a drive that was out keeps a layer whose order is done", !kept);
    s.write_wait(0, 1);
    s.read_each(0, 1);
}
