//! Requests of the consumer: checked, locked (W1), cut into parts that lie within one chunk and
//! one frame, and answered when all parts have ended.

use drystone_types::consts::{BLOCK_SIZE, CHUNK_BLOCKS, FRAME_BLOCKS_MAX};
use drystone_types::{Buf, MsgType, Rule};
use smallvec::SmallVec;

use crate::api::{Action, Io, IoError, IoOk, IoResult, Pieces, State};
use crate::engine::Sequencer;

/// Bytes of a block, as file offsets are counted.
pub(crate) const BLOCK: u64 = BLOCK_SIZE as u64;
/// Blocks of a chunk, as block numbers are counted.
pub(crate) const CHUNK: u64 = CHUNK_BLOCKS as u64;
/// Smallest unit of a consumer's request.
const SECTOR: u64 = 512;
/// Longest read or write: twice what NBD clients send, and a bound on the memory of one request.
const IO_BYTES_MAX: u64 = 64 << 20;
/// Parts of one request in flight: a trim of 64 TiB has 16 million, issued piece by piece.
const PARTS_MAX: u32 = 64;
/// Requests open at once: front ends allow some hundreds; request ids have room for 2^24.
const JOBS_MAX: usize = 65_536;
/// Chunks one `BlockStatus` looks at (256 MiB): NBD allows a shorter answer.
pub(crate) const STATUS_CHUNKS_MAX: u64 = 64;

/// No lock held.
const UNLOCKED: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum JobKind {
    Read,
    Write,
    Trim,
    Zero,
    Status,
}

/// A ragged block of a write or of zeros: read, changed from `from` to `to`, written whole.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) block: u64,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) buf: Buf,
}

/// One request of the consumer.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) tag: u64,
    pub(crate) kind: JobKind,
    pub(crate) lock: u32,
    /// Answered; only the lock is left.
    pub(crate) done: bool,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Blocks `cursor..end` are still to be started.
    pub(crate) cursor: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) inflight: u32,
    /// A version was given to some part: B15 forbids to issue the request again.
    pub(crate) issued: bool,
    pub(crate) error: Option<IoError>,
    pub(crate) data: Buf,
    pub(crate) edges: SmallVec<[Edge; 2]>,
    pub(crate) edges_left: u8,
    pub(crate) parts: SmallVec<[Pieces; 1]>,
    /// `BlockStatus`: one bit a block.
    pub(crate) mapped: Vec<u8>,
}

/// A piece of a write-like request.
pub(crate) struct Part {
    pub(crate) block: u64,
    pub(crate) count: u32,
    pub(crate) msg: MsgType,
    pub(crate) data: Buf,
}

impl Sequencer {
    pub(crate) fn submit(&mut self, tag: u64, io: Io) {
        if self.tags.contains_key(&tag) {
            self.out.push(Action::Invariant("a tag was used again before it was answered"));
            return;
        }
        if self.state == State::Fenced || self.drain.as_ref().is_some_and(|d| d.detach) {
            return self.answer(tag, Err(IoError::Unissued));
        }
        let (kind, offset, len, data) = match io {
            Io::Flush => return self.answer(tag, Ok(IoOk::Done)),
            Io::Read { offset, len } => (JobKind::Read, offset, len, Buf::empty()),
            Io::Write { offset, data } => (JobKind::Write, offset, data.len() as u64, data),
            Io::Trim { offset, len } => (JobKind::Trim, offset, len, Buf::empty()),
            Io::WriteZeroes { offset, len } => (JobKind::Zero, offset, len, Buf::empty()),
            Io::BlockStatus { offset, len } => (JobKind::Status, offset, len, Buf::empty()),
        };
        if let Err(e) = self.check_io(kind, offset, len) {
            return self.answer(tag, Err(e));
        }
        let job = new_job(tag, kind, offset, len, data);
        if job.start >= job.end {
            return self.answer(tag, Ok(IoOk::Done));
        }
        self.admit(job);
    }

    fn check_io(&self, kind: JobKind, offset: u64, len: u64) -> Result<(), IoError> {
        let end = offset.checked_add(len).ok_or(IoError::Invalid)?;
        let bounded = matches!(kind, JobKind::Trim | JobKind::Zero | JobKind::Status) || len <= IO_BYTES_MAX;
        if offset % SECTOR != 0 || len % SECTOR != 0 || end > self.ticket.size || !bounded {
            return Err(IoError::Invalid);
        }
        if matches!(kind, JobKind::Write | JobKind::Trim | JobKind::Zero) && !self.writable() {
            return Err(IoError::ReadOnly);
        }
        if self.jobs.len() >= JOBS_MAX {
            Err(IoError::Busy)
        } else {
            Ok(())
        }
    }

