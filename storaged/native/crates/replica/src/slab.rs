//! Things in flight, named by numbers that are not reused soon.

/// A table of `T` whose keys carry a reuse counter, so a late event for an entry that
/// ended never meets its successor.
pub(crate) struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Self {
        Slab { entries: Vec::new(), free: Vec::new(), len: 0 }
    }
    pub(crate) fn len(&self) -> usize {
        self.len
    }
    pub(crate) fn insert(&mut self, value: T) -> u64 {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            if let Some(entry) = self.entries.get_mut(index as usize) {
                entry.1 = Some(value);
                return key(index, entry.0);
            }
        }
        let index = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push((1, Some(value)));
        key(index, 1)
    }
    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let (index, round) = split(key);
        let entry = self.entries.get_mut(index)?;
        if entry.0 == round {
            entry.1.as_mut()
        } else {
            None
        }
    }
    pub(crate) fn remove(&mut self, key: u64) -> Option<T> {
        let (index, round) = split(key);
        let entry = self.entries.get_mut(index)?;
        if entry.0 != round {
            return None;
        }
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1).max(1);
        self.free.push(u32::try_from(index).unwrap_or(u32::MAX));
        self.len -= 1;
        Some(value)
    }
    /// Takes everything, in table order.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let keys: Vec<u64> = (0u32..).zip(&self.entries).map(|(i, e)| key(i, e.0)).collect();
        keys.into_iter().filter_map(|k| self.remove(k)).collect()
    }
}

fn key(index: u32, round: u32) -> u64 {
    u64::from(round) << 32 | u64::from(index)
}

fn split(key: u64) -> (usize, u32) {
    ((key & 0xffff_ffff) as usize, u32::try_from(key >> 32).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_entry_that_ended_finds_nothing() {
        let mut s = Slab::new();
        let a = s.insert(1);
        assert_eq!(s.remove(a), Some(1));
        let b = s.insert(2);
        assert_ne!(a, b);
        assert_eq!(s.remove(a), None);
        assert_eq!(s.get_mut(b), Some(&mut 2));
        assert_eq!(s.len(), 1);
    }
}
