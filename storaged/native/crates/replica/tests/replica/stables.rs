//! R7, RECOVERED, STABLE and its logging.

use crate::rig::*;
use drystone_types::*;

#[test]
fn r7_stable_counts_only_from_a_map_this_drive_has_adopted() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.rev = 5;
    let hdr = Header { stable: Version::new(1, 1), ..rig.hdr(MsgType::Stable, 1) };
    rig.send(Frame::bare(hdr));
    rig.advance(consts::PARK_MAX);
    assert_eq!(rig.statuses(), [Status::Retry]);
    let mut frame = rig.write_frame(1, 2, 1, 1, 1);
    frame.hdr.stable = Version::new(1, 1);
    assert_eq!(rig.call(frame).hdr.status, Status::Ok);
    rig.rev = 1;
    assert_eq!(rig.seal(2).entries.len(), 2, "nothing was taken as stable");
}

#[test]
fn p3_a_rolls_stable_field_is_ignored() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    rig.seal(2);
    let mut roll = rig.roll(2, Version::new(1, 1), 0, 1);
    roll.hdr.stable = Version::new(2, 9);
    assert_eq!(rig.call(roll).hdr.status, Status::Ok);
    assert_eq!(rig.seal(3).entries.len(), 1);
}

#[test]
fn b3_recovered_is_a_maximum_and_never_lowers_stable() {
    let mut rig = Rig::active(1);
    for seq in 1..=3 {
        assert_eq!(rig.write(1, seq, seq, 1), Status::Ok);
    }
    assert_eq!(rig.stable(1, Version::new(1, 3)).hdr.status, Status::Ok);
    let hdr = rig.hdr(MsgType::Recovered, 1);
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
    assert!(rig.seal(2).entries.is_empty());
}

#[test]
fn recovered_drops_the_unstable_lists_of_older_generations() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    assert_eq!(rig.seal(2).entries.len(), 1);
    let hdr = rig.hdr(MsgType::Recovered, 2);
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
    assert_eq!(rig.write(2, 1, 1, 1), Status::Ok);
    assert_eq!(rig.seal(3).entries, [(LAYER.0, 1, 2, 1, 1)]);
}

#[test]
fn a_stable_value_is_logged_within_a_second_and_survives_a_restart() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    assert_eq!(rig.stable(1, Version::new(1, 1)).hdr.status, Status::Ok);
    let due = rig.r.next_deadline().unwrap();
    assert!(due < rig.now + 1_000_000);
    rig.advance(900_000);
    rig.run();
    assert_eq!(rig.count("stables_logged"), 1);
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert!(rig.seal(2).entries.is_empty());
}

#[test]
fn an_orderly_shutdown_logs_every_stable_value() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    assert_eq!(rig.stable(1, Version::new(1, 1)).hdr.status, Status::Ok);
    assert_eq!(rig.control(drystone_replica::Control::Shutdown), drystone_replica::ControlResult::Done);
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert!(rig.seal(2).entries.is_empty());
}

#[test]
fn a_stable_value_of_a_later_generation_than_the_frame_is_invalid() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.stable(1, Version::new(2, 1)).hdr.status, Status::Invalid);
}
