use drystone_sequencer::*;
use drystone_types::*;

use crate::replica::Cell;
use crate::world::{pattern, ticket, World};

const PARENT: VolumeId = VolumeId(3);
const GRAND: VolumeId = VolumeId(2);

/// Blocks 0..4 in the parent, 4..6 in the grandparent; sizes end in block 5.
fn clone() -> World {
    clone_with(Config::default())
}

/// The same with these settings.
pub fn clone_with(cfg: Config) -> World {
    let mut t = ticket(1);
    let parent = |lineage, layer, pool, size| ParentRef {
        lineage,
        layer: LayerId(layer),
        size,
        seed: 9,
        pool: PoolId(pool),
        ..ParentRef::default()
    };
    t.parents =
        vec![parent(PARENT, 31, 2, 5 * 4096 + 512), parent(PARENT, 30, 2, 1 << 20), parent(GRAND, 20, 1, 1 << 20)];
    let mut w = World::idle(1, &t, cfg);
    for d in 1..=3 {
        for (block, layer, pool) in [(0, 31, 2), (1, 30, 2), (2, 30, 2), (3, 31, 2), (4, 20, 1), (5, 20, 1), (6, 20, 1)]
        {
            let pg = PgId { pool: PoolId(pool), pg: 0 };
            let data = Buf::copy_from(&pattern(block as u8, 4096));
            w.rep(d).cells.insert((LayerId(layer), block), Cell { version: Version::ZERO, kind: 1, data, pg });
        }
    }
    w.attach();
    assert_eq!(w.seq.state(), State::Active);
    w
}

fn blocks(list: &[Option<u8>]) -> Vec<u8> {
    list.iter().flat_map(|b| b.map_or(vec![0; 4096], |s| pattern(s, 4096))).collect()
}

#[test]
fn a_clone_reads_through_its_parents_and_only_below_their_recorded_size() {
    let mut w = clone();
    let mut want = blocks(&[Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), None, None]);
    want[5 * 4096 + 512..6 * 4096].fill(0);
    assert_eq!(w.read(0, 8 * 4096), want);
}

#[test]
fn own_blocks_and_own_zeros_hide_the_parent() {
    let mut w = clone();
    w.write(4096, &pattern(77, 4096));
    w.io(Io::Trim { offset: 0, len: 4096 });
    assert_eq!(w.read(0, 3 * 4096), blocks(&[None, Some(77), Some(2)]));
}

#[test]
fn a_partial_write_of_a_clone_merges_with_the_parents_block() {
    let mut w = clone();
    w.write(512, &pattern(9, 512));
    let mut want = pattern(0, 4096);
    want[512..1024].copy_from_slice(&pattern(9, 512));
    assert_eq!(w.read(0, 4096), want);
}

#[test]
fn the_presence_cache_asks_the_parent_beside_the_own_lineage() {
    let mut w = clone();
    w.read(0, 4096);
    for d in 1..=3 {
        w.hold(d);
    }
    let sent = w.sent(MsgType::Read).len();
    w.io(Io::Read { offset: 0, len: 4096 });
    assert_eq!(w.sent(MsgType::Read).len(), sent + 2);
}

#[test]
fn b12_no_parents_block_is_answered_without_an_ok_in_the_own_lineage() {
    let mut w = clone();
    w.read(0, 4096);
    for d in 1..=3 {
        // A successor has sealed the volume; the parent's answer still comes first.
        w.hold(d);
    }
    let tag = w.io(Io::Read { offset: 0, len: 4096 });
    let asks: Vec<_> = w.held.drain(..).collect();
    let (own, parent): (Vec<_>, Vec<_>) = asks.into_iter().partition(|a| a.2.hdr.layer == crate::world::HEAD);
    w.hold.clear();
    for (drive, _, frame) in parent {
        for answer in w.rep(drive.0).handle(&frame) {
            w.step(Event::Frame { drive, frame: answer });
        }
    }
    assert!(w.open(tag), "the parent alone does not answer");
    for (drive, _, frame) in own {
        w.rep(drive.0).sealed = Gen(2);
        for answer in w.rep(drive.0).handle(&frame) {
            w.step(Event::Frame { drive, frame: answer });
        }
    }
    assert_eq!(w.done[&tag], Err(IoError::Unissued));
    assert_eq!(w.seq.state(), State::Fenced);
}

#[test]
fn a_stale_presence_hint_never_wins_over_the_own_lineage() {
    let mut w = clone();
    w.read(0, 4096);
    let data = Buf::copy_from(&pattern(55, 4096));
    for d in 1..=3 {
        let pg = PgId { pool: PoolId(1), pg: 0 };
        let cell = Cell { version: Version::new(1, 1), kind: 1, data: data.clone(), pg };
        w.rep(d).cells.insert((crate::world::HEAD, 0), cell);
    }
    assert_eq!(w.read(0, 4096), pattern(55, 4096));
}

#[test]
fn block_status_of_a_clone_counts_its_parents() {
    let mut w = clone();
    let tag = w.io(Io::BlockStatus { offset: 0, len: 16 * 4096 });
    let Some(Ok(IoOk::Extents(e))) = w.done.get(&tag) else { panic!() };
    assert_eq!(e.first(), Some(&Extent { len: 6 * 4096, data: true }));
}
