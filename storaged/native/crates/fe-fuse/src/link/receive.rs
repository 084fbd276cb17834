//! The receiving half of a connection.

use std::io::{self, BufReader, Read};
use std::os::unix::net::UnixStream;

use super::Link;
use crate::nbd::wire;
use crate::queue::Action;

/// Enough for sixteen small reads in one system call; larger ones bypass the buffer.
const BUFFER_BYTES: usize = 64 << 10;

/// Takes answers in until the connection fails; returns why it did.
pub fn run(link: &Link, stream: &UnixStream) -> io::Error {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
    loop {
        if let Err(error) = one(link, &mut reader) {
            return error;
        }
    }
}

fn one(link: &Link, reader: &mut BufReader<&UnixStream>) -> io::Result<()> {
    let mut header = [0; wire::REPLY_BYTES];
    reader.read_exact(&mut header)?;
    let reply = wire::reply(header).ok_or_else(|| violation("not a simple reply"))?;
    if reply.error == wire::ERROR_SHUTDOWN {
        // Not an answer: the server leaves, and its successor gets the request again.
        return Err(io::Error::new(io::ErrorKind::ConnectionReset, "server is shutting down"));
    }
    let bytes = {
        let state = link.lock();
        let request = state.queue.sent(reply.cookie).ok_or_else(|| violation("unknown cookie"))?;
        match request.action {
            Action::Read if reply.error == 0 => request.length as usize,
            _ => 0,
        }
    };
    let mut data = vec![0; bytes];
    reader.read_exact(&mut data)?;
    finish(link, reply, data);
    Ok(())
}

fn finish(link: &Link, reply: wire::Reply, data: Vec<u8>) {
    let mut state = link.lock();
    let Some((done, since)) = state.queue.complete(reply.cookie) else {
        return;
    };
    let took = since.elapsed();
    state.counters.longest_wait = state.counters.longest_wait.max(took);
    if reply.error != 0 {
        state.counters.errors = state.counters.errors.saturating_add(1);
    }
    drop(state);
    // An answer may free requests that overlapped it, and room for a caller that waits.
    link.work.notify_one();
    link.room.notify_one();
    done(if reply.error == 0 { Ok(data) } else { Err(wire::errno(reply.error)) });
}

fn violation(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("NBD protocol violation: {what}"))
}
