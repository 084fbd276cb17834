//! Negotiation, option by option.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod common;

use common::*;
use drystone_fe_nbd::{Export, Limits, SessionError};

const ACK: u32 = 1;
const UNSUP: u32 = 0x8000_0001;
const POLICY: u32 = 0x8000_0002;
const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;
const TOO_BIG: u32 = 0x8000_0009;

fn negotiating() -> Link {
    let mut link = Link::new(Export::new("vol", SIZE), Limits::default());
    assert_eq!(link.out, b"NBDMAGICIHAVEOPT\0\x03");
    link.out.clear();
    link.feed(&3u32.to_be_bytes()).unwrap();
    link
}

fn only_reply(link: &mut Link, number: u32, body: &[u8]) -> u32 {
    link.feed(&option(number, body)).unwrap();
    let replies = link.option_replies();
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].0, number);
    replies[0].1
}

#[test]
fn go_tells_size_flags_and_block_sizes_and_starts_transmission() {
    let mut link = negotiating();
    link.feed(&option(7, &info_body("vol", &[1, 3]))).unwrap();
    let replies = link.option_replies();
    assert_eq!(replies.last().unwrap().1, ACK);
    assert_eq!((be(&replies[0].2, 0, 2), be(&replies[0].2, 2, 8)), (0, SIZE));
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, FAST_ZERO; no DF before structured replies.
    assert_eq!(be(&replies[0].2, 10, 2), 1 | 4 | 8 | 32 | 64 | 256 | 2048);
    assert_eq!(replies[1].2, b"\0\x01vol");
    assert_eq!(replies[2].2[..6], [0, 3, 0, 0, 2, 0]);
    assert_eq!((be(&replies[2].2, 6, 4), be(&replies[2].2, 10, 4)), (4096, 32 << 20));
    assert!(link.session.is_transmitting());
}

#[test]
fn info_answers_like_go_but_negotiation_goes_on() {
    let mut link = negotiating();
    link.feed(&option(6, &info_body("", &[]))).unwrap();
    assert_eq!(link.option_replies().last().unwrap().1, ACK);
    assert!(!link.session.is_transmitting());
}

#[test]
fn an_unknown_export_is_refused_and_another_try_is_allowed() {
    let mut link = negotiating();
    assert_eq!(only_reply(&mut link, 7, &info_body("other", &[])), UNKNOWN);
    link.feed(&option(7, &info_body("vol", &[]))).unwrap();
    assert!(link.session.is_transmitting());
}

#[test]
fn export_name_answers_with_padding_unless_the_client_asked_for_none() {
    for (flags, len) in [(1u32, 134), (3, 10)] {
        let mut link = Link::new(Export::new("vol", SIZE), Limits::default());
        link.out.clear();
        link.feed(&flags.to_be_bytes()).unwrap();
        link.feed(&option(1, b"vol")).unwrap();
        assert_eq!(link.out.len(), len);
        assert!(link.session.is_transmitting());
    }
}

#[test]
fn export_name_with_an_unknown_name_ends_the_connection() {
    assert_eq!(negotiating().feed(&option(1, b"other")), Err(SessionError::UnknownExport));
}

#[test]
fn list_names_the_one_export() {
    let mut link = negotiating();
    link.feed(&option(3, b"")).unwrap();
    let replies = link.option_replies();
    assert_eq!((replies[0].1, replies[0].2.as_slice()), (2, b"\0\0\0\x03vol".as_slice()));
    assert_eq!(replies[1].1, ACK);
    assert_eq!(only_reply(&mut link, 3, b"x"), INVALID);
}

#[test]
fn abort_is_acknowledged_and_closes() {
    let mut link = negotiating();
    assert_eq!(only_reply(&mut link, 2, b""), ACK);
    assert!(link.closed);
}

