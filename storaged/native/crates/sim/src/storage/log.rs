//! The real log under the simulated drives.

use drystone_store::dev::{DevError, DevGeometry, SyncDev};
use drystone_store::format::{format, FormatParams};
use drystone_store::{inspect, salvage, Config, LogStore, OpenError, OpenParams, Superblock};
use drystone_types::{Buf, DriveId, Uuid};

use super::Structure;
use crate::device::Device;
use crate::rng::Rng;

/// Store of every drive.
pub type Store = LogStore;

/// Small segments, so that a short run fills and cleans many.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Checksums remembered: so few that most reads fetch them from the log.
const CSUM_CACHE_BYTES: usize = 64 << 10;
/// Bad sectors of one fault: a handful; a drive with thousands would be replaced.
const FLIPS_MAX: u64 = 12;
/// Damaged structures of one fault.
const ROT_MAX: u64 = 4;
/// Superblocks of one fault, of four: with all of them lost and few segments written, nothing names the drive.
const SUPERBLOCKS_MAX: u64 = 3;
/// Words that a structure begins with, behind its checksum.
pub(crate) const GROUP: &[u8] = b"DRYGRUP1";
/// Of the footer of a segment.
pub(crate) const FOOTER: &[u8] = b"SDRYSUM1";
const CHUNK: &[u8] = b"SDRYCHK1";

