//! Checksums of blocks: CRC-64/NVME per 4 KiB, XORed with a fixed mix of (lineage, block number).
//!
//! The mix makes the right checksum of the wrong block fail (I16), and because it is only XORed
//! the sum stays linear, which erasure coding needs later. The CRC itself is `crc-fast`'s; a
//! table-driven one in the tests is its oracle.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

use crc_fast::{checksum, CrcAlgorithm};
use drystone_types::VolumeId;

/// CRC-64/NVME of any bytes; `123456789` gives `AE8B14860A799888`.
pub fn crc64(data: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Nvme, data)
}

/// The fixed mix of lineage and block number, counted from the start of the volume.
///
/// On-disk and wire format: it may never change. Two rounds of a 64-bit finalizer, so that
/// neighbouring blocks and neighbouring volumes differ in about half of the bits.
pub fn mix(lineage: VolumeId, block: u64) -> u64 {
    finalize(finalize(lineage.0 ^ 0x6472_7973_746f_6e65).wrapping_add(block))
}

fn finalize(mut z: u64) -> u64 {
    z ^= z >> 30;
    z = z.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^= z >> 27;
    z = z.wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Seeded checksum of one block.
pub fn block_csum(lineage: VolumeId, block: u64, data: &[u8]) -> u64 {
    crc64(data) ^ mix(lineage, block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bitwise(data: &[u8]) -> u64 {
        let mut crc = !0u64;
        for byte in data {
            crc ^= u64::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x9a6c_9329_ac4b_c9b5 } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn the_check_vector_of_crc64_nvme_holds() {
        assert_eq!(crc64(b"123456789"), 0xAE8B_1486_0A79_9888);
        assert_eq!(bitwise(b"123456789"), 0xAE8B_1486_0A79_9888);
    }

    #[test]
    fn the_mix_is_frozen() {
        let vectors: Vec<u64> =
            [(0, 0), (1, 0), (0, 1), (u64::MAX, u64::MAX)].iter().map(|(l, b)| mix(VolumeId(*l), *b)).collect();
        assert_eq!(vectors, FROZEN);
    }

    const FROZEN: [u64; 4] =
        [15_025_972_485_499_743_194, 1_304_897_479_491_075_837, 7_554_869_935_399_487_891, 12_548_308_002_099_496_227];

    #[test]
    fn the_right_checksum_of_the_wrong_block_fails() {
        let data = [7u8; 4096];
        assert_ne!(block_csum(VolumeId(1), 5, &data), block_csum(VolumeId(1), 6, &data));
        assert_ne!(block_csum(VolumeId(1), 5, &data), block_csum(VolumeId(2), 5, &data));
    }

    proptest! {
        #[test]
        fn the_fast_crc_equals_the_bitwise_one(data in proptest::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert_eq!(crc64(&data), bitwise(&data));
        }
    }
}
