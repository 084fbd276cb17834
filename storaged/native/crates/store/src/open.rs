//! Opening a drive: superblock, checkpoint, log, and the marks that make this open known.

use crate::api::MetaKey;
use crate::ckpt::Ckpt;
use crate::csums::CsumCache;
use crate::dev::SyncDev;
use crate::format::{inspect, write_superblocks, OpenError};
use crate::hot::Hot;
use crate::index::Index;
use crate::recover::{read_checkpoint, Found, Recovery};
use crate::segs::{Seg, SegState, Segs};
use crate::store::{Config, LogStore};
use crate::superblock::Superblock;
use crate::walk::Walks;
use crate::writer::Stream;
use drystone_types::{DriveId, ObjKey, Rule, Uuid};
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};

/// Distance between the log sequence numbers of two opens: larger than what any write that never
/// became durable can have used, so that a number names one record for ever.
const LSN_GAP: u64 = 1 << 20;

/// What the caller knows when it opens a drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenParams {
    /// Nonce of this open, agreed with the metadata store.
    pub nonce: u64,
    /// Cluster the drive must belong to.
    pub cluster: Option<Uuid>,
    /// Highest incarnation and revision of the metadata store seen by the caller.
    pub store: (u64, u64),
    /// The drive was dropped from every in-sync set and will be copied: a suspicion noted in the
    /// superblock is over.
    pub clear_suspect: bool,
    /// Id that the cluster gives the drive, when the superblock has none yet.
    pub drive_id: Option<DriveId>,
}

/// Why the contents of a drive may not be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Suspicion {
    /// Groups that a later header knows as durable are missing or damaged.
    DurableGroupsLost = 1,
    /// A summary and the groups it tells of are damaged.
    SummaryLost = 2,
    /// A small value that was durable is damaged.
    ValueLost = 3,
    /// The index points into a segment that holds nothing.
    IndexBroken = 4,
    /// An earlier open found damage and the drive was not copied since.
    Noted = 5,
    /// The checkpoint that the superblock names is damaged: nothing of the drive can be shown.
    CheckpointLost = 6,
    /// Every pair of superblocks was lost: nothing of the drive can be shown.
    SuperblocksLost = 7,
}

/// What an open found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenReport {
    /// The superblock as it is now, with the new nonce.
    pub superblock: Superblock,
    /// Nonce of the open before.
    pub previous_nonce: u64,
    /// The log ended with a clean stop.
    pub clean: bool,
    /// The contents may not be trusted: the drive must be dropped and copied.
    pub suspect: Option<Suspicion>,
    /// Bytes read.
    pub bytes_read: u64,
    /// Segments whose log was looked at.
    pub segments_scanned: u64,
    /// Entries replayed.
    pub entries: u64,
    /// Objects that the checkpoint held.
    pub checkpoint_objects: u64,
    /// Groups thrown away because they follow a gap; none of them was acked.
    pub groups_discarded: u64,
    /// What was here counted nowhere and could not be trusted: the drive is a blank one of the same name.
    pub began_anew: bool,
}

