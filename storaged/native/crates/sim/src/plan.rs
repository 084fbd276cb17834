//! What one seed does: its topology, its network and the random subset of faults it enables (swarm).

use crate::rng::Rng;
use crate::world::Time;

/// Faults a seed may enable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Fault {
    /// A server process is killed and started again.
    KillServer,
    /// A node loses power, then comes back.
    PowerCut,
    /// A server process stands still with its beacon.
    FreezeServer,
    /// The answering threads hang under a live beacon.
    HangReactor,
    /// A client dies and another attaches.
    CrashClient,
    /// Another client takes the volume while the old one lives on.
    StealVolume,
    /// A client stands still.
    FreezeClient,
    /// A one-way or two-way cut between two machines.
    Cut,
    /// A connection breaks.
    BreakConnection,
    /// A live drive is dropped after QUIESCE.
    RetireDrive,
    /// A drive is replaced by a blank one with a new id.
    BlankDrive,
    /// A drive becomes slow.
    SlowDrive,
    /// The leading manager stands still.
    FreezeManager,
    /// Bits flip on one copy, then a scrub.
    BitFlip,
    /// A volume is fenced without an attach.
    Fence,
    /// Not a fault, but as untimely: a volume gets a new head layer, its old one is frozen.
    NewHead,
    /// The block daemon of a volume's owner starts again and adopts its attachment.
    RestartClient,
    /// A node becomes a voter, or is one no more.
    ChangeVoters,
    /// An old backup of the metadata store is put back for a while.
    OldBackup,
    /// A drive comes back empty under its old id.
    WipedDrive,
    /// A drive comes back as it was before its last open.
    OlderImage,
    /// Two groups of machines do not hear each other.
    Partition,
    /// The links of a machine carry little.
    Clog,
    /// A node is a guest that stands still with its clock.
    StopClock,
    /// Reads of a drive fail for a while, or some of its sectors cannot be read until they are written again.
    ReadErrors,
    /// A write or a flush of a drive fails.
    WriteError,
    /// A write lands in another place.
    MisdirectedWrite,
    /// A write is acknowledged and not stored.
    StaleBlock,
    /// A drive calls durable what is only in its cache, then its node loses power.
    LyingCache,
    /// Headers, summaries, a checkpoint or superblocks of one drive are damaged.
    MetadataRot,
    /// Not a fault, but as untimely: a place of a PG goes to another drive.
    Move,
    /// A drive is away for longer than it is waited for: its places go to others, then it comes back.
    Recreate,
}

/// What changes places, drawn on its own as well.
pub const MOVES: [Fault; 2] = [Fault::Move, Fault::Recreate];

/// Every fault, for the swarm and for the "was it there" test.
pub const FAULTS: [Fault; 24] = [
    Fault::KillServer,
    Fault::PowerCut,
    Fault::FreezeServer,
    Fault::HangReactor,
    Fault::CrashClient,
    Fault::StealVolume,
    Fault::FreezeClient,
    Fault::Cut,
    Fault::BreakConnection,
    Fault::RetireDrive,
    Fault::BlankDrive,
    Fault::SlowDrive,
    Fault::FreezeManager,
    Fault::BitFlip,
    Fault::Fence,
    Fault::NewHead,
    Fault::RestartClient,
    Fault::ChangeVoters,
    Fault::OldBackup,
    Fault::WipedDrive,
    Fault::OlderImage,
    Fault::Partition,
    Fault::Clog,
    Fault::StopClock,
];

/// What goes wrong with single drives, beside those above: drawn on their own, so that they come in addition.
pub const DRIVE_FAULTS: [Fault; 6] = [
    Fault::ReadErrors,
    Fault::WriteError,
    Fault::MisdirectedWrite,
    Fault::StaleBlock,
    Fault::LyingCache,
    Fault::MetadataRot,
];

