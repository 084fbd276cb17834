//! Blocks of one object: sorted extents while they are few, a dense array when they are many.

use crate::loc::Loc;

/// Extents up to here take no more memory than the dense array (10 bytes each against 1024 × 6).
pub const EXTENTS_MAX: usize = 600;
const DENSE_BYTES: usize = 1024 * 6;
/// Extents that fill as much as a dense array does: what a list that becomes one leaves behind is
/// then just the place of the next, not a hole too small for it.
const EXTENTS_AS_DENSE: usize = DENSE_BYTES / size_of::<Packed>();
/// From this length on a list takes all of that at once.
const EXTENTS_MANY: usize = 448;

/// A run of blocks that lie one after the other, or share one entry without data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Location of the first block.
    pub loc: Loc,
    /// First block.
    pub first: u16,
    /// Blocks.
    pub count: u16,
}

impl Extent {
    fn end(&self) -> u16 {
        self.first + self.count
    }
    /// The part of the extent within `[first, end)`; `None` when they do not meet.
    pub fn cut(&self, first: u16, end: u16) -> Option<Extent> {
        let (from, to) = (self.first.max(first), self.end().min(end));
        let skip = from.saturating_sub(self.first);
        (from < to).then(|| Extent { loc: self.loc.advance(skip), first: from, count: to - from })
    }
    fn continues(&self, next: &Extent) -> bool {
        self.end() == next.first && self.loc.advance(self.count) == next.loc && self.loc.kind() == next.loc.kind()
    }
}

/// An extent in ten bytes: the index is the memory of a drive.
#[derive(Clone, Copy, Debug)]
pub struct Packed([u16; 5]);

impl From<Extent> for Packed {
    fn from(x: Extent) -> Packed {
        let l = x.loc.0;
        Packed([l as u16, (l >> 16) as u16, (l >> 32) as u16, x.first, x.count])
    }
}

impl Packed {
    fn open(&self) -> Extent {
        let Packed([a, b, c, first, count]) = *self;
        Extent { loc: Loc(u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32), first, count }
    }
    fn end(&self) -> u16 {
        let Packed([.., first, count]) = self;
        first + count
    }
    fn first(&self) -> u16 {
        let Packed([.., first, _]) = self;
        *first
    }
    fn cut(&self, first: u16, end: u16) -> Option<Extent> {
        self.open().cut(first, end)
    }
}

/// Block map of one object.
#[derive(Clone, Debug)]
pub enum Leaf {
    /// Sorted, not overlapping.
    Extents(Vec<Packed>),
    /// 1024 × 6 bytes, 0 = absent.
    Dense(Box<[u8]>),
}

impl Default for Leaf {
    fn default() -> Self {
        Leaf::Extents(Vec::new())
    }
}

impl Leaf {
    /// Whether no block is present.
    pub fn is_empty(&self) -> bool {
        match self {
            Leaf::Extents(e) => e.is_empty(),
            Leaf::Dense(d) => d.iter().all(|b| *b == 0),
        }
    }
    /// Location of a block.
    pub fn get(&self, block: u16) -> Option<Loc> {
        match self {
            Leaf::Extents(e) => {
                let at = e.partition_point(|x| x.end() <= block);
                e.get(at).and_then(|x| x.cut(block, block + 1)).map(|x| x.loc)
            }
            Leaf::Dense(d) => dense_get(d, block),
        }
    }
    /// Calls `f` with every extent that meets `[first, first + count)`, cut to it.
    pub fn visit(&self, first: u16, count: u16, mut f: impl FnMut(Extent)) {
        let end = first + count;
        match self {
            Leaf::Extents(e) => {
                let from = e.partition_point(|x| x.end() <= first);
                let meeting = e.iter().skip(from).map_while(|x| x.cut(first, end));
                meeting.for_each(f);
            }
            Leaf::Dense(d) => {
                let mut run: Option<Extent> = None;
                for block in first..end {
                    let Some(loc) = dense_get(d, block) else { continue };
                    let one = Extent { loc, first: block, count: 1 };
                    match &mut run {
                        Some(r) if r.continues(&one) => r.count += 1,
                        _ => run.replace(one).into_iter().for_each(&mut f),
                    }
                }
                run.into_iter().for_each(f);
            }
        }
    }
    /// Removes a range; what was there goes to `gone`.
    pub fn remove(&mut self, first: u16, count: u16, gone: impl FnMut(Extent)) {
        self.visit(first, count, gone);
        match self {
            Leaf::Extents(_) => self.splice(first, count, None),
            Leaf::Dense(d) => (first..first + count).for_each(|b| dense_set(d, b, Loc(0))),
        }
    }
    /// Sets a range; what was there goes to `gone`.
    pub fn set(&mut self, new: Extent, gone: impl FnMut(Extent)) {
        self.visit(new.first, new.count, gone);
        match self {
            Leaf::Extents(_) => self.splice(new.first, new.count, Some(new)),
            Leaf::Dense(d) => (0..new.count).for_each(|i| dense_set(d, new.first + i, new.loc.advance(i))),
        }
        self.densify();
    }
    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Leaf::Extents(e) => e.capacity() * size_of::<Packed>(),
            Leaf::Dense(d) => d.len(),
        }
    }

    fn splice(&mut self, first: u16, count: u16, new: Option<Extent>) {
        let Leaf::Extents(list) = self else { return };
        let end = first + count;
        let from = list.partition_point(|x| x.end() <= first);
        let to = list.partition_point(|x| x.first() < end).max(from);
        let head = list.get(from).filter(|_| from < to).and_then(|x| x.cut(0, first));
        let tail =
            to.checked_sub(1).filter(|i| *i >= from).and_then(|i| list.get(i)).and_then(|x| x.cut(end, u16::MAX));
        // Growth by an eighth instead of doubling: the index is the memory of a drive.
        if list.len() + 2 > list.capacity() {
            match list.len() {
                n @ EXTENTS_MANY..EXTENTS_MAX => list.reserve_exact(EXTENTS_AS_DENSE - n),
                n => list.reserve_exact(2 + n / 8),
            }
        }
        list.splice(from..to, head.into_iter().chain(new).chain(tail).map(Packed::from));
        merge_around(list, from);
    }

    fn densify(&mut self) {
        let Leaf::Extents(list) = self else { return };
        if list.len() <= EXTENTS_MAX {
            return;
        }
        let mut dense = vec![0u8; DENSE_BYTES].into_boxed_slice();
        for x in list.iter().map(Packed::open) {
            (0..x.count).for_each(|i| dense_set(&mut dense, x.first + i, x.loc.advance(i)));
        }
        *self = Leaf::Dense(dense);
    }
}

