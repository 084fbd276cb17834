//! A checkpoint: chunks, their items, and the root.
#![no_main]

use drystone_fuzz::spending;
use drystone_store::ckpt_codec::{
    chunk_bytes, open_chunk, put_meta, put_recent, put_vol, seal_chunk, take_item, Item, Root,
};
use drystone_store::loc::SLOT;
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{Reader, Writer};
use libfuzzer_sys::fuzz_target;

fn limit(bytes: &[u8]) -> usize {
    bytes.len() * 16 + 4096
}

fn chunk(bytes: &[u8]) {
    let _ = spending(0, || (open_chunk(bytes, 0, 0).is_ok(), chunk_bytes(bytes, 0, 0)));
    let sealed = seal_chunk(4, 1, bytes);
    assert!(sealed.len() % SLOT == 0 && chunk_bytes(&sealed[..SLOT], 4, 1) == Some(sealed.len()));
    assert_eq!(open_chunk(&sealed, 4, 1), Ok(bytes));
    assert!(open_chunk(&sealed, 4, 2).is_err() && open_chunk(&sealed, 5, 1).is_err());
}

fn items(bytes: &[u8]) {
    let mut r = Reader::new(bytes);
    loop {
        let before = r.remaining();
        let Ok(item) = spending(limit(bytes), || take_item(&mut r)) else { return };
        let from = bytes.len() - before;
        let raw = &bytes[from..bytes.len() - r.remaining()];
        let mut w = Writer::new();
        match item {
            Item::Meta(key, lsn, value) => put_meta(&mut w, key, lsn, &value),
            Item::Vol(vol, gen) => put_vol(&mut w, vol, gen),
            Item::Recent(pg, recent) => put_recent(&mut w, pg, &recent),
            Item::Object(object) => {
                let runs = object.extents.iter().map(|x| (x.first, x.count));
                let runs = runs.chain(object.versions.iter().map(|v| (v.0, v.1)));
                let mut runs = runs.chain(object.joins.iter().map(|j| (j.0, j.1)));
                assert!(runs.all(|(first, count)| count > 0 && u32::from(first) + u32::from(count) <= CHUNK_BLOCKS));
                continue;
            }
        }
        assert_eq!(w.finish(), raw);
    }
}

fn root(bytes: &[u8]) {
    let Ok(root) = spending(limit(bytes), || Root::decode(bytes)) else { return };
    let again = root.encode();
    assert_eq!(again.len(), bytes.len());
    assert_eq!(Root::decode(&again), Ok(root));
}

fuzz_target!(|bytes: &[u8]| {
    chunk(bytes);
    items(bytes);
    root(bytes);
});
