//! A small NBD client: fixed newstyle handshake, simple replies.
//!
//! Structured replies are not asked for: with them a read may arrive in pieces, and all they
//! would give here is a report of holes that nobody reads.

pub mod handshake;
pub mod wire;

pub use handshake::{negotiate, Export, HandshakeError};
