//! One NBD connection that comes back: requests wait here while the server is away.
//!
//! Two threads work on a connection, a sender and a receiver; both hold the lock only to
//! look at the [`Queue`], never during a system call.

mod receive;
mod send;
mod state;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::nbd::{negotiate, Export, HandshakeError};
use crate::queue::{Queue, Request};
use state::State;

pub use state::Counters;

/// First pause before another try. A server that was restarted binds its socket within tens
/// of milliseconds, and I/O waits meanwhile.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest pause: a second more is not noticed in an outage that lasted many, and trying is
/// one failed system call.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A server that accepted but does not finish the handshake within this is given up and
/// dialled again: it takes a few messages on one machine.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Requests held here; the caller waits when there are more. The kernel has at most
/// [`crate::REQUESTS_MAX`] in the background plus some synchronous ones.
const QUEUE_REQUESTS_MAX: usize = 2 * crate::REQUESTS_MAX as usize;

/// Bytes held here: every request the kernel may have outstanding, at its largest.
const QUEUE_BYTES_MAX: usize = crate::REQUESTS_MAX as usize * crate::REQUEST_BYTES_MAX as usize;

/// Called once with the bytes of a read (empty otherwise) or a system error number.
pub type Completion = Box<dyn FnOnce(Result<Vec<u8>, i32>) + Send>;

/// Where the export is.
#[derive(Debug, Clone)]
pub struct Target {
    /// The unix socket of the server.
    pub socket: PathBuf,
    /// Name of the export.
    pub export: String,
}

impl Target {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// When nobody listens, or the negotiation fails or takes too long.
    pub fn dial(&self) -> Result<(UnixStream, Export), HandshakeError> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(HANDSHAKE_DEADLINE))?;
        stream.set_write_timeout(Some(HANDSHAKE_DEADLINE))?;
        let export = negotiate(&mut stream, &self.export)?;
        // From here on a silent server is one that works on it: waiting is the contract.
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        Ok((stream, export))
    }
}

/// The connection and everything that waits for it.
pub struct Link {
    target: Target,
    state: Mutex<State>,
    /// Something may be sent, or the connection has to end.
    work: Condvar,
    /// There is room for another request.
    room: Condvar,
    /// Somebody knows that the server is back.
    hurry: Condvar,
}

impl Link {
    /// Connects for the first time, trying until the deadline, and keeps the connection in
    /// the background from then on.
    ///
    /// # Errors
    /// The last failure when there is still no connection at the deadline.
    pub fn open(target: Target, deadline: Duration) -> Result<Arc<Self>, HandshakeError> {
        let end = Instant::now() + deadline;
        let (stream, export) = loop {
            match target.dial() {
                Ok(connected) => break connected,
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => thread::sleep(BACKOFF_MIN),
            }
        };
        let link = Arc::new(Self {
            target,
            state: Mutex::new(State::new(export)),
            work: Condvar::new(),
            room: Condvar::new(),
            hurry: Condvar::new(),
        });
        let runner = Arc::clone(&link);
        thread::Builder::new().name("link".into()).spawn(move || runner.run(stream))?;
        Ok(link)
    }

    /// Hands a request over; `done` is called once, from another thread. Waits while too much
    /// is queued, which stops the kernel from sending more.
    pub fn submit(&self, request: Request, done: Completion) {
        let mut state = self.lock();
        while state.queue.len() >= QUEUE_REQUESTS_MAX || state.queue.bytes() >= QUEUE_BYTES_MAX {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.counters.count(&request);
        state.queue.submit(request, (done, Instant::now()));
        drop(state);
        self.work.notify_one();
    }

    /// What the server last told about the export.
    #[must_use]
    pub fn export(&self) -> Export {
        self.lock().export
    }

    /// The size shown to the kernel.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.lock().size
    }

    /// Asks the server for the size of today over a second connection, and shows it from
    /// here on. The connection in use is renewed, for a server may have fixed the old size
    /// when it was made.
    ///
    /// # Errors
    /// When the server cannot be asked, or shows less than `size_min` bytes or than before.
    pub fn resize(&self, size_min: u64) -> Result<u64, String> {
        let (_, export) = self.target.dial().map_err(|error| error.to_string())?;
        let mut state = self.lock();
        if export.size < size_min || export.size < state.size {
            return Err(format!(
                "the server shows {} bytes, {} are wanted: resize the volume first",
                export.size,
                size_min.max(state.size)
            ));
        }
        if export.size > state.size {
            state.size = export.size;
            state.broken = true;
            self.work.notify_all();
        }
        Ok(export.size)
    }

    /// Drops the connection, so that a new one is made at once: for a server that hangs, and
    /// for one that has just come back.
    pub fn reconnect(&self) {
        let mut state = self.lock();
        state.broken = true;
        state.hurry = true;
        drop(state);
        self.work.notify_all();
        self.hurry.notify_all();
    }

    /// A copy of the counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let state = self.lock();
        let mut counters = state.counters.clone();
        counters.queued = state.queue.len();
        counters.connected = state.connected;
        counters.export_size = state.export.size;
        let oldest = state.queue.oldest().map(|(_, since)| since.elapsed());
        counters.oldest_wait = oldest.unwrap_or_default();
        counters
    }

    /// A thread that panicked in the lock has left the state as it was before its one change:
    /// going on is better than an I/O error for everybody.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, first: UnixStream) {
        let mut stream = Some(first);
        let mut pause = BACKOFF_MIN;
        loop {
            if let Some(connection) = stream.take() {
                self.serve(&connection);
                pause = BACKOFF_MIN;
            }
            self.pause(pause);
            pause = (pause * 2).min(BACKOFF_MAX);
            match self.target.dial() {
                Ok((connection, export)) => stream = self.accept(connection, export),
                Err(error) => self.lock().counters.last_error = error.to_string(),
            }
        }
    }

    /// Waits before the next try, unless somebody asked for it now.
    fn pause(&self, pause: Duration) {
        let state = self.lock();
        let waited = self.hurry.wait_timeout_while(state, pause, |state| !state.hurry);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.hurry = false;
    }

    /// Takes a new connection into use, unless its export cannot hold what we promised.
    fn accept(&self, connection: UnixStream, export: Export) -> Option<UnixStream> {
        let mut state = self.lock();
        if export.size < state.size {
            state.counters.last_error = format!("the export shrank from {} to {} bytes", state.size, export.size);
            return None;
        }
        state.export = export;
        // Here, where the size was compared, and not when the work begins: a resize in between
        // has to end this connection too.
        state.broken = false;
        state.counters.reconnects = state.counters.reconnects.saturating_add(1);
        Some(connection)
    }

    /// Works on one connection until it breaks.
    fn serve(&self, stream: &UnixStream) {
        {
            let mut state = self.lock();
            state.queue.connection_lost();
            state.connected = true;
            state.hurry = false;
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                let error = receive::run(self, stream);
                let mut state = self.lock();
                state.counters.last_error = error.to_string();
                state.broken = true;
                drop(state);
                self.work.notify_all();
            });
            if let Err(error) = send::run(self, stream) {
                self.lock().counters.last_error = error.to_string();
            }
            // Wakes the receiver; a stream that is already dead makes this fail, which is fine.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        self.lock().connected = false;
    }
}

/// The queue with what belongs to each request: whom to tell, and since when it waits.
type Waiting = Queue<(Completion, Instant)>;
