//! A Drystone connection on the reactor: HELLO first, frames after it.
//!
//! One decoder serves both sides. It authenticates with fixed-size frames before it parses
//! anything else, then turns bytes into frames; large payloads are received where the
//! drive will write them from. No protocol decision beyond the handshake is made here.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod decoder;
mod dial;
mod keys;
mod mailbox;
mod pulse;

pub use decoder::{Item, LinkDecoder, LinkError, PeerUp};
pub use dial::{DialClasses, DialEvent, Dialer};
pub use keys::{Keys, MyIdentity};
pub use mailbox::{mailbox, EventSink, EventSource};

use drystone_frame::{encode_head, FrameError};
use drystone_reactor::SendQueue;
use drystone_types::Frame;

/// Queues a frame: the head is copied, the data goes by reference.
pub fn queue_frame(frame: &Frame, scratch: &mut Vec<u8>, out: &mut SendQueue) -> Result<(), FrameError> {
    scratch.clear();
    encode_head(frame, scratch)?;
    out.push_bytes(scratch);
    if !frame.data.is_empty() {
        out.push_buf(frame.data.clone());
    }
    Ok(())
}

/// 32 fresh random bytes from the kernel.
pub fn fresh_nonce() -> [u8; 32] {
    let mut nonce = [0u8; 32];
    match getrandom::fill(&mut nonce) {
        Ok(()) => nonce,
        // The kernel's random device cannot fail after boot; an abort is safer than a known nonce.
        Err(_) => std::process::abort(),
    }
}
