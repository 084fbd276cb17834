//! The real log under the simulated drives.

use drystone_store::dev::{DevError, DevGeometry, SyncDev};
use drystone_store::format::{format, FormatParams};
use drystone_store::{Config, LogStore, OpenParams};
use drystone_types::{Buf, Uuid};

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
    if dev.sectors().is_empty() {
        let params = FormatParams {
            drive: Uuid([opening.drive.0 as u8; 16]),
            drive_id: opening.drive,
            cluster: Uuid([9; 16]),
            segment_bytes: SEGMENT_BYTES,
            feature_level: 1,
        };
        format(dev, &params).map_err(|e| e.to_string())?;
    }
    let mut shadow = std::mem::take(&mut dev.shadow);
    shadow.reopen(|sector, bytes| dev.holds(sector, bytes));
    dev.shadow = shadow;
    let config = Config { csum_cache_bytes: CSUM_CACHE_BYTES, ..Config::default() };
    let params = OpenParams { nonce: opening.nonce, clear_suspect: opening.clear_suspect, ..OpenParams::default() };
    let (store, report) = LogStore::open(dev, config, params).map_err(|e| e.to_string())?;
    Ok((store, report.suspect.is_some()))
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
