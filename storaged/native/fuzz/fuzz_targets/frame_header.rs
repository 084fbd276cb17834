//! A header and the table behind it: lengths within the bounds, and what decodes encodes to the same.
#![no_main]

use drystone_csum::crc64;
use drystone_frame::header::{decode_header, decode_table};
use drystone_frame::{encode_head, Lengths, HEADER_LEN};
use drystone_fuzz::{seal_header, spending};
use drystone_types::consts::{BLOCK_SIZE, FRAME_BLOCKS_MAX, FRAME_META_MAX};
use drystone_types::{Buf, Frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((raw, table)) = bytes.split_first_chunk::<HEADER_LEN>() else { return };
    let _ = spending(0, || decode_header(raw));
    let mut raw = *raw;
    seal_header(&mut raw);
    let Ok((hdr, lengths)) = spending(0, || decode_header(&raw)) else { return };
    assert!(lengths.csums <= FRAME_BLOCKS_MAX as usize && lengths.meta <= FRAME_META_MAX);
    let _ = spending(lengths.table_and_meta(), || decode_table(&lengths, table));
    let Some(table) = table.get(..lengths.table_and_meta()) else { return };
    let lengths = Lengths { meta_crc: crc64(table), ..lengths };
    let (csums, meta) = decode_table(&lengths, table).expect("the length and the CRC are right");
    let frame = Frame { hdr, csums, meta, data: Buf::copy_from(&vec![0; lengths.csums * BLOCK_SIZE]) };
    let mut again = Vec::new();
    encode_head(&frame, &mut again).expect("what was decoded is within the bounds");
    let (raw, rest) = again.split_first_chunk().expect("a header");
    assert_eq!(decode_header(raw), Ok((hdr, lengths)));
    assert_eq!(rest, table);
});