    fn admit(&mut self, job: Job) {
        let (tag, kind, start, end) = (job.tag, job.kind, job.start, job.end);
        let j = self.jobs.insert(job);
        self.tags.insert(tag, j);
        if kind == JobKind::Status {
            return self.start_or_hold(j);
        }
        let exclusive = kind != JobKind::Read;
        let (lock, mut granted) = self.lock.acquire(start, end, exclusive, j);
        if !self.on(Rule::W1) {
            granted = true;
        }
        if let Some(job) = self.jobs.get_mut(j) {
            job.lock = lock;
        }
        if granted {
            self.start_or_hold(j);
        } else {
            self.stats.lock_waits += 1;
        }
    }

    pub(crate) fn start_or_hold(&mut self, j: u32) {
        if self.running() && self.drain.is_none() {
            self.start_job(j);
        } else {
            self.held.push(j);
        }
    }

    /// Requests that waited for ACTIVE, in order of arrival.
    pub(crate) fn start_held(&mut self) {
        for j in core::mem::take(&mut self.held) {
            self.start_or_hold(j);
        }
    }

    fn start_job(&mut self, j: u32) {
        let Some(job) = self.jobs.get(j) else { return };
        if job.edges.is_empty() {
            self.advance(j);
        } else {
            self.read_edges(j);
        }
    }

    /// Starts further parts, and answers when there is nothing left.
    pub(crate) fn advance(&mut self, j: u32) {
        loop {
            let Some(job) = self.jobs.get(j) else { return };
            if job.error.is_some() || job.cursor >= job.end || job.inflight >= PARTS_MAX {
                break;
            }
            match job.kind {
                JobKind::Read => self.start_read_part(j),
                JobKind::Status => self.start_status_part(j),
                _ => self.start_write_part(j),
            }
        }
        self.finish_if_done(j);
    }

    fn start_read_part(&mut self, j: u32) {
        let Some(job) = self.jobs.get_mut(j) else { return };
        let (block, part) = (job.cursor, job.parts.len());
        let count = span(block, job.end, u64::from(FRAME_BLOCKS_MAX));
        job.cursor += u64::from(count);
        job.inflight += 1;
        job.parts.push(Pieces::new());
        self.read_part(crate::read::Owner::Part(j, part as u32), block, count);
    }

    fn start_write_part(&mut self, j: u32) {
        let Some(job) = self.jobs.get_mut(j) else { return };
        let part = next_part(job);
        job.cursor += u64::from(part.count);
        job.inflight += 1;
        self.new_write(j, part);
    }

    /// A part ended.
    pub(crate) fn part_done(&mut self, j: u32, error: Option<IoError>) {
        let Some(job) = self.jobs.get_mut(j) else { return };
        job.inflight = job.inflight.saturating_sub(1);
        // The first error stands; parts in flight are waited for, since an issued write completes.
        job.error = job.error.or(error);
        self.advance(j);
    }

    fn finish_if_done(&mut self, j: u32) {
        let Some(job) = self.jobs.get_mut(j) else { return };
        let over = job.inflight == 0 && job.edges_left == 0 && (job.error.is_some() || job.cursor >= job.end);
        if !over || job.done {
            return;
        }
        let result = match job.error {
            Some(e) => Err(e),
            None => Ok(outcome(job)),
        };
        self.complete_job(j, result);
    }

    /// Answers; the lock stays until `Answered` (W1).
    pub(crate) fn complete_job(&mut self, j: u32, result: IoResult) {
        let Some(job) = self.jobs.get_mut(j) else { return };
        job.done = true;
        job.data = Buf::empty();
        job.edges.clear();
        let tag = job.tag;
        if job.lock == UNLOCKED {
            self.tags.remove(&tag);
            self.jobs.remove(j);
        }
        self.answer(tag, result);
        if !self.on(Rule::W1Socket) {
            self.answered(tag);
        }
    }