/// Joins the extents at `from − 1 ..= from + 2` where they continue each other.
fn merge_around(list: &mut Vec<Packed>, from: usize) {
    let mut at = from.saturating_sub(1);
    for _ in 0..3 {
        let (Some(a), Some(b)) = (list.get(at).map(Packed::open), list.get(at + 1).map(Packed::open)) else { return };
        if a.continues(&b) {
            list.remove(at + 1);
            if let Some(x) = list.get_mut(at) {
                *x = Packed::from(Extent { count: a.count + b.count, ..a });
            }
        } else {
            at += 1;
        }
    }
}

fn dense_get(d: &[u8], block: u16) -> Option<Loc> {
    let at = usize::from(block) * 6;
    let bytes: [u8; 6] = d.get(at..at + 6)?.try_into().ok()?;
    let [a, b, c, x, y, z] = bytes;
    let raw = u64::from_le_bytes([a, b, c, x, y, z, 0, 0]);
    (raw != 0).then_some(Loc(raw))
}

fn dense_set(d: &mut [u8], block: u16, loc: Loc) {
    let at = usize::from(block) * 6;
    if let (Some(to), Some(from)) = (d.get_mut(at..at + 6), loc.0.to_le_bytes().get(..6)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents(leaf: &Leaf) -> Vec<(u16, Loc)> {
        let mut out = Vec::new();
        leaf.visit(0, 1024, |x| out.extend((0..x.count).map(|i| (x.first + i, x.loc.advance(i)))));
        out
    }

    proptest! {
        #[test]
        fn a_leaf_equals_a_plain_array(ops in proptest::collection::vec((0u16..1000, 1u16..24, 0u8..4), 1..900)) {
            let mut leaf = Leaf::default();
            let mut plain = vec![None; 1024];
            let mut slot = 100;
            for (first, count, what) in ops {
                let mut gone = Vec::new();
                let was: Vec<_> = (first..first + count).filter_map(|b| plain[usize::from(b)].map(|l| (b, l))).collect();
                let loc = if what == 1 { Loc::mark(slot, crate::api::BlockKind::Hole) } else { Loc::data(slot + 1, 1) };
                slot += 30;
                if what == 0 {
                    leaf.remove(first, count, |x| gone.extend((0..x.count).map(|i| (x.first + i, x.loc.advance(i)))));
                } else {
                    let new = Extent { loc, first, count };
                    leaf.set(new, |x| gone.extend((0..x.count).map(|i| (x.first + i, x.loc.advance(i)))));
                }
                for i in 0..count {
                    plain[usize::from(first + i)] = (what != 0).then(|| loc.advance(i));
                }
                prop_assert_eq!(gone, was);
            }
            let want: Vec<_> = (0u16..).zip(&plain).filter_map(|(b, l)| l.map(|l| (b, l))).collect();
            prop_assert_eq!(contents(&leaf), want);
            prop_assert!((0u16..1024).all(|b| leaf.get(b) == plain[usize::from(b)]));
            prop_assert_eq!(leaf.is_empty(), plain.iter().all(Option::is_none));
        }
    }

    #[test]
    fn random_blocks_cost_six_bytes_each_and_large_runs_a_few() {
        let mut leaf = Leaf::default();
        for i in 0..1024u16 {
            let block = (u32::from(i) * 389 % 1024) as u16;
            leaf.set(Extent { loc: Loc::data(1000 + u64::from(i) * 2, 1), first: block, count: 1 }, |_| ());
        }
        assert_eq!(leaf.heap_bytes(), 6144);
        let mut large = Leaf::default();
        for i in 0..4u16 {
            large.set(Extent { loc: Loc::data(1000 + u64::from(i) * 300, 1), first: i * 256, count: 256 }, |_| ());
        }
        assert!(large.heap_bytes() <= 128);
    }
}
