//! Between NBD and the sequencer: requests in, answers out.

use drystone_fe_nbd::{Extent as NbdExtent, NbdError, Op, ReadPiece, ReplyTo, Session};
use drystone_reactor::SendQueue;
use drystone_sequencer::{Io, IoError, IoOk, IoResult};

use crate::io_stats::IoKind;

/// What the consumer asks of the sequencer. FUA needs nothing: every ack is durable.
pub fn io_of(op: Op) -> Io {
    match op {
        Op::Read { offset, len } => Io::Read { offset, len: u64::from(len) },
        Op::Write { offset, data, .. } => Io::Write { offset, data },
        Op::Flush => Io::Flush,
        Op::Trim { offset, len, .. } => Io::Trim { offset, len: u64::from(len) },
        Op::WriteZeroes { offset, len, .. } => Io::WriteZeroes { offset, len: u64::from(len) },
        Op::BlockStatus { offset, len, .. } => Io::BlockStatus { offset, len: u64::from(len) },
    }
}

/// How a request is counted, and its bytes.
pub fn counted(op: &Op) -> (IoKind, u32) {
    match op {
        Op::Read { len, .. } => (IoKind::Read, *len),
        Op::Write { data, .. } => (IoKind::Write, u32::try_from(data.len()).unwrap_or(u32::MAX)),
        Op::Flush => (IoKind::Flush, 0),
        Op::Trim { len, .. } | Op::WriteZeroes { len, .. } => (IoKind::Trim, *len),
        Op::BlockStatus { .. } => (IoKind::Status, 0),
    }
}

/// The protocol's error for a failed request.
pub fn nbd_error(error: IoError) -> NbdError {
    match error {
        IoError::Eio | IoError::Fenced | IoError::Unissued => NbdError::Io,
        IoError::NoSpace => NbdError::NoSpace,
        IoError::Invalid => NbdError::Invalid,
        IoError::ReadOnly => NbdError::NotPermitted,
        IoError::Busy => NbdError::NoMemory,
    }
}

/// Writes the answer into the connection's queue.
pub fn reply(session: &mut Session, out: &mut SendQueue, to: ReplyTo, result: IoResult) {
    match result {
        Ok(IoOk::Done) => session.reply_done(to, out),
        Ok(IoOk::Data(pieces)) => {
            let pieces: Vec<ReadPiece> = pieces.into_iter().map(ReadPiece::Data).collect();
            session.reply_read(to, &pieces, out);
        }
        Ok(IoOk::Extents(extents)) => {
            let extents: Vec<NbdExtent> = extents
                .iter()
                .map(|e| NbdExtent { len: u32::try_from(e.len).unwrap_or(u32::MAX), hole: !e.data, zero: !e.data })
                .collect();
            session.reply_extents(to, &extents, out);
        }
        Err(error) => session.reply_error(to, nbd_error(error), out),
    }
}
