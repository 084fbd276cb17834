//! Drives that have lost the root of everything: the checkpoint, or every superblock (ADR 18). And those that begin
//! anew, because what they hold counts nowhere and is damaged.
//!
//! Nothing is rebuilt from the log. Such a drive opens *hollow*: it shows nothing, writes nothing but its
//! superblocks and is suspect, so that it asks to leave. Once the cluster counts on nothing that it held, it
//! begins anew as a blank one of the same name. A last copy is never dropped, so its bytes stay as they are.

use crate::dev::SyncDev;
use crate::format::{clear_segments, inspect, write_superblocks, FormatParams, OpenError};
use crate::layout::Layout;
use crate::loc::SLOT;
use crate::open::{OpenParams, OpenReport, Suspicion};
use crate::segment::SegHeader;
use crate::store::{Config, LogStore};
use crate::superblock::{RootPtr, Superblock, FORMAT_VERSION};
use drystone_types::Uuid;

/// Segment headers that must name the drive before superblocks are written anew: one or two may be left over from
/// another life, or have been copied there.
const HEADERS_MIN: u32 = 3;

impl LogStore {
    /// Opens a drive of which nothing can be shown, or of which nothing counts and not everything can be trusted.
    pub(crate) fn open_lost(
        dev: &mut dyn SyncDev,
        cfg: Config,
        p: OpenParams,
        old: Superblock,
        why: Suspicion,
    ) -> Result<(LogStore, OpenReport), OpenError> {
        let now = Superblock {
            seq: old.seq + 1,
            nonce: p.nonce,
            incarnation: old.incarnation.max(p.store.0),
            store_rev: old.store_rev.max(p.store.1),
            drive_id: p.drive_id.filter(|_| old.drive_id.0 == 0).unwrap_or(old.drive_id),
            clean: false,
            ..old
        };
        if p.clear_suspect {
            // Until the superblocks say so nothing has begun anew: cut short, it is done once more.
            clear_segments(dev, &old.layout)?;
            // Groups of the life before may still lie in the segments. Between two checkpoints each segment is opened
            // once at most, so no segment of this life gets the number of one that they belong to.
            let next_seq = now.next_seq + u64::from(old.layout.segments) + 1;
            let blank = Superblock { suspect: 0, durable: [1; 3], root: RootPtr::default(), next_seq, ..now };
            write_superblocks(dev, &blank, Some(&old))?;
            let (store, report) = LogStore::open(dev, cfg, p)?;
            return Ok((store, OpenReport { previous_nonce: old.nonce, began_anew: true, ..report }));
        }
        let sb = Superblock { suspect: why as u8, ..now };
        write_superblocks(dev, &sb, Some(&old))?;
        let mut store = LogStore::bare(cfg, sb);
        store.hollow = true;
        let report = OpenReport {
            superblock: sb,
            previous_nonce: old.nonce,
            clean: old.clean,
            suspect: Some(why),
            bytes_read: 0,
            segments_scanned: 0,
            entries: 0,
            checkpoint_objects: 0,
            groups_discarded: 0,
            began_anew: false,
        };
        Ok((store, report))
    }
}

/// Writes the superblocks of a drive anew that has lost them, if its segments name it. They say that nothing here may
/// be trusted, and name the nonce of the newest segment: whoever opens the drive compares it with what the
/// cluster knows, so that an older copy is refused here as everywhere.
pub fn salvage(dev: &mut dyn SyncDev, p: &FormatParams) -> Result<Superblock, OpenError> {
    match inspect(dev) {
        Err(lost @ OpenError::SuperblocksLost { .. }) => salvage_lost(dev, p).and_then(|sb| sb.ok_or(lost)),
        Ok(sb) => Ok(sb),
        Err(other) => Err(other),
    }
}

fn salvage_lost(dev: &mut dyn SyncDev, p: &FormatParams) -> Result<Option<Superblock>, OpenError> {
    let layout = Layout::new(dev.geometry().bytes, p.segment_bytes).ok_or(OpenError::BadGeometry)?;
    let last = survivor(dev, &layout, p.drive)?;
    let mut buf = vec![0u8; SLOT];
    let (mut ours, mut newest) = (0, None::<SegHeader>);
    for seg in 0..layout.segments {
        dev.read_at(layout.seg_start(seg) * SLOT as u64, &mut buf)?;
        let Ok(header) = SegHeader::decode(&buf) else { continue };
        if header.seg != seg || header.drive != p.drive {
            continue;
        }
        ours += 1;
        newest = newest.filter(|n| n.seq > header.seq).or(Some(header));
    }
    let Some(newest) = newest.filter(|_| ours >= HEADERS_MIN) else { return Ok(None) };
    let bare = Superblock {
        format: FORMAT_VERSION,
        feature_level: p.feature_level,
        seq: newest.seq,
        drive: p.drive,
        drive_id: p.drive_id,
        cluster: p.cluster,
        nonce: 0,
        incarnation: 0,
        store_rev: 0,
        layout,
        clean: false,
        suspect: 0,
        durable: [1; 3],
        next_lsn: 1,
        next_seq: newest.seq + 1,
        root: RootPtr::default(),
    };
    // What a single copy says is no proof, but it may serve a person who has no other.
    let base = last.unwrap_or(bare);
    let (suspect, seq) = (Suspicion::SuperblocksLost as u8, base.seq + 1);
    let sb = Superblock { seq, suspect, nonce: newest.nonce, clean: false, ..base };
    write_superblocks(dev, &sb, None)?;
    Ok(Some(sb))
}

/// The newest copy of a superblock of this drive that is left. A place that cannot be read may hold a good one: then
/// nothing is lost yet, and nothing is written.
fn survivor(dev: &mut dyn SyncDev, layout: &Layout, drive: Uuid) -> Result<Option<Superblock>, OpenError> {
    let mut buf = vec![0u8; SLOT];
    let mut newest = None::<Superblock>;
    for slot in layout.superblocks() {
        dev.read_at(slot * SLOT as u64, &mut buf)?;
        let found = Superblock::decode(&buf).ok().filter(|sb| sb.drive == drive && sb.layout == *layout);
        newest = found.into_iter().chain(newest).max_by_key(|sb| sb.seq);
    }
    Ok(newest)
}
