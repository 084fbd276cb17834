//! A framed stream connection: bytes to items through a [`Decoder`], queued output in one
//! vectored send at a time, payloads received where they will be used.

use crate::ctx::Ctx;
use crate::desc::FdId;
use crate::op::{OpResult, UserToken};
use crate::sendq::SendQueue;
use core::fmt;
use drystone_types::BufMut;
use std::io;

/// A payload of at least this makes its connection a bulk one.
const BULK_MIN: usize = 32 << 10;
/// What a bulk connection receives at once between payloads: the head of the next frame and little
/// of its payload, which would have to be copied from here to its place.
const BULK_HEAD: usize = 4 << 10;

/// A large payload on its way: receive bytes `at..buf.len()` of the stream into `buf`.
pub struct Fill {
    /// Where the payload goes.
    pub buf: BufMut,
    /// Bytes of it that are there already.
    pub at: usize,
}

/// What a decoder makes of the bytes it was shown.
pub enum Decoded<I> {
    /// More bytes are needed.
    More,
    /// One item; show me the rest again.
    Item(I),
    /// Receive the rest of a payload in place, then call [`Decoder::filled`].
    Fill(Fill),
    /// Enough is in flight: stop receiving until the connection is touched again.
    Paused,
    /// The peer says goodbye: send what is queued, then close.
    Close,
}

/// Turns a byte stream into items. Pure: no I/O.
pub trait Decoder {
    /// A whole frame or request.
    type Item;
    /// Why the stream cannot go on.
    type Error;
    /// Consumes a prefix of `input` (its length is the first value) and says what it led to.
    /// Answers that need no thought go to `out`. It must make progress when it is shown
    /// [`ConnConfig::recv_buf`] bytes: anything longer is for [`Decoded::Fill`].
    fn decode(&mut self, input: &[u8], out: &mut SendQueue) -> Result<(usize, Decoded<Self::Item>), Self::Error>;
    /// The payload asked for is whole. `None`: the frame goes on in the stream.
    fn filled(&mut self, fill: Fill, out: &mut SendQueue) -> Result<Option<Self::Item>, Self::Error>;
}

/// Sizes of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnConfig {
    /// Receive buffer: one system call brings this much. 64 KiB holds 15 requests of 4 KiB and is
    /// what an idle connection costs.
    pub recv_buf: usize,
    /// With more than this waiting to be sent nothing is received: a peer that asks and does not
    /// read its answers stops itself instead of filling our memory.
    pub send_max: usize,
    /// A peer that is to get its last answers has this long to read them, in microseconds; then
    /// [`crate::Conns`] cuts the connection. 5 s suits a busy host and lets no leftovers gather.
    pub finish_us: u64,
}

impl Default for ConnConfig {
    fn default() -> ConnConfig {
        ConnConfig { recv_buf: 64 << 10, send_max: 8 << 20, finish_us: 5_000_000 }
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub enum CloseReason<E> {
    /// The peer closed its side.
    Eof,
    /// The peer said goodbye in the protocol.
    Goodbye,
    /// This side closed it.
    Local,
    /// The stream broke.
    Io(io::Error),
    /// The peer does not speak the protocol.
    Protocol(E),
    /// A frame did not fit the receive buffer: a defect of the decoder, not of the peer.
    FrameTooLong,
}

impl<E: fmt::Display> fmt::Display for CloseReason<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Eof => write!(f, "the peer closed the connection"),
            CloseReason::Goodbye => write!(f, "the peer said goodbye"),
            CloseReason::Local => write!(f, "closed by this side"),
            CloseReason::Io(e) => write!(f, "the connection broke: {e}"),
            CloseReason::Protocol(e) => write!(f, "protocol error: {e}"),
            CloseReason::FrameTooLong => write!(f, "a frame is longer than the receive buffer"),
        }
    }
}

/// What a connection has to say.
pub enum Event<D: Decoder> {
    /// An item arrived.
    Item(D::Item),
    /// The connection is over and nothing of it is in flight. Always the last event, once.
    Closed(CloseReason<D::Error>),
}

enum Phase {
    Open,
    /// Nothing more is received; close when all is sent.
    Finishing,
    /// The descriptor is being closed.
    Closing,
    Closed,
    /// The last event was delivered.
    Over,
}

