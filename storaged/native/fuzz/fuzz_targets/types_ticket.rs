//! Attach tickets: bounds, round trip, and that no ticket opens whose MAC was not made with the key.
#![no_main]

use drystone_fuzz::{spending, KEY_EPOCH, MASTER};
use drystone_types::consts::{CHAIN_MAX, VOLUME_SIZE_MAX};
use drystone_types::trust::hmac_sha256;
use drystone_types::{Ticket, Uuid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(uuid) = core::str::from_utf8(bytes).ok().and_then(Uuid::parse) {
        assert_eq!(Uuid::parse(&uuid.to_string()), Some(uuid));
    }
    let key_of = |epoch| (epoch == KEY_EPOCH).then_some(MASTER);
    let limit = bytes.len() * 8 + 4096;
    let _ = spending(limit, || Ticket::open(bytes, key_of));
    let Ok(peeked) = spending(limit, || Ticket::peek(bytes)) else { return };
    assert!(peeked.size <= VOLUME_SIZE_MAX && peeked.chain.len().max(peeked.parents.len()) <= CHAIN_MAX);
    let sealed = peeked.seal(&MASTER, KEY_EPOCH);
    assert_eq!(Ticket::open(&sealed, key_of), Ok(peeked.clone()));
    // The fuzzed body under a right MAC opens to the same, unless something follows its end.
    let mut body = bytes[..bytes.len() - 32].to_vec();
    body[1..5].copy_from_slice(&KEY_EPOCH.to_le_bytes());
    body.extend_from_slice(&hmac_sha256(&MASTER, &[&body]));
    match Ticket::open(&body, key_of) {
        Ok(ticket) => assert_eq!((ticket, body), (peeked, sealed)),
        Err(_) => assert!(body.len() > sealed.len()),
    }
});
