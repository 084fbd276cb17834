//! What a drive's log is read from: superblocks, segment headers, summaries, group headers, entries.
//! Also with a right checksum around fuzzed fields, because rot is not the only thing that writes there.
#![no_main]

use drystone_fuzz::spending;
use drystone_store::checksum;
use drystone_store::entry::Entry;
use drystone_store::group::{Expect, GroupHeader, BODY_MAX};
use drystone_store::loc::SLOT;
use drystone_store::segment::{decode_summary, push_group, Footer, SegHeader};
use drystone_store::superblock::{Superblock, MAGIC};
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{Reader, Uuid};
use libfuzzer_sys::fuzz_target;

const EXPECT: Expect = Expect { seg_seq: 0, slot: 0 };
const SEG_SLOTS: u64 = 64;
/// Bytes of a group header before its entries.
const FIXED: usize = SLOT - BODY_MAX;

/// A slot of `kind` whose fields are the fuzzed bytes, checksum and magic right.
fn slot(kind: &[u8], fields: &[u8]) -> Vec<u8> {
    let mut out = kind[..16].to_vec();
    out.extend_from_slice(&fields[..fields.len().min(SLOT - 16)]);
    out.resize(SLOT, 0);
    let crc = checksum(&out[8..]).to_le_bytes();
    out[..8].copy_from_slice(&crc);
    out
}

fn superblock(bytes: &[u8]) {
    let _ = spending(0, || Superblock::decode(bytes));
    let mut raw = [&MAGIC[..], &[0; 8], bytes].concat();
    raw.resize(SLOT, 0);
    let crc = checksum(&raw[16..]).to_le_bytes();
    raw[8..16].copy_from_slice(&crc);
    let Ok(sb) = spending(0, || Superblock::decode(&raw)) else { return };
    assert_eq!(Superblock::decode(&sb.encode()), Ok(sb));
    assert!(sb.layout.superblocks().iter().all(|at| *at < sb.layout.slots));
    assert!(sb.layout.seg_start(sb.layout.segments) <= sb.layout.slots);
}

fn segment(bytes: &[u8]) {
    let _ = spending(0, || (SegHeader::decode(bytes), Footer::decode(bytes, 0, 0, SEG_SLOTS)));
    let sample = SegHeader { drive: Uuid([1; 16]), nonce: 1, seq: 1, seg: 1, stream: 0 };
    if let Ok(header) = SegHeader::decode(&slot(&sample.encode(), bytes)) {
        assert_eq!(SegHeader::decode(&header.encode()), Ok(header));
    }
    // Sequence number and segment are those that the reader expects.
    let fields = [&[0; 12][..], bytes].concat();
    if let Ok(footer) = Footer::decode(&slot(&Footer::default().encode(), &fields), 0, 0, SEG_SLOTS) {
        assert!(u64::from(footer.body_slot) < SEG_SLOTS && footer.used <= SEG_SLOTS as u32);
        assert_eq!(Footer::decode(&footer.encode(), 0, 0, SEG_SLOTS), Ok(footer));
    }
}

fn entries(bytes: &[u8]) {
    let mut r = Reader::new(bytes);
    while let Ok(entry) = spending(2048, || Entry::decode(&mut r)) {
        if let Entry::Blocks(b) = &entry {
            assert!(b.count > 0 && u32::from(b.first) + u32::from(b.count) <= CHUNK_BLOCKS);
        }
        let mut again = Vec::new();
        entry.encode(&mut again);
        assert_eq!(again.len(), entry.encoded_len());
        assert_eq!(Entry::decode(&mut Reader::new(&again)), Ok(entry));
    }
}

fn group(bytes: &[u8]) {
    let _ = GroupHeader::decode(bytes, EXPECT);
    let Some((counts, rest)) = bytes.split_first_chunk::<6>() else { return };
    let sample = GroupHeader {
        nonce: 0,
        seg_seq: 0,
        slot: 0,
        gseq: 0,
        durable: [0; 3],
        prev_crc: 0,
        stream: 0,
        entries: Vec::new(),
        csums: Vec::new(),
    };
    let mut raw = vec![0; SLOT];
    sample.encode(&[], &mut raw);
    raw[80..86].copy_from_slice(counts);
    // Counts of one byte are enough for what fits a header.
    (raw[81], raw[83], raw[85]) = (raw[81] % 2, raw[83] % 16, raw[85] % 2);
    let n = rest.len().min(BODY_MAX);
    raw[FIXED..FIXED + n].copy_from_slice(&rest[..n]);
    let raw = slot(&raw, &raw[16..]);
    let Ok((header, _)) = spending(1 << 17, || GroupHeader::decode(&raw, EXPECT)) else { return };
    assert_eq!(header.walk().count(), header.entries.len());
    let _ = header.data_is_whole(bytes);
    let (mut body, mut again) = (Vec::new(), vec![0; SLOT]);
    header.entries.iter().for_each(|e| e.encode(&mut body));
    header.encode(&body, &mut again);
    assert_eq!(GroupHeader::decode(&again, EXPECT).map(|(h, _)| h), Ok(header));
}

fn summary(bytes: &[u8]) {
    let Some((groups, body)) = bytes.split_first() else { return };
    let footer = Footer { groups: u32::from(*groups), body_crc: checksum(body), ..Footer::default() };
    let limit = body.len() * 16 + 4096;
    let Ok(groups) = spending(limit, || decode_summary(body, &footer)) else { return };
    let mut again = Vec::new();
    for group in &groups {
        let mut bytes = Vec::new();
        group.entries.iter().for_each(|e| e.encode(&mut bytes));
        push_group(&mut again, group.rel, group.gseq, group.entries.len(), &bytes);
    }
    let footer = Footer { body_crc: checksum(&again), ..footer };
    assert_eq!(decode_summary(&again, &footer), Ok(groups));
}

fuzz_target!(|bytes: &[u8]| {
    superblock(bytes);
    segment(bytes);
    entries(bytes);
    group(bytes);
    summary(bytes);
});
