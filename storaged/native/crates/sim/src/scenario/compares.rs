//! Comparing copies that differ, which no honest history makes them do.

use drystone_types::{BufMut, MsgType};

use super::{Scenario, Script};
use crate::world::FrameFacts;

/// Scenarios of this file.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new("two copies with other bytes of one version are told, not healed", None, other_bytes),
        Scenario::new("copies are compared under writes and a drop", None, under_load),
    ]
}

fn is_write(f: &FrameFacts) -> bool {
    f.to_server && f.hdr.kind == MsgType::Write
}

fn compare(s: &mut Script) -> drystone_replica::Compared {
    s.w.compared.clear();
    let asked = s.w.compare_pg(0);
    s.demand("nobody can compare", asked);
    s.until("the end of the comparison", |w| w.compared.contains_key(&0));
    s.w.compared.get(&0).copied().unwrap_or_default()
}

/// A sender whose memory rots signs bytes for one drive that it did not sign for the others.
fn other_bytes(s: &mut Script) {
    (1..6).for_each(|block| s.write_wait(0, block));
    s.hook(|f| is_write(f) && f.drive == 2);
    let op = s.write(0, 1);
    s.run(20_000);
    s.demand("nothing to plant", s.w.held.len() == 1);
    for (_, _, frame) in &mut s.w.held {
        let mut bytes = BufMut::with_len(frame.data.len());
        bytes.as_mut_slice().copy_from_slice(frame.data.as_slice());
        bytes.as_mut_slice()[77] ^= 1;
        frame.data = bytes.freeze();
        let csum = drystone_csum::block_csum(frame.hdr.vol, frame.hdr.block, frame.data.block(0).as_slice());
        frame.csums = vec![csum];
    }
    s.unhook();
    s.release(|_| true);
    s.wait(op);
    // It becomes stable everywhere.
    s.run(3_000_000);
    let seen = compare(s);
    s.must("COMPARE", "the difference was not told", seen.divergent == 1 && s.count("compare.divergent") == 1);
    s.must("COMPARE", "a copy was healed by guessing", seen.bad_here + seen.bad_there == 0);
    let again = compare(s);
    s.must("COMPARE", "the difference has gone", again.divergent == 1);
    // What an operator does: the copy that is wrong goes, and is made again from the others.
    s.drop_quiesced(2);
    s.push();
    let id = s.id(2);
    s.w.meta.forget_content(id);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    s.run(3_000_000);
    let after = compare(s);
    s.must("COMPARE", "the copy made anew differs", after.divergent == 0 && after.blocks >= 5);
}

/// Writes that are on their way, trims that one has dropped, and a drop in the middle are no differences.
fn under_load(s: &mut Script) {
    for round in 0..40 {
        let block = round % 20;
        let op = s.write(0, block);
        if round % 3 == 0 {
            s.issue(0, crate::history::What::Trim, (block + 7) % 20, 1);
        }
        s.w.compare_pg(0);
        s.run(50_000);
        s.wait(op);
        if round == 20 {
            s.w.compare_pg(0);
            s.drop_quiesced(2);
            s.push();
        }
    }
    s.run(3_000_000);
    s.join(2);
    s.push();
    s.promote(2);
    s.push();
    s.run(3_000_000);
    let seen = compare(s);
    s.must("COMPARE", "copies differ", seen.divergent == 0 && s.count("compare.divergent") == 0);
    s.demand("nothing was compared", s.count("compare.done") > 10 && s.count("compare.unstable") > 0);
}
