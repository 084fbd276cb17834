//! Each rule of the drop policy switched off has an effect that the rule prevents. Built with the feature only.
#![cfg(feature = "mutations")]
#![allow(missing_docs)]

use drystone_membership::{DropPolicy, Evidence, PolicyAction};
use drystone_types::{Rule, Rules, Uuid};

const fn id(n: u8) -> Uuid {
    Uuid([n; 16])
}

#[test]
fn without_evidence_age_voters_that_were_never_silent_together_make_a_suspicion() {
    for (rules, suspected) in [(Rules::ALL, false), (Rules::without(Rule::EvidenceAge), true)] {
        let mut policy = DropPolicy::new(vec![id(0), id(1), id(2)]).with_rules(rules);
        let mut out = Vec::new();
        policy.learn(1_000_000, Evidence::Silent { node: id(2), voter: id(0) }, &mut out);
        policy.tick(1_100_000, &mut out);
        // The first voter was not heard of since.
        let later = 600_000_000;
        policy.learn(later, Evidence::Silent { node: id(2), voter: id(1) }, &mut out);
        policy.tick(later, &mut out);
        assert_eq!(out.contains(&PolicyAction::WriteSuspect(id(2))), suspected);
    }
}
