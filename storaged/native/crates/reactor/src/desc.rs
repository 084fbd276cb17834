//! Descriptors by name instead of number, so that a stale name never reaches a new file.

use crate::op::UserToken;
use crate::slab::Slab;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Names one descriptor owned by the reactor. Names are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FdId(pub(crate) u64);

struct Desc {
    fd: OwnedFd,
    in_flight: usize,
    closing: Option<UserToken>,
}

pub(crate) struct Descs(Slab<Desc>);

impl Descs {
    pub fn new() -> Descs {
        Descs(Slab::new())
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn add(&mut self, fd: OwnedFd) -> FdId {
        FdId(self.0.insert(Desc { fd, in_flight: 0, closing: None }))
    }
    pub fn fd(&self, id: FdId) -> Option<&OwnedFd> {
        self.0.get(id.0).map(|desc| &desc.fd)
    }
    /// Counts one more operation on it; `None` when it is closing or unknown.
    pub fn begin(&mut self, id: FdId) -> Option<RawFd> {
        let desc = self.0.get_mut(id.0).filter(|desc| desc.closing.is_none())?;
        desc.in_flight += 1;
        Some(desc.fd.as_raw_fd())
    }
    /// The number under which a running operation goes on.
    pub fn raw(&self, id: FdId) -> Option<RawFd> {
        self.0.get(id.0).map(|desc| desc.fd.as_raw_fd())
    }
    pub fn is_closing(&self, id: FdId) -> bool {
        self.0.get(id.0).is_none_or(|desc| desc.closing.is_some())
    }
    /// Marks it as closing. `Some(true)`: operations run on it and must be cancelled; the
    /// cancelling itself then counts as one more, so the number stays ours until it is answered.
    pub fn start_close(&mut self, id: FdId, token: UserToken) -> Option<bool> {
        let desc = self.0.get_mut(id.0).filter(|desc| desc.closing.is_none())?;
        desc.closing = Some(token);
        let busy = desc.in_flight > 0;
        desc.in_flight += usize::from(busy);
        Some(busy)
    }
    /// An operation on it has ended.
    pub fn end(&mut self, id: FdId) -> Option<UserToken> {
        if let Some(desc) = self.0.get_mut(id.0) {
            desc.in_flight = desc.in_flight.saturating_sub(1);
        }
        self.reap(id)
    }
    /// Closes the file if it is closing and idle; the token is the one to tell.
    pub fn reap(&mut self, id: FdId) -> Option<UserToken> {
        let desc = self.0.get(id.0)?;
        let token = desc.closing.filter(|_| desc.in_flight == 0)?;
        self.0.remove(id.0);
        Some(token)
    }
}
