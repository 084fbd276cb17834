//! What the threads of a link share.

use std::time::Duration;

use super::Waiting;
use crate::nbd::Export;
use crate::queue::{Action, Request};

/// Counters since the start.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// There is a connection right now.
    pub connected: bool,
    /// Connections made after the first one.
    pub reconnects: u64,
    /// Unanswered requests.
    pub queued: usize,
    /// The size that the server showed last.
    pub export_size: u64,
    /// How long the oldest unanswered request has been waiting.
    pub oldest_wait: Duration,
    /// The longest that an answered request took.
    pub longest_wait: Duration,
    /// Reads.
    pub reads: u64,
    /// Bytes of reads.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes of writes.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Trims and writes of zeroes.
    pub trims: u64,
    /// Requests that the server answered with an error.
    pub errors: u64,
    /// Why the last connection, or the last try to make one, failed.
    pub last_error: String,
}

impl Counters {
    /// Counts a request that was handed over.
    pub fn count(&mut self, request: &Request) {
        let bytes = u64::from(request.length);
        match request.action {
            Action::Read => {
                self.reads = self.reads.saturating_add(1);
                self.read_bytes = self.read_bytes.saturating_add(bytes);
            }
            Action::Write(_) => {
                self.writes = self.writes.saturating_add(1);
                self.write_bytes = self.write_bytes.saturating_add(bytes);
            }
            Action::Flush => self.flushes = self.flushes.saturating_add(1),
            Action::Trim | Action::WriteZeroes { .. } => self.trims = self.trims.saturating_add(1),
        }
    }
}

/// Under the link's lock.
pub struct State {
    pub queue: Waiting,
    pub export: Export,
    /// The size that the kernel was shown: never less than before.
    pub size: u64,
    pub connected: bool,
    /// The connection in use has to end.
    pub broken: bool,
    /// The next try is wanted now.
    pub hurry: bool,
    pub counters: Counters,
}

impl State {
    pub fn new(export: Export) -> Self {
        Self {
            queue: Waiting::default(),
            export,
            size: export.size,
            connected: false,
            broken: false,
            hurry: false,
            counters: Counters::default(),
        }
    }
}
