//! The store's device operations on the reactor.

use std::collections::BTreeMap;

use drystone_reactor::{Ctx, FdId, OpResult, UserToken};
use drystone_store::api::{DevOp, DevResult};
use drystone_types::consts::Micros;
use drystone_types::{Buf, BufMut};

use super::CLASS_DEV;

/// What runs on the device.
pub struct Device {
    fd: FdId,
    /// Start time by operation id, for the age of the oldest one (§4.5: it counts as service time).
    running: BTreeMap<u64, Micros>,
}

impl Device {
    pub fn new(fd: FdId) -> Device {
        Device { fd, running: BTreeMap::new() }
    }

    pub fn start(&mut self, cx: &mut Ctx, op: DevOp) {
        let now = cx.now_us();
        match op {
            DevOp::Write { id, offset, bufs, durable } => {
                self.running.insert(id, now);
                cx.write(self.fd, UserToken::new(CLASS_DEV, id), bufs, offset, durable);
            }
            DevOp::Read { id, offset, len } => {
                self.running.insert(id, now);
                let len = len as usize;
                cx.read(self.fd, UserToken::new(CLASS_DEV, id), BufMut::with_len(len), 0..len, offset);
            }
            DevOp::Flush { id } => {
                self.running.insert(id, now);
                cx.sync(self.fd, UserToken::new(CLASS_DEV, id));
            }
            DevOp::Discard { id, offset, len } => {
                self.running.insert(id, now);
                cx.discard(self.fd, UserToken::new(CLASS_DEV, id), offset, len);
            }
        }
    }

    /// The store's view of a completion; `None` for the close of the descriptor.
    pub fn completed(&mut self, _cx: &mut Ctx, token: UserToken, result: OpResult) -> Option<(u64, DevResult)> {
        self.running.remove(&token.id);
        let result = match result {
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

    /// Age of the oldest operation.
    pub fn oldest_us(&self, now: Micros) -> Micros {
        self.running.values().min().map_or(0, |at| now.saturating_sub(*at))
    }
}
