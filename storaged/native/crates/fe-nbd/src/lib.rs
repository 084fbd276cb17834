//! NBD server session without I/O: bytes in, typed requests out, replies to bytes.
//!
//! It is the protocol and nothing else: no socket, no clock, no thread, no storage. A shell
//! gives [`Session::decode`] what arrived and carries out each [`Request`]; the answers go
//! through the `reply_*` functions into a [`Sink`]. Numbers and rules are those of the NBD
//! protocol document (fixed newstyle negotiation, simple and structured replies).
//!
//! Promises: no input makes it panic or allocate more than [`Limits`] allow; every request
//! handed out lies inside the export and is 512-byte aligned; a bad request is answered with
//! an error and the connection lives on, a broken stream is a [`SessionError`].
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod export;
#[cfg(feature = "reactor")]
mod glue;
mod handshake;
mod options;
mod proto;
mod reply;
mod request;
mod session;
mod sink;

pub use export::{Export, Limits};
pub use reply::{Extent, NbdError, ReadPiece};
pub use request::{Op, ReplyTo, Request};
pub use session::{Fill, Session, SessionError, Step};
pub use sink::Sink;

/// Most bytes a session wants to see at once before it makes progress: the receive buffer
/// of a connection must hold at least this much.
pub const RECV_MIN: usize = proto::OPTION_LEN_MAX + proto::INLINE_PAYLOAD_MAX;
