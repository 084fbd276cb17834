//! Devices that fail to read for a while when a volume is attached.

use drystone_store::api::{BlockKind, Held, ObjectStore};
use drystone_types::{LayerId, MsgType, ObjKey, Rule};

use super::{Scenario, Script};
use crate::event::End;
use crate::storage;
use crate::world::{FrameFacts, HookVerdict};

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("a device error at attach loses nothing", Some(Rule::A4Bad), device_error),
        Scenario::new("a device error at attach and a joiner that is behind", None, device_error_and_older_copy),
        Scenario::new("a device that recovers during the attach", None, device_recovers),
    ]
}

fn is_write(f: &FrameFacts) -> bool {
    f.to_server && f.hdr.kind == MsgType::Write
}

fn is_copying(f: &FrameFacts) -> bool {
    f.from == End::Drive(2) && f.to_server && matches!(f.hdr.kind, MsgType::Digest | MsgType::Copy)
}

fn reads_fail(s: &mut Script, d: usize, on: bool) {
    let drive = &mut s.w.drives[d];
    if let Some(replica) = drive.replica.as_mut() {
        storage::refuse_reads(replica.store_mut(), &mut drive.dev, on);
    }
}

fn is_bad(s: &Script, d: usize) -> bool {
    let key = ObjKey { layer: LayerId(10), chunk: 0 };
    let held = s.w.drives[d].replica.as_ref().map(|r| r.store().held(key, 1));
    matches!(held, Some(Held::Known { kind: BlockKind::Bad, .. }))
}

/// A write that nobody acknowledged is on drive 0, which alone is in sync; its client is gone.
fn only_on_first(s: &mut Script) {
    s.hook(|f| is_write(f) && f.drive != 0);
    s.write(0, 1);
    s.run(20_000);
    s.w.kill_client(0);
    s.discard_held();
    s.unhook();
}

/// The last copy of a write cannot be read while a client attaches; a joiner has nothing of it yet.
fn device_error(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    only_on_first(s);
    s.drop_quiesced(1);
    s.push();
    s.rule(|f| if is_copying(f) { HookVerdict::Lose } else { HookVerdict::Pass });
    s.join(2);
    s.push();
    reads_fail(s, 0, true);
    let c = s.attach();
    s.until_active(c);
    s.must("A4", "the block was given up", !is_bad(s, 2) && !is_bad(s, 0));
    // The copy runs, and waits for what cannot be read.
    s.unhook();
    s.run(3_000_000);
    let copied = s.w.meta.pg(0).is_some_and(|r| s.w.meta.copied.contains(&(0, s.id(2), r.epoch)));
    s.demand("a copy without the block is complete", !copied);
    reads_fail(s, 0, false);
    s.promote(2);
    s.push();
    s.read_each(c, 1);
}

/// The joiner has an older write of the block since it joined: its copy would keep that, so it leaves.
fn device_error_and_older_copy(s: &mut Script) {
    s.write_wait(0, 1);
    s.drop_quiesced(2);
    s.push();
    s.rule(|f| if is_copying(f) { HookVerdict::Lose } else { HookVerdict::Pass });
    s.join(2);
    s.push();
    s.write_wait(0, 1);
    s.drop_quiesced(1);
    s.push();
    only_on_first(s);
    reads_fail(s, 0, true);
    let c = s.attach();
    s.until("the joiner that asks to leave", |w| w.counts.get("leave.behind") > 0);
    s.demand("an attach ended over an older copy", !s.w.clients[c].was_active);
    let id = s.id(2);
    s.change(crate::meta::Change::Drop(id));
    s.push();
    s.until_active(c);
    reads_fail(s, 0, false);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    s.read_each(c, 1);
}

/// The attach waits a few seconds for the device, which is enough.
fn device_recovers(s: &mut Script) {
    s.write_wait(0, 1);
    only_on_first(s);
    reads_fail(s, 0, true);
    let c = s.attach();
    s.run(2_000_000);
    s.demand("the attach did not wait", !s.w.clients[c].was_active);
    reads_fail(s, 0, false);
    s.until_active(c);
    let insync = s.w.meta.pg(0).map_or(0, |r| r.insync.len());
    s.demand("a drive was dropped for a moment's error", insync == 3);
    s.read_each(c, 1);
}
