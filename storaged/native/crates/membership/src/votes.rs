//! Silence votes. A vote is a promise not to echo the node any more; it ends only when the store
//! says that the suspicion is over (dropped or cancelled), never by a timer, because the transaction
//! of the drop may be slow (§4.5, P21, B13).

use std::collections::BTreeMap;

use drystone_types::{Rev, Uuid};

/// A `/suspect/{node}` key: `round` is the store revision that wrote it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Suspect {
    /// Node.
    pub node: Uuid,
    /// Revision at which the key was written.
    pub round: Rev,
}

/// The promises of one beacon.
#[derive(Debug, Default)]
pub struct Promises {
    held: BTreeMap<Uuid, Rev>,
    /// Whether the store's suspects were read since the start. Before that a restarted beacon cannot
    /// know what it promised in its earlier life and echoes nobody.
    learnt: bool,
}

impl Promises {
    /// Promises not to echo.
    pub fn promise(&mut self, suspect: Suspect) {
        let round = self.held.entry(suspect.node).or_insert(suspect.round);
        *round = (*round).max(suspect.round);
    }

    /// Every suspect key at a store revision, from a linearizable read: a promise of a round at or
    /// below that revision whose key is gone is over.
    pub fn suspects(&mut self, as_of: Rev, keys: &[Suspect]) {
        self.held.retain(|node, round| *round > as_of || keys.iter().any(|k| k.node == *node && k.round >= *round));
        for key in keys {
            if !self.learnt {
                self.promise(*key);
            }
        }
        self.learnt = true;
    }

    /// One suspicion is over.
    pub fn release(&mut self, suspect: Suspect) {
        if self.held.get(&suspect.node).is_some_and(|round| *round <= suspect.round) {
            self.held.remove(&suspect.node);
        }
    }

    /// Whether this node must not be echoed.
    pub fn forbids(&self, node: &Uuid) -> bool {
        !self.learnt || self.held.contains_key(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Uuid = Uuid([3; 16]);

    #[test]
    fn a_restarted_beacon_echoes_nobody_before_it_read_the_suspects() {
        let mut p = Promises::default();
        assert!(p.forbids(&NODE));
        p.suspects(Rev(9), &[Suspect { node: NODE, round: Rev(4) }]);
        assert!(p.forbids(&NODE));
        p.suspects(Rev(10), &[]);
        assert!(!p.forbids(&NODE));
    }

    #[test]
    fn a_read_from_before_the_suspicion_does_not_end_the_promise() {
        let mut p = Promises::default();
        p.suspects(Rev(1), &[]);
        p.promise(Suspect { node: NODE, round: Rev(7) });
        p.suspects(Rev(6), &[]);
        assert!(p.forbids(&NODE));
        p.release(Suspect { node: NODE, round: Rev(6) });
        assert!(p.forbids(&NODE));
        p.release(Suspect { node: NODE, round: Rev(7) });
        assert!(!p.forbids(&NODE));
    }
}
