//! What a handler does with its reactor: start operations, set timers, open and close.

use crate::config::{Config, SetupError};
use crate::desc::{Descs, FdId};
use crate::net::Addr;
use crate::op::{adopt_new, After, Kind, Op, OpId, OpResult, Spare, UserToken, Vectors};
use crate::ring::{Answer, Ring};
use crate::sendq::SendQueue;
use crate::sys::{self, SockAddr};
use crate::timers::{TimerId, Timers};
use drystone_types::{Buf, BufMut};
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Idle vectors kept for reuse: as many as operations usually run at once.
const SPARE_MAX: usize = 256;

/// Counters since the start of the reactor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Turns of the loop.
    pub turns: u64,
    /// System calls into the ring.
    pub enters: u64,
    /// Operations that ended.
    pub completions: u64,
    /// Operations running now.
    pub in_flight: usize,
    /// Descriptors owned now.
    pub descriptors: usize,
}

/// The reactor as its handler sees it. It never leaves its thread.
pub struct Ctx {
    pub(crate) ring: Ring,
    pub(crate) timers: Timers,
    pub(crate) ready: VecDeque<(UserToken, OpResult)>,
    pub(crate) stopping: bool,
    pub(crate) turns: u64,
    descs: Descs,
    spare: Spare,
    now_us: u64,
    completions: u64,
    _not_send: PhantomData<*const ()>,
}

impl Ctx {
    pub(crate) fn new(config: &Config) -> Result<Ctx, SetupError> {
        Ok(Ctx {
            ring: Ring::new(config)?,
            timers: Timers::new(),
            ready: VecDeque::new(),
            stopping: false,
            turns: 0,
            descs: Descs::new(),
            spare: Vec::new(),
            now_us: sys::now_us(),
            completions: 0,
            _not_send: PhantomData,
        })
    }

    /// Monotonic microseconds, read once per turn.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }
    pub(crate) fn refresh_now(&mut self) -> u64 {
        self.now_us = sys::now_us();
        self.now_us
    }
    /// Ends the loop after this turn; operations still running are cancelled.
    pub fn stop(&mut self) {
        self.stopping = true;
    }
    /// Counters for metrics.
    pub fn stats(&self) -> Stats {
        Stats {
            turns: self.turns,
            enters: self.ring.enters,
            completions: self.completions,
            in_flight: self.ring.in_flight(),
            descriptors: self.descs.len(),
        }
    }

    /// Calls `on_timer` once, `after_us` microseconds from now.
    pub fn timer(&mut self, after_us: u64, token: UserToken) -> TimerId {
        self.timer_at(self.now_us.saturating_add(after_us), token)
    }
    /// Calls `on_timer` once when [`Ctx::now_us`] reaches `deadline_us`.
    pub fn timer_at(&mut self, deadline_us: u64, token: UserToken) -> TimerId {
        self.timers.add(deadline_us, token)
    }
    /// Says whether the timer was still to fire; afterwards it never does.
    pub fn cancel_timer(&mut self, id: TimerId) -> bool {
        self.timers.cancel(id)
    }

