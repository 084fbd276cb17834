//! Wire frames: the 128-byte header, its lengths and checksums, and the HELLO handshake.
//!
//! Sans-IO: bytes in, frames out. Every length is bounded before anything is allocated; a
//! frame that breaks a bound ends its connection, because after it the stream has no known
//! boundary. Byte layout: `docs/wire-protocol.md`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod decoder;
pub mod header;
pub mod hello;

pub use decoder::Decoder;
pub use header::{encode_head, FrameError, Lengths, HEADER_LEN, MAGIC, VERSION};
pub use hello::{ClientHello, HelloError, PeerIdentity, Role, ServerHello, HELLO_LEN};
