//! An exercise: reads from all over the device and small records through the log, so that it shows whether a drive that
//! was slow is well again before anything depends on it.

use std::collections::BTreeMap;

use drystone_reactor::{Ctx, OpResult, UserToken};
use drystone_replica::Control;
use drystone_types::consts::{Micros, BLOCK_SIZE};
use drystone_types::BufMut;

use super::{DriveHandler, CLASS_EXERCISE, CLASS_EXERCISE_END};
use crate::events::ServerEvent;

/// Reads, and how many run at once: enough that the device has a queue, too few to disturb others.
const READS: u32 = 256;
const AT_ONCE: u32 = 4;
/// Small records, one after the other, each durable before the next.
const WRITES: u32 = 64;
/// Whoever asked has its answer after this time: a device that is this slow is not well.
const TIME_MAX: Micros = 10_000_000;
/// More than reads or records: keeps apart what two exercises ask for. What hung in one may end in the next.
const EACH: u64 = 512;
/// Internal ids of the records begin here; the process's own ids are lower.
pub(super) const RECORDS: u64 = 1 << 63;

fn token_of(id: u64, number: u32) -> u64 {
    id.wrapping_mul(EACH).wrapping_add(u64::from(number))
}

/// Internal id of a record.
pub(super) fn record_of(id: u64, number: u32) -> u64 {
    RECORDS | token_of(id, number)
}

/// One under way.
pub(super) struct Exercise {
    id: u64,
    /// Next place to read; a sequence that visits the device in no order.
    seed: u64,
    started: u32,
    running: BTreeMap<u64, Micros>,
    written: u32,
    write_began: Option<Micros>,
    times: Vec<u64>,
    errors: u64,
}

#[cfg(test)]
impl Exercise {
    /// Reads begun, records durable, whether one is on its way.
    pub(super) fn progress(&self) -> (u32, u32, bool) {
        (self.started, self.written, self.write_began.is_some())
    }
}

impl DriveHandler {
    pub(super) fn exercise(&mut self, cx: &mut Ctx, id: u64) {
        if self.exercise.is_some() {
            let reason = "an exercise of this drive is under way".to_owned();
            self.events.put(ServerEvent::Exercised { drive: self.drive, id, result: Err(reason) });
            return;
        }
        let times = Vec::with_capacity((READS + WRITES) as usize);
        let seed = cx.now_us() | 1;
        self.exercise = Some(Exercise {
            id,
            seed,
            started: 0,
            running: BTreeMap::new(),
            written: 0,
            write_began: None,
            times,
            errors: 0,
        });
        cx.timer(TIME_MAX, UserToken::new(CLASS_EXERCISE_END, id));
        self.exercise_on(cx);
    }

    /// Starts what may start, and ends it when all is done.
    pub(super) fn exercise_on(&mut self, cx: &mut Ctx) {
        let layout = self.replica.store().superblock().layout;
        let Some(e) = self.exercise.as_mut() else { return };
        while e.started < READS && (e.running.len() as u32) < AT_ONCE {
            e.seed = e.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let slot = (e.seed >> 20) % layout.slots.max(1);
            e.started += 1;
            let token = UserToken::new(CLASS_EXERCISE, token_of(e.id, e.started));
            e.running.insert(token.id, cx.now_us());
            self.device.read_raw(cx, token, BufMut::with_len(BLOCK_SIZE), slot * BLOCK_SIZE as u64);
        }
        let reading = e.started < READS || !e.running.is_empty();
        if reading || e.write_began.is_some() {
            return;
        }
        if e.written < WRITES {
            e.write_began = Some(cx.now_us());
            let id = record_of(e.id, e.written);
            self.step(cx, drystone_replica::Event::Control { id, req: Control::Exercise });
        } else {
            self.exercise_over();
        }
    }

    pub(super) fn exercise_read(&mut self, cx: &mut Ctx, token: UserToken, result: &OpResult) {
        let Some(e) = self.exercise.as_mut() else { return };
        let Some(began) = e.running.remove(&token.id) else { return };
        e.times.push(cx.now_us().saturating_sub(began));
        e.errors += u64::from(!matches!(result, OpResult::Read { result: Ok(n), .. } if *n == BLOCK_SIZE));
        self.exercise_on(cx);
    }

    pub(super) fn exercise_written(&mut self, cx: &mut Ctx, id: u64, ok: bool) {
        let Some(e) = self.exercise.as_mut().filter(|e| record_of(e.id, e.written) == id) else { return };
        let Some(began) = e.write_began.take() else { return };
        e.written += 1;
        e.times.push(cx.now_us().saturating_sub(began));
        e.errors += u64::from(!ok);
        self.exercise_due = true;
    }

    /// The time is over: what did not end counts as an error.
    pub(super) fn exercise_late(&mut self, id: u64) {
        if self.exercise.as_ref().is_some_and(|e| e.id == id) {
            self.exercise_over();
        }
    }

    fn exercise_over(&mut self) {
        let Some(mut e) = self.exercise.take() else { return };
        let asked = (READS + WRITES) as usize;
        let errors = e.errors + asked.saturating_sub(e.times.len()) as u64;
        let late = e.times.len() < asked;
        e.times.sort_unstable();
        let p99 = e.times.get((e.times.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
        let p99_us = if late { TIME_MAX } else { p99 };
        self.events.put(ServerEvent::Exercised { drive: self.drive, id: e.id, result: Ok((p99_us, errors)) });
    }
}
