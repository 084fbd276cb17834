//! Properties: how the stream is cut does not matter, and no bytes make it panic.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod common;

use common::*;
use drystone_fe_nbd::{Export, Limits, Op, Session, Step};
use proptest::prelude::*;

fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let offset = (0u64..2100).prop_map(|sector| sector * 512);
    prop_oneof![
        (0u16..9, 0u16..32, any::<u64>(), offset.clone(), 0u32..9000).prop_map(
            |(command, flags, cookie, offset, len)| {
                // Goodbye would end the stream early; a write needs its payload.
                let command = if matches!(command, 1 | 2) { 3 } else { command };
                request(command, flags, cookie, offset, len)
            }
        ),
        (any::<u64>(), offset, 0usize..200, any::<u8>())
            .prop_map(|(cookie, offset, sectors, byte)| { write(cookie, offset, &vec![byte; sectors * 512]) }),
    ]
}

fn run(bytes: &[u8], cuts: &[usize]) -> (Vec<(u64, Op)>, Vec<u8>) {
    let mut link = Link::transmitting(true);
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        let now = (*cut).min(rest.len());
        link.feed(&rest[..now]).unwrap();
        rest = &rest[now..];
        if rest.is_empty() {
            break;
        }
    }
    (link.requests.iter().map(|r| (r.to.cookie(), r.op.clone())).collect(), link.out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_cutting_of_the_stream_gives_the_same_requests_and_answers(
        requests in proptest::collection::vec(any_request(), 1..12),
        cuts in proptest::collection::vec(1usize..70_000, 1..40),
        fine in proptest::collection::vec(1usize..60, 1..10),
    ) {
        let bytes = requests.concat();
        let whole = run(&bytes, &[usize::MAX]);
        prop_assert_eq!(&run(&bytes, &cuts), &whole);
        prop_assert_eq!(&run(&bytes, &fine), &whole);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_stall(bytes in proptest::collection::vec(any::<u8>(), 0..4000), state in 0u8..3) {
        let mut link = match state {
            0 => Link::new(Export::new("vol", SIZE), Limits::default()),
            1 => {
                let mut link = Link::new(Export::new("vol", SIZE), Limits::default());
                link.feed(&3u32.to_be_bytes()).unwrap();
                link
            }
            _ => Link::transmitting(true),
        };
        let _ = link.feed(&bytes);
    }

    #[test]
    fn options_with_arbitrary_bodies_never_panic(number in 0u32..14, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut link = Link::new(Export::new("vol", SIZE), Limits::default());
        link.feed(&3u32.to_be_bytes()).unwrap();
        link.feed(&option(8, b"")).unwrap();
        let _ = link.feed(&option(number, &body));
    }

    #[test]
    fn every_request_handed_out_lies_inside_the_export(
        command in 0u16..10, flags in any::<u16>(), offset in any::<u64>(), len in any::<u32>()
    ) {
        let mut out = Vec::new();
        let mut session = Session::new(Export::new("vol", SIZE), Limits::default(), &mut out);
        let mut bytes = 3u32.to_be_bytes().to_vec();
        bytes.extend(option(1, b"vol"));
        bytes.extend(request(command, flags, 1, offset, len));
        if let Ok((_, Step::Request(request))) = session.decode(&bytes, &mut out) {
            let (offset, len) = match request.op {
                Op::Read { offset, len } | Op::BlockStatus { offset, len, .. } => (offset, len),
                Op::Trim { offset, len, .. } | Op::WriteZeroes { offset, len, .. } => (offset, len),
                Op::Write { offset, data, .. } => (offset, data.len() as u32),
                Op::Flush => (0, 512),
            };
            prop_assert!(len > 0 && offset % 512 == 0 && len % 512 == 0);
            prop_assert!(offset.checked_add(u64::from(len)).is_some_and(|end| end <= SIZE));
        }
    }
}
