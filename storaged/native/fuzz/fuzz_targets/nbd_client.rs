//! The NBD client of the FUSE front end: whatever a server sends while an export is negotiated, and
//! headers of its answers. (The kernel's FUSE requests are parsed by the `fuser` crate.)
#![no_main]

use std::io::{self, Cursor, Read, Write};

use drystone_fe_fuse::nbd::{negotiate, wire};
use drystone_fuzz::spending;
use libfuzzer_sys::fuzz_target;

struct Peer {
    input: Cursor<Vec<u8>>,
    sent: usize,
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

impl Write for Peer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn talk(input: Vec<u8>) {
    // 64 option replies of 8 KiB, and the text of a refusal.
    let limit = 65 * 8192 * 2 + 4096;
    let mut peer = Peer { input: Cursor::new(input), sent: 0 };
    let _ = spending(limit, || negotiate(&mut peer, "vol"));
    assert!(peer.sent < 64, "the client answers for ever");
}

/// The same bytes as the bodies of well-formed option replies: one reply for each 16 bytes.
fn replies(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    for part in bytes.chunks(16) {
        out.extend_from_slice(&0x0003_E889_0455_65A9u64.to_be_bytes());
        out.extend_from_slice(&7u32.to_be_bytes());
        out.extend_from_slice(&u32::from(part[0] % 5).to_be_bytes());
        out.extend_from_slice(&(part.len() as u32 - 1).to_be_bytes());
        out.extend_from_slice(&part[1..]);
    }
    out
}

fuzz_target!(|bytes: &[u8]| {
    talk(bytes.to_vec());
    talk([b"NBDMAGICIHAVEOPT\0\x03", bytes].concat());
    talk(replies(bytes));
    if let Some(head) = bytes.first_chunk() {
        if let Some(reply) = wire::reply(*head) {
            assert!(wire::errno(reply.error) > 0);
        }
    }
});
