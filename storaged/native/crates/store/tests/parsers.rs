//! Every parser against arbitrary bytes, with and without a right checksum around them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use drystone_csum::crc64;
use drystone_store::ckpt_codec::{chunk_bytes, open_chunk, seal_chunk, take_item, Root};
use drystone_store::entry::Entry;
use drystone_store::group::{Expect, GroupHeader};
use drystone_store::segment::{decode_summary, Footer, SegHeader};
use drystone_types::Reader;
use proptest::prelude::*;

const EXPECT: Expect = Expect { seg_seq: 0, slot: 0 };

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(4096, 0);
    let crc = crc64(&bytes[8..]).to_le_bytes();
    bytes[..8].copy_from_slice(&crc);
    bytes
}

proptest! {
    #[test]
    fn entries_never_panic(kind in 0u8..7, mut bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        bytes[0] = kind;
        let mut r = Reader::new(&bytes);
        while r.remaining() > 0 && Entry::decode(&mut r).is_ok() {}
    }
    #[test]
    fn group_headers_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..4096), counts in any::<[u16; 3]>()) {
        let _ = GroupHeader::decode(&bytes, EXPECT);
        bytes.resize(4096, 0);
        bytes[8..16].copy_from_slice(&0x3150_5552_4759_5244u64.to_le_bytes());
        bytes[24..40].fill(0);
        for (i, c) in counts.iter().enumerate() {
            bytes[80 + i * 2..82 + i * 2].copy_from_slice(&(c % 100).to_le_bytes());
        }
        bytes[86..88].fill(0);
        if let Ok((header, _)) = GroupHeader::decode(&sealed(bytes), EXPECT) {
            let _ = (header.data_slots(), header.data_is_whole(&[0; 8192]), header.walk().count());
        }
    }
    #[test]
    fn segment_headers_and_summaries_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096), body in proptest::collection::vec(any::<u8>(), 0..600), groups in 0u32..50) {
        let _ = SegHeader::decode(&bytes);
        let _ = Footer::decode(&bytes, 0, 0, 64);
        let sealed = sealed(bytes);
        let _ = SegHeader::decode(&sealed);
        let _ = Footer::decode(&sealed, 0, 0, 64);
        let footer = Footer { groups, body_len: body.len() as u32, body_crc: crc64(&body), ..Footer::default() };
        let _ = decode_summary(&body, &footer);
    }
    #[test]
    fn checkpoints_never_panic(kind in 0u8..6, mut bytes in proptest::collection::vec(any::<u8>(), 1..400)) {
        let _ = (open_chunk(&bytes, 0, 0).is_ok(), chunk_bytes(&bytes, 0, 0), Root::decode(&bytes).is_ok());
        bytes[0] = kind;
        let chunk = seal_chunk(4, 1, &bytes);
        let payload = open_chunk(&chunk, 4, 1).unwrap();
        prop_assert_eq!(payload, &bytes[..]);
        let mut r = Reader::new(payload);
        while r.remaining() > 0 && take_item(&mut r).is_ok() {}
    }
    #[test]
    fn a_footer_and_a_root_survive_encoding(a in any::<u32>(), b in any::<u64>()) {
        let footer = Footer { seq: b, seg: a, body_slot: 3, body_len: 100, used: 9, groups: a, first_gseq: b, last_lsn: b, ..Footer::default() };
        prop_assert_eq!(Footer::decode(&footer.encode(), a, b, 64), Ok(footer));
        let root = Root { began: b, own: vec![a, 1], gseq: [b, 1, 2], overtaken: vec![(b, 3, 4)], ..Root::default() };
        prop_assert_eq!(Root::decode(&root.encode()), Ok(root));
    }
}
