//! Commands on a unix socket: one line in, one line of JSON out.
//!
//! | command | answer |
//! |---|---|
//! | `stat` | counters, sizes, process id |
//! | `resize N` | waits for nothing: shows the server's size if it is at least N bytes |
//! | `reconnect` | drops the connection and makes a new one |
//! | `quit` | refused while the file is open; else answers, unmounts and ends |
//!
//! Failures are `{"ok":false,"error":"..."}`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{json, Value};

use crate::link::Link;

/// Longest command line: the longest one that means something is `resize` and a number.
const LINE_BYTES_MAX: u64 = 64;

/// A client that connects and says nothing must not keep the next one waiting for long.
const CLIENT_DEADLINE: Duration = Duration::from_secs(2);

/// What the commands work on.
pub struct Control {
    link: Arc<Link>,
    opens: Arc<AtomicUsize>,
}

impl Control {
    /// Commands for this link; `opens` is how often the file is open.
    #[must_use]
    pub fn new(link: Arc<Link>, opens: Arc<AtomicUsize>) -> Self {
        Self { link, opens }
    }

    /// Serves commands, one client after the other, until `quit` is accepted.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub fn serve(&self, listener: &UnixListener) -> io::Result<()> {
        loop {
            let (client, _) = listener.accept()?;
            // A client that went away or stays silent is its own problem.
            if let Ok(true) = self.client(&client) {
                return Ok(());
            }
        }
    }

    /// Answers one command; true when it ends the process.
    fn client(&self, mut client: &UnixStream) -> io::Result<bool> {
        client.set_read_timeout(Some(CLIENT_DEADLINE))?;
        client.set_write_timeout(Some(CLIENT_DEADLINE))?;
        let mut line = String::new();
        BufReader::new(client.take(LINE_BYTES_MAX)).read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let (answer, quit) = self.command(&words);
        client.write_all(format!("{answer}\n").as_bytes())?;
        Ok(quit)
    }

    fn command(&self, words: &[&str]) -> (Value, bool) {
        match words {
            ["stat"] => (self.stat(), false),
            ["resize", size] => (self.resize(size), false),
            ["reconnect"] => {
                self.link.reconnect();
                (json!({"ok": true}), false)
            }
            ["quit"] => match self.opens.load(Ordering::SeqCst) {
                0 => (json!({"ok": true}), true),
                opens => (failure(&format!("the file is open {opens} times: detach first")), false),
            },
            _ => (failure("use: stat | resize BYTES | reconnect | quit"), false),
        }
    }

    fn resize(&self, size: &str) -> Value {
        let Ok(size) = size.parse::<u64>() else {
            return failure("resize needs a number of bytes");
        };
        match self.link.resize(size) {
            Ok(size) => json!({"ok": true, "size": size}),
            Err(error) => failure(&error),
        }
    }

    fn stat(&self) -> Value {
        let counters = self.link.counters();
        json!({
            "ok": true,
            "pid": std::process::id(),
            "size": self.link.size(),
            "export_size": counters.export_size,
            "read_only": self.link.export().read_only(),
            "connected": counters.connected,
            "reconnects": counters.reconnects,
            "opens": self.opens.load(Ordering::SeqCst),
            "queued": counters.queued,
            "oldest_wait_us": micros(counters.oldest_wait),
            "longest_wait_us": micros(counters.longest_wait),
            "reads": counters.reads,
            "read_bytes": counters.read_bytes,
            "writes": counters.writes,
            "write_bytes": counters.write_bytes,
            "flushes": counters.flushes,
            "trims": counters.trims,
            "errors": counters.errors,
            "last_error": counters.last_error,
        })
    }
}

fn failure(text: &str) -> Value {
    json!({"ok": false, "error": text})
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
