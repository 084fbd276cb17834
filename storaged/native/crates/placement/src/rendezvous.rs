//! Weighted rendezvous: score = −w / ln(u(drive, pg)), highest first, one drive a domain.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::domain::{Candidate, Domain};

fn score(candidate: &Candidate, weight: f64, pg: u32, salt: u64) -> f64 {
    let key = u64::from(candidate.id.0) << 32 | u64::from(pg);
    let hash = xxh3_64_with_seed(&key.to_le_bytes(), salt);
    // 53 bits keep u exact and strictly inside (0, 1), so ln(u) is finite and below zero.
    let u = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -weight / u.ln()
}

/// Indices into `drives` for one PG, best first.
pub(crate) fn ranked(drives: &[Candidate], weights: &[f64], pg: u32, salt: u64) -> Vec<usize> {
    let mut scored: Vec<(f64, usize)> =
        drives.iter().zip(weights).enumerate().map(|(i, (c, w))| (score(c, *w, pg, salt), i)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.into_iter().map(|(_, i)| i).collect()
}

/// Indices into `drives` for every PG, best first, one drive a domain.
pub(crate) fn spread(
    drives: &[Candidate],
    weights: &[f64],
    domain: Domain,
    width: usize,
    pg_count: u32,
    salt: u64,
) -> Vec<Vec<usize>> {
    let names: Vec<String> = drives.iter().map(|c| c.domain(domain)).collect();
    (0..pg_count)
        .map(|pg| {
            let mut used: Vec<&String> = Vec::with_capacity(width);
            let mut picked = Vec::with_capacity(width);
            for i in ranked(drives, weights, pg, salt) {
                let Some(name) = names.get(i) else { continue };
                if picked.len() < width && !used.contains(&name) {
                    used.push(name);
                    picked.push(i);
                }
            }
            picked
        })
        .collect()
}
