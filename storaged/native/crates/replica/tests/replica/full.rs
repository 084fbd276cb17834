//! Several volumes on a drive that runs full: each is given slots or told FULL, within a bounded number of polls.

use drystone_store::api::ObjectStore;
use drystone_store::testing::NaiveStore;
use drystone_types::*;

use crate::rig::*;

/// Most slots one volume may hold unused (limits.rs).
const GRANT_MAX: u64 = 16_384;
/// Polls of five seconds, and some.
const POLLS_MAX: u32 = 120;

/// A client of one of several volumes, as far as credits go.
struct Volume {
    id: u64,
    granted: u32,
    used: u32,
    seq: u64,
}

impl Volume {
    fn open(&self) -> u32 {
        self.granted.wrapping_sub(self.used)
    }
    fn of(&self, hdr: Header) -> Header {
        Header { vol: VolumeId(self.id), layer: LayerId(self.id * 10), ..hdr }
    }
    fn attach(rig: &mut Rig, id: u64) -> Volume {
        let mut v = Volume { id, granted: 0, used: 0, seq: 0 };
        let ticket = Ticket { vol: VolumeId(id), chain: vec![(LayerId(id * 10), Version::ZERO)], ..ticket(1, 1) };
        let mut frame = rig.seal_frame(1, &ticket);
        frame.hdr = v.of(frame.hdr);
        let answer = rig.call(frame);
        assert_eq!(answer.hdr.status, Status::Ok);
        v.granted = answer.hdr.credits;
        v
    }
    /// Writes single blocks until fewer than `keep` slots are open.
    fn write_down_to(&mut self, rig: &mut Rig, keep: u32) {
        while self.open() >= keep.max(2) {
            self.write(rig);
        }
    }
    fn write(&mut self, rig: &mut Rig) {
        self.seq += 1;
        self.used += 2;
        let hdr = Header { block: self.seq, count: 1, seq: self.seq, ..rig.hdr(MsgType::Write, 1) };
        let answer = rig.call(data_frame(self.of(hdr), 1));
        assert_eq!(answer.hdr.status, Status::Ok, "it had a credit");
        self.granted = answer.hdr.credits;
    }
    /// STABLE with slots to give back: its status and what the drive wants back.
    fn give(&mut self, rig: &mut Rig, slots: u32) -> (Status, u32) {
        let hdr = Header { stable: Version::new(1, self.seq), ..rig.hdr(MsgType::Stable, 1) };
        let mut meta = Writer::new();
        // Without slots to give it says nothing: a client that forgets what it has sent.
        let settled = if slots > 0 { self.used + slots } else { 0 };
        meta.u32(slots).u32(settled).u64(1);
        let answer = rig.call(Frame::with_meta(self.of(hdr), meta.finish()));
        self.used += slots;
        self.granted = answer.hdr.credits.max(self.granted);
        (answer.hdr.status, u32::from_le_bytes(answer.meta[..4].try_into().unwrap()))
    }
    fn poll(&mut self, rig: &mut Rig) -> (Status, u32) {
        self.give(rig, 0)
    }
    /// Polls until the drive says FULL.
    fn told_full(&mut self, rig: &mut Rig) -> bool {
        (0..POLLS_MAX).any(|_| self.poll(rig).0 == Status::Full)
    }
}

fn world(slots: u64, volumes: u64) -> (Rig, Vec<Volume>) {
    let mut rig = Rig::open(config(1), NaiveStore::new(slots));
    rig.map(map(1, 1, &[1, 2, 3], &[]));
    let volumes = (1..=volumes).map(|id| Volume::attach(&mut rig, id)).collect();
    (rig, volumes)
}

/// One volume takes what nobody holds.
fn use_up(rig: &mut Rig, v: &mut Volume) {
    for _ in 0..10_000 {
        if rig.r.store().space().grantable == 0 {
            return;
        }
        v.write_down_to(rig, 2);
        v.poll(rig);
    }
    panic!("the drive does not run full: {:?}", rig.r.store().space());
}

#[test]
fn l2_volumes_that_hold_less_than_a_write_each_are_all_told_full() {
    let (mut rig, mut volumes) = world(4_000, 4);
    use_up(&mut rig, &mut volumes[0]);
    for v in &mut volumes {
        v.write_down_to(&mut rig, 190);
    }
    let held: u32 = volumes.iter().map(Volume::open).sum();
    assert!(held > 257 && volumes.iter().all(|v| v.open() < 190), "the case: {held}");
    for v in &mut volumes {
        // A recall would bring nothing, so nobody need wait for one.
        let full = (0..4).any(|_| v.poll(&mut rig).0 == Status::Full);
        assert!(full, "volume {}", v.id);
    }
}

#[test]
fn l2_what_another_volume_can_give_back_is_waited_for_but_not_for_ever() {
    let (mut rig, mut volumes) = world(12_000, 2);
    assert!(volumes[1].open() > 257);
    use_up(&mut rig, &mut volumes[0]);
    volumes[0].write_down_to(&mut rig, 2);
    assert_eq!(volumes[0].poll(&mut rig).0, Status::Ok, "the other holds more than it needs");
    assert!(volumes[0].told_full(&mut rig), "and will never be heard of again");
    // What it gives back after all cures that.
    let spare = volumes[1].open() - 257;
    volumes[1].give(&mut rig, spare);
    let open = (0..8).map(|_| (volumes[0].poll(&mut rig).0, volumes[0].open())).last().unwrap();
    assert!(open.0 != Status::Full && open.1 >= spare.min(257), "{open:?}");
}

#[test]
fn l2_a_client_that_only_says_stable_does_not_collect_the_drive() {
    let (mut rig, mut volumes) = world(4_000_000, 1);
    for _ in 0..20_000 {
        volumes[0].poll(&mut rig);
    }
    let open = u64::from(volumes[0].open());
    assert!(open <= 2 * GRANT_MAX + 257, "{open} slots, never used");
}

#[test]
fn l2_slots_that_were_lost_with_a_connection_do_not_hide_that_the_drive_is_full() {
    let (mut rig, mut volumes) = world(12_000, 2);
    use_up(&mut rig, &mut volumes[0]);
    // The client counts all as used; the frames never came.
    let lost = volumes[1].open();
    assert!(lost > 257);
    assert!(volumes[1].told_full(&mut rig));
}

#[test]
fn what_a_starved_volume_was_given_is_not_asked_back_before_it_wrote() {
    let (mut rig, mut volumes) = world(12_000, 3);
    use_up(&mut rig, &mut volumes[0]);
    volumes[2].give(&mut rig, 200);
    // It gave back what it could; the rest of its open slots was lost with a connection.
    let lost = volumes[1].open();
    volumes[1].used += lost;
    let mut fed = false;
    for _ in 0..40 {
        let (_, recall) = volumes[1].poll(&mut rig);
        fed = fed || volumes[1].open() > 0;
        assert!(!fed || recall == 0, "{recall} of {} are asked back", volumes[1].open());
    }
    assert!(fed && volumes[1].open() >= 2);
}

#[test]
fn what_an_idle_volume_gives_back_stays_free_until_it_writes_again() {
    let (mut rig, mut volumes) = world(100_000, 1);
    let v = &mut volumes[0];
    assert_eq!(v.open(), 1024);
    v.give(&mut rig, 1024 - 257);
    for _ in 0..2 {
        v.poll(&mut rig);
        assert_eq!(v.open(), 257);
    }
    // The first writes of a burst let it grow again.
    for _ in 0..80 {
        v.write(&mut rig);
    }
    v.poll(&mut rig);
    assert!(v.open() >= 400, "{}", v.open());
}
