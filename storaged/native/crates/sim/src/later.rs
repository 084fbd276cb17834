//! Scenarios of engine §4.11 and §13 whose mechanism is not built yet, or lies outside this simulator.
//!
//! A test fails when a source file with the named word appears while its scenario is still here.

/// A scenario that cannot be played yet.
#[derive(Clone, Copy, Debug)]
pub struct Later {
    /// Name, as in the engine design.
    pub name: &'static str,
    /// Why not.
    pub reason: &'static str,
    /// Word in the name of a source file that will hold the mechanism; empty = never in this simulator.
    pub file: &'static str,
}

const fn later(name: &'static str, file: &'static str, reason: &'static str) -> Later {
    Later { name, reason, file }
}

/// All of them.
pub const LATER: [Later; 9] = [
    later("P6 a merge while a joiner copies", "merge", "layers are not merged yet"),
    later("P7 snapshot of a crashed volume", "snapshot", "snapshots of a manager; the switch of heads is played"),
    later("P18 the target of a migration fences its source", "ownership", "two attachments of one volume"),
    later("P22 ROLL into a merged layer", "merge", "layers are not merged yet; its order of tests is R4's"),
    later(
        "B5 an order forgotten while a member is away",
        "merge",
        "an order that waits is played; what forgets it is the merge",
    ),
    later("gateway failover with a late write", "gateway", "no gateways yet"),
    later("snapshot cut with writes on 1000 PGs", "snapshot", "as P7"),
    later("EC swap racing an overwrite", "erasure", "no erasure coding yet"),
    later("PG split during join", "split", "PGs are not split yet"),
];
