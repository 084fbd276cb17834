use drystone_sequencer::*;
use drystone_types::*;

use crate::world::{pattern, ticket, World, SIZE};

#[test]
fn a_partial_block_is_one_version_and_keeps_what_surrounds_it() {
    let mut w = World::attached();
    w.write(0, &pattern(1, 8192));
    let before = w.seq.versions().1.seq;
    let tag = w.write(3584, &pattern(2, 1024));
    assert!(w.ok(tag));
    assert_eq!(w.seq.versions().1.seq, before + 1);
    let mut want = pattern(1, 8192);
    want[3584..4608].copy_from_slice(&pattern(2, 1024));
    assert_eq!(w.read(0, 8192), want);
    assert_eq!(w.read(3584, 1024), pattern(2, 1024));
}

#[test]
fn a_partial_write_over_an_unreadable_block_is_eio_and_writes_nothing() {
    let mut w = World::attached();
    w.write(0, &pattern(1, 4096));
    for d in 1..=3 {
        w.rep(d).broken = vec![0];
    }
    let tag = w.write(512, &pattern(2, 512));
    assert_eq!(w.done[&tag], Err(IoError::Eio));
    assert_eq!(w.sent(MsgType::Write).len(), 3);
}

#[test]
fn zeros_have_ragged_edges_and_a_trim_ignores_them() {
    let mut w = World::attached();
    w.write(0, &pattern(1, 20_480));
    let tag = w.io(Io::WriteZeroes { offset: 512, len: 12_288 });
    assert!(w.ok(tag));
    let mut want = pattern(1, 20_480);
    want[512..12_800].fill(0);
    assert_eq!(w.read(0, 20_480), want);
    let tag = w.io(Io::Trim { offset: 12_800, len: 7680 });
    assert!(w.ok(tag));
    want[16_384..20_480].fill(0);
    assert_eq!(w.read(0, 20_480), want);
    let tag = w.io(Io::Trim { offset: 512, len: 1024 });
    assert!(w.ok(tag));
    assert_eq!(w.read(0, 20_480), want);
}

#[test]
fn a_hole_within_one_block_keeps_both_sides() {
    let mut w = World::attached();
    w.write(0, &pattern(1, 4096));
    w.io(Io::WriteZeroes { offset: 1024, len: 512 });
    let mut want = pattern(1, 4096);
    want[1024..1536].fill(0);
    assert_eq!(w.read(0, 4096), want);
}

#[test]
fn a_trim_of_the_whole_volume_is_issued_piece_by_piece() {
    let mut w = World::attached();
    w.write(SIZE - 4096, &pattern(1, 4096));
    let tag = w.io(Io::Trim { offset: 0, len: SIZE });
    assert!(w.ok(tag));
    assert_eq!(w.read(SIZE - 4096, 4096), vec![0; 4096]);
    assert!(w.sent(MsgType::Trim).iter().all(|f| f.1.hdr.count <= 1024));
}

#[test]
fn a_trim_above_other_layers_masks_them() {
    let mut t = ticket(1);
    t.chain.push((LayerId(71), Version::new(1, 0)));
    let mut w = World::attached_with(1, &t, Config::default());
    w.io(Io::Trim { offset: 0, len: 4096 });
    assert!(w.sent(MsgType::Trim).is_empty());
    assert_eq!(w.sent(MsgType::Zero).len(), 3);
}
