//! The store's device operations on the reactor.

use core::ops::Range;
use std::collections::{BTreeMap, VecDeque};

use drystone_reactor::{next_hole, Ctx, FdId, OpResult, UserToken};
use drystone_store::api::{DevOp, DevResult};
use drystone_store::layout::Layout;
use drystone_types::consts::Micros;
use drystone_types::{Buf, BufMut};

use super::ahead::Ahead;
use super::meter::{DeviceStats, Meter, OpKind};
use super::{CLASS_AHEAD, CLASS_DEV};

/// One buffer of zeros, given to the kernel several times in one call.
const ZEROS: usize = 64 << 10;

/// What runs on the device.
pub struct Device {
    fd: FdId,
    /// By operation id: when it started, for the age of the oldest one (§4.5: it counts as service
    /// time), what it is, and what it writes.
    running: BTreeMap<u64, (Micros, OpKind, Range<u64>)>,
    meter: Meter,
    /// It has become slow, which nobody was told yet.
    slowed: bool,
    /// Only for files: block devices have no holes.
    ahead: Option<Ahead>,
    zeros: Buf,
    /// Writes that wait until the space under them is no longer being filled, oldest first.
    held: VecDeque<DevOp>,
    #[cfg(feature = "fault-hooks")]
    pub faults: super::faults::Faults,
}

impl Device {
    /// `file`: layout of a regular file, whose holes are filled ahead of small writes.
    pub fn new(
        fd: FdId,
        file: Option<Layout>,
        #[cfg(feature = "fault-hooks")] faults: super::faults::Faults,
    ) -> Device {
        let ahead = file.map(Ahead::new);
        let zeros = if ahead.is_some() { BufMut::zeroed(ZEROS).freeze() } else { Buf::empty() };
        Device {
            fd,
            running: BTreeMap::new(),
            meter: Meter::default(),
            slowed: false,
            ahead,
            zeros,
            held: VecDeque::new(),
            #[cfg(feature = "fault-hooks")]
            faults,
        }
    }

    pub fn start(&mut self, cx: &mut Ctx, op: DevOp) {
        self.note(cx.now_us(), &op);
        #[cfg(feature = "fault-hooks")]
        let Some(op) = self.faults.meets(cx, op) else {
            return;
        };
        self.start_now(cx, op);
    }

    /// From here on its age counts. What was held keeps its age.
    fn note(&mut self, now: Micros, op: &DevOp) {
        let (id, kind, range) = match op {
            DevOp::Write { id, offset, bufs, .. } => {
                let len: usize = bufs.iter().map(Buf::len).sum();
                (*id, OpKind::Write, *offset..*offset + len as u64)
            }
            DevOp::Read { id, .. } => (*id, OpKind::Read, 0..0),
            DevOp::Flush { id } => (*id, OpKind::Flush, 0..0),
            DevOp::Discard { id, .. } => (*id, OpKind::Discard, 0..0),
        };
        self.running.entry(id).or_insert((now, kind, range));
    }

    pub fn start_now(&mut self, cx: &mut Ctx, op: DevOp) {
        match op {
            DevOp::Write { id, offset, bufs, durable } => {
                let len: usize = bufs.iter().map(Buf::len).sum();
                let range = offset..offset + len as u64;
                if self.ahead.as_ref().is_some_and(|a| a.blocks(&range)) {
                    self.held.push_back(DevOp::Write { id, offset, bufs, durable });
                    return;
                }
                cx.write(self.fd, UserToken::new(CLASS_DEV, id), bufs, offset, durable);
                if durable {
                    self.fill_ahead(cx, range);
                }
            }
            DevOp::Read { id, offset, len } => {
                let len = len as usize;
                cx.read(self.fd, UserToken::new(CLASS_DEV, id), BufMut::with_len(len), 0..len, offset);
            }
            DevOp::Flush { id } => {
                cx.sync(self.fd, UserToken::new(CLASS_DEV, id));
            }
            DevOp::Discard { id, offset, len } => {
                cx.discard(self.fd, UserToken::new(CLASS_DEV, id), offset, len);
            }
        }
    }

