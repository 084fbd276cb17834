//! Frames and streams of them from fuzzed bytes, valid until `damage` is done.

use drystone_csum::crc64;
use drystone_frame::header::decode_header;
use drystone_frame::{encode_head, HEADER_LEN, MAGIC, VERSION};
use drystone_types::consts::BLOCK_SIZE;
use drystone_types::{Buf, Frame, Header};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Where the header announces its payload and its checksums, and where its own CRC stands
/// (docs/wire-protocol.md).
const PAYLOAD_AT: usize = 68;
const CSUMS_AT: usize = 96;
const CRC_AT: usize = 120;

/// Makes magic, version and CRC of a header right, so that its fields are looked at.
pub fn seal_header(raw: &mut [u8; HEADER_LEN]) {
    raw[..4].copy_from_slice(&MAGIC.to_le_bytes());
    raw[4] = VERSION;
    let crc = crc64(&raw[..CRC_AT]);
    raw[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

/// Any header that decodes.
pub fn header(u: &mut Unstructured) -> Result<Header> {
    let mut raw = [0; HEADER_LEN];
    u.fill_buffer(&mut raw)?;
    // Types are few among 256 numbers, and statuses among 65536.
    raw[5] = [1, 2, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31][usize::from(raw[5]) % 18];
    (raw[98], raw[99]) = (raw[98] % 10, 0);
    raw[PAYLOAD_AT..PAYLOAD_AT + 4].fill(0);
    raw[CSUMS_AT..CSUMS_AT + 2].fill(0);
    seal_header(&mut raw);
    Ok(decode_header(&raw).expect("sealed and within its bounds").0)
}

/// Any frame within the bounds of the protocol.
pub fn frame(u: &mut Unstructured) -> Result<Frame> {
    let hdr = header(u)?;
    let blocks = match u.arbitrary::<u8>()? {
        many @ 250.. => usize::from(many),
        few => usize::from(few % 4),
    };
    let csum: u64 = u.arbitrary()?;
    let mut meta = vec![0; usize::from(u.arbitrary::<u8>()?)];
    u.fill_buffer(&mut meta)?;
    if u.ratio(1u8, 8u8)? {
        // Past what is taken from the receive buffer.
        meta.resize(20_000 + blocks, 7);
    }
    let data = Buf::copy_from(&vec![blocks as u8; blocks * BLOCK_SIZE]);
    Ok(Frame { hdr, csums: vec![csum; blocks], meta, data })
}

/// Up to four frames, and their bytes as they would be on the wire.
pub fn frames(u: &mut Unstructured) -> Result<(Vec<Frame>, Vec<u8>)> {
    let (mut list, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..u.int_in_range(1..=4u8)? {
        let frame = frame(u)?;
        encode_head(&frame, &mut bytes).expect("within the bounds");
        bytes.extend_from_slice(frame.data.as_slice());
        list.push(frame);
    }
    Ok((list, bytes))
}

/// Changes a few bytes, or cuts the end off; gives whether anything is different now.
pub fn damage(u: &mut Unstructured, bytes: &mut Vec<u8>) -> Result<bool> {
    let before = bytes.len();
    let mut changed = false;
    for _ in 0..u.int_in_range(0..=3u8)? {
        let at = u.choose_index(bytes.len())?;
        let flip: u8 = u.arbitrary()?;
        bytes[at] ^= flip;
        changed |= flip != 0;
    }
    if u.ratio(1u8, 4u8)? {
        bytes.truncate(u.choose_index(before)?);
    }
    Ok(changed || bytes.len() < before)
}

/// The sizes in which a stream arrives, over and over.
pub struct Splits {
    sizes: Vec<usize>,
    next: usize,
}

impl Splits {
    /// From fuzzed bytes: single bytes, blocks, and everything in between; a long stream of `len`
    /// bytes does not arrive in single bytes alone, which would take all the time.
    pub fn new(u: &mut Unstructured, len: usize) -> Result<Splits> {
        let count = u.int_in_range(1..=8u8)?;
        let mut sizes = (0..count).map(|_| Ok(1 << u.int_in_range(0..=16u8)?)).collect::<Result<Vec<usize>>>()?;
        sizes.push((len / 256).max(1));
        Ok(Splits { sizes, next: 0 })
    }
    /// Everything at once.
    pub fn whole() -> Splits {
        Splits { sizes: vec![usize::MAX], next: 0 }
    }
    /// The next size.
    pub fn size(&mut self) -> usize {
        self.next = (self.next + 1) % self.sizes.len();
        self.sizes[self.next]
    }
}