    fn answer(&mut self, tag: u64, result: IoResult) {
        match result {
            Ok(_) => self.stats.completed += 1,
            Err(_) => self.stats.failed += 1,
        }
        if result == Err(IoError::NoSpace) {
            self.stats.no_space += 1;
        }
        self.out.push(Action::Complete { tag, result });
    }

    /// The answer is in the consumer's socket: overlapping requests may start.
    pub(crate) fn answered(&mut self, tag: u64) {
        let Some(j) = self.tags.get(&tag).copied() else { return };
        if self.jobs.get(j).is_none_or(|job| !job.done) {
            return;
        }
        self.tags.remove(&tag);
        let Some(job) = self.jobs.remove(j) else { return };
        let mut granted = SmallVec::new();
        self.lock.release(job.lock, &mut granted);
        if self.on(Rule::W1) {
            for next in granted {
                if self.jobs.get(next).is_some_and(|n| !n.done) {
                    self.start_or_hold(next);
                }
            }
        }
    }
}

fn new_job(tag: u64, kind: JobKind, offset: u64, len: u64, data: Buf) -> Job {
    let last = offset + len;
    // A trim ignores ragged edges, everything else covers them.
    let (start, end) = match kind {
        JobKind::Trim => (offset.div_ceil(BLOCK), last / BLOCK),
        JobKind::Status => {
            (offset / BLOCK, last.div_ceil(BLOCK).min((offset / BLOCK / CHUNK + STATUS_CHUNKS_MAX) * CHUNK))
        }
        _ => (offset / BLOCK, last.div_ceil(BLOCK)),
    };
    let edges = if matches!(kind, JobKind::Write | JobKind::Zero) && len > 0 {
        crate::rmw::edges(offset, last)
    } else {
        SmallVec::new()
    };
    let end = if len == 0 { start } else { end };
    Job {
        tag,
        kind,
        lock: UNLOCKED,
        done: false,
        offset,
        len,
        cursor: start,
        start,
        end,
        inflight: 0,
        issued: false,
        error: None,
        data,
        edges_left: 0,
        edges,
        parts: SmallVec::new(),
        mapped: Vec::new(),
    }
}

/// Blocks from `block` to `end`, at most `max`, within one chunk.
pub(crate) fn span(block: u64, end: u64, max: u64) -> u32 {
    let chunk_end = (block / CHUNK + 1) * CHUNK;
    u32::try_from(end.min(chunk_end).min(block + max) - block).unwrap_or(0)
}

fn next_part(job: &Job) -> Part {
    let block = job.cursor;
    match job.kind {
        JobKind::Write => {
            let count = span(block, job.end, u64::from(FRAME_BLOCKS_MAX));
            let at = usize::try_from((block - job.start) * BLOCK).unwrap_or(0);
            let data = job.data.slice(at..at + count as usize * BLOCK_SIZE);
            Part { block, count, msg: MsgType::Write, data }
        }
        JobKind::Zero => match job.edges.iter().find(|e| e.block >= block) {
            Some(e) if e.block == block => Part { block, count: 1, msg: MsgType::Write, data: e.buf.clone() },
            edge => {
                let end = edge.map_or(job.end, |e| e.block);
                Part { block, count: span(block, end, CHUNK), msg: MsgType::Zero, data: Buf::empty() }
            }
        },
        _ => Part { block, count: span(block, job.end, CHUNK), msg: MsgType::Trim, data: Buf::empty() },
    }
}

fn outcome(job: &mut Job) -> IoOk {
    match job.kind {
        JobKind::Read => IoOk::Data(cut_edges(job)),
        JobKind::Status => IoOk::Extents(crate::status::extents(job)),
        _ => IoOk::Done,
    }
}

/// What was read covers whole blocks; the consumer gets the bytes it asked for.
fn cut_edges(job: &mut Job) -> Pieces {
    let mut skip = usize::try_from(job.offset % BLOCK).unwrap_or(0);
    let mut left = usize::try_from(job.len).unwrap_or(0);
    let mut out = Pieces::new();
    for buf in job.parts.drain(..).flatten() {
        if buf.len() <= skip {
            skip -= buf.len();
            continue;
        }
        let piece = if skip == 0 && buf.len() <= left { buf } else { buf.slice(skip..buf.len().min(skip + left)) };
        skip = 0;
        left -= piece.len();
        if !piece.is_empty() {
            out.push(piece);
        }
    }
    out
}
