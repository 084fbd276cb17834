//! Switches for mutation testing: one rule of the protocol off at a time.
//!
//! They exist only with the cargo feature `mutations`, which release builds refuse; without
//! it `Rules::on` is a constant `true` that the compiler removes.

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("the feature `mutations` switches safety rules off and is refused in release builds");

/// A rule that the simulator can switch off, named as in the engine design.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Overlapping ranges do not run concurrently.
    W1,
    /// Joiners' acks are awaited, acks of one epoch only.
    W2,
    /// A write completes without a member only after the store removed it.
    StoreCasBeforeAck,
    /// Replicas check the epoch.
    R1,
    /// Replicas check the generation.
    R2,
    /// A joiner treats what it held before the join as void.
    R5,
    /// A duplicate is acked only when durable.
    R6b,
    /// An OK leaves only in the epoch of its request.
    R6c,
    /// SEAL replies count only in the map's epoch.
    A3,
    /// Roll-forward before ACTIVE.
    A4,
    /// ACTIVE only when every PG is rolled and the generation still stands.
    A5,
    /// SEAL waits for every stream.
    SealDrains,
    /// ADOPT re-stamps objects with entries above stable.
    AdoptRestamps,
    /// Resync: the source wins over everything older than the join.
    SourceWins,
    /// Reads need the lease.
    ReadLease,
    /// A beacon takes back what it lent when it meets another server process.
    MeetServer,
}

/// Which rules are in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    #[cfg(feature = "mutations")]
    off: Option<Rule>,
}

impl Rules {
    /// Every rule in force.
    pub const ALL: Rules = Rules {
        #[cfg(feature = "mutations")]
        off: None,
    };
    /// All but one.
    #[cfg(feature = "mutations")]
    pub fn without(rule: Rule) -> Rules {
        Rules { off: Some(rule) }
    }
    /// Whether `rule` is in force.
    #[inline]
    pub fn on(self, rule: Rule) -> bool {
        #[cfg(feature = "mutations")]
        {
            self.off != Some(rule)
        }
        #[cfg(not(feature = "mutations"))]
        {
            let _ = rule;
            true
        }
    }
}
