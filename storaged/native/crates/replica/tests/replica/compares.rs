//! Comparing the copies of a PG, and the pace of a scrub.

use crate::rig::*;
use crate::world::World;
use drystone_replica::{Action, Compared, Control, ControlResult, Event, Report};
use drystone_store::api::{BlockKind, BlockRecord, ObjectStore, Record, ScrubProgress, SpaceClass, Stream};
use drystone_store::testing::Hidden;
use drystone_types::*;

const KEY: ObjKey = ObjKey { layer: LAYER, chunk: 0 };
const COMPARE: Control = Control::Compare { pg: PG };

/// Blocks 0 to 5 and one of the next chunk, written and stable at all three.
fn settled() -> World {
    let mut w = World::new();
    for block in 0..6 {
        w.write(&[1, 2, 3], 1, 1 + block, block, 10 + block as u8);
    }
    w.write(&[1, 2, 3], 1, 9, 1024, 9);
    all_stable(&mut w, 9);
    w
}

fn all_stable(w: &mut World, seq: u64) {
    w.stable(&[1, 2, 3], 1, Version::new(1, seq));
    (1..=3).for_each(|d| w.drive(d).advance(2_000_000));
    w.settle();
}

fn begin(w: &mut World, drive: u32) {
    w.actions.clear();
    w.drive(drive).event(Event::Control { id: 77, req: COMPARE });
}

fn ended(w: &mut World, drive: u32) -> Option<ControlResult> {
    w.collect();
    w.actions.iter().find_map(|(d, a)| match a {
        Action::ControlDone { id: 77, result } if *d == drive => Some(*result),
        _ => None,
    })
}

fn compare(w: &mut World, drive: u32) -> ControlResult {
    begin(w, drive);
    for _ in 0..10 {
        w.settle();
        if let Some(result) = ended(w, drive) {
            return result;
        }
    }
    panic!("the comparison does not end");
}

fn compared(w: &mut World, drive: u32) -> Compared {
    match compare(w, drive) {
        ControlResult::Compared(seen) => seen,
        other => panic!("{other:?}"),
    }
}

/// The drive's log gets a record that no client sent.
pub fn plant(w: &mut World, drive: u32, block: u16, version: Option<Version>, fill: u8) {
    let data = Buf::copy_from(&vec![fill; 4096]);
    let rec = BlockRecord {
        vol: VOL,
        key: KEY,
        pg: PG,
        pg_epoch: Epoch(1),
        first: block,
        count: 1,
        kind: if version.is_some() { BlockKind::Data } else { BlockKind::Hole },
        version: version.unwrap_or_default(),
        since_join: None,
        copy: true,
        csums: vec![drystone_csum::block_csum(VOL, u64::from(block), data.as_slice())],
    };
    let (rec, data) = match version {
        Some(_) => (Record::Blocks(rec), data),
        None => (Record::Forget(BlockRecord { csums: Vec::new(), ..rec }), Buf::empty()),
    };
    let rig = w.drive(drive);
    rig.r.store_mut().append(Stream::Large, SpaceClass::Reserve, rec, data, u64::MAX).unwrap();
    rig.flush();
    rig.run();
}

type Side = Option<(BlockKind, Version)>;

/// Drive, block, and both sides of what was told.
fn told(w: &World) -> Vec<(u32, u16, Side, Side)> {
    let told = w.actions.iter().filter_map(|(_, a)| match a {
        Action::Report(Report::Divergent { drive, block, ours, theirs, .. }) => Some((drive.0, *block, *ours, *theirs)),
        _ => None,
    });
    told.collect()
}

fn data(seq: u64) -> Side {
    Some((BlockKind::Data, Version::new(1, seq)))
}

#[test]
fn equal_copies_compare_equal() {
    let mut w = settled();
    let seen = compared(&mut w, 1);
    assert_eq!(seen, Compared { chunks: 2, blocks: 7, ..Compared::default() });
    assert_eq!((w.drive(1).count("compares"), w.drive(1).count("compared_chunks")), (1, 2));
    assert!(told(&w).is_empty());
}

