//! Requests of the transmission phase: parsed, checked against the export, typed.

use crate::reply::NbdError;
use crate::{proto, Export};
use drystone_types::Buf;

/// What a reply needs to know about its request. Copy it, keep it, hand it back once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub(crate) cookie: u64,
    pub(crate) command: u16,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) one_chunk: bool,
    pub(crate) one_extent: bool,
}

impl ReplyTo {
    /// The client's own number for the request: for logs, not unique across connections.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }
    /// Bytes it holds of the connection's allowance while it is in flight.
    pub(crate) fn weight(&self) -> u64 {
        match self.command {
            proto::CMD_READ | proto::CMD_WRITE => u64::from(self.len),
            _ => 0,
        }
    }
}

/// One request that lies inside the export and is aligned to 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Give this to exactly one of the session's `reply_*` functions.
    pub to: ReplyTo,
    /// What to do.
    pub op: Op,
}

/// What the client asks for; offsets and lengths in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Answer with exactly `len` bytes.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes, 1 to 32 MiB.
        len: u32,
    },
    /// Store `data`.
    Write {
        /// First byte.
        offset: u64,
        /// The payload; its memory starts page-aligned.
        data: Buf,
        /// Answer only when it is on stable storage.
        fua: bool,
    },
    /// Answer when every write answered before is on stable storage.
    Flush,
    /// Forget the range; reading it afterwards gives zeros here.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes; may be up to 4 GiB.
        len: u32,
        /// Answer only when it is on stable storage.
        fua: bool,
    },
    /// Make the range read as zeros.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes; may be up to 4 GiB.
        len: u32,
        /// Answer only when it is on stable storage.
        fua: bool,
        /// Keep the space allocated.
        no_hole: bool,
        /// Fail with [`NbdError::NotSupported`] rather than be as slow as a write.
        fast: bool,
    },
    /// Which parts are holes or zeros; answer with at least one extent.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Only one extent is wanted.
        one: bool,
    },
}

/// The fixed header, as the client wrote it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRequest {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl RawRequest {
    /// `None` when the magic is wrong: the stream is out of step and cannot be trusted again.
    pub fn parse(head: &[u8; proto::REQUEST_LEN]) -> Option<RawRequest> {
        let (magic, rest) = head.split_first_chunk()?;
        let (flags, rest) = rest.split_first_chunk()?;
        let (command, rest) = rest.split_first_chunk()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (len, _) = rest.split_first_chunk()?;
        (u32::from_be_bytes(*magic) == proto::MAGIC_REQUEST).then_some(RawRequest {
            flags: u16::from_be_bytes(*flags),
            command: u16::from_be_bytes(*command),
            cookie: u64::from_be_bytes(*cookie),
            offset: u64::from_be_bytes(*offset),
            len: u32::from_be_bytes(*len),
        })
    }

    pub fn reply_to(&self) -> ReplyTo {
        ReplyTo {
            cookie: self.cookie,
            command: self.command,
            offset: self.offset,
            len: self.len,
            one_chunk: self.flags & proto::CMD_FLAG_DF != 0,
            one_extent: self.flags & proto::CMD_FLAG_ONE != 0,
        }
    }

    fn fua(&self) -> bool {
        self.flags & proto::CMD_FLAG_FUA != 0
    }

    /// FUA is harmless on every command, so it is accepted everywhere.
    fn flags_allowed(&self, structured: bool) -> bool {
        let allowed = match self.command {
            proto::CMD_READ if structured => proto::CMD_FLAG_DF,
            proto::CMD_WRITE_ZEROES => proto::CMD_FLAG_NO_HOLE | proto::CMD_FLAG_FAST,
            proto::CMD_BLOCK_STATUS => proto::CMD_FLAG_ONE,
            _ => 0,
        };
        self.flags & !(allowed | proto::CMD_FLAG_FUA) == 0
    }

    /// Everything that can be wrong with a well-formed header, as the error to answer.
    pub fn check(&self, export: &Export, structured: bool, allocation: bool) -> Result<(), NbdError> {
        let writes = matches!(self.command, proto::CMD_WRITE | proto::CMD_TRIM | proto::CMD_WRITE_ZEROES);
        if writes && export.read_only {
            return Err(NbdError::NotPermitted);
        }
        if !self.flags_allowed(structured) {
            return Err(NbdError::Invalid);
        }
        match self.command {
            proto::CMD_FLUSH => return Ok(()),
            proto::CMD_BLOCK_STATUS if !allocation => return Err(NbdError::Invalid),
            proto::CMD_READ | proto::CMD_WRITE if self.len > proto::PAYLOAD_MAX => return Err(NbdError::Invalid),
            proto::CMD_READ | proto::CMD_WRITE | proto::CMD_BLOCK_STATUS => {}
            proto::CMD_TRIM | proto::CMD_WRITE_ZEROES => {}
            _ => return Err(NbdError::Invalid),
        }
        self.check_range(export.size)
    }

    fn check_range(&self, size: u64) -> Result<(), NbdError> {
        let unit = u64::from(proto::BLOCK_MIN);
        if self.len == 0 || self.offset % unit != 0 || u64::from(self.len) % unit != 0 {
            return Err(NbdError::Invalid);
        }
        let inside = self.offset.checked_add(u64::from(self.len)).is_some_and(|end| end <= size);
        match self.command {
            _ if inside => Ok(()),
            proto::CMD_WRITE | proto::CMD_WRITE_ZEROES => Err(NbdError::NoSpace),
            _ => Err(NbdError::Invalid),
        }
    }

    /// The typed request; `data` is used for writes only. Called after [`RawRequest::check`].
    pub fn into_request(self, data: Buf) -> Request {
        let (offset, len, fua) = (self.offset, self.len, self.fua());
        let op = match self.command {
            proto::CMD_READ => Op::Read { offset, len },
            proto::CMD_WRITE => Op::Write { offset, data, fua },
            proto::CMD_TRIM => Op::Trim { offset, len, fua },
            proto::CMD_WRITE_ZEROES => Op::WriteZeroes {
                offset,
                len,
                fua,
                no_hole: self.flags & proto::CMD_FLAG_NO_HOLE != 0,
                fast: self.flags & proto::CMD_FLAG_FAST != 0,
            },
            proto::CMD_BLOCK_STATUS => Op::BlockStatus { offset, len, one: self.flags & proto::CMD_FLAG_ONE != 0 },
            _ => Op::Flush,
        };
        Request { to: self.reply_to(), op }
    }
}
