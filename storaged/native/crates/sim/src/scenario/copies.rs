//! Duplicates, trims and copies that meet crashes.

use drystone_store::api::{Held, ObjectStore};
use drystone_types::{LayerId, MsgType, ObjKey, Rule};

use super::{Scenario, Script};
use crate::event::End;
use crate::history::What;
use crate::world::{FrameFacts, HookVerdict};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("P10 a duplicate after its trim was forgotten", None, duplicate_after_trim),
        Scenario::new("B8 a duplicate after a restart forgot the stable value", None, duplicate_after_restart),
        Scenario::new("P20 a restarted joiner and an old duplicate", Some(Rule::JoinBits), joiner_forgets),
        Scenario::new("B6 a copy yields to a write that a power cut takes", None, copy_yields),
        Scenario::new("B7 a queued group survives drop and re-join", None, queued_group),
    ]
}

fn is_write(f: &FrameFacts) -> bool {
    f.to_server && f.hdr.kind == MsgType::Write
}

fn is_copying(f: &FrameFacts) -> bool {
    f.from == End::Drive(2) && f.to_server && matches!(f.hdr.kind, MsgType::Digest | MsgType::Copy)
}

/// Writes block 1 and keeps a copy of the frame that went to drive 2.
fn write_twice(s: &mut Script) {
    s.rule(|f| if is_write(f) && f.drive == 2 { HookVerdict::Keep } else { HookVerdict::Pass });
    s.write_wait(0, 1);
    s.unhook();
}

fn trim(s: &mut Script) {
    let op = s.issue(0, What::Trim, 1, 1);
    s.wait(op);
}

fn hole_is_gone(s: &Script, d: usize) -> bool {
    let key = ObjKey { layer: LayerId(10), chunk: 0 };
    s.w.drives[d].replica.as_ref().is_some_and(|r| r.store().held(key, 1) == Held::Absent)
}

/// A hole is dropped only when its version is durably stable: then the duplicate is below stable.
fn duplicate_after_trim(s: &mut Script) {
    write_twice(s);
    trim(s);
    s.until("the hole forgotten", |w| {
        let key = ObjKey { layer: LayerId(10), chunk: 0 };
        w.drives[2].replica.as_ref().is_some_and(|r| r.store().held(key, 1) == Held::Absent)
    });
    s.redeliver(0, 2);
    s.read_each(0, 1);
}

/// The power goes before the stable value is logged: the hole must be there, or the duplicate comes back.
fn duplicate_after_restart(s: &mut Script) {
    write_twice(s);
    s.run(2_500_000);
    trim(s);
    s.run(200_000);
    let gone = hole_is_gone(s, 2);
    s.w.stop_server(2, true);
    s.restart(2);
    s.run(500_000);
    s.redeliver(0, 2);
    s.read_each(0, 1);
    s.demand("the hole went before its stable value was durable", !gone);
}

/// Which blocks were written since the join is known after a restart too.
fn joiner_forgets(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.join(2);
    let copies_wait = |f: &FrameFacts| if is_copying(f) { HookVerdict::Lose } else { HookVerdict::Pass };
    s.rule(move |f| if is_write(f) && f.drive == 2 { HookVerdict::Keep } else { copies_wait(f) });
    s.push();
    s.write_wait(0, 1);
    s.rule(move |f| copies_wait(f));
    s.write_wait(0, 1);
    s.w.stop_server(2, true);
    s.restart(2);
    s.run(300_000);
    s.redeliver(0, 2);
    s.unhook();
    s.promote(2);
    s.push();
    s.read_each(0, 1);
}

/// The joiner calls a block kept because a direct write of it is under way; then the power goes.
fn copy_yields(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.hook(is_copying);
    s.join(2);
    s.push();
    s.run(20_000);
    s.w.drives[2].slow_least = 400_000;
    let op = s.write(0, 1);
    s.run(20_000);
    s.unhook();
    s.release(|_| true);
    s.run(200_000);
    let (id, record) = (s.id(2), s.w.meta.pg(0).cloned().unwrap_or_default());
    // What a manager would do that heard of the copy just before the power went.
    let announced = s.w.meta.copied.contains(&(0, id, record.epoch));
    s.w.drives[2].dev.keep = Some(|_, _| false);
    s.w.stop_server(2, true);
    s.w.drives[2].slow_least = 0;
    if announced {
        s.promote(2);
    }
    s.restart(2);
    s.push();
    s.wait(op);
    if !announced {
        s.promote(2);
        s.push();
    }
    s.read_each(0, 1);
}

/// A write is admitted, not durable, when its drive leaves and joins again in the same process.
fn queued_group(s: &mut Script) {
    s.write_wait(0, 1);
    s.w.drives[2].slow_least = 150_000;
    s.hook(|f| is_write(f) && f.drive != 2);
    s.write(0, 1);
    s.run(5_000);
    s.w.kill_client(0);
    s.discard_held();
    s.unhook();
    let id = s.id(2);
    s.change(crate::meta::Change::Drop(id));
    s.join(2);
    for d in 0..3 {
        s.push_to_drive(d);
    }
    s.run(400_000);
    s.w.drives[2].slow_least = 0;
    s.promote(2);
    s.push();
    let c = s.attach();
    s.until_active(c);
    s.read_each(c, 1);
}
