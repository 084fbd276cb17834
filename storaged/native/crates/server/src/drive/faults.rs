//! What a nemesis orders the device of a drive to do; only in builds that are made for it.
//!
//! A file beside the drive's, `<drive>.fault`, says it for as long as it is there. The drive's thread looks at it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use drystone_reactor::{Ctx, OpResult, TimerId, UserToken};
use drystone_store::api::{DevOp, DevResult};
use drystone_types::consts::Micros;
use drystone_types::{Buf, BufMut};
use serde::Deserialize;

use super::CLASS_FAULT;

#[cfg(not(debug_assertions))]
compile_error!("fault-hooks needs debug assertions: a drive that obeys a file must never be in a release");

/// What a device loses or keeps as a whole when power goes.
const SECTOR: usize = 512;
/// Id of the timer of the end; those of operations are counted from 1.
const DEATH: u64 = u64::MAX;
/// Multiplier and addend of a full-period sequence modulo 2^64.
const STEP: (u64, u64) = (6_364_136_223_846_793_005, 1_442_695_040_888_963_407);

/// Operations that fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Eio {
    Read,
    Write,
}

/// What stands in the file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Order {
    /// Take writes, make none durable, and after so long keep some of their sectors and end the process.
    hold_flush_ms: Option<u64>,
    /// Which sectors.
    seed: u64,
    /// Every operation begins so much later.
    slow_us: u64,
    /// These fail.
    eio: Option<Eio>,
    /// There is no room for anything new.
    full: bool,
}

/// What happens to an operation when its timer fires.
enum Late {
    Start(DevOp),
    StartRaw(UserToken, BufMut, u64),
    Done(u64, DevResult),
    FailRaw(UserToken, BufMut),
}

/// What the drive does when a timer of ours has fired.
pub enum Due {
    /// Nothing.
    Nothing,
    /// Start this.
    Start(DevOp),
    /// Start this read that is not the store's.
    StartRaw(UserToken, BufMut, u64),
    /// An operation of the store has ended.
    Done(u64, DevResult),
    /// An operation that is not the store's has ended.
    DoneRaw(UserToken, OpResult),
}

/// Orders and what they hold.
pub struct Faults {
    drive: PathBuf,
    file: PathBuf,
    order: Order,
    next: u64,
    late: BTreeMap<u64, Late>,
    /// The end that was ordered.
    death: Option<TimerId>,
    /// Written and not flushed, oldest first: what a device has in its memory.
    cache: Vec<(u64, Vec<u8>)>,
    /// Where reads under way began.
    reads: BTreeMap<u64, u64>,
}

impl Faults {
    /// Of the drive in this file.
    pub fn new(drive: &Path) -> Faults {
        let mut file = drive.as_os_str().to_owned();
        file.push(".fault");
        Faults {
            drive: drive.to_owned(),
            file: file.into(),
            order: Order::default(),
            next: 0,
            late: BTreeMap::new(),
            death: None,
            cache: Vec::new(),
            reads: BTreeMap::new(),
        }
    }

    /// Looks at the file; gives whether the drive shall be full where that has changed.
    pub fn look(&mut self, cx: &mut Ctx) -> Option<bool> {
        let text = std::fs::read(&self.file).unwrap_or_default();
        // One that is being written, or says what we do not know, changes nothing.
        let order = if text.is_empty() { Order::default() } else { serde_json::from_slice(&text).ok()? };
        if order == self.order {
            return None;
        }
        let was = core::mem::replace(&mut self.order, order);
        eprintln!("fault hooks: {:?}", self.order);
        if let (Some(ms), None) = (self.order.hold_flush_ms, self.death) {
            self.death = Some(cx.timer(ms.saturating_mul(1000), UserToken::new(CLASS_FAULT, DEATH)));
        }
        (was.full != self.order.full).then_some(self.order.full)
    }

    /// An operation is about to start; gives it back where nothing happens to it.
    pub fn meets(&mut self, cx: &mut Ctx, op: DevOp) -> Option<DevOp> {
        if let DevOp::Read { id, offset, .. } = &op {
            self.reads.insert(*id, *offset);
        }
        let op = if self.death.is_some() { self.cached(cx, op)? } else { op };
        let id = match (&op, self.order.eio) {
            (DevOp::Read { id, .. }, Some(Eio::Read)) => Some(*id),
            (DevOp::Write { id, .. } | DevOp::Flush { id }, Some(Eio::Write)) => Some(*id),
            _ => None,
        };
        if let Some(id) = id {
            self.later(cx, 0, Late::Done(id, DevResult::Failed("a fault was ordered")));
            return None;
        }
        if self.order.slow_us > 0 {
            self.later(cx, self.order.slow_us, Late::Start(op));
            return None;
        }
        Some(op)
    }

    /// Writes stay in memory, and what asks for more than that is not answered any more.
    fn cached(&mut self, cx: &mut Ctx, op: DevOp) -> Option<DevOp> {
        let answered = match op {
            DevOp::Write { id, offset, bufs, durable } => {
                self.cache.push((offset, bufs.iter().flat_map(|b| b.as_slice().iter().copied()).collect()));
                (!durable).then_some(id)
            }
            DevOp::Flush { .. } => None,
            DevOp::Discard { id, .. } => Some(id),
            DevOp::Read { .. } => return Some(op),
        };
        if let Some(id) = answered {
            self.later(cx, 0, Late::Done(id, DevResult::Ok(Buf::empty())));
        }
        None
    }

