//! Random requests, epochs, silences and reconnects against one byte array.

use drystone_sequencer::*;
use drystone_types::*;
use proptest::prelude::*;

use crate::world::{pattern, ticket, World};

const SPAN: u64 = 16 * 4096;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Read(u64, u64),
    Hold(u32),
    Release(u32),
    Epoch(u8),
    Reconnect(u32),
    Refuse(u32, u8),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0u64..SPAN / 512, 1u64..40).prop_map(|(o, l)| (o * 512, (l * 512).min(SPAN - o * 512)));
    prop_oneof![
        6 => (range(), any::<u8>()).prop_map(|((o, l), s)| Step::Write(o, l, s)),
        2 => range().prop_map(|(o, l)| Step::Zero(o, l)),
        5 => range().prop_map(|(o, l)| Step::Read(o, l)),
        2 => (1u32..4).prop_map(Step::Hold),
        3 => (1u32..4).prop_map(Step::Release),
        1 => (0u8..4).prop_map(Step::Epoch),
        1 => (1u32..4).prop_map(Step::Reconnect),
        2 => (1u32..4, 0u8..4).prop_map(|(d, s)| Step::Refuse(d, s)),
        3 => (1u64..400_000).prop_map(Step::Pass),
    ]
}

/// Requests in flight in order of issue; W1 makes overlapping ones take effect in that order.
struct Model {
    bytes: Vec<u8>,
    reads: Vec<(u64, Vec<u8>)>,
    all: Vec<u64>,
}

fn apply(w: &mut World, m: &mut Model, s: Step) {
    match s {
        Step::Write(o, l, seed) => {
            let data = pattern(seed, l as usize);
            m.bytes[o as usize..(o + l) as usize].copy_from_slice(&data);
            m.all.push(w.write(o, &data));
        }
        Step::Zero(o, l) => {
            m.bytes[o as usize..(o + l) as usize].fill(0);
            m.all.push(w.io(Io::WriteZeroes { offset: o, len: l }));
        }
        Step::Read(o, l) => {
            let want = m.bytes[o as usize..(o + l) as usize].to_vec();
            let tag = w.io(Io::Read { offset: o, len: l });
            m.reads.push((tag, want));
        }
        Step::Hold(d) => w.hold(d),
        Step::Release(d) => w.release(d),
        Step::Epoch(n) => {
            let behind = u32::from(n);
            let adopt: Vec<u32> = (1..=3).filter(|d| *d != behind).collect();
            w.change(&[1, 2, 3], &[], &adopt);
            if n % 2 == 0 {
                w.push_map();
            }
        }
        Step::Reconnect(d) => {
            w.step(Event::DriveDown { drive: DriveId(d), refused: false });
            w.held.retain(|h| h.1.unwrap_or(h.0) != DriveId(d));
            w.up(d);
        }
        // One copy is always readable: three unreadable ones are rightly EIO.
        Step::Refuse(3, 2) => {}
        Step::Refuse(d, s) => {
            let (kind, status) = [
                (MsgType::Write, Status::Retry),
                (MsgType::Read, Status::Retry),
                (MsgType::Read, Status::BadChecksum),
                (MsgType::Write, Status::NeedTicket),
            ][usize::from(s)];
            w.rep(d).refuse.push((kind, status));
        }
        Step::Pass(t) => w.pass(t),
    }
}

fn settle(w: &mut World) {
    for d in 1..=3 {
        w.release(d);
        let map = w.map.clone();
        w.rep(d).map = map;
        w.rep(d).refuse.clear();
    }
    w.push_map();
    w.pass(5_000_000);
}

proptest! {
    #[test]
    fn every_read_returns_the_writes_before_it_and_all_copies_end_equal(steps in proptest::collection::vec(step(), 1..80)) {
        let mut w = World::attached_with(2, &ticket(1), Config::default());
        let mut m = Model { bytes: vec![0; SPAN as usize], reads: vec![], all: vec![] };
        for s in steps {
            apply(&mut w, &mut m, s);
        }
        settle(&mut w);
        for tag in &m.all {
            prop_assert!(w.ok(*tag), "request {} is {:?}", tag, w.done.get(tag));
        }
        for (tag, want) in &m.reads {
            prop_assert!(w.bytes(*tag) == *want, "read {} differs", tag);
        }
        prop_assert_eq!(w.read(0, SPAN), m.bytes);
        prop_assert_eq!(&w.reps[&DriveId(1)].cells, &w.reps[&DriveId(2)].cells);
        prop_assert_eq!(&w.reps[&DriveId(1)].cells, &w.reps[&DriveId(3)].cells);
        prop_assert_eq!(w.seq.next_deadline(), None);
        prop_assert_eq!(w.seq.open(), (0, 0));
    }
}
