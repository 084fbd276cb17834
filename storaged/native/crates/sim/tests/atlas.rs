//! Faults of single drives, and the atlas that keeps a whole copy of everything beside the one they spoil.
#![cfg(not(feature = "naive"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use drystone_sim::device::{Device, Wrong};
use drystone_sim::plan::{Fault, Plan};
use drystone_sim::rng::Rng;
use drystone_sim::runner::{build, healing_phase};
use drystone_sim::storage::{self, Structure};
use drystone_sim::world::World;
use drystone_store::api::{DevOp, DevResult};
use drystone_types::{Buf, Rules};
use proptest::prelude::*;

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

#[test]
fn a_copy_that_is_about_to_go_is_none_to_count_on() {
    let mut w = running();
    assert!(w.may_spoil(0));
    let node = drystone_sim::net::node_uuid(1);
    w.meta.suspects.insert(node, drystone_types::Rev(1));
    assert!(!w.may_spoil(0), "the drop of a node that stood still is on its way");
    w.meta.suspects.clear();
    w.drives[1].dev.read_errors = (10, w.now + 1);
    assert!(!w.may_spoil(0), "whoever meets an error has the drive dropped");
    w.drives[1].dev.read_errors = (0, 0);
    w.drives[1].dev.wrong = Some((Wrong::Fails, w.now + 1));
    assert!(!w.may_spoil(0), "its next write fails");
    w.drives[1].dev.wrong = None;
    w.nodes[1].armed = Some(true);
    assert!(!w.may_spoil(0), "its node stops at its next write");
    w.nodes[1].armed = None;
    assert!(w.may_spoil(0));
    w.retire_drive(1);
    let until = w.now + 20_000_000;
    w.run_until(until, &mut |w| w.drives[1].quiescing > 0);
    assert!(!w.may_spoil(0) && w.whole(), "it answers no reads any more, and is in sync still");
}

#[test]
fn nobody_throws_a_drive_away_that_only_an_old_store_refused() {
    let mut w = running();
    let id = w.drives[1].id;
    let refused = |w: &mut World| {
        w.start_server(1);
        let until = w.now + 2_000_000;
        w.run_until(until, &mut |w| w.drives[1].replica.is_some());
        w.drives[1].replica = None;
        let life = w.drives[1].life;
        w.other_medium(1, life);
        w.drives[1].id
    };
    w.newest = Some(w.meta.clone());
    assert_eq!(refused(&mut w), id, "nothing is decided on an old store");
    w.newest = None;
    assert_eq!(refused(&mut w), id, "it is what the newest store knows of it");
    w.drives[1].dev = storage::blank_device(1_000);
    assert_ne!(refused(&mut w), id);
}

/// Damage to one copy.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Bits of some blocks flip.
    Flip,
    /// Some blocks cannot be read until they are written again.
    Unreadable,
    /// What the log is made of rots.
    Rot(Structure),
    /// So many reads of 1000 fail for a while.
    ReadErrors(u64),
    /// A write or flush goes wrong, or a cache lies until the power goes.
    Goes(Fault),
}

fn damages() -> impl Strategy<Value = Vec<(Damage, u64, u64)>> {
    let one = prop_oneof![
        Just(Damage::Flip),
        Just(Damage::Unreadable),
        prop::sample::select(Structure::ALL.to_vec()).prop_map(Damage::Rot),
        prop::sample::select(vec![100, 400, 1000]).prop_map(Damage::ReadErrors),
        prop::sample::select(vec![
            Fault::WriteError,
            Fault::MisdirectedWrite,
            Fault::StaleBlock,
            Fault::LyingCache,
            Fault::PowerCut,
            Fault::KillServer,
        ])
        .prop_map(Damage::Goes),
    ];
    let pause = prop_oneof![Just(0u64), 0..100_000u64, 0..8_000_000u64];
    prop::collection::vec((one, any::<u64>(), pause), 1..8).prop_map(|mut list| {
        // With all four superblocks lost and few segments written, nothing names the drive.
        let mut superblocks = 0;
        list.retain(|(damage, ..)| {
            superblocks += u32::from(matches!(damage, Damage::Rot(Structure::Superblock)));
            superblocks < 2 || !matches!(damage, Damage::Rot(Structure::Superblock))
        });
        list
    })
}

/// Damages a drive, whatever it is going through just now. Returns whether there was anything to damage.
fn damage(w: &mut World, d: usize, what: Damage, seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let now = w.now;
    let drive = &mut w.drives[d];
    let Some(replica) = drive.replica.as_mut() else { return false };
    let (hit, log) = match what {
        Damage::Flip => (storage::flip(replica.store_mut(), &mut drive.dev, &mut rng), false),
        Damage::Unreadable => (storage::unreadable_for_good(&mut drive.dev, &mut rng), false),
        Damage::Rot(what) => (storage::rot(replica.store(), &mut drive.dev, what, &mut rng), true),
        Damage::ReadErrors(per_mille) => {
            drive.dev.read_errors = (per_mille, now + rng.below(3_000_000));
            return true;
        }
        Damage::Goes(fault) => {
            // The first one of this seed and those after it that meets this drive.
            let meets = |seed: &u64| {
                let mut rng = Rng::new(*seed);
                (rng.index(3), rng.index(3)) == (d, d)
            };
            let seed = (0..).map(|i| seed.wrapping_add(i)).find(meets).unwrap();
            return w.leaves_a_copy(fault) && w.inject(fault, seed);
        }
    };
    if hit > 0 {
        if log {
            w.log_spoilt(d);
        } else {
            w.spoilt(d);
        }
    }
    hit > 0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    /// Under load, at any moment of an earlier damage's healing: the other two copies are whole. Everything that is
    /// read is judged by the history (another byte is a failure), and all copies are equal in the end.
    #[test]
    fn whatever_goes_wrong_with_one_drive_is_healed(d in 0usize..3, seed in 0u64..1000, list in damages()) {
        let plan = Plan { think: 10_000, hot_blocks: 40, chunks: 4, depth: 4, ..Plan::quiet() };
        let mut w = build(seed, plan, Rules::ALL);
        w.run_until(5_000_000, &mut |_| false);
        for (what, seed, pause) in list {
            damage(&mut w, d, what, seed);
            let until = w.now + pause;
            w.run_until(until, &mut |_| false);
        }
        healing_phase(&mut w);
        w.compare_copies();
        w.final_space();
        prop_assert_eq!(&w.failure, &None);
        let whole = (0..3).all(|d| w.sound(d));
        prop_assert!(whole, "damage is left: {:?}", w.drives[d].dev.spoilt);
    }
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
