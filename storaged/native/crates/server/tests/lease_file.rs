//! The lease page as a file: who may use it, what is refused, what is made anew.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use drystone_server::lease_file::{attach_beacon, attach_server, LeaseFileError};
use drystone_types::consts::READ_LEASE;
use drystone_types::Rev;

/// A folder that goes with the test, however it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("drystone-lease-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }
    fn page(&self) -> PathBuf {
        self.0.join("lease.page")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const NOW: u64 = 10_000_000;
const UNTIL: u64 = NOW + READ_LEASE;

/// Changes one word of the page's header, as another program or boot would have written it.
fn rewrite(page: &Path, word: u64, value: u64) {
    let file = std::fs::File::options().write(true).open(page).unwrap();
    file.write_all_at(&value.to_le_bytes(), word * 8).unwrap();
}

#[test]
fn what_the_beacon_lends_reaches_the_server_and_what_the_server_reads_reaches_the_beacon() {
    let folder = Folder::new("both");
    let (server, _seat) = attach_server(&folder.0, 7).unwrap();
    let (beacon, _other) = attach_beacon(&folder.0, 1).unwrap();
    server.bump(3);
    server.publish_map(Rev(9), None);
    server.publish_map(Rev(8), Some(55));
    let seen = beacon.observe().unwrap();
    assert_eq!((seen.instance, seen.map, seen.counters[3]), (7, (Rev(9), Some(55)), 1));
    beacon.acknowledge(7);
    beacon.set(&[0, UNTIL]);
    assert_eq!([0, 1, 2, 64, usize::MAX].map(|slot| server.valid_until(slot, NOW)), [0, UNTIL, 0, 0, 0]);
    beacon.want_map();
    beacon.set_quorum(true);
    assert_eq!((server.map_wanted(), server.in_quorum()), (1, true));
}

#[test]
fn a_restarted_server_does_not_see_the_lease_of_the_one_before_it() {
    let folder = Folder::new("server");
    let (beacon, _other) = attach_beacon(&folder.0, 1).unwrap();
    let (first, seat) = attach_server(&folder.0, 7).unwrap();
    first.publish_map(Rev(9), Some(55));
    beacon.acknowledge(7);
    beacon.set(&[UNTIL]);
    assert_eq!(first.valid_until(0, NOW), UNTIL);
    drop((first, seat));
    let (second, _seat) = attach_server(&folder.0, 8).unwrap();
    assert_eq!(second.valid_until(0, NOW), 0, "the beacon has not met it");
    // A beacon that stood still goes on where it was.
    beacon.set(&[UNTIL + 1]);
    assert_eq!(second.valid_until(0, NOW), 0);
    let seen = beacon.observe().unwrap();
    assert_eq!((seen.instance, seen.map), (8, (Rev(0), None)), "it has said nothing of its own yet");
}

#[test]
fn a_restarted_beacon_begins_with_a_page_of_zeros() {
    let folder = Folder::new("beacon");
    let (server, _seat) = attach_server(&folder.0, 7).unwrap();
    let (beacon, other) = attach_beacon(&folder.0, 1).unwrap();
    beacon.acknowledge(7);
    beacon.set(&[UNTIL]);
    drop((beacon, other));
    assert_eq!(server.valid_until(0, NOW), UNTIL, "what a dead beacon lent ends by itself");
    let (beacon, _other) = attach_beacon(&folder.0, 2).unwrap();
    assert_eq!((server.valid_until(0, NOW), beacon.acknowledged()), (0, 0));
    beacon.acknowledge(7);
    assert_eq!(server.valid_until(0, NOW), 0);
}

#[test]
fn a_lease_that_ends_too_late_is_of_another_clock_and_is_none() {
    let folder = Folder::new("clock");
    let (server, _seat) = attach_server(&folder.0, 7).unwrap();
    let (beacon, _other) = attach_beacon(&folder.0, 1).unwrap();
    beacon.acknowledge(7);
    beacon.set(&[NOW + 3 * READ_LEASE, u64::MAX]);
    assert_eq!([0, 1].map(|slot| server.valid_until(slot, NOW)), [0, 0]);
}

#[test]
fn one_server_and_one_beacon_use_a_folder() {
    let folder = Folder::new("seats");
    let (server, seat) = attach_server(&folder.0, 7).unwrap();
    let (_beacon, other) = attach_beacon(&folder.0, 1).unwrap();
    let (second, third) = std::thread::scope(|scope| {
        let second = scope.spawn(|| attach_server(&folder.0, 8).err());
        let third = scope.spawn(|| attach_beacon(&folder.0, 2).err());
        (second.join().unwrap(), third.join().unwrap())
    });
    assert!(matches!(second, Some(LeaseFileError::InUse("server", _))));
    assert!(matches!(third, Some(LeaseFileError::InUse("beacon", _))));
    assert!(!other.server_is_gone());
    drop((server, seat));
    assert!(other.server_is_gone(), "the kernel frees its lock");
}

#[test]
fn a_file_that_is_no_lease_page_is_refused_and_left_alone() {
    let folder = Folder::new("foreign");
    std::fs::create_dir_all(&folder.0).unwrap();
    let text = "notes of somebody, longer than the header of a page is".repeat(3);
    std::fs::write(folder.page(), &text).unwrap();
    assert!(matches!(attach_server(&folder.0, 7), Err(LeaseFileError::Foreign(_))));
    assert!(matches!(attach_beacon(&folder.0, 1), Err(LeaseFileError::Foreign(_))));
    assert_eq!(std::fs::read_to_string(folder.page()).unwrap(), text);
    std::fs::remove_file(folder.page()).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.page()).unwrap();
    assert!(matches!(attach_beacon(&folder.0, 1), Err(LeaseFileError::Foreign(_))));
}