impl SyncDev for Device {
    fn geometry(&self) -> DevGeometry {
        DevGeometry { bytes: self.size() }
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DevError> {
        buf.copy_from_slice(self.read(offset, buf.len()).as_slice());
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), DevError> {
        self.shadow.overwrites(offset / 4096, buf.len() as u64 / 4096);
        self.write(offset, &[Buf::copy_from(buf)], false);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DevError> {
        Device::flush(self);
        Ok(())
    }
}

/// Opens a drive's store after a start: the store, and whether its log prefix is not provable.
pub fn open(dev: &mut Device, _image: Option<Store>, opening: &super::Opening) -> Result<(Store, bool), String> {
    let params = identity(opening.drive);
    if dev.sectors().is_empty() {
        format(dev, &params).map_err(|e| e.to_string())?;
    }
    superblock(dev, opening.drive).map_err(|e| e.to_string())?;
    let mut shadow = std::mem::take(&mut dev.shadow);
    shadow.reopen(|sector, bytes| dev.holds(sector, bytes));
    dev.shadow = shadow;
    let config = Config { csum_cache_bytes: CSUM_CACHE_BYTES, rules: opening.rules, ..Config::default() };
    let params = OpenParams { nonce: opening.nonce, clear_suspect: opening.clear_suspect, ..OpenParams::default() };
    let (store, report) = LogStore::open(dev, config, params).map_err(|e| e.to_string())?;
    if report.began_anew {
        if !opening.doubtful {
            return Err("what an honest device holds was given up".to_owned());
        }
        dev.shadow = Default::default();
        dev.spoilt = dev.latent.clone();
    }
    Ok((store, report.suspect.is_some()))
}

/// Nonce of the last open, as the medium shows it; 0 = it shows none.
pub fn last_nonce(dev: &mut Device, drive: DriveId, _known: u64) -> u64 {
    superblock(dev, drive).map_or(0, |superblock| superblock.nonce)
}

/// The superblock, written anew first where all are lost and the segments name the drive.
fn superblock(dev: &mut Device, drive: DriveId) -> Result<Superblock, OpenError> {
    match inspect(dev) {
        Err(OpenError::SuperblocksLost { .. }) => salvage(dev, &identity(drive)),
        found => found,
    }
}

fn identity(drive: DriveId) -> FormatParams {
    FormatParams {
        drive: Uuid([drive.0 as u8; 16]),
        drive_id: drive,
        cluster: Uuid([9; 16]),
        segment_bytes: SEGMENT_BYTES,
        feature_level: 1,
    }
}

/// What stays of a store when its process ends: only what the device holds.
pub fn image(_store: &mut Store) -> Option<Store> {
    None
}

/// Counters of the store, in debug form.
pub fn counters(store: &Store) -> String {
    format!("{{ gc_blocks_moved: {} }}", store.moved_blocks())
}

/// A blank medium for a drive of about so many slots of data.
pub fn blank_device(slots: u64) -> Device {
    // Headers, summaries and the checkpoint take a part of each segment.
    Device::new((slots + slots / 5) * 4096 + 24 * SEGMENT_BYTES)
}

/// Flips a bit in a few sectors that hold a consumer's data. Returns how many.
pub fn flip(_store: &mut Store, dev: &mut Device, rng: &mut Rng) -> u64 {
    let sectors = dev.sectors();
    let mut flipped = 0;
    for _ in 0..200 {
        let Some(sector) = rng.pick(&sectors).copied() else { break };
        if flipped < FLIPS_MAX && dev.sector(sector).is_some_and(looks_like_data) && dev.flip(sector, rng.index(32_768))
        {
            flipped += 1;
        }
    }
    flipped
}

/// A few sectors that hold a consumer's data cannot be read until they are written again. Returns how many.
pub fn unreadable_for_good(dev: &mut Device, rng: &mut Rng) -> u64 {
    let sectors = dev.sectors();
    for _ in 0..200 {
        let Some(sector) = rng.pick(&sectors).copied() else { break };
        if (dev.latent.len() as u64) < FLIPS_MAX && dev.sector(sector).is_some_and(looks_like_data) {
            dev.latent.insert(sector);
            dev.spoilt.insert(sector);
        }
    }
    dev.latent.len() as u64
}

/// Damages some of what a log is made of: a bit is another, zeros, or another one's bytes. Returns how many sectors.
pub fn rot(store: &Store, dev: &mut Device, what: Structure, rng: &mut Rng) -> u64 {
    let places = places(store, dev, what);
    let most = if what == Structure::Superblock { SUPERBLOCKS_MAX } else { ROT_MAX };
    let (wanted, how) = (1 + rng.below(most), rng.index(3));
    let mut rotten = 0;
    for _ in 0..wanted {
        let (Some(slot), Some(other)) = (rng.pick(&places).copied(), rng.pick(&places).copied()) else { break };
        let Some(mut bytes) = dev.sector(slot).map(<[u8]>::to_vec) else { continue };
        match how {
            // Within what every structure uses of its sector.
            0 => bytes[16 + rng.index(80)] ^= 1 << rng.index(8),
            1 => bytes.fill(0),
            _ => bytes.copy_from_slice(dev.sector(other).unwrap_or(&[0; 4096])),
        }
        if dev.sector(slot) != Some(bytes.as_slice()) {
            dev.spoil(slot, Buf::copy_from(&bytes));
            rotten += 1;
        }
    }
    rotten
}

/// Slots of a structure.
fn places(store: &Store, dev: &Device, what: Structure) -> Vec<u64> {
    let marked = |magic: &[u8]| -> Vec<u64> {
        dev.sectors().into_iter().filter(|s| dev.sector(*s).is_some_and(|b| &b[8..16] == magic)).collect()
    };
    let superblock = store.superblock();
    match what {
        Structure::Header => marked(GROUP),
        Structure::Summary => marked(FOOTER).into_iter().flat_map(|s| [s, s - 1]).collect(),
        Structure::Checkpoint => {
            let root = superblock.root;
            let newest = |s: &u64| dev.sector(*s).is_some_and(|b| b[16..24] == root.number.to_le_bytes());
            let chunks = marked(CHUNK).into_iter().filter(newest);
            chunks.chain((root.bytes > 0).then_some(root.slot)).collect()
        }
        Structure::Superblock => superblock.layout.superblocks().to_vec(),
    }
}

/// The device cannot read sectors that hold a consumer's data, until it is told that it can again.
pub fn refuse_reads(_store: &mut Store, dev: &mut Device, on: bool) {
    let data = |dev: &Device, sector: &u64| dev.sector(*sector).is_some_and(looks_like_data);
    dev.unreadable = if on { dev.sectors().into_iter().filter(|s| data(dev, s)).collect() } else { Default::default() };
}

/// The bytes of a tag count up by one in each sector; headers and checkpoints do not.
fn looks_like_data(block: &[u8]) -> bool {
    block.chunks(512).all(|sector| {
        let words: Vec<u64> = sector.chunks(8).filter_map(|b| b.try_into().ok().map(u64::from_le_bytes)).collect();
        let zero = words.iter().all(|w| *w == 0);
        zero || words.get(1..).is_some_and(|w| w.windows(2).all(|p| p[1] == p[0].wrapping_add(1)))
    }) && block.iter().any(|b| *b != 0)
}
