//! Faults of single drives, and the atlas that keeps a whole copy of everything beside the one they spoil.
#![cfg(not(feature = "naive"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use drystone_sim::device::{Device, Wrong};
use drystone_sim::plan::{Fault, Plan};
use drystone_sim::rng::Rng;
use drystone_sim::runner::build;
use drystone_sim::world::World;
use drystone_store::api::{DevOp, DevResult};
use drystone_types::{Buf, Rules};

/// Time in which a drive that was spoilt leaves, is filled again and scrubbed.
const HEALED_WITHIN: u64 = 60_000_000;

/// Three drives, all in sync, under load.
fn running() -> World {
    let plan = Plan { think: 10_000, hot_blocks: 40, chunks: 4, depth: 4, ..Plan::quiet() };
    let mut w = build(3, plan, Rules::ALL);
    w.run_until(10_000_000, &mut |_| false);
    assert_eq!(w.failure, None);
    w
}

/// Waits until nothing is known to be spoilt.
fn heal(w: &mut World) {
    let until = w.now + HEALED_WITHIN;
    w.run_until(until, &mut |w| {
        let over = w.scrubbing.is_none() && w.atlas.lying.is_none() && w.atlas.reopen.is_none();
        over && w.calm() && w.drives.iter().all(|d| d.dev.wrong.is_none())
    });
    assert_eq!(w.failure, None);
}

#[test]
fn a_drive_may_be_spoilt_only_where_another_copy_is_whole() {
    let mut w = running();
    assert!((0..3).all(|d| w.may_spoil(d) && w.may_lose(d)));
    w.drives[1].dev.lies = true;
    assert!(w.may_spoil(0) && w.may_lose(0), "drive 3 has everything");
    w.atlas.unproven = Some(2);
    assert!(!w.may_spoil(0) && !w.may_lose(0), "nobody else does");
    assert!(w.may_spoil(1), "drive 1 does");
}

#[test]
fn rot_in_a_block_counts_until_the_block_is_written_anew() {
    let mut w = running();
    let model = &w.drives[1].dev.shadow.model;
    let cell = model.objects.values().flat_map(|o| o.cells.values()).find(|c| c.loc.is_data()).unwrap();
    let slot = cell.loc.slot();
    let good = w.drives[1].dev.read(slot * 4096, 4096);
    w.drives[1].dev.spoil(slot, Buf::copy_from(&[7; 4096]));
    assert!(!w.sound(1));
    w.drives[1].dev.write(slot * 4096, &[good], true);
    assert!(w.sound(1));
}

#[test]
fn while_a_copy_is_spoilt_only_faults_that_leave_another_one_come() {
    let mut w = running();
    assert!((0..50).any(|seed| w.inject(Fault::MetadataRot, seed)));
    assert!([Fault::CrashClient, Fault::Fence, Fault::FreezeManager].iter().all(|f| w.leaves_a_copy(*f)));
    let taking = [Fault::BlankDrive, Fault::WipedDrive, Fault::Cut, Fault::Partition, Fault::KillServer];
    assert!(taking.iter().all(|f| !w.leaves_a_copy(*f)));
    assert!((0..3).all(|d| !w.may_spoil(d)), "one at a time");
    heal(&mut w);
    assert!(taking.iter().all(|f| w.leaves_a_copy(*f)));
}

fn write(id: u64, slot: u64, byte: u8, slots: usize) -> DevOp {
    DevOp::Write { id, offset: slot * 4096, bufs: vec![Buf::copy_from(&vec![byte; slots * 4096])], durable: true }
}

#[test]
fn a_write_that_is_not_stored_leaves_what_was_there_and_one_that_goes_astray_hits_another_place() {
    for seed in 0..20 {
        let mut dev = Device::new(1 << 20);
        for (id, slot) in [(1, 0), (2, 8)] {
            dev.submit(id, write(id, slot, 1, 8));
            dev.finish(id);
        }
        for (id, wrong) in [(3, Wrong::Stale), (4, Wrong::Elsewhere)] {
            dev.submit(id, write(id, 0, id as u8, 4));
            assert!(dev.fits(id, wrong));
            let (result, hit) = dev.mislead(id, wrong, &mut Rng::new(seed)).unwrap();
            assert!(matches!(result, DevResult::Ok(_)), "the device says that it is stored");
            assert!(hit.iter().all(|s| dev.spoilt.contains(s)));
            let new = |s: u64| dev.read(s * 4096, 4096).as_slice() == [id as u8; 4096];
            let missed = (0..4).filter(|s| !new(*s)).count();
            let astray = (4..16).filter(|s| new(*s)).count();
            assert_eq!(astray, usize::from(wrong == Wrong::Elsewhere));
            assert!(missed == 1 || wrong == Wrong::Stale && missed == 4);
        }
    }
}

#[test]
fn sectors_that_cannot_be_read_can_be_once_they_are_written() {
    let mut dev = Device::new(1 << 20);
    dev.write(0, &[Buf::copy_from(&[1; 8192])], true);
    dev.latent.insert(1);
    dev.spoilt.insert(1);
    let read = |dev: &mut Device| {
        dev.submit(9, DevOp::Read { id: 9, offset: 0, len: 8192 });
        dev.finish(9).unwrap()
    };
    assert!(matches!(read(&mut dev), DevResult::Failed(_)));
    dev.write(4096, &[Buf::copy_from(&[2; 4096])], true);
    assert!(matches!(read(&mut dev), DevResult::Ok(_)));
}
