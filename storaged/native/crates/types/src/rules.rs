//! Switches for mutation testing: one rule of the protocol off at a time.
//!
//! They exist only with the cargo feature `mutations`, which release builds refuse; without
//! it `Rules::on` is a constant `true` that the compiler removes.

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!("the feature `mutations` switches safety rules off and is refused in release builds");

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A rule that the simulator can switch off, named as in the engine design.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// Every rule that has a name here.
            pub const EVERY: &'static [Rule] = &[$(Rule::$name,)*];
            /// The name, as commands take it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Rule::$name => stringify!($name),)*
                }
            }
        }
    };
}

rules! {
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
    // Replica
    /// A drive that adopted its own drop answers nobody.
    R3,
    /// A write is checked against the checksum of its sender.
    R4Csum,
    /// A write above the cut of a frozen layer is refused.
    R4Freeze,
    /// An older version never replaces a newer one.
    R5Order,
    /// An ack leaves only when the write is durable.
    R6,
    /// A stable value counts only from a sender whose map this drive has.
    R7,
    /// A ROLL says nothing about what is stable.
    RollStable,
    /// RECOVERED never lowers what is stable.
    RecoveredMax,
    /// The bound of granted space outlives a restart.
    GrantBound,
    /// A SEAL of the same generation and another nonce is refused.
    SealNonce,
    /// From the arrival of a SEAL on nothing older is admitted.
    SealStops,
    /// SEAL never answers with void blocks of a joiner.
    SealVoid,
    /// ADOPT as a joiner drains what runs.
    JoinDrains,
    /// A joiner applies the generations before it takes writes.
    JoinGens,
    /// Generations are asked for since the last applied revision.
    GensSince,
    /// The joiner's bits of arrived writes are rebuilt from the log.
    JoinBits,
    /// A copied chunk counts only when it is durable.
    CopyDurable,
    /// COPY stops above the reserve.
    CopySpace,
    /// A joiner never answers a READ of a client.
    ReadInSync,
    /// READ and ROLL of an attach reach joiners without a lease.
    RollFromJoiner,
    /// A drive that failed its peer check stays closed at later opens.
    DistrustStays,
    /// A promise to answer no reads that led to no drop is told, so that a new epoch ends it.
    QuietTold,
    /// A drive asks its peers at every open.
    PeerCheck,
    /// What a move left is freed only where the map neither wants nor remembers the drive.
    FreeUnwanted,
    /// And only while every place of the PG has a copy in sync.
    FreeWhole,
    /// And only by a map that is newer than anything the drive holds of the PG.
    FreeEpoch,
    /// That the copy counts for nothing is durable before the first block goes.
    FreeMark,
    /// A drive that freed its copy of a PG is blank there, whatever the map says.
    FreedBlank,
    // Sequencer
    /// The map of an attach is from after the bump of the generation.
    A1,
    /// An attach seals every member.
    A2Majority,
    /// An attach seals joiners too.
    A2Joiners,
    /// A device error at attach is not rot.
    A4Bad,
    /// A write starts only within the credits of every member.
    W0,
    /// A range stays locked until its answer is in the socket.
    W1Socket,
    /// Stable values go on while one write does not end.
    W3,
    /// Only an in-sync member that is full stops writes.
    FullInSync,
    /// STABLE is repeated until every member confirmed it.
    StableAgain,
    /// No STABLE before ACTIVE.
    StableZero,
    /// RETRY is followed by a pause that grows.
    Backoff,
    /// A write that a fence ended is not issued again by its shell.
    Requeue,
    /// What a layer lacks is asked of its own lineage.
    PresenceOwn,
    // Store
    /// A move of garbage collection compares the place it moves from.
    MoveCas,
    /// A segment is used again only when nobody reads it.
    ReuseWaits,
    /// A segment is used again only after a checkpoint without it.
    ReuseCkpt,
    /// What was acknowledged and does not check is rot, not a torn end.
    TornRotten,
    /// Replay follows the order of the log over all streams.
    ReplayOrder,
    /// An open segment that was cut is never appended to.
    CloseTails,
    /// A hole stays while a drive that is out may have the block.
    HoleStays,
    /// A hole stays until the stable value above it is durable.
    HoleDurable,
    /// A copied block above stable stays listed as unstable.
    CopyUnstable,
    // Membership and metadata
    /// A lease needs a slot that moved within its time.
    SlotFresh,
    /// A lease needs the highest map revision among the echoes.
    EchoMap,
    /// A lapsed lease comes back only after a ReadMap.
    LeaseReadMap,
    /// A beacon that was told to hold does not renew.
    Hold,
    /// A pause of the machine voids the lease.
    PauseVoids,
    /// A vote is a promise not to renew.
    VotePromise,
    /// A drop waits out the leases after the last vote.
    VoteWait,
    /// A drop compares the suspicion it was promised for.
    SuspectKey,
    /// A drop compares the leader's key.
    LeaderKey,
    /// Evidence of silence is young.
    EvidenceAge,
    /// A promotion compares the epoch of the join.
    PromoteEpoch,
    /// A drive is opened with the nonce of its last open.
    OpenNonce,
    // Metadata transactions
    /// A restarted consumer takes over only with its old nonce.
    ReAdopt,
    /// The list of voters changes by one at a time.
    OneVoter,
    /// The ticket is that of A1's transaction.
    TicketOfA1,
    /// A cut compares the generation.
    S1Gen,
    /// An attach finishes a cut that was begun.
    S4Finish,
    /// A drive refuses a metadata store older than it has seen.
    StoreRev,
    /// An order is done only when every drive that may hold data confirmed it.
    OrderWaits,
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