    /// A read that is not the store's: its completion comes with this token.
    pub fn read_raw(&mut self, cx: &mut Ctx, token: UserToken, buf: BufMut, offset: u64) {
        #[cfg(feature = "fault-hooks")]
        let Some(buf) = self.faults.meets_raw(cx, token, buf, offset) else {
            return;
        };
        self.read_raw_now(cx, token, buf, offset);
    }

    pub fn read_raw_now(&self, cx: &mut Ctx, token: UserToken, buf: BufMut, offset: u64) {
        let len = buf.len();
        cx.read(self.fd, token, buf, 0..len, offset);
    }

    fn fill_ahead(&mut self, cx: &mut Ctx, group: Range<u64>) {
        let Some(ahead) = self.ahead.as_mut() else { return };
        let Some(asked) = ahead.wrote(&group) else { return };
        // Unknown is as good as written: the log does not need this.
        let hole = cx.fd(self.fd).and_then(|file| next_hole(file, asked.clone()).ok().flatten());
        if let Some(hole) = ahead.found(&asked, hole, self.running.values().map(|(_, _, range)| range)) {
            let bufs = (hole.start..hole.end).step_by(ZEROS).map(|at| {
                let left = usize::try_from(hole.end - at).unwrap_or(ZEROS);
                self.zeros.slice(0..left.min(ZEROS))
            });
            let bufs: Vec<Buf> = bufs.collect();
            cx.write(self.fd, UserToken::new(CLASS_AHEAD, 0), bufs, hole.start, false);
        }
    }

    /// Filling has ended: what waited for it goes on, in order.
    pub fn filled(&mut self, cx: &mut Ctx) {
        if let Some(ahead) = self.ahead.as_mut() {
            ahead.filled();
        }
        for op in core::mem::take(&mut self.held) {
            self.start_now(cx, op);
        }
    }

    /// An operation of the store is over.
    pub fn ended(&mut self, cx: &Ctx, id: u64) {
        if let Some((at, kind, _)) = self.running.remove(&id) {
            let now = cx.now_us();
            self.slowed |= self.meter.ended(now, kind, now.saturating_sub(at));
        }
    }

    /// The store's view of a completion; `None` for the close of the descriptor.
    pub fn completed(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) -> Option<(u64, DevResult)> {
        self.ended(cx, token.id);
        let result = match result {
            #[cfg(feature = "fault-hooks")]
            OpResult::Read { result: Ok(n), mut buf } if n == buf.len() => {
                self.faults.read(token.id, &mut buf);
                DevResult::Ok(buf.freeze())
            }
            OpResult::Read { result, buf } => match result {
                Ok(n) if n == buf.len() => DevResult::Ok(buf.freeze()),
                Ok(_) => DevResult::Failed("the device ended before the data: it is shorter than its superblock says"),
                Err(_) => DevResult::Failed("the device could not read"),
            },
            OpResult::Written(Ok(())) | OpResult::Synced(Ok(())) => DevResult::Ok(Buf::empty()),
            OpResult::Written(Err(_)) => DevResult::Failed("the device could not write"),
            OpResult::Synced(Err(_)) => DevResult::Failed("the device could not flush"),
            // Giving space back is a courtesy: a device that cannot is no failure.
            OpResult::Discarded(_) => DevResult::Ok(Buf::empty()),
            _ => return None,
        };
        Some((token.id, result))
    }

    /// Whether the device has become slow since this was asked last.
    pub fn take_slowed(&mut self) -> bool {
        core::mem::take(&mut self.slowed)
    }

    /// Operations running.
    pub fn depth(&self) -> usize {
        self.running.len()
    }

    /// How fast the device answers.
    pub fn stats(&mut self, now: Micros) -> DeviceStats {
        self.meter.stats(now, self.running.len())
    }

    /// Age of the oldest operation.
    pub fn oldest_us(&self, now: Micros) -> Micros {
        self.running.values().map(|(at, _, _)| *at).min().map_or(0, |at| now.saturating_sub(at))
    }
}