#[test]
fn another_stable_version_is_told_and_never_healed() {
    let mut w = settled();
    plant(&mut w, 2, 3, Some(Version::new(1, 7)), 99);
    let before = (w.chunk(1, 0), w.chunk(2, 0), w.chunk(3, 0));
    let seen = compared(&mut w, 1);
    assert_eq!((seen.divergent, seen.bad_here, seen.bad_there), (1, 0, 0));
    assert_eq!(told(&w), [(2, 3, data(4), data(7))]);
    assert_eq!((w.chunk(1, 0), w.chunk(2, 0), w.chunk(3, 0)), before, "nothing tells which is right");
    assert_eq!((1..=3).map(|d| w.drive(d).count("healed")).sum::<u64>(), 0);
}

#[test]
fn a_stable_block_that_a_member_lost_is_told() {
    let mut w = settled();
    plant(&mut w, 3, 2, None, 0);
    assert_eq!(compared(&mut w, 1).divergent, 1);
    assert_eq!(told(&w), [(3, 2, data(3), None)]);
    // And from the other side, with both others.
    assert_eq!(compared(&mut w, 3).divergent, 2);
    assert_eq!(told(&w), [(1, 2, None, data(3)), (2, 2, None, data(3))]);
}

#[test]
fn a_chunk_that_this_drive_lost_whole_is_on_the_others_lists() {
    let mut w = settled();
    for d in [2, 3] {
        w.write(&[d], 1, 10, 5 * 1024, 1);
    }
    w.stable(&[1, 2, 3], 1, Version::new(1, 10));
    assert_eq!(compared(&mut w, 1).divergent, 2);
}

#[test]
fn bytes_that_rotted_here_are_healed_and_those_of_another_by_itself() {
    let mut w = settled();
    w.drive(1).r.store_mut().corrupt(KEY, 1);
    w.drive(2).r.store_mut().corrupt(KEY, 4);
    let seen = compared(&mut w, 1);
    assert_eq!((seen.bad_here, seen.bad_there, seen.divergent), (1, 1, 0));
    w.settle();
    assert_eq!((w.drive(1).count("healed"), w.drive(2).count("healed")), (1, 1));
    w.assert_equal(1, 2, 0..2);
    let seen = compared(&mut w, 1);
    assert_eq!((seen.bad_here, seen.bad_there, seen.divergent), (0, 0, 0));
}

#[test]
fn two_writes_of_one_version_are_told_and_never_healed() {
    let mut w = settled();
    plant(&mut w, 3, 5, Some(Version::new(1, 6)), 77);
    let seen = compared(&mut w, 1);
    assert_eq!((seen.bad_here, seen.bad_there, seen.divergent), (0, 0, 1));
    assert_eq!(told(&w), [(3, 5, data(6), data(6))]);
    assert_eq!((w.drive(1).byte(1, 5), w.drive(3).byte(1, 5)), (Some(15), Some(77)));
}

#[test]
fn a_block_whose_version_is_lost_is_healed_here_and_asked_for_there() {
    let mut w = settled();
    w.drive(1).r.store_mut().lose_header(KEY, 1);
    w.drive(3).r.store_mut().lose_header(KEY, 2);
    let seen = compared(&mut w, 1);
    assert_eq!((seen.bad_here, seen.bad_there, seen.divergent), (1, 1, 0));
    w.settle();
    w.assert_equal(1, 2, 0..2);
    w.assert_equal(1, 3, 0..2);
}