impl Fault {
    /// Name of its counter.
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillServer => "fault.kill_server",
            Fault::PowerCut => "fault.power_cut",
            Fault::FreezeServer => "fault.freeze_server",
            Fault::HangReactor => "fault.hang_reactor",
            Fault::CrashClient => "fault.crash_client",
            Fault::StealVolume => "fault.steal_volume",
            Fault::FreezeClient => "fault.freeze_client",
            Fault::Cut => "fault.cut",
            Fault::BreakConnection => "fault.break_connection",
            Fault::RetireDrive => "fault.retire_drive",
            Fault::BlankDrive => "fault.blank_drive",
            Fault::SlowDrive => "fault.slow_drive",
            Fault::FreezeManager => "fault.freeze_manager",
            Fault::BitFlip => "fault.bit_flip",
            Fault::Fence => "fault.fence",
            Fault::NewHead => "fault.new_head",
            Fault::RestartClient => "fault.restart_client",
            Fault::ChangeVoters => "fault.change_voters",
            Fault::OldBackup => "fault.old_backup",
            Fault::WipedDrive => "fault.wiped_drive",
            Fault::OlderImage => "fault.older_image",
            Fault::Partition => "fault.partition",
            Fault::Clog => "fault.clog",
            Fault::StopClock => "fault.stop_clock",
            Fault::ReadErrors => "fault.read_errors",
            Fault::WriteError => "fault.write_error",
            Fault::MisdirectedWrite => "fault.misdirected_write",
            Fault::StaleBlock => "fault.stale_block",
            Fault::LyingCache => "fault.lying_cache",
            Fault::MetadataRot => "fault.metadata_rot",
            Fault::Move => "fault.move",
            Fault::Recreate => "fault.recreate",
        }
    }
}

/// Settings of one seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Server nodes.
    pub nodes: usize,
    /// Drives per node.
    pub drives_per_node: usize,
    /// Copies.
    pub copies: usize,
    /// `min_insync` of the pool.
    pub min_insync: usize,
    /// PGs, a power of two.
    pub pgs: u32,
    /// Volumes.
    pub volumes: usize,
    /// Chunks per volume.
    pub chunks: u64,
    /// Blocks used of each chunk: few, so that requests collide.
    pub hot_blocks: u64,
    /// Drives hardly larger than what is written.
    pub small: bool,
    /// One node is lost at a time, and nothing else goes wrong.
    pub lone: bool,
    /// Slots of a drive.
    pub drive_slots: u64,
    /// Requests open per client at most.
    pub depth: usize,
    /// Mean pause between two requests of a client.
    pub think: Time,
    /// Virtual time of the faulty phase.
    pub span: Time,
    /// Client operations of the faulty phase at least.
    pub operations: u64,
    /// By how many millionths the clock of a machine runs too fast or too slow at most.
    pub drift: u64,
    /// Faults enabled.
    pub faults: Vec<Fault>,
    /// Faults of single drives enabled.
    pub drive_faults: Vec<Fault>,
    /// Changes of places enabled; without any, places are never given away for good.
    pub moves: Vec<Fault>,
    /// Mean pause between two faults.
    pub fault_every: Time,
    /// Longest turn of a drive's reactor: requests that arrive in one are flushed together; 0 = one each.
    pub turn: Time,
    /// Per mille of frames that arrive twice.
    pub duplicates: u64,
    /// Per mille of frames that overtake or are overtaken.
    pub reorder: u64,
    /// Per mille of frames that are late by up to `late`.
    pub delays: u64,
    /// Longest extra delay.
    pub late: Time,
    /// Per mille of datagrams lost.
    pub datagram_loss: u64,
    /// Per mille of store transactions whose reply is lost.
    pub lost_replies: u64,
    /// Per mille of store transactions that are slow (up to a second).
    pub slow_store: u64,
    /// Per mille of map pushes that do not arrive.
    pub lost_pushes: u64,
    /// Beacons are processes of their own: they outlive their server process, and are outlived by it.
    pub beacon_process: bool,
}

/// Faults that cost one node at a time.
pub(crate) const LONE: [Fault; 4] = [Fault::KillServer, Fault::PowerCut, Fault::FreezeServer, Fault::HangReactor];

/// The naive store has no bytes that could be damaged.
fn drive_faults(seed: u64) -> Vec<Fault> {
    let mut r = Rng::new(seed).fork(6);
    DRIVE_FAULTS.into_iter().filter(|_| r.chance(450) && !cfg!(feature = "naive")).collect()
}

fn moves(seed: u64) -> Vec<Fault> {
    let mut r = Rng::new(seed).fork(8);
    MOVES.into_iter().filter(|_| r.chance(450)).collect()
}

