//! Fills the holes of a drive file a little ahead of the log.
//!
//! The first durable write into a hole costs the file system a commit of its journal, about as
//! much as the write itself; into written space it costs a flush. So where the log appends small
//! groups, zeros are written before it into what **is** a hole and reads as zeros anyway: the
//! contents of the file never change by it, whenever it stops. Block devices have no holes.

use core::ops::Range;

/// Bytes written at once: one journal commit for 256 groups of one block.
const STEP: u64 = 1 << 20;
/// With less than this ready, the next step starts: enough for the groups that are written while
/// the step runs.
const LOW: u64 = STEP / 2;
/// A group of more than this pays its commit itself: the zeros would double what the device writes.
const GROUP_MAX: u64 = 64 << 10;
/// Appending places remembered: the log has at most three open segments (new, hot and cold).
const PLACES: usize = 4;

/// Where the file is known to be written. Pure: asks for holes and writes through its caller.
#[derive(Debug)]
pub struct Ahead {
    segment: u64,
    size: u64,
    /// (segment, end of what is written), the most recently used last.
    places: Vec<(u64, u64)>,
    /// What is being filled.
    running: Option<Range<u64>>,
}

impl Ahead {
    /// For a file of `size` bytes with a log in segments of `segment` bytes.
    pub fn new(segment: u64, size: u64) -> Ahead {
        Ahead { segment: segment.max(STEP), size, places: Vec::with_capacity(PLACES), running: None }
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
        let segment = group.start / self.segment;
        let known = self.places.iter().position(|(s, _)| *s == segment).map(|i| self.places.remove(i));
        if known.is_none() && self.places.len() == PLACES {
            self.places.remove(0);
        }
        let ready = known.map_or(group.end, |(_, ready)| ready).max(group.end);
        self.places.push((segment, ready));
        let limit = ((segment + 1) * self.segment).min(self.size);
        let due = self.running.is_none() && ready < limit && ready < group.end + LOW;
        due.then(|| ready..(ready + STEP).min(limit))
    }
    /// The first hole within what [`Ahead::wrote`] returned; returns what to fill with zeros.
    pub fn found(&mut self, asked: &Range<u64>, hole: Option<Range<u64>>) -> Option<Range<u64>> {
        let Some(hole) = hole.filter(|h| h.start < h.end) else {
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
        let segment = at / self.segment;
        if let Some((_, ready)) = self.places.iter_mut().find(|(s, _)| *s == segment) {
            *ready = end.max(*ready);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 64 << 20;

    #[test]
    fn small_appends_find_their_space_written_and_are_held_only_where_it_is_being_written() {
        let mut ahead = Ahead::new(SEGMENT, 4 * SEGMENT - 8192);
        let asked = ahead.wrote(&(8192..16384)).unwrap();
        assert_eq!(asked, 16384..16384 + STEP);
        assert_eq!(ahead.found(&asked, Some(asked.clone())), Some(asked.clone()));
        assert!(ahead.blocks(&(16384..20480)));
        assert!(!ahead.blocks(&(8192..16384)));
        assert_eq!(ahead.wrote(&(8192..16384)), None, "one step at a time");
        ahead.filled();
        assert!(!ahead.blocks(&(16384..20480)));
        assert_eq!(ahead.wrote(&(16384..20480)), None, "enough is ready");
        let late = 16384 + STEP - LOW..16384 + STEP - LOW + 4096;
        assert_eq!(ahead.wrote(&late).unwrap().start, 16384 + STEP);
    }

    #[test]
    fn written_space_is_left_alone_and_asked_about_once_for_each_step() {
        let mut ahead = Ahead::new(SEGMENT, 4 * SEGMENT - 8192);
        let asked = ahead.wrote(&(0..4096)).unwrap();
        assert_eq!(ahead.found(&asked, None), None);
        assert_eq!(ahead.wrote(&(4096..8192)), None);
    }

    #[test]
    fn large_groups_and_the_end_of_a_segment_ask_for_nothing() {
        let mut ahead = Ahead::new(SEGMENT, 4 * SEGMENT - 8192);
        assert_eq!(ahead.wrote(&(0..GROUP_MAX + 4096)), None);
        assert_eq!(ahead.wrote(&(SEGMENT - 4096..SEGMENT)), None);
        let mut ahead = Ahead::new(SEGMENT, 4 * SEGMENT - 8192);
        let asked = ahead.wrote(&(SEGMENT - 8192..SEGMENT - 4096)).unwrap();
        assert_eq!(asked, SEGMENT - 4096..SEGMENT);
    }

    #[test]
    fn the_file_does_not_grow() {
        let mut ahead = Ahead::new(SEGMENT, SEGMENT + 8192);
        assert_eq!(ahead.wrote(&(SEGMENT..SEGMENT + 4096)), Some(SEGMENT + 4096..SEGMENT + 8192));
        assert_eq!(ahead.wrote(&(SEGMENT + 4096..SEGMENT + 8192)), None);
    }

    #[test]
    fn a_jump_within_a_segment_starts_from_the_jump() {
        let mut ahead = Ahead::new(SEGMENT, 4 * SEGMENT - 8192);
        let asked = ahead.wrote(&(0..4096)).unwrap();
        let _ = ahead.found(&asked, Some(asked.clone()));
        ahead.filled();
        assert_eq!(ahead.wrote(&(32 << 20..(32 << 20) + 4096)).unwrap().start, (32 << 20) + 4096);
    }
}