#[test]
fn zeros_whose_version_is_lost_get_it_back_from_another_copy() {
    let mut w = settled();
    for d in [1, 2, 3] {
        let hdr = Header { block: 3, count: 1, seq: 10, ..w.drive(d).hdr(MsgType::Zero, 1) };
        assert_eq!(w.drive(d).call(Frame::bare(hdr)).hdr.status, Status::Ok);
    }
    all_stable(&mut w, 10);
    w.drive(1).r.store_mut().hide_header(KEY, 3, Hidden::Version);
    assert_eq!(compared(&mut w, 1).bad_here, 1);
    w.settle();
    assert_eq!(w.drive(1).count("healed"), 1);
    assert_eq!(w.drive(1).read(1, 3).hdr.status, Status::Ok);
}

#[test]
fn a_header_that_cannot_be_read_for_a_moment_makes_no_difference() {
    let mut w = settled();
    w.drive(1).r.store_mut().hide_header(KEY, 1, Hidden::Csum);
    let seen = compared(&mut w, 1);
    assert_eq!((seen.bad_here, seen.divergent), (0, 0), "both have the same bytes");
    assert!(told(&w).is_empty());
}

/// On both sides: nothing is healed that needs no healing, and no block is asked for.
#[test]
fn headers_that_no_device_reads_for_a_moment_are_waited_for() {
    for drive in [1, 2] {
        let mut w = settled();
        (0..6).for_each(|block| w.drive(drive).r.store_mut().hide_header(KEY, block, Hidden::Version));
        begin(&mut w, 1);
        w.settle_for(3);
        assert_eq!(ended(&mut w, 1), None);
        w.drive(drive).r.store_mut().show_headers();
        w.settle();
        let Some(ControlResult::Compared(seen)) = ended(&mut w, 1) else { panic!("it has ended") };
        assert_eq!((seen.chunks, seen.blocks, seen.bad_here, seen.bad_there, seen.divergent), (2, 7, 0, 0, 0));
        assert!(w.drive(1).count("compare_waits") > 1);
        let bad: u64 = (1..=3).map(|d| w.drive(d).count("bad_found") + w.drive(d).count("copies_served")).sum();
        assert_eq!(bad, 0, "drive {drive}");
    }
}

#[test]
fn headers_that_nobody_reads_any_more_end_the_wait_and_are_healed() {
    let mut w = settled();
    [0, 3].iter().for_each(|block| w.drive(1).r.store_mut().hide_header(KEY, *block, Hidden::Version));
    let seen = compared(&mut w, 1);
    assert_eq!((seen.bad_here, seen.divergent), (2, 0));
    assert_eq!(w.drive(1).count("compare_waits"), 10);
    w.settle();
    assert_eq!(w.drive(1).count("healed"), 2);
}

#[test]
fn a_write_that_is_on_its_way_to_a_member_is_no_difference() {
    let mut w = settled();
    w.write(&[1, 2], 1, 10, 3, 1);
    w.write(&[3], 1, 11, 4, 1);
    let seen = compared(&mut w, 1);
    assert_eq!((seen.divergent, seen.unstable, seen.blocks), (0, 1, 6));
}

#[test]
fn a_hole_that_one_member_dropped_is_no_difference() {
    let mut w = settled();
    for d in [1, 2, 3] {
        let hdr = Header { block: 3, count: 1, seq: 10, ..w.drive(d).hdr(MsgType::Trim, 1) };
        assert_eq!(w.drive(d).call(Frame::bare(hdr)).hdr.status, Status::Ok);
        assert_eq!(w.drive(d).stable(1, Version::new(1, 10)).hdr.status, Status::Ok);
    }
    // Only drive 2 has its stable value in the log, so it may drop the hole.
    w.drive(2).advance(2_000_000);
    w.drive(2).run();
    assert_ne!(w.chunk(1, 0), w.chunk(2, 0));
    assert_eq!(compared(&mut w, 1).divergent, 0);
    assert_eq!(compared(&mut w, 2).divergent, 0);
}

