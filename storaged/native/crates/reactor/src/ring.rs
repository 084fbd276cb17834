//! The ring and everything in flight on it: the place where buffers wait for the kernel.
#![allow(unsafe_code)]

use crate::config::{Config, SetupError};
use crate::op::{Kind, Op};
use crate::slab::Slab;
use crate::sys;
use io_uring::{squeue, types, IoUring};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

/// `IORING_ENTER_GETEVENTS`.
const ENTER_GETEVENTS: u32 = 1;

/// How to wait when handing work to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    No,
    AtMostUs(u64),
    Forever,
}

/// One answer of the kernel.
pub(crate) struct Answer {
    pub key: u64,
    pub result: i32,
    /// More answers of the same operation follow.
    pub more: bool,
}

pub(crate) struct Ring {
    uring: IoUring,
    ops: Slab<Op>,
    /// Entries that did not fit while the kernel would not take more.
    backlog: VecDeque<squeue::Entry>,
    pub enters: u64,
}

fn set_up(entries: u32) -> Result<IoUring, SetupError> {
    // Completions arrive in batches, up to four operations per entry of a turn.
    let cq = entries.saturating_mul(4);
    let modern = IoUring::builder()
        .setup_cqsize(cq)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    let uring = match modern {
        Ok(uring) => uring,
        // Before 6.1: the kernel at least does not interrupt this thread to complete.
        Err(_) => IoUring::builder().setup_cqsize(cq).setup_coop_taskrun().setup_taskrun_flag().build(entries)?,
    };
    if !uring.params().is_feature_ext_arg() || !uring.params().is_feature_nodrop() {
        return Err(SetupError::TooOld);
    }
    Ok(uring)
}

impl Ring {
    pub fn new(config: &Config) -> Result<Ring, SetupError> {
        let uring = set_up(config.entries.clamp(8, 4096))?;
        Ok(Ring { uring, ops: Slab::new(), backlog: VecDeque::new(), enters: 0 })
    }

    pub fn in_flight(&self) -> usize {
        self.ops.len()
    }

    /// Moves `op` into the slab and queues it for the next turn.
    pub fn start(&mut self, op: Op, raw: RawFd) -> u64 {
        let key = self.ops.insert(op);
        self.restart(key, raw);
        key
    }

    /// Queues an operation of the slab that the kernel does not hold.
    fn restart(&mut self, key: u64, raw: RawFd) {
        let Some(op) = self.ops.get_mut(key) else {
            return;
        };
        let entry = op.kind.entry(raw).user_data(key);
        self.push(entry);
    }

    /// Asks the kernel to give one operation up; it still answers.
    pub fn cancel(&mut self, key: u64) {
        if self.ops.get(key).is_some() {
            self.push(io_uring::opcode::AsyncCancel::new(key).build().user_data(u64::MAX));
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        if self.drain_backlog() {
            return;
        }
        // Full: let the kernel take what is there. What still does not fit waits for the next turn.
        let _ = self.enter(Wait::No);
        self.drain_backlog();
    }

    fn drain_backlog(&mut self) -> bool {
        let mut queue = self.uring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the entry was built by `restart` from an operation in the slab (or is a
            // cancel, which points at nothing). Its pointers lead to heap memory owned by that
            // slab entry, which is removed only in `finish`, after the kernel's last answer, or
            // never: `Drop` leaks the slab if the kernel does not answer in time.
            if unsafe { queue.push(entry) }.is_err() {
                return false;
            }
            self.backlog.pop_front();
        }
        true
    }

    /// One system call: submits what is queued and waits as told.
    pub fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.drain_backlog();
        self.enters += 1;
        let unsubmitted = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
        let submitter = self.uring.submitter();
        let result = match wait {
            // "Get events" although none is waited for: without it the kernel leaves finished work
            // undone (the ring defers it to us) and every answer costs one more call.
            // SAFETY: no argument is passed; the entries submitted are those of `drain_backlog`.
            Wait::No => unsafe { submitter.enter::<libc::sigset_t>(unsubmitted, 0, ENTER_GETEVENTS, None) },
            Wait::Forever => submitter.submit_and_wait(1),
            Wait::AtMostUs(us) => {
                let nsec = u32::try_from(us % 1_000_000 * 1_000).unwrap_or(0);
                let timeout = types::Timespec::new().sec(us / 1_000_000).nsec(nsec);
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout))
            }
        };
        match result {
            Ok(_) => Ok(()),
            // Time is up, a signal came, or answers must be taken before more is accepted.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Whether there are answers to take.
    pub fn has_answers(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }
    /// Whether the kernel has work that it does only when this thread calls it.
    pub fn has_deferred(&mut self) -> bool {
        self.uring.submission().taskrun()
    }
    pub fn has_unsubmitted(&mut self) -> bool {
        !self.backlog.is_empty() || !self.uring.submission().is_empty()
    }

    /// Whether a turn that does not wait still has to call the kernel.
    pub fn needs_enter(&mut self) -> bool {
        self.has_unsubmitted() || self.uring.submission().taskrun() || self.uring.submission().cq_overflow()
    }

    /// Takes all answers that are there.
    pub fn take_answers(&mut self, into: &mut Vec<Answer>) {
        into.extend(self.uring.completion().map(|cqe| Answer {
            key: cqe.user_data(),
            result: cqe.result(),
            more: io_uring::cqueue::more(cqe.flags()),
        }));
    }

    /// The operation of an answer that is its last one: memory belongs to the program again.
    pub fn finish(&mut self, key: u64) -> Option<Op> {
        self.ops.remove(key)
    }
    /// The operation of an answer after which more follow.
    pub fn peek(&self, key: u64) -> Option<&Op> {
        self.ops.get(key)
    }
    /// Cancels everything and waits until the kernel holds no memory of ours.
    fn shut_down(&mut self) {
        // Disks answer within seconds or never; 20 turns of half a second bound the exit.
        const TURNS: usize = 20;
        let mut answers = Vec::new();
        for _ in 0..TURNS {
            if self.ops.len() == 0 {
                return;
            }
            let keys: Vec<u64> = self.ops.keys().collect();
            keys.into_iter().for_each(|key| self.cancel(key));
            let _ = self.enter(Wait::AtMostUs(500_000));
            self.take_answers(&mut answers);
            for answer in answers.drain(..) {
                self.abandon(&answer);
            }
        }
    }
}

impl Ring {
    /// Takes an answer that nobody waits for any more.
    fn abandon(&mut self, answer: &Answer) {
        let accepting = self.ops.get(answer.key).is_some_and(|op| matches!(op.kind, Kind::Accept));
        if accepting && answer.result >= 0 {
            drop(sys::own(answer.result));
        }
        if !answer.more {
            self.ops.remove(answer.key);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shut_down();
        if self.ops.len() > 0 {
            // The kernel may still write into these buffers: losing the memory is the safe end.
            std::mem::forget(std::mem::replace(&mut self.ops, Slab::new()));
        }
    }
}
