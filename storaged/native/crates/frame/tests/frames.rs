//! Frames survive the wire in any chunking, and nothing else does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use drystone_frame::header::decode_header;
use drystone_frame::hello::{verdict, ClientHello, HelloError, PeerIdentity, Role, ServerHello};
use drystone_frame::{encode_head, Decoder, FrameError};
use drystone_types::trust::role_key;
use drystone_types::{Buf, Flags, Frame, Gen, Header, MsgType, PgId, PoolId, Status, Uuid, Version};
use proptest::prelude::*;

fn frame(blocks: usize, meta: Vec<u8>, seed: u64) -> Frame {
    let hdr = Header {
        kind: MsgType::Write,
        flags: Flags::ROLL,
        request: seed,
        pg: PgId { pool: PoolId(3), pg: 77 },
        seq: seed,
        stable: Version::new(2, 9),
        origin_gen: Gen(4),
        status: Status::Full,
        credits: 5,
        ..Header::default()
    };
    let data = vec![u8::try_from(seed % 251).unwrap(); blocks * 4096];
    Frame { hdr, csums: vec![seed; blocks], meta, data: Buf::copy_from(&data) }
}

fn wire(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    encode_head(frame, &mut out).unwrap();
    out.extend_from_slice(frame.data.as_slice());
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_chunking_of_the_stream_gives_the_same_frames(
        specs in proptest::collection::vec((0usize..4, proptest::collection::vec(any::<u8>(), 0..200), any::<u64>()), 1..5),
        step in 1usize..5000,
        bulk in any::<bool>(),
    ) {
        let frames: Vec<Frame> = specs.into_iter().map(|(b, m, s)| frame(b, m, s)).collect();
        let stream: Vec<u8> = frames.iter().flat_map(wire).collect();
        let mut decoder = Decoder::new();
        let mut out = Vec::new();
        for chunk in stream.chunks(step) {
            let mut chunk = chunk;
            if bulk {
                if let Some(slot) = decoder.bulk() {
                    let n = slot.len().min(chunk.len());
                    slot[..n].copy_from_slice(&chunk[..n]);
                    decoder.bulk_done(n, &mut out).unwrap();
                    chunk = &chunk[n..];
                }
            }
            decoder.feed(chunk, &mut out).unwrap();
        }
        prop_assert_eq!(out, frames);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_allocate_much(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Decoder::new().feed(&bytes, &mut Vec::new());
    }

    #[test]
    fn a_flipped_bit_in_the_header_is_refused(bit in 0usize..1024) {
        let mut raw = wire(&frame(1, vec![], 1));
        raw[bit / 8] ^= 1 << (bit % 8);
        let raw: [u8; 128] = raw[..128].try_into().unwrap();
        prop_assert!(decode_header(&raw).is_err());
    }
}

#[test]
fn a_frame_over_the_limits_is_refused_before_it_is_sent() {
    let mut f = frame(1, vec![], 1);
    f.meta = vec![0; (1 << 20) + 1];
    assert_eq!(encode_head(&f, &mut Vec::new()), Err(FrameError::BadLength));
}

#[test]
fn flipped_metadata_is_refused() {
    let mut raw = wire(&frame(0, vec![1, 2, 3], 1));
    raw[129] ^= 4;
    assert_eq!(Decoder::new().feed(&raw, &mut Vec::new()), Err(FrameError::BadMetaCrc));
}

const MASTER: [u8; 32] = [9; 32];

fn who() -> PeerIdentity {
    PeerIdentity { role: Role::Client, uuid: Uuid([1; 16]), cluster: Uuid([2; 16]) }
}

fn master(epoch: u32) -> Option<[u8; 32]> {
    (epoch == 7).then_some(MASTER)
}

#[test]
fn both_sides_prove_themselves() {
    let key = role_key(&MASTER, "client", &[1; 16], 7);
    let (client, first) = ClientHello::new(who(), key, 7, [5; 32]);
    let (server, second) = ServerHello::on_challenge(&first, Uuid([2; 16]), Uuid([3; 16]), [6; 32], master).unwrap();
    let (node, protocol, third) = client.on_challenge(&second).unwrap();
    assert_eq!((node, protocol), (Uuid([3; 16]), 1));
    let (peer, fourth) = server.on_proof(&third).unwrap();
    assert_eq!(peer, who());
    assert_eq!(client.on_verdict(&fourth), Ok(()));
}

#[test]
fn a_wrong_key_cluster_or_epoch_is_refused_and_said_so() {
    let (client, first) = ClientHello::new(who(), [0; 32], 7, [5; 32]);
    let (server, second) = ServerHello::on_challenge(&first, Uuid([2; 16]), Uuid([3; 16]), [6; 32], master).unwrap();
    assert_eq!(client.on_challenge(&second).unwrap_err(), HelloError::BadProof);
    assert_eq!(server.on_proof(&verdict(0)).unwrap_err(), HelloError::Malformed);
    let other = ServerHello::on_challenge(&first, Uuid([9; 16]), Uuid([3; 16]), [6; 32], master).err().unwrap();
    assert_eq!(other, HelloError::WrongCluster);
    let (_, old) = ClientHello::new(who(), [0; 32], 6, [5; 32]);
    let other = ServerHello::on_challenge(&old, Uuid([2; 16]), Uuid([3; 16]), [6; 32], master).err().unwrap();
    assert_eq!(other, HelloError::UnknownKeyEpoch);
    assert_eq!(client.on_challenge(&verdict(2)).unwrap_err(), HelloError::Refused(2));
}

#[test]
fn a_proof_recorded_from_another_session_is_refused() {
    let key = role_key(&MASTER, "client", &[1; 16], 7);
    let (client, first) = ClientHello::new(who(), key, 7, [5; 32]);
    let (_, second) = ServerHello::on_challenge(&first, Uuid([2; 16]), Uuid([3; 16]), [6; 32], master).unwrap();
    let (_, _, third) = client.on_challenge(&second).unwrap();
    let (later, _) = ServerHello::on_challenge(&first, Uuid([2; 16]), Uuid([3; 16]), [8; 32], master).unwrap();
    assert_eq!(later.on_proof(&third).unwrap_err(), HelloError::BadProof);
}
