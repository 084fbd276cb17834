//! Fills the holes of a drive file a little ahead of the log.
//!
//! The first durable write into a hole costs the file system a commit of its journal, about as
//! much as the write itself; into written space it costs a flush. So where the log appends small
//! groups, zeros are written before it into what **is** a hole and reads as zeros anyway: the
//! contents of the file never change by it, whenever it stops. Block devices have no holes.
//!
//! A second wall, should a file system ever call data a hole: only space of the same segment behind
//! the append is filled. The log writes a segment from its start to its end, so nothing that counts is
//! there, except the summary at the very end, which is left out.

use core::ops::Range;
use drystone_store::layout::Layout;
use drystone_store::loc::SLOT;

/// Bytes written at once: one journal commit for 256 groups of one block.
const STEP: u64 = 1 << 20;
/// With less than this ready, the next step starts: enough for the groups that are written while
/// the step runs.
const LOW: u64 = STEP / 2;
/// A group of more than this pays its commit itself: the zeros would double what the device writes.
const GROUP_MAX: u64 = 64 << 10;
/// The end of a segment is for its summary, which is at most a small part of this.
const SUMMARY_MAX: u64 = 2 << 20;
/// Appending places remembered: the log has at most three open segments (new, hot and cold).
const PLACES: usize = 4;

/// Where the file is known to be written. Pure: asks for holes and writes through its caller.
#[derive(Debug)]
pub struct Ahead {
    layout: Layout,
    /// (segment, end of what is written), the most recently used last.
    places: Vec<(u32, u64)>,
    /// What is being filled.
    running: Option<Range<u64>>,
}

