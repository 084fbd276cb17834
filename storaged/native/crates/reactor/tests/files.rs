//! Drives: real files past the page cache.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod common;

use common::*;
use drystone_reactor::{next_hole, Ctx, DriveFile, FileError, OpResult, OpenOptions, UserToken};
use drystone_types::{Buf, BufMut};
use std::cell::Cell;
use std::path::Path;

const MIB: u64 = 1 << 20;

fn create(path: &Path, size: u64) -> DriveFile {
    // Some build folders lie on file systems without direct I/O.
    DriveFile::open(path, &OpenOptions { create: Some(size), allow_cached: true }).unwrap()
}

fn open(path: &Path) -> Result<DriveFile, FileError> {
    DriveFile::open(path, &OpenOptions { create: None, allow_cached: true })
}

fn block(byte: u8) -> Buf {
    let mut buf = BufMut::with_len(4096);
    buf.as_mut_slice().fill(byte);
    buf.freeze()
}

const WRITE: UserToken = UserToken::new(1, 0);
const READ: UserToken = UserToken::new(2, 0);
const SYNC: UserToken = UserToken::new(3, 0);
const DISCARD: UserToken = UserToken::new(4, 0);

#[test]
fn what_is_written_in_pieces_is_read_back_whole_and_reads_as_zeros_once_discarded() {
    let path = scratch("rw.img");
    let drive = create(&path, 16 * MIB);
    assert_eq!(drive.geometry().size, 16 * MIB);
    let fd = Cell::new(None);
    let start = |cx: &mut Ctx, _| {
        let id = cx.adopt(drive.into_fd());
        fd.set(Some(id));
        cx.write(id, WRITE, [block(1), block(2), block(3)], 8192, true);
    };
    let mut discarded = false;
    run(start, |cx, what| {
        let id = fd.get().unwrap();
        match what {
            What::Done(WRITE, OpResult::Written(result)) => {
                result.unwrap();
                cx.sync(id, SYNC);
            }
            What::Done(SYNC, OpResult::Synced(result)) => {
                result.unwrap();
                cx.read(id, READ, BufMut::with_len(16_384), 4096..16_384, 8192);
            }
            What::Done(READ, OpResult::Read { result, buf }) => {
                assert_eq!(result.unwrap(), 12_288);
                let bytes: Vec<u8> = (1..4).map(|i| buf.as_slice()[i * 4096 + 7]).collect();
                if discarded {
                    assert_eq!(bytes, [1, 0, 3]);
                    return cx.stop();
                }
                assert_eq!(bytes, [1, 2, 3]);
                cx.discard(id, DISCARD, 12_288, 4096);
            }
            What::Done(DISCARD, OpResult::Discarded(result)) => {
                result.unwrap();
                discarded = true;
                cx.read(id, READ, BufMut::with_len(16_384), 4096..16_384, 8192);
            }
            _ => {}
        }
    });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_write_of_more_pieces_than_one_call_takes_arrives_whole() {
    const PIECES: usize = 2500;
    let path = scratch("many.img");
    let drive = create(&path, 16 * MIB);
    let start = |cx: &mut Ctx, _| {
        let id = cx.adopt(drive.into_fd());
        cx.write(id, WRITE, (0..PIECES).map(|i| block((i % 251) as u8)), 0, false);
    };
    run(start, |cx, what| {
        if let What::Done(WRITE, OpResult::Written(result)) = what {
            result.unwrap();
            cx.stop();
        }
    });
    let bytes = std::fs::read(&path).unwrap();
    assert!((0..PIECES).all(|i| bytes[i * 4096..][..4096].iter().all(|b| *b == (i % 251) as u8)));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn reading_past_the_end_gives_what_there_is() {
    let path = scratch("end.img");
    let drive = create(&path, MIB);
    let start = |cx: &mut Ctx, _| {
        let id = cx.adopt(drive.into_fd());
        cx.read(id, READ, BufMut::with_len(8192), 0..8192, MIB - 4096);
    };
    run(start, |cx, what| {
        if let What::Done(READ, OpResult::Read { result, .. }) = what {
            assert_eq!(result.unwrap(), 4096);
            cx.stop();
        }
    });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn many_writes_at_once_all_land() {
    const COUNT: u64 = 2000;
    let path = scratch("deep.img");
    let drive = create(&path, 16 * MIB);
    let start = |cx: &mut Ctx, _| {
        let id = cx.adopt(drive.into_fd());
        (0..COUNT).for_each(|i| {
            cx.write(id, UserToken::new(1, i), [block((i % 251) as u8)], i * 4096, false);
        });
    };
    let mut left = COUNT;
    run(start, |cx, what| {
        if let What::Done(_, OpResult::Written(result)) = what {
            result.unwrap();
            left -= 1;
            if left == 0 {
                cx.stop();
            }
        }
    });
    let bytes = std::fs::read(&path).unwrap();
    assert!((0..COUNT as usize).all(|i| bytes[i * 4096] == (i % 251) as u8));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_drive_is_held_by_one_opener_at_a_time() {
    let path = scratch("lock.img");
    let first = create(&path, MIB);
    assert!(matches!(open(&path), Err(FileError::InUse(_))));
    drop(first);
    assert!(open(&path).is_ok());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn what_is_no_drive_is_refused_with_the_reason() {
    let path = scratch("odd.img");
    assert!(matches!(open(&path), Err(FileError::Missing(_))));
    assert!(matches!(open(Path::new("/")), Err(FileError::NotADrive(_))));
    assert!(matches!(open(Path::new("/dev/null")), Err(FileError::NotADrive(_))));
    std::fs::write(&path, [0; 5000]).unwrap();
    assert!(matches!(open(&path), Err(FileError::Size(_, 5000))));
    let again = DriveFile::open(&path, &OpenOptions { create: Some(MIB), allow_cached: true });
    assert!(matches!(again, Err(FileError::Exists(_))));
    assert_eq!(std::fs::read(&path).unwrap().len(), 5000);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_hole_is_found_until_it_is_written() {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    let path = scratch("hole.img");
    let drive = create(&path, 4 * MIB);
    assert_eq!(next_hole(drive.as_fd(), MIB..2 * MIB).unwrap(), Some(MIB..2 * MIB));
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[7; 8192], MIB).unwrap();
    file.sync_all().unwrap();
    assert_eq!(next_hole(drive.as_fd(), MIB..MIB + 8192).unwrap(), None);
    assert_eq!(next_hole(drive.as_fd(), MIB..2 * MIB).unwrap(), Some(MIB + 8192..2 * MIB));
    assert_eq!(next_hole(drive.as_fd(), 0..MIB + 4096).unwrap(), Some(0..MIB));
    std::fs::remove_file(path).unwrap();
}
