//! Resync gives way to clients: at the joiner and at the source.

use crate::rig::*;
use crate::world::World;
use drystone_replica::limits::{RESYNC_BLOCKS_BUSY, RESYNC_BUSY, SOURCE_BUSY};
use drystone_store::testing::NaiveStore;
use drystone_types::*;

const CHUNK: u64 = 1024;

/// Drive 3 is blank, joins, and has the generation's ticket; drives 1 and 2 hold two chunks of 256 blocks.
fn joining() -> World {
    let mut w = World::new();
    for (seq, chunk) in [(1, 0), (2, 1)] {
        for d in [1, 2] {
            let frame = w.drive(d).write_frame(1, seq, chunk * CHUNK, 256, seq as u8);
            assert_eq!(w.drive(d).call(frame).hdr.status, Status::Ok);
        }
    }
    w.map(map(2, 2, &[1, 2], &[]));
    w.drives.insert(3, Rig::open(config(3), NaiveStore::new(100_000)));
    w.rejoin(2, 0);
    w.drive(3).generations(3, &[(VOL, Gen(1), 1)]);
    let layer = w.drive(3).layer_frame(1, &ticket(1, 1));
    assert_eq!(w.drive(3).call(layer).hdr.status, Status::Ok);
    w
}

fn client_is_active(rig: &mut Rig) {
    let hdr = rig.hdr(MsgType::Ping, 1);
    assert_eq!(rig.call(Frame::bare(hdr)).hdr.status, Status::Ok);
}

#[test]
fn a_write_at_a_joiner_waits_for_one_frame_of_the_copy_at_most() {
    let mut w = joining();
    // Asked while there were no clients: two answers are on their way at once.
    w.silent();
    loop {
        w.run_devices();
        w.collect();
        let copies = w.wire.iter().filter(|(_, _, f, answer)| *answer && f.hdr.kind == MsgType::Copy).count();
        if copies == 2 {
            break;
        }
        let at = w.wire.iter().position(|(_, _, f, answer)| !(*answer && f.hdr.kind == MsgType::Copy)).unwrap();
        let next = w.wire.remove(at);
        w.wire.insert(0, next);
        assert!(w.deliver());
    }
    client_is_active(w.drive(3));
    // Both answers came before the write, but the device has done nothing yet.
    assert!(w.deliver() && w.deliver());
    let rig = w.drive(3);
    assert_eq!(rig.count("resync_blocks"), 256, "the second frame waits");
    let write = rig.write_frame(1, 3, 2 * CHUNK, 64, 9);
    rig.send(write);
    while rig.count("resync_blocks") == 256 {
        let id = rig.dev[0];
        rig.complete(id);
    }
    let id = rig.dev[0];
    rig.complete(id);
    assert_eq!(rig.statuses(), [Status::Ok], "the write is durable before the second frame");
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    w.assert_equal(1, 3, 0..2);
}

#[test]
fn a_joiner_without_clients_takes_what_comes() {
    let mut w = joining();
    w.silent();
    while w.drive(3).count("resync_blocks") < 512 {
        w.drive(1).run();
        w.drive(2).run();
        // Its own digests are reads; nothing it writes becomes durable.
        assert!(w.deliver() || w.drive(3).count("resync_blocks") == 512);
    }
}

#[test]
fn a_copy_rests_three_times_as_long_as_it_worked_while_clients_are_active() {
    let mut w = joining();
    let (mut rests, mut worked) = (0, 0);
    while w.completes.is_empty() {
        assert!(rests + worked < 2000, "it ends all the same");
        let ping = w.drive(3).hdr(MsgType::Ping, 1);
        w.drive(3).send(Frame::bare(ping));
        let idle = w.wire.is_empty() && w.drives.values().all(|d| d.dev.is_empty());
        *(if idle { &mut rests } else { &mut worked }) += 1;
        w.drive(3).advance(1_000);
        w.run_devices();
        w.collect();
        w.deliver();
    }
    assert!(rests >= worked, "{rests} ms of rest for {worked} of work");
    w.assert_equal(1, 3, 0..2);
}

/// Most blocks that are on their way in one answer to COPY.
fn largest_copy(w: &World) -> usize {
    let copies = w.wire.iter().filter(|(_, _, f, answer)| *answer && f.hdr.kind == MsgType::Copy);
    copies.map(|(_, _, f, _)| f.data.len() / 4096).max().unwrap_or(0)
}

#[test]
fn a_copy_asks_for_little_at_a_time_while_clients_are_active_and_for_whole_frames_else() {
    for (active, most) in [(true, RESYNC_BLOCKS_BUSY as usize), (false, 256)] {
        let (mut w, mut largest, mut rounds) = (joining(), 0, 0);
        w.silent();
        while w.completes.is_empty() {
            rounds += 1;
            assert!(rounds < 5000, "it ends");
            if active {
                let ping = w.drive(3).hdr(MsgType::Ping, 1);
                w.drive(3).send(Frame::bare(ping));
                w.drive(3).advance(1_000);
            }
            w.run_devices();
            w.collect();
            largest = largest.max(largest_copy(&w));
            w.deliver();
        }
        assert_eq!(largest, most);
        w.assert_equal(1, 3, 0..2);
    }
}

