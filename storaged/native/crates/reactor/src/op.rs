//! Operations: what each owns while the kernel works on it, and what comes back.
#![allow(unsafe_code)]

use crate::desc::FdId;
use crate::sendq::{SendQueue, IOV_MAX};
use crate::sys::{self, SockAddr};
use drystone_types::BufMut;
use io_uring::{opcode, squeue, types};
use std::io;
use std::os::fd::RawFd;

/// The handler's own name for an operation, timer or close; the reactor only carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserToken {
    /// Which part of the handler it is for.
    pub class: u32,
    /// Which thing of that part.
    pub id: u64,
}

impl UserToken {
    /// A token.
    pub const fn new(class: u32, id: u64) -> UserToken {
        UserToken { class, id }
    }
}

/// Names one running operation, for cancelling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub(crate) u64);

/// How an operation ended. Every operation ends exactly once (accepting: many results, the
/// last one an error); its buffers come back here.
pub enum OpResult {
    /// A connection came in; it is adopted already. An error ends the accepting.
    Accepted(io::Result<FdId>),
    /// The connection of `Ctx::connect` stands, or not.
    Connected(io::Result<()>),
    /// Bytes received; 0 is the end of the stream.
    Received {
        /// Bytes that arrived at the start of the range given.
        result: io::Result<usize>,
        /// The buffer.
        buf: BufMut,
    },
    /// The whole queue was sent, or the stream broke.
    Sent {
        /// Bytes sent.
        result: io::Result<usize>,
        /// The queue, empty after success.
        queue: SendQueue,
    },
    /// Bytes read; fewer than asked only at the end of the file.
    Read {
        /// Bytes at the start of the range given.
        result: io::Result<usize>,
        /// The buffer.
        buf: BufMut,
    },
    /// All bytes are written (and durable when asked for), or the drive failed.
    Written(io::Result<()>),
    /// Everything written before is durable.
    Synced(io::Result<()>),
    /// The range is given back to the drive.
    Discarded(io::Result<()>),
    /// The descriptor is closed and nothing of it is in flight.
    Closed,
}

/// Vector and message header of one vectored operation; recycled, so the data path allocates none.
pub(crate) struct Vectors {
    iov: Vec<libc::iovec>,
    msg: libc::msghdr,
}

/// Idle vectors. Boxed, because the kernel holds their address while they work: moving the
/// operation around must not move them.
#[allow(clippy::vec_box)]
pub(crate) type Spare = Vec<Box<Vectors>>;

impl Vectors {
    pub fn new() -> Box<Vectors> {
        // SAFETY: all-zero bytes are a valid, empty msghdr.
        let msg = unsafe { std::mem::zeroed() };
        Box::new(Vectors { iov: Vec::new(), msg })
    }
    fn load<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>) {
        self.iov.clear();
        self.iov.extend(slices.map(|s| libc::iovec { iov_base: s.as_ptr().cast_mut().cast(), iov_len: s.len() }));
        debug_assert!(self.iov.len() <= IOV_MAX);
    }
    /// Sends what the socket takes at once of the queue's front; EAGAIN is 0 bytes.
    pub fn send_now(&mut self, raw: RawFd, queue: &SendQueue) -> io::Result<usize> {
        self.load(queue.slices());
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let message = self.message();
        // SAFETY: `message` leads to vectors over slices of `queue`, all borrowed through the call.
        let sent = unsafe { libc::sendmsg(raw, message, flags) };
        usize::try_from(sent).or_else(|_| {
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            }
        })
    }
    fn count(&self) -> u32 {
        // At most IOV_MAX.
        self.iov.len() as u32
    }
    fn message(&mut self) -> *mut libc::msghdr {
        self.msg.msg_iov = self.iov.as_mut_ptr();
        self.msg.msg_iovlen = self.iov.len() as _;
        &raw mut self.msg
    }
}

/// What the kernel may read or write until the operation has ended. Everything here either is
/// heap memory that does not move with this value, or is not shown to the kernel.
pub(crate) enum Kind {
    Wake(Box<[u8; 8]>),
    Cancel,
    Accept,
    Connect(Box<SockAddr>),
    Recv { buf: BufMut, start: usize, end: usize, whole: bool },
    Send { queue: SendQueue, io: Box<Vectors>, sent: usize },
    Read { buf: BufMut, start: usize, end: usize, done: usize, offset: u64 },
    Write { queue: SendQueue, io: Box<Vectors>, offset: u64, dsync: bool },
    Sync,
    Discard { offset: u64, len: u64 },
}

pub(crate) struct Op {
    pub token: UserToken,
    /// `None` for operations of the reactor itself.
    pub fd: Option<FdId>,
    pub kind: Kind,
}

/// Where an ended step of an operation leads.
pub(crate) enum After {
    Done(OpResult),
    /// Accepted: the number of the new descriptor.
    NewFd(RawFd),
    /// Not all was done: hand it to the kernel again.
    Again(Kind),
    /// Nobody is to be told.
    Silent,
}

