//! What a drive remembers of volumes, PGs and requests in flight.

use std::sync::Arc;

use drystone_store::api::Unstable;
use drystone_types::consts::Micros;
use drystone_types::{Epoch, Frame, Gen, Header, LayerId, ObjKey, PgId, PgRecord, Ticket, Version, VolumeId};

use crate::api::PeerId;
use crate::credits::Grant;
use crate::resync::Resync;

/// One volume on this drive.
#[derive(Default)]
pub(crate) struct Vol {
    /// The only generation that is admitted (R2).
    pub sealed: Gen,
    /// Attachment nonce of that generation; 0 after a fence or when only the store told it.
    pub nonce: u64,
    /// Ticket of the owner, as sealed.
    pub ticket: Option<Arc<Ticket>>,
    /// Its signed bytes, for the SEAL record.
    pub ticket_bytes: Vec<u8>,
    /// Seals that are not durable yet: nothing is admitted meanwhile.
    pub sealing: u32,
    /// Everything up to here is on all members (R7).
    pub stable: Version,
    /// The value that is durable on this drive.
    pub stable_logged: Version,
    /// Waits in the queue of values to log.
    pub stable_dirty: bool,
    /// Credits.
    pub grant: Grant,
}

/// How this drive takes part in a PG.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Not a member.
    Out,
    /// In sync.
    InSync,
    /// Joining since this epoch.
    Joining(Epoch),
}

/// One PG of which this drive is a member.
pub(crate) struct Pg {
    /// Adopted record.
    pub rec: PgRecord,
    /// Role by that record.
    pub role: Role,
    /// A join was seen in the map but what was admitted before it is not durable yet.
    pub draining: bool,
    /// Generations of the store are not applied yet: answer RETRY. Holds the revision that
    /// the list must have reached.
    pub need_generations: Option<u64>,
    /// The peer check of this open has not ended.
    pub checking: bool,
    /// Re-stamping of this epoch is durable when this admission is (`AdoptRestamps`).
    pub gate: Option<u64>,
    /// No reads until an epoch later than this one.
    pub quiesced: Epoch,
    /// The copy, when joining.
    pub resync: Option<Box<Resync>>,
    /// The adopted epoch is not logged yet.
    pub dirty: bool,
}

impl Pg {
    pub(crate) fn epoch(&self) -> Epoch {
        self.rec.epoch
    }
}

/// Something that ends when its last awaited admission is durable, or a store answer comes.
pub(crate) struct Op {
    /// Durable events still awaited.
    pub left: u32,
    /// What then.
    pub then: Then,
}

/// The end of an operation.
pub(crate) enum Then {
    /// OK of a WRITE, TRIM, ZERO or ROLL.
    WriteOk { peer: PeerId, hdr: Box<Header> },
    /// OK of LAYER or FREEZE.
    Persisted { peer: PeerId, hdr: Box<Header> },
    /// The streams are drained: log the seal.
    SealDrained(Box<SealJob>),
    /// The seal is durable: answer.
    SealDurable(Box<SealJob>),
    /// What was admitted before the join is durable.
    JoinDrained(Vec<PgId>),
    /// The stable value of a volume is logged.
    StableLogged(VolumeId, Version),
    /// A higher bound of grants is logged.
    GrantLogged { vol: VolumeId, gen: Gen, bound: u64, window: u64 },
    /// READ.
    Read { peer: PeerId, hdr: Box<Header>, lineage: VolumeId, chain: Vec<LayerId> },
    /// READ+ROLL.
    ReadRoll { peer: PeerId, hdr: Box<Header> },
    /// DIGEST chunk or SCRUB of a peer.
    SourceDigest { peer: PeerId, hdr: Box<Header> },
    /// COPY of a peer: its digest.
    SourceCopy(u64),
    /// COPY of a peer: the data of one run.
    SourceCopyData { job: u64, run: usize },
    /// Our own digest of a chunk in resync.
    OwnDigest { pg: PgId, job: u64 },
    /// So many bytes of a copy are durable.
    ResyncLogged(u64),
    /// Everything copied is durable.
    CopyDrained { pg: PgId, join: Epoch, epoch: Epoch },
    /// Our own digest of a chunk that is compared.
    CompareDigest(u64),
    /// Our own copy of a block of one version and two checksums.
    CompareRead(u64),
    /// Our digest of a block that wants repair.
    RepairDigest(ObjKey, u16),
    /// The healed block is durable.
    RepairDone(ObjKey, u16),
    /// Our digest for the peer check of a PG.
    CheckDigest { pg: PgId, expect: Vec<CheckItem>, trimmed: bool },
    /// A PEER_CHECK request of a peer waits for digests.
    AnswerCheckDigest { job: u64, items: Vec<CheckItem> },
    /// QUIESCE is durable.
    QuiesceLogged { pg: PgId, epoch: Epoch, who: Asker },
    /// An order to free a layer is durable.
    LayerFreed { id: u64, layer: LayerId },
    /// A step of the freeing of a PG is durable.
    FreeStep(u64),
    /// A control request ends.
    Control(u64),
}

/// One version that a peer check asks for: its place in the answer, and where it is.
pub(crate) type CheckItem = (usize, LayerId, u16, Version);

/// Who waits for an answer that a frame or a control request can ask for.
pub(crate) enum Asker {
    /// A peer.
    Peer(PeerId, Box<Header>),
    /// The process.
    Control(u64),
}

/// A SEAL or FENCE on its way.
pub(crate) struct SealJob {
    /// Volume.
    pub vol: VolumeId,
    /// Generation being sealed.
    pub gen: Gen,
    /// Who asked.
    pub who: Asker,
    /// FENCE answers no entries.
    pub fence: bool,
    /// Pools whose PGs are listed.
    pub pools: Vec<drystone_types::PoolId>,
}

/// A request parked for a newer map.
pub(crate) struct Parked {
    /// When it is answered with what is known then.
    pub deadline: Micros,
    /// Who.
    pub peer: PeerId,
    /// What.
    pub frame: Frame,
}

/// Why a request is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// R1, R3.
    NackEpoch,
    /// R2.
    NackGen,
    /// The sender knows a newer map: wait for it.
    Park,
    /// Not now.
    Retry,
    /// Ticket, layer or size unknown here.
    NeedTicket,
    /// Contradicts the protocol.
    Invalid,
    /// Not allowed.
    Denied,
    /// No space.
    Full,
    /// The drive cannot.
    Eio,
}

/// Key order of unstable entries in a SEAL answer.
pub(crate) fn entry_order(e: &Unstable) -> (PgId, LayerId, u64, u16) {
    (e.pg, e.key.layer, e.key.chunk, e.block)
}
