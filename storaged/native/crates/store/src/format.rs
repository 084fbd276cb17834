//! Formatting, inspecting, and choosing the superblock of a drive.

use crate::dev::{DevError, SyncDev};
use crate::layout::Layout;
use crate::loc::SLOT;
use crate::segment::SegHeader;
use crate::superblock::{RootPtr, Superblock, SuperblockError, FORMAT_VERSION};
use core::fmt;
use drystone_types::{DriveId, Uuid};

/// What a new drive is made as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FormatParams {
    /// Identity of the drive.
    pub drive: Uuid,
    /// Its id in the cluster, 0 while the cluster has not given one.
    pub drive_id: DriveId,
    /// The cluster.
    pub cluster: Uuid,
    /// Bytes of a segment; 64 MiB but in tests.
    pub segment_bytes: u64,
    /// Feature level of the cluster.
    pub feature_level: u32,
}

/// Why a drive cannot be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// Never formatted.
    Blank,
    /// Holds something that is not ours.
    NotOurs,
    /// Belongs to another cluster.
    OtherCluster(Uuid),
    /// Smaller than it was: bytes now, bytes when it was formatted.
    Truncated(u64, u64),
    /// Written by a newer version.
    NewerFormat(u32),
    /// Written by a version whose format is not read any more.
    FormatTooOld(u32),
    /// Fewer than two equal copies of the superblock are left; whether segments of ours were found.
    SuperblocksLost {
        /// The summaries could rebuild the index.
        segments_found: bool,
    },
    /// The checkpoint that the superblock names is damaged.
    CheckpointDamaged,
    /// Too small or with an impossible segment size to format.
    BadGeometry,
    /// The device failed.
    Device(DevError),
}

