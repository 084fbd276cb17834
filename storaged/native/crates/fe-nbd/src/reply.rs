//! Replies: simple ones, and structured chunks where the client asked for them.

use crate::request::ReplyTo;
use crate::session::Session;
use crate::{proto, Sink};
use drystone_types::{Buf, BufMut};

/// Errors of the protocol, by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NbdError {
    /// Writing to a read-only export, or after the volume was fenced (EPERM).
    NotPermitted,
    /// The storage failed (EIO).
    Io,
    /// No memory for it now (ENOMEM).
    NoMemory,
    /// The request makes no sense (EINVAL).
    Invalid,
    /// Beyond the end, or the pool is full (ENOSPC).
    NoSpace,
    /// Too much for one reply (EOVERFLOW).
    Overflow,
    /// Would be slow and the client asked for fast (ENOTSUP).
    NotSupported,
    /// The server is going away (ESHUTDOWN).
    Shutdown,
}

impl NbdError {
    pub(crate) fn code(self) -> u32 {
        match self {
            NbdError::NotPermitted => 1,
            NbdError::Io => 5,
            NbdError::NoMemory => 12,
            NbdError::Invalid => 22,
            NbdError::NoSpace => 28,
            NbdError::Overflow => 75,
            NbdError::NotSupported => 95,
            NbdError::Shutdown => 108,
        }
    }
}

/// One stretch of a read answer, in order.
#[derive(Clone, Debug)]
pub enum ReadPiece {
    /// These bytes.
    Data(Buf),
    /// So many zero bytes: sent as a hole where the client can take one.
    Zero(u32),
}

impl ReadPiece {
    fn len(&self) -> u64 {
        match self {
            ReadPiece::Data(buf) => buf.len() as u64,
            ReadPiece::Zero(len) => u64::from(*len),
        }
    }
}

/// One stretch of a block status answer, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes; more than 0.
    pub len: u32,
    /// Nothing is allocated there.
    pub hole: bool,
    /// It reads as zeros.
    pub zero: bool,
}

/// Zeros for clients that cannot take holes are sent from pieces of this size.
const ZERO_PIECE: usize = 64 << 10;

fn simple(out: &mut impl Sink, cookie: u64, error: u32) {
    let mut head = [0u8; 16];
    let fields: [&[u8]; 3] = [&proto::MAGIC_SIMPLE.to_be_bytes(), &error.to_be_bytes(), &cookie.to_be_bytes()];
    fill(&mut head, &fields);
    out.bytes(&head);
}

fn chunk(out: &mut impl Sink, to: &ReplyTo, done: bool, kind: u16, len: u32) {
    let mut head = [0u8; 20];
    let flags = if done { proto::CHUNK_DONE } else { 0 };
    let fields: [&[u8]; 5] = [
        &proto::MAGIC_CHUNK.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &to.cookie.to_be_bytes(),
        &len.to_be_bytes(),
    ];
    fill(&mut head, &fields);
    out.bytes(&head);
}

/// Lays fields side by side: one call to the sink for a header instead of five.
fn fill(head: &mut [u8], fields: &[&[u8]]) {
    let mut rest = head;
    for field in fields {
        let Some((now, later)) = rest.split_at_mut_checked(field.len()) else {
            return;
        };
        now.copy_from_slice(field);
        rest = later;
    }
}

impl Session {
    /// Answers a write, flush, trim or write-zeroes with success.
    pub fn reply_done(&mut self, to: ReplyTo, out: &mut impl Sink) {
        if matches!(to.command, proto::CMD_READ | proto::CMD_BLOCK_STATUS) {
            // A shell that has nothing to say to a read has lost the data: say so.
            return self.reply_error(to, NbdError::Io, out);
        }
        self.finish(&to);
        simple(out, to.cookie, 0);
    }

    /// Answers any request with an error.
    pub fn reply_error(&mut self, to: ReplyTo, error: NbdError, out: &mut impl Sink) {
        self.finish(&to);
        self.send_error(&to, error, out);
    }

    pub(crate) fn send_error(&self, to: &ReplyTo, error: NbdError, out: &mut impl Sink) {
        if !self.structured() {
            return simple(out, to.cookie, error.code());
        }
        chunk(out, to, true, proto::CHUNK_ERROR, 6);
        out.bytes(&error.code().to_be_bytes());
        out.bytes(&0u16.to_be_bytes());
    }