#[test]
fn tls_is_refused_politely_and_unknown_options_are_unsupported() {
    let mut link = negotiating();
    assert_eq!(only_reply(&mut link, 5, b""), POLICY);
    assert_eq!(only_reply(&mut link, 11, b""), UNSUP);
    assert_eq!(only_reply(&mut link, 4711, b"whatever"), UNSUP);
    assert!(!link.closed);
}

#[test]
fn metadata_contexts_need_structured_replies_first() {
    let mut link = negotiating();
    let body = meta_body("vol", &["base:allocation"]);
    assert_eq!(only_reply(&mut link, 10, &body), INVALID);
    assert_eq!(only_reply(&mut link, 8, b""), ACK);
    link.feed(&option(10, &body)).unwrap();
    let replies = link.option_replies();
    assert_eq!((replies[0].1, replies[0].2.as_slice()), (4, b"\0\0\0\x01base:allocation".as_slice()));
    assert_eq!(replies[1].1, ACK);
}

#[test]
fn contexts_are_listed_by_namespace_but_only_set_by_name() {
    let mut link = negotiating();
    link.feed(&option(8, b"")).unwrap();
    link.option_replies();
    for queries in [&[][..], &["base:"]] {
        link.feed(&option(9, &meta_body("vol", queries))).unwrap();
        assert_eq!(link.option_replies().len(), 2);
        link.feed(&option(10, &meta_body("vol", queries))).unwrap();
        assert_eq!(link.option_replies().len(), 1);
    }
    assert_eq!(only_reply(&mut link, 10, &meta_body("nope", &["base:allocation"])), UNKNOWN);
    assert_eq!(only_reply(&mut link, 10, &meta_body("vol", &["qemu:dirty-bitmap:x"])), ACK);
}

#[test]
fn malformed_bodies_are_invalid_not_fatal() {
    let mut link = negotiating();
    link.feed(&option(8, b"")).unwrap();
    link.option_replies();
    let mut lying_name = info_body("vol", &[]);
    lying_name[3] = 200;
    let mut lying_count = meta_body("vol", &["base:allocation"]);
    lying_count[7] = 0xff;
    for (number, body) in [(7, &lying_name), (6, &vec![0, 0]), (10, &lying_count), (9, &vec![])] {
        assert_eq!(only_reply(&mut link, number, body), INVALID);
    }
    assert_eq!(only_reply(&mut link, 8, b"x"), INVALID);
}

#[test]
fn an_oversized_option_is_answered_and_ends_the_connection_before_its_body_arrives() {
    let mut link = negotiating();
    let mut head = option(7, b"");
    head[12..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(link.feed(&head), Err(SessionError::OptionTooBig(u32::MAX)));
    assert_eq!(link.option_replies()[0].1, TOO_BIG);
}

#[test]
fn endless_negotiation_is_cut() {
    let mut link = negotiating();
    let result = (0..1000).try_for_each(|_| link.feed(&option(3, b"")));
    assert_eq!(result, Err(SessionError::TooManyOptions));
}

#[test]
fn clients_that_are_not_fixed_newstyle_are_dropped() {
    for flags in [0u32, 2, 4, 0xffff_ffff] {
        let mut link = Link::new(Export::new("vol", SIZE), Limits::default());
        assert_eq!(link.feed(&flags.to_be_bytes()), Err(SessionError::ClientFlags(flags)));
    }
    assert_eq!(negotiating().feed(b"GET / HTTP/1.1\r\n"), Err(SessionError::BadMagic));
}

#[test]
fn a_read_only_export_offers_no_way_to_write() {
    let mut export = Export::new("vol", SIZE);
    export.read_only = true;
    let mut link = Link::new(export, Limits::default());
    link.out.clear();
    link.feed(&3u32.to_be_bytes()).unwrap();
    link.feed(&option(1, b"vol")).unwrap();
    assert_eq!(be(&link.out, 8, 2), 1 | 2 | 4 | 8 | 256);
    link.out.clear();
    link.feed(&write(5, 0, &[1; 512])).unwrap();
    assert_eq!(link.simple_reply(), (5, 1));
    assert!(link.requests.is_empty());
}
