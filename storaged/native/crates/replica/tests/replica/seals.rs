//! SEAL, FENCE, LAYER, READ+ROLL.

use crate::rig::*;
use drystone_replica::{Control, ControlResult, Event};
use drystone_types::*;

#[test]
fn p1_seal_waits_for_a_large_write_queued_in_another_stream_and_lists_it() {
    let mut rig = Rig::active(1);
    let frame = rig.write_frame(1, 1, 0, 64, 1);
    rig.send(frame);
    let large = rig.dev[0];
    let seal = rig.seal_frame(2, &ticket(2, 2));
    rig.send(seal);
    for id in rig.dev.clone().into_iter().filter(|id| *id != large) {
        rig.complete(id);
    }
    assert!(rig.take_answers().is_empty(), "the large write is not durable");
    rig.run();
    let answers = rig.take_answers();
    let reply = seal_reply(answers.iter().find(|f| f.hdr.kind == MsgType::Seal).unwrap());
    assert_eq!(reply.entries.len(), 64);
    assert!(reply.exists);
    assert_eq!(reply.pgs, [(PG.to_wire(), 1)]);
}

#[test]
fn nothing_older_is_admitted_from_the_moment_a_seal_arrives() {
    let mut rig = Rig::active(1);
    let seal = rig.seal_frame(2, &ticket(2, 2));
    rig.send(seal);
    let late = rig.write_frame(1, 1, 0, 1, 1);
    rig.send(late);
    assert_eq!(rig.statuses(), [Status::NackGen]);
    let early = rig.write_frame(2, 1, 0, 1, 1);
    rig.send(early);
    assert_eq!(rig.statuses(), [Status::Retry], "the seal is not durable yet");
    rig.run();
    assert_eq!(rig.statuses(), [Status::Ok]);
}

#[test]
fn i7_a_seal_that_was_answered_survives_a_restart_with_its_ticket() {
    let mut rig = Rig::active(1);
    rig.seal(2);
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert_eq!(rig.write(1, 1, 0, 1), Status::NackGen);
    assert_eq!(rig.write(2, 1, 0, 1), Status::Ok);
}

#[test]
fn b10_the_same_generation_with_another_nonce_is_refused() {
    let mut rig = Rig::active(1);
    let seal = rig.seal_frame(1, &ticket(1, 555));
    assert_eq!(rig.call(seal).hdr.status, Status::NackGen);
    let again = rig.seal_frame(1, &ticket(1, 1));
    assert_eq!(rig.call(again).hdr.status, Status::Ok);
}

#[test]
fn a_seal_lists_exactly_what_is_durable_above_stable() {
    let mut rig = Rig::active(1);
    for seq in 1..=4 {
        assert_eq!(rig.write(1, seq, seq, 1), Status::Ok);
    }
    assert_eq!(rig.stable(1, Version::new(1, 2)).hdr.status, Status::Ok);
    let reply = rig.seal(2);
    assert_eq!(reply.entries, [(LAYER.0, 3, 1, 3, 1), (LAYER.0, 4, 1, 4, 1)]);
}

#[test]
fn a_forged_or_foreign_ticket_seals_nothing() {
    let mut rig = Rig::active(1);
    let mut forged = rig.seal_frame(2, &ticket(2, 2));
    forged.meta[30] ^= 1;
    assert_eq!(rig.call(forged).hdr.status, Status::Denied);
    let mut other = rig.seal_frame(2, &ticket(2, 2));
    other.hdr.vol = VolumeId(8);
    assert_eq!(rig.call(other).hdr.status, Status::Denied);
    let mut empty = rig.seal_frame(2, &ticket(2, 2));
    empty.meta.clear();
    assert_eq!(rig.call(empty).hdr.status, Status::Invalid);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
}

#[test]
fn a_fence_is_durable_when_answered_and_counts_when_repeated_or_older() {
    let mut rig = Rig::active(1);
    let fence = Control::Fence { vol: VOL, gen: Gen(2), nonce: 1 };
    rig.event(Event::Control { id: 99, req: fence.clone() });
    assert!(!rig.has(|a| matches!(a, drystone_replica::Action::ControlDone { .. })));
    rig.run();
    assert_eq!(rig.control(fence), ControlResult::Fenced(Gen(2)));
    let frame = Frame::with_meta(rig.hdr(MsgType::Fence, 1), vec![0; 8]);
    let answer = rig.call_from(MANAGER, frame);
    assert_eq!(answer.hdr.status, Status::Ok);
    assert_eq!(seal_reply(&answer).sealed, 2);
    assert_eq!(rig.write(1, 1, 0, 1), Status::NackGen);
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    assert_eq!(rig.write(1, 1, 0, 1), Status::NackGen);
}

fn fence_frame(rig: &mut Rig, gen: u32, nonce: u64) -> Frame {
    let mut w = Writer::new();
    w.u64(nonce);
    Frame::with_meta(rig.hdr(MsgType::Fence, gen), w.finish())
}