    /// Answers a read with one buffer of exactly the asked length.
    pub fn reply_data(&mut self, to: ReplyTo, data: Buf, out: &mut impl Sink) {
        self.reply_read(to, &[ReadPiece::Data(data)], out);
    }

    /// Answers a read with pieces that add up to exactly the asked length; a wrong total is
    /// answered with EIO, because sending it would put the stream out of step.
    pub fn reply_read(&mut self, to: ReplyTo, pieces: &[ReadPiece], out: &mut impl Sink) {
        let total: u64 = pieces.iter().map(ReadPiece::len).sum();
        if to.command != proto::CMD_READ || total != u64::from(to.len) {
            return self.reply_error(to, NbdError::Io, out);
        }
        self.finish(&to);
        if !self.structured() {
            simple(out, to.cookie, 0);
            pieces.iter().for_each(|piece| self.send_plain(piece, out));
        } else if to.one_chunk {
            chunk(out, &to, true, proto::CHUNK_DATA, to.len.saturating_add(8));
            out.bytes(&to.offset.to_be_bytes());
            pieces.iter().for_each(|piece| self.send_plain(piece, out));
        } else {
            send_chunks(&to, pieces, out);
        }
    }

    fn send_plain(&mut self, piece: &ReadPiece, out: &mut impl Sink) {
        match piece {
            ReadPiece::Data(buf) => out.buf(buf.clone()),
            ReadPiece::Zero(len) => {
                let zeros = self.zeros.get_or_insert_with(|| BufMut::zeroed(ZERO_PIECE).freeze());
                let mut left = *len as usize;
                while left > 0 {
                    let now = left.min(ZERO_PIECE);
                    out.buf(zeros.slice(0..now));
                    left -= now;
                }
            }
        }
    }

    /// Answers a block status request. Extents beyond the request are cut; an empty list is
    /// answered with EIO, because the protocol needs progress.
    pub fn reply_extents(&mut self, to: ReplyTo, extents: &[Extent], out: &mut impl Sink) {
        let wanted = if to.one_extent { 1 } else { proto::EXTENTS_MAX };
        let mut left = to.len;
        let mut body = Vec::with_capacity(4 + 8 * extents.len().min(wanted));
        body.extend_from_slice(&proto::CONTEXT_ID.to_be_bytes());
        for extent in extents.iter().filter(|e| e.len > 0).take(wanted) {
            let len = extent.len.min(left);
            if len == 0 {
                break;
            }
            left -= len;
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(&(u32::from(extent.hole) | u32::from(extent.zero) << 1).to_be_bytes());
        }
        if to.command != proto::CMD_BLOCK_STATUS || body.len() == 4 {
            return self.reply_error(to, NbdError::Io, out);
        }
        self.finish(&to);
        // At most 4 + 8 × EXTENTS_MAX bytes.
        chunk(out, &to, true, proto::CHUNK_STATUS, u32::try_from(body.len()).unwrap_or(4));
        out.bytes(&body);
    }
}

fn send_chunks(to: &ReplyTo, pieces: &[ReadPiece], out: &mut impl Sink) {
    let mut offset = to.offset;
    let mut left = u64::from(to.len);
    for piece in pieces.iter().filter(|piece| piece.len() > 0) {
        left -= piece.len();
        match piece {
            ReadPiece::Data(buf) => {
                // A piece is no longer than the request, which is at most 32 MiB.
                chunk(out, to, left == 0, proto::CHUNK_DATA, u32::try_from(buf.len()).unwrap_or(0).saturating_add(8));
                out.bytes(&offset.to_be_bytes());
                out.buf(buf.clone());
            }
            ReadPiece::Zero(len) => {
                chunk(out, to, left == 0, proto::CHUNK_HOLE, 12);
                out.bytes(&offset.to_be_bytes());
                out.bytes(&len.to_be_bytes());
            }
        }
        offset = offset.saturating_add(piece.len());
    }
    if to.len == 0 {
        chunk(out, to, true, proto::CHUNK_NONE, 0);
    }
}
