//! Heartbeats as datagrams: arbitrary ones, and arbitrary bodies under a right MAC.
#![no_main]

use drystone_fuzz::{spending, MASTER};
use drystone_membership::heartbeat::ECHOES_MAX;
use drystone_membership::Heartbeat;
use drystone_types::trust::{hmac_sha256, role_key};
use drystone_types::{Rev, Uuid};
use libfuzzer_sys::fuzz_target;

/// Magic, format and key epoch of a heartbeat, then its sender.
const NODE_AT: usize = 9;

fn empty() -> Vec<u8> {
    let node = Uuid([1; 16]);
    let beat = Heartbeat { node, boot: 1, seq: 1, sent_at: 1, map_rev: Rev(1), voters_version: 1, echoes: Vec::new() };
    beat.seal(&MASTER, 1)
}

fuzz_target!(|bytes: &[u8]| {
    let limit = bytes.len() * 4 + 4096;
    let _ = spending(limit, || Heartbeat::open(bytes, |_| Some(MASTER)));
    // Its own start, the fuzzed rest, the sender's MAC.
    let mut body = empty()[..NODE_AT].to_vec();
    body.extend_from_slice(bytes);
    let Some(node) = bytes.first_chunk::<16>() else { return };
    body.extend_from_slice(&hmac_sha256(&role_key(&MASTER, "beacon", node, 1), &[&body]));
    let Ok(beat) = spending(limit, || Heartbeat::open(&body, |epoch| (epoch == 1).then_some(MASTER))) else { return };
    assert!(beat.echoes.len() <= ECHOES_MAX && beat.node.0 == *node);
    assert_eq!(beat.seal(&MASTER, 1), body);
    // No node speaks for another.
    body[NODE_AT] ^= 1;
    assert!(Heartbeat::open(&body, |_| Some(MASTER)).is_err());
});
