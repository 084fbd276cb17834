//! Frames of any content are answered or ignored; they never panic and never break an invariant.

use crate::rig::*;
use drystone_types::*;
use proptest::prelude::*;

fn header() -> impl Strategy<Value = Header> {
    let small = || prop_oneof![0u64..4, Just(1023u64), Just(1024), any::<u64>()];
    (0u8..40, any::<u16>(), small(), small(), small(), small(), small(), small(), any::<u32>()).prop_map(
        |(kind, flags, vol, gen, epoch, layer, block, seq, count)| Header {
            kind: MsgType::from_u8(kind).unwrap_or(MsgType::Write),
            flags: Flags(flags & 0x7e),
            vol: if vol < 2 { VOL } else { VolumeId(vol) },
            gen: Gen(gen as u32),
            origin_gen: Gen(gen as u32),
            pg: if layer < 3 { PG } else { PgId::from_wire(count) },
            pg_epoch: Epoch(epoch as u32),
            layer: if layer < 3 { LAYER } else { LayerId(layer) },
            drive: DriveId(if seq == 3 { 2 } else { 1 }),
            map_rev: Rev(epoch),
            block,
            count: if count % 3 == 0 { count } else { count % 300 },
            seq,
            stable: Version::new(gen as u32, vol),
            ..Header::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn no_frame_whatever_panics(
        frames in prop::collection::vec((header(), prop::collection::vec(any::<u8>(), 0..64), 0usize..3, 1u64..4), 1..20)
    ) {
        let mut rig = Rig::active(1);
        for (hdr, meta, blocks, peer) in frames {
            let data = Buf::copy_from(&vec![1; blocks * 4096]);
            let frame = Frame { hdr, csums: vec![7; blocks], meta, data };
            rig.send_from(drystone_replica::PeerId(peer), frame);
            rig.run();
            rig.advance(60_000);
        }
        prop_assert_eq!(rig.count("invariants"), 0);
    }
}
