//! Some cells of the corruption matrix; `sim --matrix` plays all of them.
#![cfg(not(feature = "naive"))]

use drystone_sim::matrix::{cells, play, Part};

#[test]
fn damage_of_every_structure_is_met_and_healed_without_a_wrong_byte() {
    // Each structure four or five times, each damage, one and two copies, running and across a restart.
    let some: Vec<_> = cells().into_iter().enumerate().filter(|(n, _)| n % 9 < 2).map(|(_, cell)| cell).collect();
    let parts = [Part::Data, Part::Header, Part::Summary, Part::Checkpoint, Part::Superblock];
    assert!(parts.iter().all(|part| some.iter().filter(|c| c.part == *part).count() >= 4));
    for cell in some {
        let outcome = play(cell);
        assert_eq!(outcome.wrong, None, "{cell:?}");
        assert!(outcome.sectors > 0 && outcome.met + outcome.replaced > 0 && outcome.reads > 0, "{cell:?} {outcome:?}");
    }
}