    /// Takes over a descriptor. Its `O_NONBLOCK` is cleared: the ring does the waiting.
    pub fn adopt(&mut self, fd: OwnedFd) -> FdId {
        sys::set_blocking(fd.as_raw_fd());
        self.adopt_blocking(fd)
    }
    fn adopt_blocking(&mut self, fd: OwnedFd) -> FdId {
        self.descs.add(fd)
    }
    /// The descriptor itself, for socket options and the like.
    pub fn fd(&self, id: FdId) -> Option<BorrowedFd<'_>> {
        self.descs.fd(id).map(AsFd::as_fd)
    }
    /// Cancels what runs on the descriptor, waits for it, closes, and reports
    /// [`OpResult::Closed`] for `token` last. Unknown or closing already: nothing happens.
    pub fn close(&mut self, id: FdId, token: UserToken) {
        match self.descs.start_close(id, token) {
            None => {}
            Some(false) => self.reap(id),
            Some(true) => {
                if let Some(raw) = self.descs.raw(id) {
                    let fd = Some(id);
                    self.ring.start(Op { token, fd, kind: Kind::Cancel }, raw);
                }
            }
        }
    }
    fn reap(&mut self, id: FdId) {
        if let Some(token) = self.descs.reap(id) {
            self.ready.push_back((token, OpResult::Closed));
        }
    }
    /// Asks the kernel to give an operation up; its completion then says ECANCELED, or how it
    /// ended if it was faster. Disk operations usually run to their end.
    pub fn cancel(&mut self, op: OpId) {
        self.ring.cancel(op.0);
    }

    fn start(&mut self, token: UserToken, fd: FdId, kind: Kind) -> OpId {
        match self.descs.begin(fd) {
            Some(raw) => OpId(self.ring.start(Op { token, fd: Some(fd), kind }, raw)),
            None => {
                let gone = io::Error::from_raw_os_error(libc::EBADF);
                if let After::Done(result) = kind.complete(Err(gone), &mut self.spare) {
                    self.ready.push_back((token, result));
                }
                OpId(u64::MAX)
            }
        }
    }
    pub(crate) fn start_wake(&mut self, raw: RawFd) {
        let token = UserToken::new(0, 0);
        self.ring.start(Op { token, fd: None, kind: Kind::Wake(Box::new([0; 8])) }, raw);
    }
    fn vectors(&mut self) -> Box<Vectors> {
        self.spare.pop().unwrap_or_else(Vectors::new)
    }

    /// Accepts connections until an error or a close; each comes as [`OpResult::Accepted`]. After
    /// an error (mostly: no descriptors left) accept again, with a timer in between.
    pub fn accept(&mut self, listener: FdId, token: UserToken) -> OpId {
        self.start(token, listener, Kind::Accept)
    }
    /// Starts a connection; the outcome comes as [`OpResult::Connected`]. Cancel by closing.
    pub fn connect(&mut self, to: &Addr, token: UserToken) -> io::Result<FdId> {
        let addr = match to {
            Addr::Inet(addr) => SockAddr::inet(*addr),
            Addr::Unix(path) => SockAddr::unix(path)?,
        };
        let fd = sys::stream_socket(addr.family())?;
        sys::set_nodelay(fd.as_raw_fd());
        sys::set_liveness(fd.as_raw_fd());
        if matches!(to, Addr::Inet(addr) if addr.ip().is_loopback()) {
            sys::no_pacing(fd.as_raw_fd());
        }
        let fd = self.adopt_blocking(fd);
        self.start(token, fd, Kind::Connect(Box::new(addr)));
        Ok(fd)
    }
    /// Receives into `buf[range]`: what is there, or with `whole` all of the range (less only at
    /// the end of the stream). Answer: [`OpResult::Received`].
    pub fn recv(&mut self, fd: FdId, token: UserToken, buf: BufMut, range: Range<usize>, whole: bool) -> OpId {
        let end = range.end.min(buf.len());
        let start = range.start.min(end);
        self.start(token, fd, Kind::Recv { buf, start, end, whole })
    }
    /// Sends the whole queue in order. Only one send per stream may run at a time, or their bytes
    /// could mix. Answer: [`OpResult::Sent`].
    pub fn send(&mut self, fd: FdId, token: UserToken, queue: SendQueue) -> OpId {
        let io = self.vectors();
        self.start(token, fd, Kind::Send { queue, io, sent: 0 })
    }
    /// Sends at once what the socket takes without waiting, by a system call of its own, and
    /// leaves the rest in the queue. Cheaper than [`Ctx::send`] for one or two streams: a send
    /// through the ring completes at once and so cuts the turn's wait short, which costs a
    /// second call. Not while a [`Ctx::send`] runs on the stream.
    pub fn send_now(&mut self, fd: FdId, queue: &mut SendQueue) -> io::Result<()> {
        let raw = self.descs.raw(fd).filter(|_| !self.descs.is_closing(fd));
        let raw = raw.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let mut io = self.vectors();
        let sent = io.send_now(raw, queue);
        self.spare.push(io);
        queue.advance(sent?);
        Ok(())
    }
    /// Reads the file at `offset` into `buf[range]`. Answer: [`OpResult::Read`].
    pub fn read(&mut self, fd: FdId, token: UserToken, buf: BufMut, range: Range<usize>, offset: u64) -> OpId {
        let end = range.end.min(buf.len());
        let start = range.start.min(end);
        self.start(token, fd, Kind::Read { buf, start, end, done: 0, offset })
    }
    /// Writes `bufs` one after the other at `offset`, in one vectored call; with `dsync` the
    /// answer means durable (`RWF_DSYNC`). Answer: [`OpResult::Written`].
    pub fn write(
        &mut self,
        fd: FdId,
        token: UserToken,
        bufs: impl IntoIterator<Item = Buf>,
        offset: u64,
        dsync: bool,
    ) -> OpId {
        let io = self.vectors();
        let queue = SendQueue::of_whole(bufs);
        self.start(token, fd, Kind::Write { queue, io, offset, dsync })
    }
    /// Makes everything durable whose `Written` was delivered before (`fdatasync`).
    /// Answer: [`OpResult::Synced`].
    pub fn sync(&mut self, fd: FdId, token: UserToken) -> OpId {
        self.start(token, fd, Kind::Sync)
    }
    /// Gives a range of a file or block device back; it reads as zeros then. A drive that cannot
    /// says EOPNOTSUPP, which is no failure. Answer: [`OpResult::Discarded`].
    pub fn discard(&mut self, fd: FdId, token: UserToken, offset: u64, len: u64) -> OpId {
        self.start(token, fd, Kind::Discard { offset, len })
    }

    /// Turns one answer of the kernel into what the handler gets; `true` when it was the wake-up.
    pub(crate) fn on_answer(&mut self, answer: Answer) -> bool {
        let result = usize::try_from(answer.result).map_err(|_| io::Error::from_raw_os_error(-answer.result));
        self.completions += 1;
        if answer.more {
            self.on_accepted(answer.key, result);
            return false;
        }
        let Some(op) = self.ring.finish(answer.key) else {
            return false;
        };
        let woken = matches!(op.kind, Kind::Wake(_));
        self.on_last(op, result);
        woken
    }

    fn on_accepted(&mut self, key: u64, result: io::Result<usize>) {
        let Some(token) = self.ring.peek(key).map(|op| op.token) else {
            return;
        };
        if let Ok(fd) = result {
            // Descriptor numbers are ints.
            let fd = self.adopt_blocking(adopt_new(fd as RawFd));
            self.ready.push_back((token, OpResult::Accepted(Ok(fd))));
        }
    }

    fn on_last(&mut self, op: Op, result: io::Result<usize>) {
        let Op { token, fd, kind } = op;
        let closing = fd.is_some_and(|fd| self.descs.is_closing(fd));
        let mut after = kind.complete(result, &mut self.spare);
        if let (After::Again(kind), true) = (&mut after, closing) {
            let kind = std::mem::replace(kind, Kind::Cancel);
            // Not EINTR, so this ends it.
            after = kind.complete(Err(io::Error::from_raw_os_error(libc::ECANCELED)), &mut self.spare);
        }
        match after {
            After::Again(kind) => {
                if let Some(raw) = fd.and_then(|fd| self.descs.raw(fd)) {
                    self.ring.start(Op { token, fd, kind }, raw);
                }
                return;
            }
            After::NewFd(raw) => {
                // The kernel ended the accepting without an error: go on with a new one.
                let new = self.adopt_blocking(adopt_new(raw));
                self.ready.push_back((token, OpResult::Accepted(Ok(new))));
                if let Some(fd) = fd.filter(|_| !closing) {
                    self.accept(fd, token);
                }
            }
            After::Done(result) => self.ready.push_back((token, result)),
            After::Silent => {}
        }
        self.spare.truncate(SPARE_MAX);
        if let Some(token) = fd.and_then(|fd| self.descs.end(fd)) {
            self.ready.push_back((token, OpResult::Closed));
        }
    }
}
