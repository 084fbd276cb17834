//! Placement from the one that stands: few slots change, domains stay distinct, and it comes to rest.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use drystone_placement::{place, place_from, Candidate, Domain, PlaceError, Plan, Standing};
use drystone_types::DriveId;
use proptest::prelude::*;

fn candidate(id: u32, node: u32, weight: u32) -> Candidate {
    Candidate { id: DriveId(id), weight: f64::from(weight), fault_set: String::new(), node: format!("n{node}") }
}

fn even(drives: u32, per_node: u32) -> Vec<Candidate> {
    (0..drives).map(|i| candidate(i + 1, i / per_node, 1)).collect()
}

fn plan(drives: &[Candidate]) -> Plan<'_> {
    Plan { drives, pg_count: 128, copies: 3, domain: Domain::Node, salt: 9 }
}

fn standing(pgs: &[Vec<DriveId>]) -> Standing<'_> {
    Standing { pgs, closed: &[] }
}

fn changed(old: &[Vec<DriveId>], new: &[Vec<DriveId>]) -> usize {
    old.iter().flatten().zip(new.iter().flatten()).filter(|(a, b)| a != b).count()
}

fn slots(pgs: &[Vec<DriveId>], drive: u32) -> usize {
    pgs.iter().flatten().filter(|d| d.0 == drive).count()
}

fn distinct(pg: &[DriveId], drives: &[Candidate]) -> bool {
    let nodes: BTreeSet<&String> = pg.iter().map(|d| &drives.iter().find(|c| c.id == *d).unwrap().node).collect();
    nodes.len() == pg.len()
}

#[test]
fn nothing_changes_where_nothing_has_to() {
    let drives = even(8, 2);
    let old = place(&plan(&drives)).unwrap();
    assert_eq!(place_from(&plan(&drives), &standing(&old)).unwrap(), old);
}

#[test]
fn a_new_drive_takes_its_share_and_nothing_else_moves() {
    let old = place(&plan(&even(4, 1))).unwrap();
    let drives = even(5, 1);
    let new = place_from(&plan(&drives), &standing(&old)).unwrap();
    let gained = slots(&new, 5);
    assert_eq!(changed(&old, &new), gained, "every change is one towards the new drive");
    assert!((75..=78).contains(&gained), "a fifth of 384 slots, got {gained}");
    assert!(new.iter().all(|pg| distinct(pg, &drives)));
}

#[test]
fn a_drive_that_leaves_gives_its_slots_away_and_the_others_keep_theirs() {
    let all = even(10, 2);
    let old = place(&plan(&all)).unwrap();
    let rest: Vec<Candidate> = all.iter().filter(|c| c.id.0 != 3).cloned().collect();
    let new = place_from(&plan(&rest), &standing(&old)).unwrap();
    assert_eq!(slots(&new, 3), 0);
    let least = slots(&old, 3);
    assert!(changed(&old, &new) <= least + least / 2, "{} for {least}", changed(&old, &new));
}

#[test]
fn a_closed_drive_keeps_its_slots_and_gets_none() {
    let drives = even(6, 1);
    let five = place(&plan(&drives[..5])).unwrap();
    let closed = [DriveId(6), DriveId(1)];
    let new = place_from(&plan(&drives), &Standing { pgs: &five, closed: &closed }).unwrap();
    assert_eq!(slots(&new, 6), 0);
    assert!(slots(&new, 1) <= slots(&five, 1));
}

#[test]
fn another_number_of_groups_is_refused() {
    let drives = even(4, 1);
    assert_eq!(place_from(&plan(&drives), &standing(&[])), Err(PlaceError::OtherPgCount));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn after_any_change_domains_are_distinct_and_placing_again_changes_nothing(
        weights in proptest::collection::vec(1u32..4, 12),
        before in proptest::collection::btree_set(0usize..12, 6..12),
        after in proptest::collection::btree_set(0usize..12, 6..12),
    ) {
        let all: Vec<Candidate> =
            weights.iter().enumerate().map(|(i, w)| candidate(i as u32 + 1, i as u32 / 2, *w)).collect();
        let some = |which: &BTreeSet<usize>| which.iter().map(|i| all[*i].clone()).collect::<Vec<_>>();
        let (first, second) = (some(&before), some(&after));
        let old = place(&plan(&first)).unwrap();
        let new = place_from(&plan(&second), &standing(&old)).unwrap();
        let width = second.iter().map(|c| &c.node).collect::<BTreeSet<_>>().len().min(3);
        for pg in &new {
            prop_assert_eq!(pg.len(), width);
            prop_assert!(distinct(pg, &second));
        }
        let again = place_from(&plan(&second), &standing(&new)).unwrap();
        prop_assert_eq!(changed(&new, &again), 0);
    }
}