impl From<DevError> for OpenError {
    fn from(e: DevError) -> Self {
        OpenError::Device(e)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Blank => f.write_str("the drive is blank: add it to the cluster first"),
            OpenError::NotOurs => f.write_str("the drive holds other data: wipe it deliberately if it may be used"),
            OpenError::OtherCluster(c) => write!(f, "the drive belongs to cluster {c}: remove it there or wipe it"),
            OpenError::Truncated(now, then) => write!(f, "the drive has {now} bytes and was formatted with {then}: if the bytes that were cut off cannot be restored, replace the drive"),
            OpenError::NewerFormat(v) => write!(f, "the drive has format {v}, newer than this version: upgrade the server"),
            OpenError::FormatTooOld(v) => write!(f, "the drive has format {v}, too old for this version: upgrade in steps"),
            OpenError::SuperblocksLost { segments_found: true } => {
                f.write_str("the superblocks are lost but segments are there: replace the drive, and keep it until the other copies are in sync")
            }
            OpenError::SuperblocksLost { .. } => f.write_str("the superblocks are lost: replace the drive (`drystone drive forget`, then wipe it)"),
            OpenError::CheckpointDamaged => f.write_str("the checkpoint is damaged: replace the drive (`drystone drive forget`, then wipe it)"),
            OpenError::BadGeometry => f.write_str("the drive is too small (16 segments are needed) or the segment size is not usable"),
            OpenError::Device(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

/// Makes a blank drive one of ours. Everything on it is lost.
pub fn format(dev: &mut dyn SyncDev, p: &FormatParams) -> Result<Superblock, OpenError> {
    let layout = Layout::new(dev.geometry().bytes, p.segment_bytes).ok_or(OpenError::BadGeometry)?;
    let zero = vec![0u8; SLOT];
    let slot = SLOT as u64;
    for at in layout.superblocks() {
        dev.write_at(at * slot, &zero)?;
    }
    clear_segments(dev, &layout)?;
    let sb = Superblock {
        format: FORMAT_VERSION,
        feature_level: p.feature_level,
        seq: 1,
        drive: p.drive,
        drive_id: p.drive_id,
        cluster: p.cluster,
        nonce: 0,
        incarnation: 0,
        store_rev: 0,
        layout,
        clean: true,
        suspect: 0,
        durable: [1; 3],
        next_lsn: 1,
        next_seq: 1,
        root: RootPtr::default(),
    };
    write_superblocks(dev, &sb, None)?;
    Ok(sb)
}

/// Takes away what would be taken for segments: numbers start again. A segment is known by its header, its first
/// group and its footer.
pub(crate) fn clear_segments(dev: &mut dyn SyncDev, layout: &Layout) -> Result<(), OpenError> {
    let slot = SLOT as u64;
    for seg in 0..layout.segments {
        dev.write_at(layout.seg_start(seg) * slot, &[0u8; 2 * SLOT])?;
        dev.write_at((layout.seg_start(seg) + layout.seg_slots - 1) * slot, &[0u8; SLOT])?;
    }
    Ok(dev.flush()?)
}

/// Writes all four copies, two durable before the other two. Copies that do not hold `old`, the superblock
/// that counts so far, are written first: however often this is cut short, two equal ones are left.
pub(crate) fn write_superblocks(
    dev: &mut dyn SyncDev,
    sb: &Superblock,
    old: Option<&Superblock>,
) -> Result<(), OpenError> {
    let bytes = sb.encode();
    let mut places = sb.layout.superblocks();
    let mut buf = vec![0u8; SLOT];
    places.sort_by_cached_key(|slot| {
        let read = dev.read_at(slot * SLOT as u64, &mut buf).is_ok();
        old.is_some_and(|old| read && Superblock::decode(&buf).as_ref() == Ok(old))
    });
    for pair in places.chunks(2) {
        for slot in pair {
            dev.write_at(slot * SLOT as u64, &bytes)?;
        }
        dev.flush()?;
    }
    Ok(())
}

/// Reads the superblock and changes nothing.
pub fn inspect(dev: &mut dyn SyncDev) -> Result<Superblock, OpenError> {
    let bytes = dev.geometry().bytes;
    let slots = bytes / SLOT as u64;
    let edge = crate::layout::EDGE_SLOTS;
    let mut found = Vec::new();
    let mut places = vec![0, edge / 2];
    places.extend(slots.checked_sub(1).into_iter().chain(slots.checked_sub(edge / 2)));
    let mut seen = read_copies(dev, &places, &mut found)?;
    // A drive that grew or shrank has its last copies where they were written.
    if let Some(layout) = found.first().map(|sb: &Superblock| sb.layout).filter(|l| l.slots != slots) {
        if layout.slots > slots {
            return Err(OpenError::Truncated(bytes, layout.slots * SLOT as u64));
        }
        seen.extend(read_copies(dev, layout.superblocks().get(..).unwrap_or(&[]), &mut found)?);
    }
    pick(&found).map_or_else(|| Err(diagnose(dev, &seen, slots)), Ok)
}

fn read_copies(
    dev: &mut dyn SyncDev,
    places: &[u64],
    found: &mut Vec<Superblock>,
) -> Result<Vec<SuperblockError>, OpenError> {
    let mut buf = vec![0u8; SLOT];
    let mut errors = Vec::new();
    let slots = dev.geometry().bytes / SLOT as u64;
    for slot in places.iter().filter(|s| **s < slots) {
        if dev.read_at(slot * SLOT as u64, &mut buf).is_err() {
            errors.push(SuperblockError::Damaged);
            continue;
        }
        match Superblock::decode(&buf) {
            Ok(sb) if sb.layout.superblocks().contains(slot) => found.push(sb),
            Ok(_) => errors.push(SuperblockError::Damaged),
            Err(e) => errors.push(e),
        }
    }
    Ok(errors)
}

/// The newest superblock of which at least two copies are left.
fn pick(found: &[Superblock]) -> Option<Superblock> {
    let twice = found.iter().filter(|a| found.iter().filter(|b| b == a).count() >= 2);
    twice.max_by_key(|sb| sb.seq).copied()
}

fn diagnose(dev: &mut dyn SyncDev, seen: &[SuperblockError], slots: u64) -> OpenError {
    for e in seen {
        match e {
            SuperblockError::Newer(v) => return OpenError::NewerFormat(*v),
            SuperblockError::TooOld(v) => return OpenError::FormatTooOld(*v),
            _ => {}
        }
    }
    let segments_found = find_segment(dev, slots);
    let any_ours = seen.contains(&SuperblockError::Damaged) || seen.len() < 4;
    if segments_found || any_ours {
        OpenError::SuperblocksLost { segments_found }
    } else if seen.iter().all(|e| *e == SuperblockError::Blank) {
        OpenError::Blank
    } else {
        OpenError::NotOurs
    }
}

/// Looks for a segment header at the usual places; few reads even on a large drive.
fn find_segment(dev: &mut dyn SyncDev, slots: u64) -> bool {
    let mut buf = vec![0u8; SLOT];
    let usual = drystone_types::consts::SEGMENT_SIZE / SLOT as u64;
    let small = crate::layout::SEGMENT_MIN / SLOT as u64;
    let places = (0..64)
        .map(|n| crate::layout::EDGE_SLOTS + n * usual)
        .chain((0..64).map(|n| crate::layout::EDGE_SLOTS + n * small));
    let mut found = false;
    for slot in places.filter(|s| *s < slots) {
        let read = dev.read_at(slot * SLOT as u64, &mut buf).is_ok();
        found |= read && SegHeader::decode(&buf).is_ok();
    }
    found
}
