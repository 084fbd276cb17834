//! Frames over a connection: any cutting of the stream gives the same frames.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use drystone_reactor::{push_frame, Decoded, Decoder, Fill, SendQueue, WireDecoder, WireItem};
use drystone_types::{Buf, BufMut, Frame, Header, MsgType};
use proptest::prelude::*;

/// Receives as a connection does: a stream buffer, and fills in place.
struct Link {
    decoder: WireDecoder,
    pending: Vec<u8>,
    fill: Option<Fill>,
    hellos: usize,
    frames: Vec<Frame>,
}

impl Link {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), drystone_frame::FrameError> {
        let mut out = SendQueue::new();
        loop {
            if let Some(mut fill) = self.fill.take() {
                let now = bytes.len().min(fill.buf.len() - fill.at);
                fill.buf.as_mut_slice()[fill.at..fill.at + now].copy_from_slice(&bytes[..now]);
                fill.at += now;
                bytes = &bytes[now..];
                if fill.at < fill.buf.len() {
                    self.fill = Some(fill);
                    return Ok(());
                }
                let item = self.decoder.filled(fill, &mut out)?;
                self.take(item);
            }
            self.pending.extend_from_slice(bytes);
            bytes = &[];
            let pending = std::mem::take(&mut self.pending);
            let (used, decoded) = self.decoder.decode(&pending, &mut out)?;
            self.pending = pending[used..].to_vec();
            match decoded {
                Decoded::Item(item) => self.take(Some(item)),
                Decoded::Fill(fill) => self.fill = Some(fill),
                Decoded::More => return Ok(()),
                Decoded::Paused | Decoded::Close => panic!("frames neither pause nor close"),
            }
        }
    }

    fn take(&mut self, item: Option<WireItem>) {
        match item {
            Some(WireItem::Frame(frame)) => self.frames.push(*frame),
            Some(WireItem::Hello(_)) => {
                self.hellos += 1;
                if self.hellos == 2 {
                    self.decoder.establish();
                }
            }
            None => {}
        }
    }
}

fn link() -> Link {
    Link { decoder: WireDecoder::new(), pending: vec![], fill: None, hellos: 0, frames: vec![] }
}

fn frame(i: usize, blocks: usize, meta: usize) -> Frame {
    let mut data = BufMut::with_len(blocks * 4096);
    data.as_mut_slice().fill(i as u8);
    Frame {
        hdr: Header { kind: MsgType::Write, request: i as u64, count: blocks as u32, ..Header::default() },
        csums: (0..blocks as u64).collect(),
        meta: vec![i as u8; meta],
        data: if blocks == 0 { Buf::empty() } else { data.freeze() },
    }
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    let mut out = vec![7; 256];
    for frame in frames {
        drystone_frame::encode_head(frame, &mut out).unwrap();
        out.extend_from_slice(frame.data.as_slice());
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_cutting_of_the_stream_gives_the_same_frames(
        shapes in proptest::collection::vec((prop_oneof![Just(0usize), 1usize..4, 1usize..64], prop_oneof![0usize..100, 0usize..80_000]), 1..8),
        cuts in proptest::collection::vec(1usize..70_000, 1..20),
    ) {
        let frames: Vec<Frame> = shapes.iter().enumerate().map(|(i, (blocks, meta))| frame(i, *blocks, *meta)).collect();
        let bytes = bytes_of(&frames);
        let mut link = link();
        let (mut rest, mut cuts) = (bytes.as_slice(), cuts.iter().cycle());
        while !rest.is_empty() {
            let now = rest.len().min(*cuts.next().unwrap());
            link.feed(&rest[..now]).unwrap();
            rest = &rest[now..];
        }
        prop_assert_eq!(link.frames.len(), frames.len());
        for (got, sent) in link.frames.iter().zip(&frames) {
            prop_assert_eq!((got.hdr, &got.csums, &got.meta), (sent.hdr, &sent.csums, &sent.meta));
            prop_assert!(got.data == sent.data);
            prop_assert!(got.data.is_empty() || got.data.as_slice().as_ptr().align_offset(4096) == 0);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut link = link();
        link.feed(&[0; 256]).unwrap();
        let _ = link.feed(&bytes);
    }
}

#[test]
fn a_queued_frame_keeps_its_data_by_reference_and_a_wrong_one_leaves_nothing() {
    let mut out = SendQueue::new();
    let good = frame(1, 2, 10);
    push_frame(&good, &mut out).unwrap();
    assert_eq!(out.len(), bytes_of(&[good]).len() - 256);
    let before = out.len();
    let mut wrong = frame(2, 2, 0);
    wrong.csums.pop();
    assert!(push_frame(&wrong, &mut out).is_err());
    assert_eq!(out.len(), before);
}
