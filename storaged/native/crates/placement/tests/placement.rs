//! Placement: distinct domains, fair shares, frozen hash.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use drystone_placement::{chunk_hash, default_pg_count, place, width, Candidate, Domain, PlaceError, Plan};
use drystone_types::DriveId;
use proptest::prelude::*;

fn drives(spec: &[(u32, f64, &str, &str)]) -> Vec<Candidate> {
    spec.iter()
        .map(|(id, weight, fault_set, node)| Candidate {
            id: DriveId(*id),
            weight: *weight,
            fault_set: (*fault_set).into(),
            node: (*node).into(),
        })
        .collect()
}

fn plan(drives: &[Candidate], domain: Domain) -> Plan<'_> {
    Plan { drives, pg_count: 256, copies: 3, domain, salt: 1 }
}

#[test]
fn the_hash_of_a_chunk_is_frozen() {
    let got: Vec<u64> = [(0, 0), (1, 0), (0, 1), (42, 1 << 40)].iter().map(|(s, c)| chunk_hash(*s, *c)).collect();
    assert_eq!(
        got,
        [14_374_147_212_387_527_897, 11_408_090_015_561_836_892, 3_439_722_301_264_460_078, 4_733_549_775_937_087_482]
    );
}

#[test]
fn auto_takes_the_widest_domain_that_holds_all_copies() {
    let one_node = drives(&[(1, 1.0, "r1", "n1"), (2, 1.0, "r1", "n1"), (3, 1.0, "r1", "n1")]);
    assert_eq!(width(&one_node, 3, Domain::Auto), (Domain::Drive, 3));
    assert_eq!(width(&one_node, 3, Domain::Node), (Domain::Node, 1));
    let racks = drives(&[(1, 1.0, "r1", "n1"), (2, 1.0, "r2", "n2"), (3, 1.0, "r3", "n3")]);
    assert_eq!(width(&racks, 3, Domain::Auto), (Domain::FaultSet, 3));
    let single = drives(&[(1, 1.0, "r1", "n1")]);
    assert_eq!(width(&single, 3, Domain::Auto).1, 1);
}

#[test]
fn three_unequal_nodes_are_filled_as_far_as_the_rule_allows() {
    let d = drives(&[(1, 10.0, "a", "a"), (2, 1.0, "b", "b"), (3, 1.0, "c", "c")]);
    let pgs = place(&plan(&d, Domain::Node)).unwrap();
    assert!(pgs.iter().all(|pg| pg.len() == 3));
}

#[test]
fn no_drive_is_an_error_that_says_what_to_do() {
    assert_eq!(place(&plan(&[], Domain::Auto)), Err(PlaceError::NoDrives));
    assert!(PlaceError::NoDrives.to_string().contains("add a drive"));
}

#[test]
fn pg_counts_are_powers_of_two_within_their_bounds() {
    assert_eq!(default_pg_count(3, 3), 64);
    assert_eq!(default_pg_count(12, 3), 256);
    assert_eq!(default_pg_count(756, 3), 8192);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn copies_are_in_distinct_nodes_and_shares_are_fair(
        nodes in 3usize..8,
        per_node in 1usize..5,
        sizes in proptest::collection::vec(1u32..4, 40),
    ) {
        let mut spec = Vec::new();
        for n in 0..nodes {
            for k in 0..per_node {
                let id = u32::try_from(n * per_node + k + 1).unwrap();
                spec.push(Candidate { id: DriveId(id), weight: f64::from(sizes[n * per_node + k]), fault_set: "f".into(), node: format!("n{n}") });
            }
        }
        let pgs = place(&plan(&spec, Domain::Node)).unwrap();
        let mut counts: BTreeMap<DriveId, f64> = BTreeMap::new();
        for pg in &pgs {
            prop_assert_eq!(pg.len(), 3);
            let mut names: Vec<&String> = pg.iter().map(|d| &spec.iter().find(|c| c.id == *d).unwrap().node).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), 3);
            for d in pg {
                *counts.entry(*d).or_default() += 1.0;
            }
        }
        // Where no node is nearly a third of all (single moves are blocked there), every drive gets its share: ± 2 % or one slot.
        let total: f64 = spec.iter().map(|c| c.weight).sum();
        let node_sum = |n: &str| spec.iter().filter(|c| c.node == n).map(|c| c.weight).sum::<f64>();
        if (0..nodes).all(|n| node_sum(&format!("n{n}")) <= total / 3.5) {
            for c in &spec {
                let share = 768.0 * c.weight / total;
                let got = counts.get(&c.id).copied().unwrap_or(0.0);
                prop_assert!((got - share).abs() <= (share * 0.02).max(1.0) + 1e-9, "drive {} has {got}, share {share}", c.id);
            }
        }
    }
}