#[test]
fn a_source_says_that_clients_work_with_it_before_they_know_the_joiner() {
    let mut w = joining();
    let (mut largest, mut rounds) = (0, 0);
    w.drive(3).advance(200_000);
    while w.completes.is_empty() {
        rounds += 1;
        assert!(rounds < 5000, "it ends");
        for source in [1, 2] {
            let ping = w.drive(source).hdr(MsgType::Ping, 1);
            w.drive(source).send(Frame::bare(ping));
        }
        w.drive(3).advance(1_000);
        w.run_devices();
        w.collect();
        largest = largest.max(largest_copy(&w));
        w.deliver();
    }
    assert_eq!(largest, RESYNC_BLOCKS_BUSY as usize);
    w.assert_equal(1, 3, 0..2);
    // What it was told it does not tell on: two that copy from each other would do so for ever.
    for (drive, tells) in [(1, true), (3, false)] {
        let rig = w.drive(drive);
        rig.take_answers();
        ask_digest(rig, 0);
        rig.run();
        let told: Vec<bool> = rig.take_answers().iter().map(|f| f.hdr.flags.has(Flags::CLIENTS)).collect();
        assert_eq!(told, [tells]);
    }
}

#[test]
fn a_source_that_is_too_slow_to_say_so_again_is_not_asked_for_more() {
    let mut w = joining();
    w.drive(3).advance(200_000);
    for source in [1, 2] {
        let ping = w.drive(source).hdr(MsgType::Ping, 1);
        w.drive(source).send(Frame::bare(ping));
    }
    let copies = |w: &World| w.wire.iter().filter(|(_, _, f, answer)| !*answer && f.hdr.kind == MsgType::Copy).count();
    while copies(&w) == 0 {
        w.run_devices();
        w.collect();
        if copies(&w) == 0 && !w.deliver() {
            w.drive(3).advance(1_000);
        }
    }
    // It was said with the digest. No answer comes any more; the requests run into their deadline.
    w.wire.clear();
    for _ in 0..24 {
        w.drive(3).advance(100_000);
        w.collect();
    }
    assert!(w.wire.len() <= 2 * RESYNC_BUSY, "{} requests at a source that is too slow", w.wire.len());
}

#[test]
fn without_clients_a_copy_never_rests() {
    let mut w = joining();
    w.silent();
    let before = w.drive(3).now;
    w.settle();
    assert_eq!(w.completes, [(3, 3)]);
    assert!(w.drive(3).now - before < 1_000, "no timer was needed");
}

fn ask_digest(rig: &mut Rig, chunk: u64) {
    let mut meta = Writer::new();
    meta.u8(1).u64(VOL.0).u64(chunk);
    let hdr = rig.hdr(MsgType::Digest, 1);
    rig.send_from(drive_peer(4), Frame::with_meta(hdr, meta.finish()));
}

#[test]
fn a_source_reads_for_few_requests_at_a_time_while_clients_are_active() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    for _ in 0..10 {
        ask_digest(&mut rig, 0);
    }
    assert_eq!(rig.dev.len(), SOURCE_BUSY);
    let write = rig.write_frame(1, 2, 1, 1, 2);
    rig.send(write);
    assert_eq!(rig.dev.len(), SOURCE_BUSY + 1, "a client's write does not wait for them");
    rig.run();
    assert_eq!(rig.statuses(), [Status::Ok; 11], "each is answered in the end");
}

#[test]
fn what_a_client_asked_in_a_turn_reaches_the_device_before_a_copy_of_that_turn() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    let mut meta = Writer::new();
    meta.u32(1).u16(0).u16(1);
    let copy = Header { count: 1, flags: Flags::COPY, ..rig.hdr(MsgType::Copy, 1) };
    let write = rig.write_frame(1, 2, 1, 1, 2);
    rig.r.step(
        rig.now,
        drystone_replica::Event::Frame { peer: drive_peer(4), frame: Frame::with_meta(copy, meta.finish()) },
        &mut rig.out,
    );
    rig.r.step(rig.now, drystone_replica::Event::Frame { peer: PEER, frame: write }, &mut rig.out);
    rig.r.flush(rig.now, &mut rig.out);
    let writes: Vec<bool> = rig
        .out
        .iter()
        .filter_map(|a| match a {
            drystone_replica::Action::Dev(op) => Some(matches!(op, drystone_store::api::DevOp::Write { .. })),
            _ => None,
        })
        .collect();
    assert_eq!(writes, [true, false, false]);
    rig.out.clear();
}

#[test]
fn requests_of_resync_beyond_the_limit_are_told_to_come_again() {
    let mut rig = Rig::active(1);
    assert_eq!(rig.write(1, 1, 0, 1), Status::Ok);
    for _ in 0..100 {
        ask_digest(&mut rig, 0);
    }
    let early = rig.statuses();
    assert!(!early.is_empty() && early.iter().all(|s| *s == Status::Retry), "{early:?}");
    rig.run();
    let late = rig.statuses();
    assert_eq!(late.len() + early.len(), 100);
    assert!(late.iter().all(|s| *s == Status::Ok));
}
