//! One connection: greeting, options, then requests, as a byte stream arrives.

use crate::handshake::{self, Agreed, Next};
use crate::reply::NbdError;
use crate::request::{RawRequest, ReplyTo, Request};
use crate::{proto, Export, Limits, Sink};
use core::fmt;
use drystone_types::{Buf, BufMut};

/// Why the stream cannot go on; the connection must be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The client is not fixed-newstyle, or sent flags nobody defined.
    ClientFlags(u32),
    /// An option or a request did not start with its magic number.
    BadMagic,
    /// EXPORT_NAME with a name that is not served; it has no error reply.
    UnknownExport,
    /// An option body above 16 KiB; the client has been told.
    OptionTooBig(u32),
    /// More options than any negotiation needs.
    TooManyOptions,
    /// A write payload above 64 MiB: too much to read and throw away.
    PayloadTooBig(u32),
    /// A [`Fill`] came back that was not asked for, or came back not full.
    UnexpectedFill,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionError::ClientFlags(flags) => {
                write!(f, "client flags {flags:#x} are not fixed newstyle")
            }
            SessionError::BadMagic => write!(f, "wrong magic number: the stream is not NBD or is out of step"),
            SessionError::UnknownExport => {
                write!(f, "the client asked for an export that is not served here")
            }
            SessionError::OptionTooBig(len) => {
                write!(f, "option of {len} bytes is larger than any valid one")
            }
            SessionError::TooManyOptions => write!(f, "the client negotiates without end"),
            SessionError::PayloadTooBig(len) => {
                write!(f, "write of {len} bytes; the largest allowed is 32 MiB")
            }
            SessionError::UnexpectedFill => write!(f, "a payload was returned that was not asked for or not full"),
        }
    }
}

impl std::error::Error for SessionError {}

/// The rest of a large payload: receive bytes `at..buf.len()` of the stream into the buffer,
/// then give it back through [`Session::filled`].
pub struct Fill {
    /// Where the payload goes.
    pub buf: BufMut,
    /// Bytes of it that are there already.
    pub at: usize,
}

/// What decoding led to.
pub enum Step {
    /// More bytes of the stream are needed.
    More,
    /// A request to carry out.
    Request(Request),
    /// Receive the rest of a payload in place.
    Fill(Fill),
    /// Too much is in flight: decode again after a reply, and do not receive meanwhile.
    Paused,
    /// The client says goodbye: send what is queued, then close.
    Close,
}

enum State {
    ClientFlags,
    Options,
    Transmit,
    /// A payload is being received in place.
    Filling(RawRequest),
    /// The payload of a refused write is thrown away, then the error is sent.
    Skipping(ReplyTo, NbdError, u32),
    Closed,
}

/// The server side of one NBD connection.
pub struct Session {
    export: Export,
    limits: Limits,
    agreed: Agreed,
    state: State,
    requests: usize,
    bytes: u64,
    pub(crate) zeros: Option<Buf>,
}

/// Bytes consumed and what they led to; `None` means decode on.
type Progress = (usize, Option<Step>);
const STARVED: Progress = (0, Some(Step::More));

impl Session {
    /// A new connection; the greeting goes to `out`.
    pub fn new(export: Export, limits: Limits, out: &mut impl Sink) -> Session {
        handshake::greet(out);
        Session {
            export,
            limits,
            agreed: Agreed::default(),
            state: State::ClientFlags,
            requests: 0,
            bytes: 0,
            zeros: None,
        }
    }

    /// The volume has another size now: later requests are checked against it.
    pub fn set_size(&mut self, size: u64) {
        self.export.size = size;
    }
    /// Whether negotiation is over. Until then the shell holds a deadline over the client.
    pub fn is_transmitting(&self) -> bool {
        !matches!(self.state, State::ClientFlags | State::Options)
    }
    /// Requests handed out and not yet answered.
    pub fn in_flight(&self) -> usize {
        self.requests
    }
    pub(crate) fn structured(&self) -> bool {
        self.agreed.structured
    }
    pub(crate) fn finish(&mut self, to: &ReplyTo) {
        self.requests = self.requests.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(to.weight());
    }