impl Plan {
    /// The plan of a seed. In some, one node at a time is lost, nothing else goes wrong, and the cluster is
    /// whole again before the next: there a request may hardly ever wait for long.
    pub fn of_seed(seed: u64) -> Plan {
        let plan = Plan::drawn(seed);
        let lone = Rng::new(seed).fork(5).chance(60) && !plan.small && plan.copies == 3;
        if !lone {
            return plan;
        }
        Plan {
            lone: true,
            faults: LONE.to_vec(),
            drive_faults: Vec::new(),
            moves: Vec::new(),
            fault_every: 12_000_000,
            min_insync: 2,
            duplicates: 0,
            reorder: 0,
            delays: 0,
            datagram_loss: 0,
            lost_replies: 0,
            slow_store: 0,
            lost_pushes: 0,
            ..plan
        }
    }

    fn drawn(seed: u64) -> Plan {
        let mut r = Rng::new(seed).fork(1);
        let nodes = 3 + r.index(2);
        let copies = if r.chance(800) { 3 } else { 2 };
        let faults: Vec<Fault> = FAULTS.into_iter().filter(|_| r.chance(450)).collect();
        let faults = if faults.len() < 3 { FAULTS[..6].to_vec() } else { faults };
        // Small drives get every PG and a workload that fits, because a full cluster can not heal.
        let small = r.chance(150);
        let (nodes, drives_per_node) = if small { (copies, 1) } else { (nodes, 1 + r.index(2)) };
        let (volumes, chunks) = (1 + r.index(3), r.range(3, 8));
        let hot_blocks = [8, 16, 40, 64][r.index(4)];
        // Each head keeps its blocks: a small drive would only fill up.
        let faults: Vec<Fault> = faults.into_iter().filter(|f| !(small && *f == Fault::NewHead)).collect();
        let live_max = volumes as u64 * chunks * (hot_blocks + 8);
        let on = |r: &mut Rng, max: u64| if r.chance(600) { r.range(1, max) } else { 0 };
        Plan {
            nodes,
            drives_per_node,
            copies,
            small,
            lone: false,
            min_insync: if r.chance(700) { 2.min(copies) } else { 1 },
            pgs: [2, 4, 8][r.index(3)],
            volumes,
            chunks,
            hot_blocks,
            // Every head keeps its blocks, so what has many of them needs the room.
            drive_slots: match (small, faults.contains(&Fault::NewHead)) {
                (true, _) => live_max + live_max / 8 + r.range(500, 900),
                (false, true) => 60_000,
                (false, false) => 16_384,
            },
            depth: [1, 4, 8, 16][r.index(4)],
            think: r.range(8_000, 40_000),
            span: 60_000_000,
            operations: 2000,
            fault_every: r.range(600_000, 3_000_000),
            drift: 10_000,
            faults,
            drive_faults: drive_faults(seed),
            moves: if small || nodes * drives_per_node <= copies { Vec::new() } else { moves(seed) },
            turn: [0, 10, 60][r.index(3)],
            duplicates: on(&mut r, 40),
            reorder: on(&mut r, 60),
            delays: on(&mut r, 40),
            late: [2_000, 30_000, 400_000][r.index(3)],
            datagram_loss: on(&mut r, 100),
            lost_replies: on(&mut r, 150),
            slow_store: on(&mut r, 100),
            lost_pushes: on(&mut r, 400),
            beacon_process: r.chance(500),
        }
    }

    /// A quiet world for a scripted scenario: three nodes, one PG, one volume, no faults of its own.
    pub fn quiet() -> Plan {
        Plan {
            nodes: 3,
            drives_per_node: 1,
            copies: 3,
            min_insync: 1,
            pgs: 1,
            volumes: 1,
            chunks: 2,
            hot_blocks: 4,
            small: false,
            lone: false,
            drive_slots: 16_384,
            depth: 1,
            think: 1_000_000,
            span: 0,
            operations: 0,
            faults: Vec::new(),
            drive_faults: Vec::new(),
            moves: Vec::new(),
            fault_every: Time::MAX,
            drift: 0,
            turn: 0,
            duplicates: 0,
            reorder: 0,
            delays: 0,
            late: 0,
            datagram_loss: 0,
            lost_replies: 0,
            slow_store: 0,
            lost_pushes: 0,
            beacon_process: false,
        }
    }
}