#[test]
fn a_trim_between_two_digests_is_no_lost_block() {
    let mut w = settled();
    begin(&mut w, 1);
    // Lists and digests are asked for; drive 1 takes its own digest now, the others answer after the trim.
    w.run_devices();
    while w.wire.iter().all(|m| m.2.hdr.kind != MsgType::Scrub) {
        assert!(w.deliver());
        w.run_devices();
        w.collect();
    }
    w.drive(1).run();
    for d in [1, 2, 3] {
        let hdr = Header { block: 3, count: 1, seq: 10, ..w.drive(d).hdr(MsgType::Trim, 1) };
        assert_eq!(w.drive(d).call(Frame::bare(hdr)).hdr.status, Status::Ok);
    }
    w.stable(&[2, 3], 1, Version::new(1, 10));
    (2..=3).for_each(|d| w.drive(d).advance(2_000_000));
    (2..=3).for_each(|d| w.drive(d).run());
    w.settle();
    let Some(ControlResult::Compared(seen)) = ended(&mut w, 1) else { panic!("it has ended") };
    assert_eq!((seen.chunks, seen.divergent), (2, 0));
    assert!(told(&w).is_empty());
}

#[test]
fn a_layer_that_was_freed_here_may_be_there_still() {
    let mut w = settled();
    assert_eq!(w.drive(1).control(Control::FreeLayer { layer: LAYER }), ControlResult::Done);
    assert_eq!(compared(&mut w, 1).divergent, 0);
}

#[test]
fn another_epoch_begins_the_comparison_anew_with_its_members() {
    let mut w = settled();
    plant(&mut w, 3, 2, None, 0);
    w.tap = Some(Box::new(|_, to, frame| to != 3 || frame.hdr.kind != MsgType::Scrub));
    begin(&mut w, 1);
    w.settle();
    assert_eq!(ended(&mut w, 1), None, "drive 3 does not answer");
    w.map(map(2, 2, &[1, 2], &[]));
    w.settle();
    let Some(ControlResult::Compared(seen)) = ended(&mut w, 1) else { panic!("it has ended") };
    assert_eq!(seen, Compared { chunks: 2, blocks: 7, ..Compared::default() });
}

#[test]
fn a_member_that_stays_silent_ends_the_comparison_with_a_reason() {
    let mut w = settled();
    w.tap = Some(Box::new(|_, to, frame| to != 3 || frame.hdr.kind != MsgType::Scrub));
    let ControlResult::Failed(why) = compare(&mut w, 1) else { panic!("it cannot be compared") };
    assert!(why.contains("does not answer"), "{why}");
    // The next one has a chance.
    w.tap = None;
    assert_eq!(compared(&mut w, 1).chunks, 2);
}

#[test]
fn garbage_for_a_digest_ends_the_comparison_and_nothing_else() {
    let mut w = settled();
    w.tap = Some(Box::new(|_, _, frame| {
        if frame.hdr.kind == MsgType::Scrub && frame.hdr.is_resp() {
            frame.meta = vec![255; 40];
        }
        true
    }));
    assert!(matches!(compare(&mut w, 1), ControlResult::Failed(_)));
    assert!(told(&w).is_empty());
}

#[test]
fn only_a_member_in_sync_compares_and_one_group_at_a_time() {
    let mut w = settled();
    begin(&mut w, 1);
    let other = Control::Compare { pg: PgId { pg: 1, ..PG } };
    assert!(matches!(w.drive(1).control(other), ControlResult::Failed(why) if why.contains("another group")));
    w.settle();
    w.map(map(2, 2, &[1, 2], &[]));
    assert!(matches!(compare(&mut w, 3), ControlResult::Failed(why) if why.contains("not in sync")));
    // Alone there is nothing to compare with.
    w.map(map(3, 3, &[1], &[]));
    assert_eq!(compared(&mut w, 1), Compared::default());
}