    /// Consumes a prefix of `input` and says how long it was and what it led to. Call again
    /// with the rest until it answers something else than [`Step::Request`]. Replies that need
    /// no storage (negotiation, errors) go to `out`.
    pub fn decode(&mut self, input: &[u8], out: &mut impl Sink) -> Result<(usize, Step), SessionError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or(&[]);
            let (now, step) = match self.state {
                State::ClientFlags => self.decode_flags(rest)?,
                State::Options => self.decode_option(rest, out)?,
                State::Transmit => self.decode_request(rest, out)?,
                State::Skipping(to, error, left) => self.skip(rest, to, error, left, out),
                State::Filling(_) => return Err(SessionError::UnexpectedFill),
                State::Closed => (rest.len(), Some(Step::Close)),
            };
            used += now;
            if let Some(step) = step {
                return Ok((used, step));
            }
        }
    }

    fn decode_flags(&mut self, input: &[u8]) -> Result<Progress, SessionError> {
        let Some(flags) = input.first_chunk() else {
            return Ok(STARVED);
        };
        handshake::client_flags(u32::from_be_bytes(*flags), &mut self.agreed)?;
        self.state = State::Options;
        Ok((flags.len(), None))
    }

    fn decode_option(&mut self, input: &[u8], out: &mut impl Sink) -> Result<Progress, SessionError> {
        let Some((magic, rest)) = input.split_first_chunk() else {
            return Ok(STARVED);
        };
        if u64::from_be_bytes(*magic) != proto::MAGIC_OPTION {
            return Err(SessionError::BadMagic);
        }
        let Some((option, rest)) = rest.split_first_chunk() else {
            return Ok(STARVED);
        };
        let Some((len, rest)) = rest.split_first_chunk() else {
            return Ok(STARVED);
        };
        let (option, wire_len) = (u32::from_be_bytes(*option), u32::from_be_bytes(*len));
        let len = wire_len as usize;
        if len > proto::OPTION_LEN_MAX {
            handshake::refuse_too_big(out, option);
            return Err(SessionError::OptionTooBig(wire_len));
        }
        let Some(body) = rest.get(..len) else {
            return Ok(STARVED);
        };
        self.agreed.options += 1;
        if self.agreed.options > proto::OPTIONS_MAX {
            return Err(SessionError::TooManyOptions);
        }
        self.state = match handshake::option(option, body, &self.export, &mut self.agreed, out)? {
            Next::Negotiate => State::Options,
            Next::Transmit => State::Transmit,
            Next::Close => State::Closed,
        };
        Ok((16 + len, None))
    }

    fn decode_request(&mut self, input: &[u8], out: &mut impl Sink) -> Result<Progress, SessionError> {
        let Some((head, rest)) = input.split_first_chunk() else {
            return Ok(STARVED);
        };
        let raw = RawRequest::parse(head).ok_or(SessionError::BadMagic)?;
        if raw.command == proto::CMD_DISC {
            self.state = State::Closed;
            return Ok((head.len(), None));
        }
        if let Err(error) = raw.check(&self.export, self.agreed.structured, self.agreed.allocation) {
            self.refuse(&raw, error, out)?;
            return Ok((head.len(), None));
        }
        let weight = raw.reply_to().weight();
        let full = self.requests >= self.limits.requests || self.bytes.saturating_add(weight) > self.limits.bytes;
        if full && self.requests > 0 {
            return Ok((0, Some(Step::Paused)));
        }
        if raw.command == proto::CMD_WRITE {
            return Ok(self.decode_payload(raw, rest));
        }
        Ok((head.len(), Some(self.hand_out(raw, Buf::empty()))))
    }

    /// Small payloads are copied once they are whole; large ones are received in place.
    fn decode_payload(&mut self, raw: RawRequest, rest: &[u8]) -> Progress {
        let len = raw.len as usize;
        let here = rest.get(..len).unwrap_or(rest);
        if here.len() < len && len <= proto::INLINE_PAYLOAD_MAX {
            return STARVED;
        }
        let mut buf = BufMut::with_len(len);
        if let Some(head) = buf.as_mut_slice().get_mut(..here.len()) {
            head.copy_from_slice(here);
        }
        let used = proto::REQUEST_LEN + here.len();
        if here.len() == len {
            return (used, Some(self.hand_out(raw, buf.freeze())));
        }
        self.state = State::Filling(raw);
        (used, Some(Step::Fill(Fill { buf, at: here.len() })))
    }

    fn hand_out(&mut self, raw: RawRequest, data: Buf) -> Step {
        let request = raw.into_request(data);
        self.requests += 1;
        self.bytes = self.bytes.saturating_add(request.to.weight());
        Step::Request(request)
    }

    fn refuse(&mut self, raw: &RawRequest, error: NbdError, out: &mut impl Sink) -> Result<(), SessionError> {
        if raw.command != proto::CMD_WRITE {
            self.send_error(&raw.reply_to(), error, out);
            return Ok(());
        }
        if raw.len > proto::SKIP_MAX {
            return Err(SessionError::PayloadTooBig(raw.len));
        }
        self.state = State::Skipping(raw.reply_to(), error, raw.len);
        Ok(())
    }

    fn skip(&mut self, input: &[u8], to: ReplyTo, error: NbdError, left: u32, out: &mut impl Sink) -> Progress {
        let now = input.len().min(left as usize);
        // `now` is at most `left`, so it fits.
        let left = left - u32::try_from(now).unwrap_or(left);
        if left > 0 {
            self.state = State::Skipping(to, error, left);
            return (now, Some(Step::More));
        }
        self.state = State::Transmit;
        self.send_error(&to, error, out);
        (now, None)
    }

    /// The payload asked for by [`Step::Fill`] is complete: here is its request.
    pub fn filled(&mut self, fill: Fill) -> Result<Request, SessionError> {
        match core::mem::replace(&mut self.state, State::Closed) {
            State::Filling(raw) if fill.at == fill.buf.len() && fill.at == raw.len as usize => {
                self.state = State::Transmit;
                match self.hand_out(raw, fill.buf.freeze()) {
                    Step::Request(request) => Ok(request),
                    _ => Err(SessionError::UnexpectedFill),
                }
            }
            _ => Err(SessionError::UnexpectedFill),
        }
    }
}