impl LogStore {
    /// Opens a drive. Nothing is served before the new nonce is durable in the superblocks.
    pub fn open(dev: &mut dyn SyncDev, cfg: Config, p: OpenParams) -> Result<(LogStore, OpenReport), OpenError> {
        // What a killed process wrote may lie in a volatile cache: it must not vanish after it was seen.
        dev.flush()?;
        let old = inspect(dev)?;
        if p.cluster.is_some_and(|c| c != old.cluster) {
            return Err(OpenError::OtherCluster(old.cluster));
        }
        if old.suspect == Suspicion::SuperblocksLost as u8 {
            return LogStore::open_lost(dev, cfg, p, old, Suspicion::SuperblocksLost);
        }
        let bare = LogStore::bare(cfg, old);
        let mut rec = Recovery::new(dev, bare);
        let root = match read_checkpoint(&mut rec) {
            Err(OpenError::CheckpointDamaged) => {
                return LogStore::open_lost(dev, cfg, p, old, Suspicion::CheckpointLost);
            }
            root => root?,
        };
        let found = rec.find_segments(&root)?;
        let accepted = rec.accept(&root, found);
        rec.replay(&root, &accepted)?;
        if let (Some(why), true) = (rec.suspect, p.clear_suspect) {
            // Damage that stays would be found by every open: the drive would never be one again.
            return LogStore::open_lost(dev, cfg, p, old, why);
        }
        let noted = old.suspect != 0 && !p.clear_suspect;
        let suspect = rec.suspect.or(noted.then_some(Suspicion::Noted));
        let sb = Superblock {
            seq: old.seq + 1,
            nonce: p.nonce,
            incarnation: old.incarnation.max(p.store.0),
            store_rev: old.store_rev.max(p.store.1),
            drive_id: p.drive_id.filter(|_| old.drive_id.0 == 0).unwrap_or(old.drive_id),
            clean: false,
            suspect: suspect.map_or(0, |s| s as u8),
            durable: accepted.next_gseq,
            next_lsn: rec.max_lsn.max(old.next_lsn) + LSN_GAP,
            next_seq: rec.max_seq.max(old.next_seq) + 1,
            ..old
        };
        write_superblocks(rec.dev, &sb, Some(&old))?;
        if cfg.rules.on(Rule::CloseTails) {
            rec.close_segments(&accepted)?;
        }
        let report = OpenReport {
            superblock: sb,
            previous_nonce: old.nonce,
            clean: old.clean,
            suspect,
            bytes_read: rec.bytes_read,
            segments_scanned: rec.scanned,
            entries: rec.entries,
            checkpoint_objects: rec.objects,
            groups_discarded: accepted.discarded,
            began_anew: false,
        };
        let bytes = rec.checkpoint_bytes;
        let mut store = rec.store;
        store.settle_open(sb, &root, &accepted.segs, bytes);
        Ok((store, report))
    }

    pub(crate) fn bare(cfg: Config, sb: Superblock) -> LogStore {
        let layout = sb.layout;
        LogStore {
            cfg,
            layout,
            sb,
            index: Index::new(layout, cfg.rules),
            hot: Hot::new(cfg.rules),
            segs: Segs::new(&layout, sb.next_seq, cfg.rules),
            streams: [0, 1, 2].map(|n| Stream::new(n, 1)),
            csums: CsumCache::new(cfg.csum_cache_bytes),
            metas: BTreeMap::new(),
            durable_metas: BTreeMap::new(),
            oldest_out: BTreeMap::new(),
            freed: BTreeMap::new(),
            sweep_from: ObjKey::default(),
            ckpt: Ckpt::default(),
            walks: Walks::default(),
            ops: HashMap::new(),
            next_op: 0,
            next_lsn: sb.next_lsn,
            jobs: HashMap::new(),
            next_job: 0,
            out: Vec::new(),
            ready: Vec::new(),
            barriers: VecDeque::new(),
            granted: 0,
            pending_slots: 0,
            reclaim_due: false,
            failed: false,
            stopping: false,
            hollow: false,
        }
    }

    fn settle_open(&mut self, sb: Superblock, root: &crate::ckpt_codec::Root, segs: &[Found], checkpoint_bytes: u64) {
        self.sb = sb;
        self.next_lsn = sb.next_lsn;
        self.segs.next_seq = sb.next_seq;
        let [a, b, c] = sb.durable;
        self.streams = [Stream::new(0, a), Stream::new(1, b), Stream::new(2, c)];
        let own = Seg { seq: 0, state: SegState::Checkpoint, reads: 0, end_gseq: 0, stream: 0 };
        root.own.iter().for_each(|seg| self.segs.load(*seg, own));
        for f in segs {
            let state = match (f.emptied, self.index.live_in(f.seg)) {
                (at, 0) => SegState::Emptied(if at > 0 { at } else { sb.next_lsn }),
                _ => SegState::Closed,
            };
            self.segs.load(f.seg, Seg { seq: f.seq, state, reads: 0, end_gseq: f.end_gseq(), stream: f.stream });
        }
        self.segs.finish_load();
        if !self.cfg.rules.on(Rule::JoinBits) {
            self.hot.forget_joins();
        }
        self.index.take_emptied();
        self.freed.clear();
        let live = self.durable_metas.iter().filter(|(_, (_, v))| !v.is_empty());
        let metas: BTreeMap<MetaKey, Vec<u8>> = live.map(|(k, (_, v))| (*k, v.clone())).collect();
        self.metas = metas;
        self.ckpt.durable_own = root.own.clone();
        self.ckpt.durable_began = root.began;
        self.ckpt.durable_bytes = checkpoint_bytes;
        self.reclaim_due = true;
    }
}