/// Whoever asked first does not wait any more, as after an election.
#[test]
fn a_comparison_that_is_asked_for_once_more_is_for_who_asks_last_with_all_that_it_found() {
    for silent_from in [0, 1] {
        let mut w = settled();
        plant(&mut w, 3, 2, None, 0);
        w.tap = Some(Box::new(move |_, to, frame| {
            to != 3 || frame.hdr.kind != MsgType::Scrub || frame.meta.get(8).is_none_or(|chunk| *chunk < silent_from)
        }));
        begin(&mut w, 1);
        w.settle();
        assert_eq!(ended(&mut w, 1), None, "drive 3 does not answer");
        assert_eq!(told(&w).len(), usize::from(silent_from));
        w.tap = None;
        w.drive(1).event(Event::Control { id: 78, req: COMPARE });
        assert!(matches!(ended(&mut w, 1), Some(ControlResult::Failed(why)) if why.contains("once more")));
        w.actions.clear();
        (0..10).for_each(|_| w.settle());
        let done = w.actions.iter().filter_map(|(_, a)| match a {
            Action::ControlDone { id, result } => Some((*id, *result)),
            _ => None,
        });
        let seen = Compared { chunks: 2, blocks: 7, divergent: 1, ..Compared::default() };
        assert_eq!(done.collect::<Vec<_>>(), [(78, ControlResult::Compared(seen))]);
        assert_eq!(told(&w).len(), 1);
    }
}

#[test]
fn a_drive_that_ends_says_so_to_whoever_compares() {
    let mut w = settled();
    begin(&mut w, 1);
    w.drive(1).event(Event::Control { id: 5, req: Control::Shutdown });
    assert!(matches!(ended(&mut w, 1), Some(ControlResult::Failed(_))));
}

#[test]
fn a_comparison_yields_to_clients() {
    let chunks_of = |busy: bool| {
        let mut w = World::new();
        for chunk in 0..16 {
            w.write(&[1, 2, 3], 1, 1 + chunk, chunk * 1024, 1);
        }
        all_stable(&mut w, 16);
        begin(&mut w, 1);
        for _ in 0..30 {
            if busy {
                let hdr = w.drive(1).hdr(MsgType::Ping, 1);
                w.drive(1).send(Frame::bare(hdr));
            }
            while w.deliver() {
                w.run_devices();
            }
            w.run_devices();
            w.drives.values_mut().for_each(|d| d.advance(10_000));
        }
        w.drive(1).count("compared_chunks")
    };
    assert_eq!(chunks_of(false), 16);
    let busy = chunks_of(true);
    assert!((3..=7).contains(&busy), "{busy} chunks in 300 ms");
}

fn scrub_step(rig: &mut Rig, steps: u64) {
    rig.r.store_mut().scrubs = Some(ScrubProgress { steps, blocks: steps * 256, of: 10_000 });
    rig.flush();
}

#[test]
fn a_scrub_rests_between_its_reads_while_clients_are_active() {
    let mut rig = Rig::active(1);
    rig.advance(1_000_000);
    scrub_step(&mut rig, 1);
    assert!(!rig.r.store().scrub_held, "nobody else wants the device");
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    scrub_step(&mut rig, 2);
    assert!(rig.r.store().scrub_held);
    let at = rig.r.next_deadline().unwrap();
    assert!(at > rig.now && at <= rig.now + 50_000, "it goes on by itself");
    rig.advance(50_000);
    assert!(!rig.r.store().scrub_held, "it gets its turn whatever clients do");
}

#[test]
fn a_running_scrub_tells_how_far_it_is() {
    let mut rig = Rig::active(1);
    rig.out.clear();
    for steps in 1..=30 {
        rig.advance(100_000);
        scrub_step(&mut rig, steps);
    }
    let told: Vec<(u64, u64)> = rig
        .out
        .iter()
        .filter_map(|a| match a {
            Action::Report(Report::ScrubProgress { blocks, of }) => Some((*blocks, *of)),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 3, "once a second: {told:?}");
    assert!(told.windows(2).all(|w| w[0].0 < w[1].0) && told.iter().all(|t| t.1 == 10_000));
}
