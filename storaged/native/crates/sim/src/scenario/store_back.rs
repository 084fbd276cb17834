//! An old state of the metadata store.

use drystone_types::Rule;

use super::{Scenario, Script};
use crate::event::Proc;
use crate::world::Time;

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![Scenario::new("B10 a restored backup of the metadata store", Some(Rule::StoreRev), old_store)]
}

const SECOND: Time = 1_000_000;

/// The backup has a drive in sync that was dropped since. Nobody acts on it; the newest store ends the trouble.
fn old_store(s: &mut Script) {
    s.w.managed = true;
    s.write_wait(0, 1);
    s.run(2 * SECOND);
    let backup = s.w.meta.clone();
    let id = s.id(2);
    s.w.stop_server(2, true);
    let op = s.write(0, 1);
    s.until("the drop", |w| w.meta.pg(0).is_some_and(|r| !r.is_insync(id)));
    s.wait(op);
    s.run(SECOND);
    let newest = s.w.put_back(backup);
    // A manager that begins anew has nothing but the store.
    let (old, thaw) = (s.w.meta.leader.map_or(0, |(m, _)| m), s.w.now + 6 * SECOND);
    s.w.frozen.insert(Proc::Manager(old), thaw);
    s.run(9 * SECOND);
    s.demand("nobody met the old store", s.count("store.old_refused") > 0);
    // The drives that serve go on by what they know.
    s.write_wait(0, 1);
    s.w.newest = Some(newest);
    s.w.newest_store();
    s.restart(2);
    s.until("it is in sync again", |w| w.meta.pg(0).is_some_and(|r| r.is_insync(id)));
    let c = s.attach();
    s.until_active(c);
    s.read_each(c, 1);
}
