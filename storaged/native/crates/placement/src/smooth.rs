//! The smoothing pass: moves the fewest PG slots until every drive is near its share.

use crate::domain::{Candidate, Domain};

/// Within this part of its share a drive is left alone (engine §5), or within one slot.
const TOLERANCE: f64 = 0.02;

struct Load<'a> {
    names: Vec<String>,
    counts: Vec<f64>,
    shares: Vec<f64>,
    open: &'a [bool],
    pgs: &'a mut [Vec<usize>],
}

/// Greedy: the drive furthest over its share gives one slot to the drive furthest under its share
/// that may take it and is `open`, until nobody is out of tolerance or no move helps.
pub(crate) fn smooth(pgs: &mut [Vec<usize>], drives: &[Candidate], weights: &[f64], domain: Domain, open: &[bool]) {
    let slots: usize = pgs.iter().map(Vec::len).sum();
    let total: f64 = weights.iter().sum();
    let mut counts = vec![0.0; drives.len()];
    for i in pgs.iter().flatten() {
        if let Some(c) = counts.get_mut(*i) {
            *c += 1.0;
        }
    }
    let shares = weights.iter().map(|w| slots as f64 * w / total).collect();
    let names = drives.iter().map(|c| c.domain(domain)).collect();
    let mut load = Load { names, counts, shares, open, pgs };
    // Every move lowers the sum of distances, so slots bound the moves; the bound is a safety net.
    for _ in 0..slots {
        if !load.move_one() {
            return;
        }
    }
}

impl Load<'_> {
    fn excess(&self, i: usize) -> f64 {
        match (self.counts.get(i), self.shares.get(i)) {
            (Some(c), Some(s)) => c - s,
            _ => 0.0,
        }
    }

    fn in_tolerance(&self, i: usize) -> bool {
        let share = self.shares.get(i).copied().unwrap_or(0.0);
        self.excess(i).abs() <= (share * TOLERANCE).max(1.0)
    }

    fn move_one(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.counts.len()).collect();
        order.sort_by(|a, b| self.excess(*b).total_cmp(&self.excess(*a)).then(a.cmp(b)));
        for from in &order {
            for to in order.iter().rev() {
                if self.excess(*from) - self.excess(*to) <= 1.0 {
                    break;
                }
                let both_fine = self.in_tolerance(*from) && self.in_tolerance(*to);
                let open = self.open.get(*to).copied().unwrap_or(false);
                if open && !both_fine && self.try_move(*from, *to) {
                    return true;
                }
            }
        }
        false
    }

    fn try_move(&mut self, from: usize, to: usize) -> bool {
        let names = &self.names;
        let target = names.get(to);
        let free =
            |pg: &&mut Vec<usize>| pg.contains(&from) && pg.iter().all(|i| *i == from || names.get(*i) != target);
        let Some(pg) = self.pgs.iter_mut().find(free) else {
            return false;
        };
        for slot in pg.iter_mut().filter(|i| **i == from) {
            *slot = to;
        }
        if let Some(c) = self.counts.get_mut(from) {
            *c -= 1.0;
        }
        if let Some(c) = self.counts.get_mut(to) {
            *c += 1.0;
        }
        true
    }
}
