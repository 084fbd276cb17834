//! Requests and replies.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod common;

use common::*;
use drystone_fe_nbd::{Export, Extent, Limits, NbdError, Op, ReadPiece, SessionError};
use drystone_types::Buf;

const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

#[test]
fn every_command_becomes_its_typed_request() {
    let mut link = Link::transmitting(true);
    let data = vec![7u8; 4096];
    for bytes in [
        request(READ, 0, 1, 4096, 8192),
        write(2, 512, &data),
        request(FLUSH, 0, 3, 0, 0),
        request(TRIM, 1, 4, 0, 1 << 20),
        request(ZEROES, 2 | 16, 5, 0, 512),
        request(STATUS, 8, 6, 0, 4096),
    ] {
        link.feed(&bytes).unwrap();
    }
    let ops: Vec<_> = link.requests.iter().map(|r| (r.to.cookie(), r.op.clone())).collect();
    assert_eq!(
        ops,
        [
            (1, Op::Read { offset: 4096, len: 8192 }),
            (2, Op::Write { offset: 512, data: Buf::copy_from(&data), fua: false }),
            (3, Op::Flush),
            (4, Op::Trim { offset: 0, len: 1 << 20, fua: true }),
            (5, Op::WriteZeroes { offset: 0, len: 512, fua: false, no_hole: true, fast: true }),
            (6, Op::BlockStatus { offset: 0, len: 4096, one: true }),
        ]
    );
    assert_eq!(link.session.in_flight(), 6);
    link.feed(&request(DISC, 0, 9, 0, 0)).unwrap();
    assert!(link.closed);
}

#[test]
fn a_large_payload_lands_in_a_page_aligned_buffer_without_passing_the_stream_buffer() {
    let mut link = Link::transmitting(false);
    let data: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
    let bytes = write(1, 0, &data);
    link.feed(&bytes[..5000]).unwrap();
    assert!(link.requests.is_empty());
    link.feed(&bytes[5000..]).unwrap();
    let Op::Write { data: got, .. } = &link.requests[0].op else { panic!("not a write") };
    assert_eq!(got.as_slice(), data);
    assert_eq!(got.as_slice().as_ptr().align_offset(4096), 0);
}

#[test]
fn requests_outside_the_export_or_unaligned_are_answered_and_the_stream_goes_on() {
    let mut link = Link::transmitting(false);
    for (bytes, error) in [
        (request(READ, 0, 1, SIZE, 512), EINVAL),
        (write(1, SIZE - 512, &[0; 1024]), ENOSPC),
        (request(ZEROES, 0, 1, SIZE, 512), ENOSPC),
        (request(TRIM, 0, 1, u64::MAX - 511, 512), EINVAL),
        (request(READ, 0, 1, 100, 512), EINVAL),
        (request(READ, 0, 1, 0, 100), EINVAL),
        (write(1, 1, &[0; 512]), EINVAL),
        (request(READ, 0, 1, 0, 0), EINVAL),
        (request(READ, 0, 1, 0, (32 << 20) + 512), EINVAL),
        (request(STATUS, 0, 1, 0, 512), EINVAL),
        (request(5, 0, 1, 0, 512), EINVAL),
        (request(999, 0, 1, 0, 0), EINVAL),
        (request(READ, 0x8000, 1, 0, 512), EINVAL),
        (request(WRITE, 0, 1, 0, 0), EINVAL),
    ] {
        link.feed(&bytes).unwrap();
        assert_eq!(link.simple_reply(), (1, error));
    }
    link.feed(&request(READ, 0, 2, 0, 512)).unwrap();
    assert_eq!(link.requests.len(), 1);
}

#[test]
fn a_write_above_the_limit_is_read_and_refused_and_a_monstrous_one_is_dropped() {
    let mut link = Link::transmitting(false);
    let len = (32 << 20) + 512;
    link.feed(&request(WRITE, 0, 7, 0, len)).unwrap();
    link.feed(&vec![0; len as usize]).unwrap();
    assert_eq!(link.simple_reply(), (7, EINVAL));
    link.feed(&request(FLUSH, 0, 8, 0, 0)).unwrap();
    assert_eq!(link.requests.len(), 1);
    let result = link.feed(&request(WRITE, 0, 9, 0, u32::MAX));
    assert_eq!(result, Err(SessionError::PayloadTooBig(u32::MAX)));
}

#[test]
fn a_wrong_magic_ends_the_connection() {
    let mut link = Link::transmitting(false);
    assert_eq!(link.feed(&[0; 28]), Err(SessionError::BadMagic));
}