    /// The same for a read that is not the store's.
    pub fn meets_raw(&mut self, cx: &mut Ctx, token: UserToken, buf: BufMut, offset: u64) -> Option<BufMut> {
        if self.order.eio == Some(Eio::Read) {
            self.later(cx, 0, Late::FailRaw(token, buf));
        } else if self.order.slow_us > 0 {
            self.later(cx, self.order.slow_us, Late::StartRaw(token, buf, offset));
        } else {
            return Some(buf);
        }
        None
    }

    fn later(&mut self, cx: &mut Ctx, after: Micros, what: Late) {
        self.next += 1;
        self.late.insert(self.next, what);
        cx.timer(after, UserToken::new(CLASS_FAULT, self.next));
    }

    /// A timer has fired.
    pub fn due(&mut self, id: u64) -> Due {
        if id == DEATH {
            self.die();
        }
        match self.late.remove(&id) {
            Some(Late::Start(op)) => Due::Start(op),
            Some(Late::StartRaw(token, buf, offset)) => Due::StartRaw(token, buf, offset),
            Some(Late::Done(id, result)) => Due::Done(id, result),
            Some(Late::FailRaw(token, buf)) => {
                let failed = std::io::Error::other("a fault was ordered");
                Due::DoneRaw(token, OpResult::Read { result: Err(failed), buf })
            }
            None => Due::Nothing,
        }
    }

    /// The bytes of a read that has ended, with what was written and is not on the device yet.
    pub fn read(&mut self, id: u64, buf: &mut BufMut) {
        let Some(begin) = self.reads.remove(&id) else { return };
        let end = begin + buf.len() as u64;
        for (at, bytes) in &self.cache {
            let (from, to) = ((*at).max(begin), (at + bytes.len() as u64).min(end));
            if from >= to {
                continue;
            }
            let source = bytes.get((from - at) as usize..(to - at) as usize).unwrap_or(&[]);
            if let Some(place) = buf.as_mut_slice().get_mut((from - begin) as usize..(to - begin) as usize) {
                place.copy_from_slice(source);
            }
        }
    }

    /// Keeps some sectors, in the order in which they were written, and ends the process at once.
    fn die(&mut self) -> ! {
        let (kept, all) = self.keep_some();
        eprintln!("fault hooks: the end, with {all} sectors that no flush made durable, {kept} of them kept");
        std::process::abort()
    }

    fn keep_some(&self) -> (usize, usize) {
        let Ok(file) = OpenOptions::new().write(true).open(&self.drive) else { return (0, 0) };
        let mut chance = self.order.seed;
        let mut roll = || {
            chance = chance.wrapping_mul(STEP.0).wrapping_add(STEP.1);
            chance >> 33
        };
        // From nearly nothing to nearly all.
        let share = 1 + roll() % 7;
        let (mut kept, mut all) = (0, 0);
        for (at, bytes) in &self.cache {
            for (sector, offset) in bytes.chunks(SECTOR).zip((*at..).step_by(SECTOR)) {
                all += 1;
                if roll() % 8 < share && file.write_all_at(sector, offset).is_ok() {
                    kept += 1;
                }
            }
        }
        let _ = file.sync_all();
        (kept, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(drive: &Path, seed: u64, blocks: u64) -> Faults {
        let mut faults = Faults::new(drive);
        faults.order = Order { hold_flush_ms: Some(1), seed, ..Order::default() };
        faults.cache = (0..blocks).map(|b| (b * 4096, vec![b as u8 + 1; 4096])).collect();
        faults
    }

    #[test]
    fn a_part_of_the_sectors_is_kept_and_the_same_for_a_seed() {
        let path = std::env::temp_dir().join(format!("drystone-faults-{}", std::process::id()));
        let image = |seed| {
            std::fs::write(&path, vec![0; 64 * 4096]).unwrap();
            let (kept, all) = held(&path, seed, 64).keep_some();
            let bytes = std::fs::read(&path).unwrap();
            let written = bytes.chunks(SECTOR).filter(|s| s.iter().any(|b| *b != 0)).count();
            assert_eq!((written, all), (kept, 64 * 8));
            assert!(bytes.chunks(SECTOR).all(|s| s.iter().all(|b| *b == s[0])), "whole sectors only");
            (kept, bytes)
        };
        let kept: Vec<usize> = (0..20).map(|seed| image(seed).0).collect();
        assert!(kept.iter().all(|k| (1..64 * 8).contains(k)), "{kept:?}");
        assert_eq!(image(3), image(3));
        assert_ne!(image(3).1, image(4).1);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn reads_see_what_is_written_and_not_flushed() {
        let mut faults = held(Path::new("none"), 0, 3);
        faults.cache.push((4096 + 512, vec![9; 512]));
        faults.reads.insert(7, 4096);
        let mut buf = BufMut::zeroed(8192 + 4096);
        faults.read(7, &mut buf);
        assert_eq!((buf.as_slice()[0], buf.as_slice()[512], buf.as_slice()[1024]), (2, 9, 2));
        assert_eq!((buf.as_slice()[4096], buf.as_slice()[8192]), (3, 0), "the device's own bytes stay");
    }

    #[test]
    fn orders_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Order>(text).ok();
        assert_eq!(read("{\"slow_us\":30000}").unwrap().slow_us, 30_000);
        assert_eq!(read("{\"eio\":\"write\"}").unwrap().eio, Some(Eio::Write));
        assert_eq!(read("{\"hold_flush_ms\":800,\"seed\":3}").unwrap().hold_flush_ms, Some(800));
        assert!(read("{\"full\":true}").unwrap().full);
        assert_eq!(read("{\"slow\":1}"), None);
        assert_eq!(read("{\"slow_us\":"), None);
    }
}