impl Kind {
    /// The submission for this operation. The caller keeps `self` alive and unchanged until the
    /// kernel has answered: that is what makes the pointers in it valid.
    pub fn entry(&mut self, raw: RawFd) -> squeue::Entry {
        let fd = types::Fd(raw);
        match self {
            Kind::Wake(count) => opcode::Read::new(fd, count.as_mut_ptr(), 8).build(),
            Kind::Cancel => opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd).all()).build(),
            Kind::Accept => opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build(),
            Kind::Connect(addr) => opcode::Connect::new(fd, addr.as_ptr(), addr.len()).build(),
            Kind::Recv { buf, start, end, whole } => {
                let target = buf.as_mut_slice().get_mut(*start..*end).unwrap_or(&mut []);
                let flags = if *whole { libc::MSG_WAITALL } else { 0 };
                opcode::Recv::new(fd, target.as_mut_ptr(), len_u32(target)).flags(flags).build()
            }
            Kind::Send { queue, io, .. } => {
                io.load(queue.slices());
                let flags = (libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32;
                opcode::SendMsg::new(fd, io.message()).flags(flags).build()
            }
            Kind::Read { buf, start, end, done, offset } => {
                let target = buf.as_mut_slice().get_mut(*start + *done..*end).unwrap_or(&mut []);
                let at = *offset + *done as u64;
                opcode::Read::new(fd, target.as_mut_ptr(), len_u32(target)).offset(at).build()
            }
            Kind::Write { queue, io, offset, dsync } => write_entry(fd, queue, io, *offset, *dsync),
            Kind::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
            Kind::Discard { offset, len } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(fd, *len).offset(*offset).mode(mode).build()
            }
        }
    }

    /// What the kernel's answer means. With an error it also serves operations that never started.
    pub fn complete(self, result: io::Result<usize>, spare: &mut Spare) -> After {
        if matches!(&result, Err(e) if e.kind() == io::ErrorKind::Interrupted) {
            return After::Again(self);
        }
        let unit = |result: io::Result<usize>| result.map(|_| ());
        After::Done(match self {
            Kind::Wake(_) | Kind::Cancel => return After::Silent,
            Kind::Accept => match result {
                Ok(fd) => return After::NewFd(fd as RawFd),
                Err(e) => OpResult::Accepted(Err(e)),
            },
            Kind::Connect(_) => OpResult::Connected(unit(result)),
            Kind::Recv { buf, .. } => OpResult::Received { result, buf },
            Kind::Send { queue, io, sent } => return sent_some(queue, io, sent, result, spare),
            Kind::Read { buf, start, end, done, offset } => {
                return read_some((buf, start, end, done, offset), result);
            }
            Kind::Write { queue, io, offset, dsync } => {
                return wrote_some(queue, io, (offset, dsync), result, spare);
            }
            Kind::Sync => OpResult::Synced(unit(result)),
            Kind::Discard { .. } => OpResult::Discarded(unit(result)),
        })
    }
}

/// Lengths are bounded to 1 GiB by the functions that make operations.
fn len_u32(slice: &[u8]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(1 << 30)
}

fn write_entry(fd: types::Fd, queue: &SendQueue, io: &mut Vectors, offset: u64, dsync: bool) -> squeue::Entry {
    io.load(queue.slices());
    let flags = if dsync { libc::RWF_DSYNC } else { 0 };
    if let [one] = io.iov.as_slice() {
        let len = u32::try_from(one.iov_len).unwrap_or(1 << 30);
        return opcode::Write::new(fd, one.iov_base.cast(), len).offset(offset).rw_flags(flags).build();
    }
    opcode::Writev::new(fd, io.iov.as_ptr(), io.count()).offset(offset).rw_flags(flags).build()
}

fn sent_some(
    mut queue: SendQueue,
    io: Box<Vectors>,
    sent: usize,
    result: io::Result<usize>,
    spare: &mut Spare,
) -> After {
    let result = match result {
        Ok(n) => {
            queue.advance(n);
            if !queue.is_empty() && n > 0 {
                return After::Again(Kind::Send { queue, io, sent: sent + n });
            }
            Ok(sent + n)
        }
        Err(e) => Err(e),
    };
    spare.push(io);
    queue.clear();
    After::Done(OpResult::Sent { result, queue })
}

fn read_some((buf, start, end, done, offset): (BufMut, usize, usize, usize, u64), result: io::Result<usize>) -> After {
    let result = match result {
        Ok(n) if n > 0 && start + done + n < end => {
            return After::Again(Kind::Read { buf, start, end, done: done + n, offset });
        }
        Ok(n) => Ok(done + n),
        Err(e) => Err(e),
    };
    After::Done(OpResult::Read { result, buf })
}

fn wrote_some(
    mut queue: SendQueue,
    io: Box<Vectors>,
    (offset, dsync): (u64, bool),
    result: io::Result<usize>,
    spare: &mut Spare,
) -> After {
    let result = match result {
        Ok(n) => {
            queue.advance(n);
            if !queue.is_empty() && n > 0 {
                return After::Again(Kind::Write { queue, io, offset: offset + n as u64, dsync });
            }
            // A drive that takes no byte and reports no error would otherwise lose data silently.
            if queue.is_empty() {
                Ok(())
            } else {
                Err(io::Error::from(io::ErrorKind::WriteZero))
            }
        }
        Err(e) => Err(e),
    };
    spare.push(io);
    After::Done(OpResult::Written(result))
}

pub(crate) fn adopt_new(fd: RawFd) -> std::os::fd::OwnedFd {
    sys::set_nodelay(fd);
    sys::set_liveness(fd);
    if sys::peer_is_loopback(fd) {
        sys::no_pacing(fd);
    }
    sys::own(fd)
}
