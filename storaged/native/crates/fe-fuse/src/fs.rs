//! The FUSE side: a folder with the one file `volume`.

use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request as Caller, WriteFlags,
};

use crate::link::Link;
use crate::queue::{Action, Request};

/// Name of the file.
pub const FILE_NAME: &str = "volume";
const FILE: INodeNo = INodeNo(2);

/// Attributes are never cached: the size changes while the file is open, and they are asked
/// for rarely.
const TTL: Duration = Duration::ZERO;

/// Trims of the engine work on its blocks; the ragged edges of others would be left alone.
const TRIM_ALIGNMENT: u64 = 4096;

/// The file system.
pub struct Volume {
    link: Arc<Link>,
    opens: Arc<AtomicUsize>,
    read_only: bool,
    trim_zeroes: bool,
}

impl Volume {
    /// `trim_zeroes`: what the server trimmed reads as zeroes, which NBD alone does not
    /// promise but a hole in a file does. `opens` counts how often the file is open.
    #[must_use]
    pub fn new(link: Arc<Link>, opens: Arc<AtomicUsize>, read_only: bool, trim_zeroes: bool) -> Self {
        let read_only = read_only || link.export().read_only();
        Self { link, opens, read_only, trim_zeroes }
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let file = inode == FILE;
        let size = if file { self.link.size() } else { 0 };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if file { FileType::RegularFile } else { FileType::Directory },
            perm: if !file {
                0o500
            } else if self.read_only {
                0o400
            } else {
                0o600
            },
            nlink: if file { 1 } else { 2 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Why a change of this range is refused, if it is.
    fn refusal(&self, offset: u64, length: u64) -> Option<Errno> {
        if self.read_only {
            return Some(Errno::EROFS);
        }
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.link.size());
        (!inside).then_some(Errno::EFBIG)
    }

    /// How to make a hole that reads as zeroes, or zeroes that keep their space.
    fn zeroing(&self, mode: i32, offset: u64, length: u64) -> Option<Action> {
        let export = self.link.export();
        let kind = mode & !libc::FALLOC_FL_KEEP_SIZE;
        let aligned = offset % TRIM_ALIGNMENT == 0 && length % TRIM_ALIGNMENT == 0;
        match kind {
            libc::FALLOC_FL_PUNCH_HOLE if self.trim_zeroes && aligned && export.trim() => Some(Action::Trim),
            libc::FALLOC_FL_PUNCH_HOLE if export.write_zeroes() => Some(Action::WriteZeroes { keep_allocated: false }),
            libc::FALLOC_FL_ZERO_RANGE if export.write_zeroes() => Some(Action::WriteZeroes { keep_allocated: true }),
            _ => None,
        }
    }
}

impl Filesystem for Volume {
    fn init(&mut self, _caller: &Caller, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |what: &str| io::Error::other(format!("the kernel's FUSE refuses {what}"));
        // Without asynchronous direct I/O the kernel would issue one request at a time.
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| refused("asynchronous direct I/O"))?;
        config.set_max_write(crate::REQUEST_BYTES_MAX).map_err(|_| refused("the request size"))?;
        config.set_max_background(crate::REQUESTS_MAX).map_err(|_| refused("the number of requests"))?;
        Ok(())
    }

    fn lookup(&self, _caller: &Caller, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == FILE_NAME {
            reply.entry(&TTL, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Caller, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn readdir(&self, _caller: &Caller, _inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE, FileType::RegularFile, FILE_NAME),
        ];
        for (next, (inode, kind, name)) in (1u64..).zip(entries) {
            if next > offset && reply.add(inode, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _caller: &Caller, _inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.read_only && flags.acc_mode() != OpenAccMode::O_RDONLY {
            reply.error(Errno::EROFS);
            return;
        }
        self.opens.fetch_add(1, Ordering::SeqCst);
        // Direct: the page cache of this file would hold every block twice, and give back
        // old ones after the volume was written elsewhere.
        let how = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), how);
    }

    fn release(
        &self,
        _caller: &Caller,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.opens.fetch_sub(1, Ordering::SeqCst);
        reply.ok();
    }

    fn read(
        &self,
        _caller: &Caller,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.link.size().saturating_sub(offset);
        let length = u32::try_from(left).map_or(size, |left| left.min(size));
        if length == 0 {
            reply.data(&[]);
            return;
        }
        let request = Request { action: Action::Read, offset, length };
        let done = move |result: Result<Vec<u8>, i32>| match result {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(Errno::from_i32(error)),
        };
        self.link.submit(request, Box::new(done));
    }

    fn write(
        &self,
        _caller: &Caller,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Ok(length) = u32::try_from(data.len()) else {
            reply.error(Errno::EINVAL);
            return;
        };
        if let Some(error) = self.refusal(offset, u64::from(length)) {
            reply.error(error);
            return;
        }
        let request = Request { action: Action::Write(data.to_vec()), offset, length };
        let done = move |result: Result<Vec<u8>, i32>| match result {
            Ok(_) => reply.written(length),
            Err(error) => reply.error(Errno::from_i32(error)),
        };
        self.link.submit(request, Box::new(done));
    }

    fn fsync(&self, _: &Caller, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        if !self.link.export().flush() {
            // A server without the command promises that there is nothing to flush.
            reply.ok();
            return;
        }
        let request = Request { action: Action::Flush, offset: 0, length: 0 };
        self.link.submit(request, Box::new(move |result| finish(reply, result)));
    }

    fn fallocate(
        &self,
        _caller: &Caller,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if let Some(error) = self.refusal(offset, length) {
            reply.error(error);
            return;
        }
        // A length beyond 32 bits does not fit the protocol; a block device never asks for it.
        let (Some(action), Ok(length)) = (self.zeroing(mode, offset, length), u32::try_from(length)) else {
            reply.error(Errno::EOPNOTSUPP);
            return;
        };
        let request = Request { action, offset, length };
        self.link.submit(request, Box::new(move |result| finish(reply, result)));
    }
}

fn finish(reply: ReplyEmpty, result: Result<Vec<u8>, i32>) {
    match result {
        Ok(_) => reply.ok(),
        Err(error) => reply.error(Errno::from_i32(error)),
    }
}