#[test]
fn simple_replies_carry_data_and_zeros() {
    let mut link = Link::transmitting(false);
    link.feed(&request(READ, 0, 3, 0, 200_704)).unwrap();
    let to = link.requests[0].to;
    let pieces = [ReadPiece::Data(Buf::copy_from(&[9; 4096])), ReadPiece::Zero(196_608)];
    link.session.reply_read(to, &pieces, &mut link.out);
    assert_eq!(link.simple_reply(), (3, 0));
    assert_eq!(link.out.len(), 200_704);
    assert!(link.out[..4096].iter().all(|b| *b == 9) && link.out[4096..].iter().all(|b| *b == 0));
    assert_eq!(link.session.in_flight(), 0);
}

#[test]
fn structured_reads_send_holes_as_holes_unless_one_chunk_is_wanted() {
    let mut link = Link::transmitting(true);
    let pieces = [ReadPiece::Data(Buf::copy_from(&[9; 512])), ReadPiece::Zero(512)];
    link.feed(&request(READ, 0, 1, 4096, 1024)).unwrap();
    link.feed(&request(READ, 4, 2, 4096, 1024)).unwrap();
    link.session.reply_read(link.requests[0].to, &pieces, &mut link.out);
    let (flags, kind, _, body) = link.chunk();
    assert_eq!((flags, kind, be(&body, 0, 8), body.len()), (0, 1, 4096, 520));
    let (flags, kind, _, body) = link.chunk();
    assert_eq!((flags, kind, be(&body, 0, 8), be(&body, 8, 4)), (1, 2, 4608, 512));
    link.session.reply_read(link.requests[1].to, &pieces, &mut link.out);
    let (flags, kind, cookie, body) = link.chunk();
    assert_eq!((flags, kind, cookie, body.len()), (1, 1, 2, 1032));
    assert!(link.out.is_empty());
}

#[test]
fn an_answer_of_the_wrong_length_becomes_an_error_not_a_broken_stream() {
    let mut link = Link::transmitting(false);
    link.feed(&request(READ, 0, 1, 0, 1024)).unwrap();
    let to = link.requests[0].to;
    link.session.reply_data(to, Buf::copy_from(&[0; 512]), &mut link.out);
    assert_eq!(link.simple_reply(), (1, 5));
    link.feed(&request(READ, 0, 2, 0, 1024)).unwrap();
    let to = link.requests[1].to;
    link.session.reply_done(to, &mut link.out);
    assert_eq!(link.simple_reply(), (2, 5));
    assert!(link.out.is_empty());
}

#[test]
fn errors_are_chunks_where_structured_replies_were_agreed() {
    let mut link = Link::transmitting(true);
    link.feed(&request(FLUSH, 0, 8, 0, 0)).unwrap();
    let to = link.requests[0].to;
    link.session.reply_error(to, NbdError::Shutdown, &mut link.out);
    let (flags, kind, cookie, body) = link.chunk();
    assert_eq!((flags, kind, cookie, be(&body, 0, 4), body.len()), (1, 0x8001, 8, 108, 6));
}

#[test]
fn block_status_is_cut_to_the_request_and_to_one_extent_when_asked() {
    let mut link = Link::transmitting(true);
    let extents = [Extent { len: 4096, hole: true, zero: true }, Extent { len: 1 << 20, hole: false, zero: false }];
    link.feed(&request(STATUS, 0, 1, 0, 8192)).unwrap();
    link.feed(&request(STATUS, 8, 2, 0, 8192)).unwrap();
    link.session.reply_extents(link.requests[0].to, &extents, &mut link.out);
    let (_, kind, _, body) = link.chunk();
    let words: Vec<u64> = (0..body.len() / 4).map(|i| be(&body, i * 4, 4)).collect();
    assert_eq!((kind, words), (5, vec![1, 4096, 3, 4096, 0]));
    link.session.reply_extents(link.requests[1].to, &extents, &mut link.out);
    assert_eq!(link.chunk().3.len(), 12);
    link.feed(&request(STATUS, 0, 3, 0, 8192)).unwrap();
    link.session.reply_extents(link.requests[2].to, &[], &mut link.out);
    assert_eq!(link.chunk().1, 0x8001);
}

#[test]
fn a_connection_with_too_much_in_flight_is_paused_until_an_answer() {
    let mut link = Link::new(Export::new("vol", SIZE), Limits { requests: 2, bytes: 1 << 20 });
    link.feed(&3u32.to_be_bytes()).unwrap();
    link.feed(&option(1, b"vol")).unwrap();
    link.out.clear();
    for cookie in 0..3 {
        link.feed(&request(FLUSH, 0, cookie, 0, 0)).unwrap();
    }
    assert!(link.paused);
    assert_eq!(link.requests.len(), 2);
    let to = link.requests[0].to;
    link.session.reply_done(to, &mut link.out);
    link.pump().unwrap();
    assert!(!link.paused);
    assert_eq!(link.requests.len(), 3);
}

#[test]
fn a_grown_volume_accepts_requests_in_its_new_part() {
    let mut link = Link::transmitting(false);
    link.session.set_size(SIZE * 2);
    link.feed(&request(READ, 0, 1, SIZE, 512)).unwrap();
    assert_eq!(link.requests.len(), 1);
}