/// One connection. Route every completion of its token to [`Conn::on_completion`], then take
/// events with [`Conn::next`] until there is none, then [`Conn::flush`].
pub struct Conn<D: Decoder> {
    fd: FdId,
    token: UserToken,
    config: ConnConfig,
    decoder: D,
    phase: Phase,
    reason: Option<CloseReason<D::Error>>,
    /// Received and not yet decoded: `buf[start..end]`. Away while a receive runs.
    buf: Option<BufMut>,
    start: usize,
    end: usize,
    receiving: bool,
    /// The last item had a large payload: the next one probably has, too.
    bulk: bool,
    fill: Option<Fill>,
    /// The `at` of the fill that is being received.
    filling: Option<usize>,
    queue: SendQueue,
    spare: Option<SendQueue>,
    sending: bool,
}

impl<D: Decoder> Conn<D> {
    /// A connection over an adopted stream socket. `make` builds the decoder and may queue a
    /// greeting. Receiving starts with the first [`Conn::next`].
    pub fn new(fd: FdId, token: UserToken, config: ConnConfig, make: impl FnOnce(&mut SendQueue) -> D) -> Conn<D> {
        let mut queue = SendQueue::new();
        let decoder = make(&mut queue);
        Conn {
            fd,
            token,
            config,
            decoder,
            phase: Phase::Open,
            reason: None,
            buf: None,
            start: 0,
            end: 0,
            receiving: false,
            bulk: false,
            fill: None,
            filling: None,
            queue,
            spare: None,
            sending: false,
        }
    }

    pub(crate) fn set_token(&mut self, token: UserToken) {
        self.token = token;
    }
    /// The socket.
    pub fn fd(&self) -> FdId {
        self.fd
    }
    /// The decoder and the output queue, together: replies are made by the one into the other.
    pub fn parts(&mut self) -> (&mut D, &mut SendQueue) {
        (&mut self.decoder, &mut self.queue)
    }
    /// Bytes waiting to be sent, without those the kernel is sending now.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }
    pub(crate) fn is_finishing(&self) -> bool {
        matches!(self.phase, Phase::Finishing)
    }
    /// Whether items may still come and output still goes out.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Ends the connection at once; what is queued is lost.
    pub fn close(&mut self, cx: &mut Ctx) {
        self.fail(cx, CloseReason::Local);
    }
    /// Sends what is queued, then ends the connection. A peer that does not read holds this up:
    /// [`crate::Conns`] sets a deadline, users of a lone connection set their own.
    pub fn finish(&mut self, cx: &mut Ctx) {
        self.finish_because(cx, CloseReason::Local);
    }

    fn finish_because(&mut self, cx: &mut Ctx, reason: CloseReason<D::Error>) {
        if self.is_open() {
            self.phase = Phase::Finishing;
            self.reason = Some(reason);
            self.flush(cx);
        }
    }

    fn fail(&mut self, cx: &mut Ctx, reason: CloseReason<D::Error>) {
        if matches!(self.phase, Phase::Open | Phase::Finishing) {
            self.reason.get_or_insert(reason);
            self.phase = Phase::Closing;
            self.queue.clear();
            cx.close(self.fd, self.token);
        }
    }

    /// A completion with this connection's token.
    pub fn on_completion(&mut self, cx: &mut Ctx, result: OpResult) {
        match result {
            OpResult::Received { result, buf } => self.on_received(cx, result, buf),
            OpResult::Sent { result, queue } => {
                self.sending = false;
                self.spare = Some(queue);
                if let Err(e) = result {
                    self.fail(cx, CloseReason::Io(e));
                } else if matches!(self.phase, Phase::Finishing) {
                    self.flush(cx);
                }
            }
            OpResult::Closed => self.phase = Phase::Closed,
            // No other operation is started with this token.
            _ => {}
        }
    }

    fn on_received(&mut self, cx: &mut Ctx, result: io::Result<usize>, buf: BufMut) {
        self.receiving = false;
        let filling = self.filling.take();
        let n = match &result {
            Ok(n) => *n,
            Err(_) => 0,
        };
        match filling {
            Some(at) => self.fill = Some(Fill { buf, at: at + n }),
            None => {
                self.buf = Some(buf);
                self.end += n;
            }
        }
        match result {
            Ok(0) => self.fail(cx, CloseReason::Eof),
            Ok(_) => {}
            Err(e) => self.fail(cx, CloseReason::Io(e)),
        }
    }