#[test]
fn a_folder_that_others_may_write_into_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("open");
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::set_permissions(&folder.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(attach_server(&folder.0, 7), Err(LeaseFileError::Open(_))));
}

#[test]
fn a_page_that_was_never_finished_or_is_of_an_earlier_boot_is_made_anew() {
    let folder = Folder::new("torn");
    std::fs::create_dir_all(&folder.0).unwrap();
    for torn in [Vec::new(), vec![0; 16], vec![0; 4096]] {
        std::fs::write(folder.page(), torn).unwrap();
        assert!(attach_server(&folder.0, 7).is_ok());
    }
    let (beacon, other) = attach_beacon(&folder.0, 1).unwrap();
    beacon.acknowledge(7);
    beacon.set(&[UNTIL]);
    rewrite(&folder.page(), 2, 1234);
    drop((beacon, other));
    let (server, _seat) = attach_server(&folder.0, 7).unwrap();
    assert_eq!(server.valid_until(0, NOW), 0, "that clock began elsewhere");
}

#[test]
fn a_page_of_another_version_or_clock_is_refused_by_the_server_and_replaced_by_the_beacon() {
    for (word, value) in [(1, 99), (4, 4_026_000_000)] {
        let folder = Folder::new(&format!("word{word}"));
        drop(attach_beacon(&folder.0, 1).unwrap());
        rewrite(&folder.page(), word, value);
        match attach_server(&folder.0, 7) {
            Err(LeaseFileError::OtherVersion(99)) => assert_eq!(word, 1),
            Err(LeaseFileError::OtherClock) => assert_eq!(word, 4),
            other => panic!("{:?}", other.err()),
        }
        drop(attach_beacon(&folder.0, 1).unwrap());
        assert!(attach_server(&folder.0, 7).is_ok());
    }
}

#[test]
fn a_page_that_somebody_removed_or_replaced_is_noticed_by_both_sides() {
    let folder = Folder::new("lost");
    let (_server, seat) = attach_server(&folder.0, 7).unwrap();
    let (_beacon, other) = attach_beacon(&folder.0, 1).unwrap();
    assert!(seat.is_current() && other.is_current());
    std::fs::remove_file(folder.page()).unwrap();
    assert!(!seat.is_current() && !other.is_current());
    std::fs::write(folder.page(), "something else").unwrap();
    assert!(!seat.is_current() && !other.is_current());
}

#[test]
fn a_server_that_leaves_says_so() {
    let folder = Folder::new("leaves");
    let (server, _seat) = attach_server(&folder.0, 7).unwrap();
    let (beacon, _other) = attach_beacon(&folder.0, 1).unwrap();
    server.leave();
    assert_eq!(beacon.observe().unwrap().instance, 0);
}

#[test]
fn a_read_time_never_shows_before_its_map() {
    let folder = Folder::new("order");
    let (server, _seat) = attach_server(&folder.0, 7).unwrap();
    let (beacon, _other) = attach_beacon(&folder.0, 1).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (1..200_000).for_each(|n| server.publish_map(Rev(n), Some(n))));
        let mut newest = 0;
        while newest < 199_999 {
            let Some(seen) = beacon.observe() else { continue };
            let read_at = seen.map.1.unwrap_or(0);
            assert!(seen.map.0 >= Rev(read_at), "{seen:?}");
            newest = read_at;
        }
    });
}