impl Ahead {
    /// For a file with this layout.
    pub fn new(layout: Layout) -> Ahead {
        Ahead { layout, places: Vec::with_capacity(PLACES), running: None }
    }
    /// What is being filled: a write that overlaps it must wait, or zeros could land on it.
    pub fn blocks(&self, write: &Range<u64>) -> bool {
        self.running.as_ref().is_some_and(|r| r.start < write.end && write.start < r.end)
    }
    /// A durable write of `group` starts; returns where a hole would be worth filling, to be
    /// answered with [`Ahead::found`].
    pub fn wrote(&mut self, group: &Range<u64>) -> Option<Range<u64>> {
        if group.end - group.start > GROUP_MAX {
            return None;
        }
        let segment = self.layout.seg_of(group.start / SLOT as u64)?;
        let known = self.places.iter().position(|(s, _)| *s == segment).map(|i| self.places.remove(i));
        if known.is_none() && self.places.len() == PLACES {
            self.places.remove(0);
        }
        let ready = known.map_or(group.end, |(_, ready)| ready).max(group.end);
        self.places.push((segment, ready));
        let end = (self.layout.seg_start(segment) + self.layout.seg_slots) * SLOT as u64;
        let limit = end.saturating_sub(SUMMARY_MAX);
        let due = self.running.is_none() && ready < limit && ready < group.end + LOW;
        due.then(|| ready..(ready + STEP).min(limit))
    }
    /// The first hole within what [`Ahead::wrote`] returned; returns what to fill with zeros. What is
    /// being `written` may still look like a hole, and zeros must never land on it: then nothing is.
    pub fn found<'a>(
        &mut self,
        asked: &Range<u64>,
        hole: Option<Range<u64>>,
        mut written: impl Iterator<Item = &'a Range<u64>>,
    ) -> Option<Range<u64>> {
        let free = |h: &Range<u64>| h.start < h.end && written.all(|w| w.end <= h.start || h.end <= w.start);
        let Some(hole) = hole.filter(free) else {
            self.ready_to(asked.start, asked.end);
            return None;
        };
        self.running = Some(hole.clone());
        Some(hole)
    }
    /// Filling has ended, well or not: a failure is not repeated at once, the log writes anyway.
    pub fn filled(&mut self) {
        if let Some(range) = self.running.take() {
            self.ready_to(range.start, range.end);
        }
    }
    fn ready_to(&mut self, at: u64, end: u64) {
        let segment = self.layout.seg_of(at / SLOT as u64);
        if let Some((_, ready)) = self.places.iter_mut().find(|(s, _)| Some(*s) == segment) {
            *ready = end.max(*ready);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 64 << 20;
    /// Where the first segment begins: behind two superblocks.
    const BASE: u64 = 64 << 10;

    fn ahead() -> Ahead {
        Ahead::new(Layout::new(20 * SEGMENT, SEGMENT).unwrap())
    }

    fn at(offset: u64, len: u64) -> Range<u64> {
        BASE + offset..BASE + offset + len
    }

    #[test]
    fn small_appends_find_their_space_written_and_are_held_only_where_it_is_being_written() {
        let mut ahead = ahead();
        let asked = ahead.wrote(&at(8192, 8192)).unwrap();
        assert_eq!(asked, at(16384, STEP));
        assert_eq!(ahead.found(&asked, Some(asked.clone()), [].iter()), Some(asked.clone()));
        assert!(ahead.blocks(&at(16384, 4096)));
        assert!(!ahead.blocks(&at(8192, 8192)));
        assert_eq!(ahead.wrote(&at(8192, 8192)), None, "one step at a time");
        ahead.filled();
        assert!(!ahead.blocks(&at(16384, 4096)));
        assert_eq!(ahead.wrote(&at(16384, 4096)), None, "enough is ready");
        assert_eq!(ahead.wrote(&at(16384 + STEP - LOW, 4096)).unwrap().start, BASE + 16384 + STEP);
    }

    #[test]
    fn written_space_is_left_alone_and_asked_about_once_for_each_step() {
        let mut ahead = ahead();
        let asked = ahead.wrote(&at(0, 4096)).unwrap();
        assert_eq!(ahead.found(&asked, None, [].iter()), None);
        assert_eq!(ahead.wrote(&at(4096, 4096)), None);
    }

    #[test]
    fn nothing_but_the_own_segment_behind_the_append_is_ever_filled() {
        for offset in [SEGMENT - SUMMARY_MAX, SEGMENT - 65536, SEGMENT - 4096] {
            assert_eq!(ahead().wrote(&at(offset, 4096)), None, "the summary's place and the next segment");
        }
        let asked = ahead().wrote(&at(SEGMENT - SUMMARY_MAX - 8192, 4096)).unwrap();
        assert_eq!(asked, at(SEGMENT - SUMMARY_MAX - 4096, 4096));
        assert_eq!(ahead().wrote(&(0..4096)), None, "a superblock");
        assert_eq!(ahead().wrote(&(20 * SEGMENT - 4096..20 * SEGMENT)), None, "the last superblock");
    }

    #[test]
    fn what_is_being_written_is_no_hole() {
        for (offset, len, free) in [(8192, 4096, true), (8192, 12288, false), (20480, 4096, false), (8192, STEP, false)]
        {
            let mut ahead = ahead();
            let asked = ahead.wrote(&at(0, 16384)).unwrap();
            let filled = ahead.found(&asked, Some(asked.clone()), [at(0, 16384), at(offset, len)].iter());
            assert_eq!(filled.is_some(), free, "{offset} {len}");
            assert_eq!(ahead.blocks(&at(16384, 4096)), free);
        }
    }

    #[test]
    fn large_groups_ask_for_nothing() {
        assert_eq!(ahead().wrote(&at(0, GROUP_MAX + 4096)), None);
    }

    #[test]
    fn a_jump_within_a_segment_starts_from_the_jump() {
        let mut ahead = ahead();
        let asked = ahead.wrote(&at(0, 4096)).unwrap();
        let _ = ahead.found(&asked, Some(asked.clone()), [].iter());
        ahead.filled();
        assert_eq!(ahead.wrote(&at(32 << 20, 4096)).unwrap().start, BASE + (32 << 20) + 4096);
    }
}