#[test]
fn b10_a_fence_stores_the_owners_nonce_with_the_seal() {
    let mut rig = Rig::active(1);
    let fence = fence_frame(&mut rig, 2, 7);
    assert_eq!(rig.call_from(SERVER, fence).hdr.status, Status::Ok);
    let mut rig = rig.restart(2);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    let other = rig.seal_frame(2, &ticket(2, 8));
    assert_eq!(rig.call(other).hdr.status, Status::NackGen, "another owner of this generation");
    let owner = rig.seal_frame(2, &ticket(2, 7));
    assert_eq!(rig.call(owner).hdr.status, Status::Ok, "readers that stayed are sealed again");
}

#[test]
fn b10_a_fence_for_another_owner_of_the_same_generation_proves_nothing() {
    let mut rig = Rig::active(1);
    rig.seal(2);
    assert!(matches!(rig.control(Control::Fence { vol: VOL, gen: Gen(2), nonce: 9 }), ControlResult::Failed(_)));
    let fence = fence_frame(&mut rig, 2, 9);
    assert_eq!(rig.call_from(SERVER, fence).hdr.status, Status::NackGen);
    assert_eq!(rig.write(2, 1, 0, 1), Status::Ok, "it changed nothing");
    rig.out.clear();
    let own = Control::Fence { vol: VOL, gen: Gen(2), nonce: 2 };
    assert_eq!(rig.control(own), ControlResult::Fenced(Gen(2)));
    rig.out.clear();
    let older = Control::Fence { vol: VOL, gen: Gen(1), nonce: 9 };
    assert_eq!(rig.control(older), ControlResult::Fenced(Gen(2)), "a higher seal counts");
    let malformed = Frame::with_meta(rig.hdr(MsgType::Fence, 3), vec![1, 2, 3]);
    assert_eq!(rig.call_from(SERVER, malformed).hdr.status, Status::Invalid);
}

#[test]
fn a_long_seal_answer_comes_in_parts_and_only_the_last_has_last() {
    let mut rig = Rig::new(1);
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    let mut big = ticket(1, 1);
    big.size = 1 << 40;
    let seal = rig.seal_frame(1, &big);
    assert_eq!(rig.call(seal).hdr.status, Status::Ok);
    for seq in 1..=128u64 {
        let frame = rig.write_frame(1, seq, seq * 256, 256, 1);
        rig.send(frame);
    }
    rig.run();
    rig.take_answers();
    let mut next = big.clone();
    (next.gen, next.nonce) = (Gen(2), 2);
    let seal = rig.seal_frame(2, &next);
    rig.send(seal);
    rig.run();
    let parts = rig.take_answers();
    assert!(parts.len() > 1);
    let lasts: Vec<bool> = parts.iter().map(|p| p.hdr.flags.has(Flags::LAST)).collect();
    assert_eq!(lasts.iter().filter(|l| **l).count(), 1);
    assert!(lasts.last().unwrap());
    let listed: usize = parts.iter().map(|p| seal_reply(p).entries.len()).sum();
    let held = rig.count("blocks_written") as usize;
    assert_eq!(listed, held);
    assert!(parts.iter().all(|p| p.meta.len() <= consts::FRAME_META_MAX));
}

#[test]
fn p11_an_exact_version_is_read_without_a_lease() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 4), Status::Ok);
    rig.seal(2);
    rig.event(Event::Lease { valid_until: 0 });
    let mut hdr = rig.hdr(MsgType::Read, 2);
    (hdr.flags, hdr.origin_gen, hdr.seq, hdr.count) = (Flags::ROLL, Gen(1), 1, 1);
    let answer = rig.call(Frame::bare(hdr));
    assert_eq!((answer.hdr.status, answer.meta.clone()), (Status::Ok, vec![1]));
    assert_eq!(answer.data.as_slice()[0], 4);
    hdr.seq = 2;
    hdr.request += 1000;
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Invalid);
}

#[test]
fn a_roll_of_a_bad_block_reads_as_eio_until_it_is_overwritten() {
    let mut rig = Rig::active(1);
    let mut hdr = rig.hdr(MsgType::Write, 1);
    (hdr.flags, hdr.seq, hdr.count) = (Flags::ROLL.with(Flags::BAD), 1, 1);
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
    assert_eq!(rig.read(1, 0).hdr.status, Status::Eio);
    assert_eq!(rig.write(1, 2, 0, 3), Status::Ok);
    assert_eq!(rig.byte(1, 0), Some(3));
}

#[test]
fn a_seal_overtaken_by_a_newer_one_is_refused() {
    let mut rig = Rig::active(1);
    let two = rig.seal_frame(2, &ticket(2, 2));
    let three = rig.seal_frame(3, &ticket(3, 3));
    rig.send(two);
    rig.send(three);
    rig.run();
    assert_eq!(rig.statuses(), [Status::NackGen, Status::Ok]);
    assert_eq!(rig.write(3, 1, 0, 1), Status::Ok);
}
