//! Failure domains and the weight a domain can really use.

use std::collections::BTreeMap;

use drystone_types::DriveId;

/// A drive as placement sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Drive.
    pub id: DriveId,
    /// Share of the data, usually its size; 0 takes nothing.
    pub weight: f64,
    /// Fault set.
    pub fault_set: String,
    /// Node.
    pub node: String,
}

/// What copies are spread over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// The widest that gives `copies` distinct ones.
    Auto,
    /// Fault set.
    FaultSet,
    /// Node.
    Node,
    /// Drive.
    Drive,
}

impl Candidate {
    pub(crate) fn domain(&self, domain: Domain) -> String {
        match domain {
            Domain::FaultSet => self.fault_set.clone(),
            Domain::Node => self.node.clone(),
            Domain::Drive | Domain::Auto => self.id.to_string(),
        }
    }
}

fn distinct(drives: &[Candidate], domain: Domain) -> usize {
    let mut names: Vec<String> = drives.iter().map(|c| c.domain(domain)).collect();
    names.sort();
    names.dedup();
    names.len()
}

/// The failure domain that is really used and the width of a PG: min(copies, distinct domains).
///
/// `Auto` takes the widest domain that gives `copies` distinct ones, else the one that gives most.
pub fn width(drives: &[Candidate], copies: u8, domain: Domain) -> (Domain, usize) {
    let copies = usize::from(copies);
    let choices: &[Domain] = match domain {
        Domain::Auto => &[Domain::FaultSet, Domain::Node, Domain::Drive],
        Domain::FaultSet => &[Domain::FaultSet],
        Domain::Node => &[Domain::Node],
        Domain::Drive => &[Domain::Drive],
    };
    let mut best = (domain, 0);
    for choice in choices {
        let n = distinct(drives, *choice).min(copies);
        if n > best.1 {
            best = (*choice, n);
        }
    }
    best
}

/// Weight of each drive after its domain is clipped to total/width: a domain holds at most one
/// copy of a PG, so three unequal nodes cannot be filled evenly. Clipping one domain lowers
/// the total, so it repeats until nothing changes.
pub(crate) fn clipped_weights(drives: &[Candidate], domain: Domain, width: usize) -> Vec<f64> {
    let names: Vec<String> = drives.iter().map(|c| c.domain(domain)).collect();
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for (c, name) in drives.iter().zip(&names) {
        *sums.entry(name).or_default() += c.weight;
    }
    let raw = sums.clone();
    for _ in 0..sums.len() {
        let total: f64 = sums.values().sum();
        let limit = total / width.max(1) as f64;
        let over: Vec<&str> = sums.iter().filter(|(_, w)| **w > limit * (1.0 + 1e-9)).map(|(n, _)| *n).collect();
        if over.is_empty() {
            break;
        }
        let rest: f64 = sums.iter().filter(|(n, _)| !over.contains(n)).map(|(_, w)| w).sum();
        // The clipped domains get exactly total'/width of the new total.
        let free = width.saturating_sub(over.len()).max(1) as f64;
        for name in over {
            sums.insert(name, rest / free);
        }
    }
    let factor = |name: &str| match (sums.get(name), raw.get(name)) {
        (Some(s), Some(r)) if *r > 0.0 && *s > 0.0 => s / r,
        _ => 1.0,
    };
    drives.iter().zip(&names).map(|(c, n)| c.weight * factor(n)).collect()
}
