//! Where output goes: small bytes are copied, payloads are handed over.

use drystone_types::Buf;

/// Receives the bytes to send, in order.
pub trait Sink {
    /// Appends a copy of `bytes`: headers, at most a few hundred bytes.
    fn bytes(&mut self, bytes: &[u8]);
    /// Appends a payload without copying it.
    fn buf(&mut self, buf: Buf);
}

impl Sink for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
    fn buf(&mut self, buf: Buf) {
        self.extend_from_slice(buf.as_slice());
    }
}