    /// The next event, or `None` when more must arrive first; then a receive is running, unless
    /// the decoder is paused or too much waits to be sent.
    pub fn next(&mut self, cx: &mut Ctx) -> Option<Event<D>> {
        match self.phase {
            Phase::Closed => {
                self.phase = Phase::Over;
                let reason = self.reason.take().unwrap_or(CloseReason::Local);
                return Some(Event::Closed(reason));
            }
            Phase::Open => {}
            _ => return None,
        }
        if self.queue.len() > self.config.send_max {
            // Either this sends everything, or a send is running afterwards whose end brings us
            // back here: stopping without one would be for ever.
            self.flush(cx);
            if self.queue.len() > self.config.send_max || !self.is_open() {
                return None;
            }
        }
        if self.receiving {
            return None;
        }
        if let Some(fill) = self.fill.take() {
            match self.on_fill(cx, fill) {
                Some(item) => return Some(Event::Item(item)),
                None if self.receiving || !self.is_open() => return None,
                None => {}
            }
        }
        self.decode(cx).map(Event::Item)
    }

    fn on_fill(&mut self, cx: &mut Ctx, fill: Fill) -> Option<D::Item> {
        let len = fill.buf.len();
        if fill.at < len {
            self.filling = Some(fill.at);
            self.receiving = true;
            cx.recv(self.fd, self.token, fill.buf, fill.at..len, true);
            return None;
        }
        self.bulk = len >= BULK_MIN;
        match self.decoder.filled(fill, &mut self.queue) {
            Ok(item) => item,
            Err(e) => {
                self.fail(cx, CloseReason::Protocol(e));
                None
            }
        }
    }

    fn decode(&mut self, cx: &mut Ctx) -> Option<D::Item> {
        let input = self.buf.as_ref().and_then(|buf| buf.as_slice().get(self.start..self.end)).unwrap_or(&[]);
        let (used, decoded) = match self.decoder.decode(input, &mut self.queue) {
            Ok(step) => step,
            Err(e) => {
                // The decoder may have queued a last word of explanation.
                self.finish_because(cx, CloseReason::Protocol(e));
                return None;
            }
        };
        self.start = (self.start + used).min(self.end);
        match decoded {
            Decoded::Item(item) => {
                self.bulk = false;
                return Some(item);
            }
            Decoded::More => self.receive(cx),
            Decoded::Fill(fill) => return self.on_fill(cx, fill),
            Decoded::Paused => {}
            Decoded::Close => self.finish_because(cx, CloseReason::Goodbye),
        }
        None
    }

    fn receive(&mut self, cx: &mut Ctx) {
        let mut buf = self.buf.take().unwrap_or_else(|| BufMut::with_len(self.config.recv_buf));
        if self.start > 0 {
            buf.as_mut_slice().copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let len = buf.len();
        if self.end >= len {
            self.buf = Some(buf);
            return self.fail(cx, CloseReason::FrameTooLong);
        }
        let len = if self.bulk { len.min(self.end + BULK_HEAD) } else { len };
        self.receiving = true;
        cx.recv(self.fd, self.token, buf, self.end..len, false);
    }

    /// Hands what is queued to the kernel, unless a send is still running: then its completion
    /// makes room, and the next flush takes everything that has gathered.
    pub fn flush(&mut self, cx: &mut Ctx) {
        self.flush_how(cx, true);
    }

    /// `now`: try a direct send first (see [`Ctx::send_now`]).
    pub(crate) fn flush_how(&mut self, cx: &mut Ctx, now: bool) {
        if self.sending || !matches!(self.phase, Phase::Open | Phase::Finishing) {
            return;
        }
        if now && !self.queue.is_empty() {
            if let Err(e) = cx.send_now(self.fd, &mut self.queue) {
                return self.fail(cx, CloseReason::Io(e));
            }
            if self.queue.is_empty() {
                self.queue.clear();
            }
        }
        if !self.queue.is_empty() {
            let next = self.spare.take().unwrap_or_default();
            let queue = std::mem::replace(&mut self.queue, next);
            self.sending = true;
            cx.send(self.fd, self.token, queue);
        } else if matches!(self.phase, Phase::Finishing) {
            self.fail(cx, CloseReason::Local);
        }
    }
}
