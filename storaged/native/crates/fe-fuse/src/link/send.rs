//! The sending half of a connection.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError};

use super::Link;
use crate::nbd::wire;
use crate::queue::{Action, Request};

/// Requests are gathered into one system call up to this: enough for sixty small ones, and
/// small beside the largest single one.
const BATCH_BYTES: usize = 256 << 10;

/// Sends what becomes ready until the connection has to end.
pub fn run(link: &Link, mut stream: &UnixStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BATCH_BYTES);
    while gather(link, &mut buffer) {
        stream.write_all(&buffer)?;
        buffer.clear();
        // One huge request must not keep its memory for the life of the process.
        buffer.shrink_to(BATCH_BYTES);
    }
    Ok(())
}

/// Waits for something to send and encodes it; false when the connection has to end.
fn gather(link: &Link, buffer: &mut Vec<u8>) -> bool {
    let mut batch: Vec<(u64, Arc<Request>)> = Vec::new();
    let mut state = link.lock();
    loop {
        if state.broken {
            return false;
        }
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let Some((cookie, request)) = state.queue.take_ready() else {
                break;
            };
            bytes += wire::REQUEST_BYTES + payload(&request).len();
            batch.push((cookie, request));
        }
        if !batch.is_empty() {
            break;
        }
        state = link.work.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    drop(state);
    for (cookie, request) in batch {
        encode(cookie, &request, buffer);
    }
    true
}

fn payload(request: &Request) -> &[u8] {
    match &request.action {
        Action::Write(data) => data,
        _ => &[],
    }
}

fn encode(cookie: u64, request: &Request, buffer: &mut Vec<u8>) {
    let (command, flags) = match request.action {
        Action::Read => (wire::CMD_READ, 0),
        Action::Write(_) => (wire::CMD_WRITE, 0),
        Action::Flush => (wire::CMD_FLUSH, 0),
        Action::Trim => (wire::CMD_TRIM, 0),
        Action::WriteZeroes { keep_allocated: true } => (wire::CMD_WRITE_ZEROES, wire::FLAG_NO_HOLE),
        Action::WriteZeroes { keep_allocated: false } => (wire::CMD_WRITE_ZEROES, 0),
    };
    buffer.extend(wire::request(command, flags, cookie, request.offset, request.length));
    buffer.extend(payload(request));
}
