//! A slab whose keys are never reused: 32 bits of index, 32 bits of age.

pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
}

struct Slot<T> {
    age: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new(), len: 0 }
    }
    pub fn len(&self) -> usize {
        self.len
    }
    /// The slab holds at most 2³² − 1 values; memory ends long before.
    pub fn insert(&mut self, value: T) -> u64 {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            if let Some(slot) = self.slots.get_mut(index as usize) {
                slot.value = Some(value);
                return key(index, slot.age);
            }
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { age: 0, value: Some(value) });
        key(index, 0)
    }
    pub fn get(&self, key: u64) -> Option<&T> {
        let slot = self.slots.get(index_of(key))?;
        if slot.age == age_of(key) {
            slot.value.as_ref()
        } else {
            None
        }
    }
    pub fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let slot = self.slots.get_mut(index_of(key))?;
        if slot.age == age_of(key) {
            slot.value.as_mut()
        } else {
            None
        }
    }
    pub fn remove(&mut self, key: u64) -> Option<T> {
        let slot = self.slots.get_mut(index_of(key)).filter(|slot| slot.age == age_of(key))?;
        let value = slot.value.take()?;
        slot.age = slot.age.wrapping_add(1);
        self.free.push(key as u32);
        self.len -= 1;
        Some(value)
    }
    pub fn keys(&self) -> impl Iterator<Item = u64> + '_ {
        let used = self.slots.iter().enumerate().filter(|(_, slot)| slot.value.is_some());
        used.map(|(index, slot)| key(index as u32, slot.age))
    }
}

fn key(index: u32, age: u32) -> u64 {
    u64::from(age) << 32 | u64::from(index)
}
fn index_of(key: u64) -> usize {
    (key & u64::from(u32::MAX)) as usize
}
fn age_of(key: u64) -> u32 {
    (key >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_removed_value_does_not_reach_its_successor() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_ne!(first, second);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!((slab.len(), slab.keys().collect::<Vec<_>>()), (1, vec![second]));
    }
}
