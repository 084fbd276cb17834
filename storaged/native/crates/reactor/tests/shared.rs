//! Shared words and locks over real files.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::File;
use std::sync::atomic::Ordering;

use drystone_reactor::{FileLock, SharedWords};

fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("drystone-shared-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn file(path: &std::path::Path, bytes: u64) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.set_len(bytes).unwrap();
    file
}

#[test]
fn a_word_that_one_mapping_stores_is_what_another_loads() {
    let folder = folder("words");
    let path = folder.join("page");
    let (one, other) = (SharedWords::map(&file(&path, 64), 8).unwrap(), SharedWords::map(&file(&path, 64), 8).unwrap());
    one.word(7).unwrap().store(42, Ordering::SeqCst);
    assert_eq!(other.word(7).unwrap().load(Ordering::SeqCst), 42);
    assert!(one.word(8).is_none(), "there is nothing behind the end");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_file_that_is_too_short_is_not_mapped() {
    let folder = folder("short");
    assert!(SharedWords::map(&file(&folder.join("page"), 63), 8).is_err());
    assert!(SharedWords::map(&file(&folder.join("page"), 63), 0).is_err());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_lock_is_held_by_one_and_seen_by_all_until_its_holder_ends() {
    let folder = folder("lock");
    let path = folder.join("lock");
    assert!(!FileLock::is_held(&path).unwrap());
    let lock = FileLock::try_take(&path).unwrap();
    assert!(lock.is_some());
    assert!(FileLock::try_take(&path).unwrap().is_none());
    assert!(FileLock::is_held(&path).unwrap());
    drop(lock);
    assert!(!FileLock::is_held(&path).unwrap());
    assert!(FileLock::try_take(&path).unwrap().is_some());
    std::fs::remove_dir_all(folder).unwrap();
}
