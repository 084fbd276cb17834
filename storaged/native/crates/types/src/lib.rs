//! Identifiers, limits, maps, tickets, buffers and logical frames shared by every core.
//!
//! This crate is vocabulary only: no I/O, no clock, no randomness, no protocol decisions.
//! The numbers come from the engine design (§3 vocabulary and constants, §4.1 records,
//! §4.2 messages, §10 frame); `docs/wire-protocol.md` is the description for readers.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod buf;
pub mod codec;
pub mod consts;
pub mod ids;
pub mod latency;
pub mod map;
pub mod msg;
pub mod rules;
pub mod ticket;
pub mod trust;

pub use buf::{Buf, BufMut};
pub use codec::{CodecError, Reader, Writer};
pub use ids::*;
pub use latency::{Latency, LATENCY_BOUNDS_US};
pub use map::{ClusterMap, DriveInfo, MapError, MapShard, PgRecord, PoolMap};
pub use msg::{Flags, Frame, Header, MsgType, Status};
pub use rules::{Rule, Rules};
pub use ticket::{AttachMode, ParentRef, Ticket, TicketError};
