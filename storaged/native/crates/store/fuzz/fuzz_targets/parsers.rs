//! Every parser of the on-disk format against arbitrary bytes.
#![no_main]

use drystone_store::ckpt_codec::{open_chunk, take_item, Root};
use drystone_store::entry::Entry;
use drystone_store::group::{Expect, GroupHeader};
use drystone_store::segment::{decode_summary, Footer, SegHeader};
use drystone_store::superblock::Superblock;
use drystone_types::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Superblock::decode(bytes);
    let _ = SegHeader::decode(bytes);
    let _ = Footer::decode(bytes, 0, 0, 64);
    let _ = GroupHeader::decode(bytes, Expect { seg_seq: 0, slot: 0 });
    let footer = Footer { groups: 3, body_crc: drystone_store::checksum(bytes), ..Footer::default() };
    let _ = decode_summary(bytes, &footer);
    let _ = open_chunk(bytes, 0, 0);
    let _ = Root::decode(bytes);
    let mut r = Reader::new(bytes);
    while r.remaining() > 0 && take_item(&mut r).is_ok() {}
    let mut r = Reader::new(bytes);
    while r.remaining() > 0 && Entry::decode(&mut r).is_ok() {}
});
