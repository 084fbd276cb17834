//! What is known of one drive: connection, credits, ticket, and the control requests to it.

use drystone_types::consts::Micros;
use drystone_types::DriveId;

/// Index of a drive in `Sequencer::drives`.
pub(crate) type Dx = u16;

/// Control requests, one open of each kind per drive.
pub(crate) const SEAL: u8 = 0;
/// New ticket.
pub(crate) const LAYER: u8 = 1;
/// Recovery is complete.
pub(crate) const RECOVERED: u8 = 2;
/// `stable` alone, and the poll of credits.
pub(crate) const STABLE: u8 = 3;
/// Freeze the old head.
pub(crate) const FREEZE: u8 = 4;
/// Kinds of control requests.
pub(crate) const CTLS: u8 = 5;

/// State of one kind of control request to one drive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ctl {
    /// An OK is still wanted.
    pub(crate) want: bool,
    /// Round of the open or last request.
    pub(crate) round: u32,
    /// Whether an answer may still come.
    pub(crate) open: bool,
    /// When it was first wanted without an answer.
    pub(crate) since: Micros,
    /// Back-offs taken.
    pub(crate) tries: u8,
    /// Which of the other drives is asked next to ask it.
    pub(crate) turn: u8,
}

/// One drive.
#[derive(Debug)]
pub(crate) struct Drive {
    pub(crate) id: DriveId,
    pub(crate) up: bool,
    /// It did not answer over its own connection, and did over another's: the others are asked first.
    pub(crate) mute: bool,
    /// The drive through which its last answer came that did not come over its own connection.
    pub(crate) around: Option<DriveId>,
    pub(crate) refused: bool,
    /// When it last answered over its own connection, or that came up.
    pub(crate) direct_at: Micros,
    pub(crate) nonce: u64,
    /// Requests of later rounds were sent when this process was known: their answers are its own, or a later one's.
    pub(crate) nonce_round: u32,
    /// Cumulative slots granted, wrapping.
    pub(crate) granted: u32,
    /// Cumulative slots used or given back, wrapping.
    pub(crate) used: u32,
    /// Its last word on space was FULL.
    pub(crate) full: bool,
    /// Some write waits for its credits: later ones must not overtake (a large write would starve).
    pub(crate) starved: bool,
    pub(crate) polling: bool,
    /// Slots given back (in `used` already) that the next STABLE tells.
    pub(crate) give_back: u32,
    /// Slots in the open STABLE.
    pub(crate) give_sent: u32,
    /// Serial of the ticket it has persisted for this generation.
    pub(crate) ticket: Option<u32>,
    /// Serial in the last SEAL or LAYER sent to it.
    pub(crate) ticket_sent: u32,
    pub(crate) ctl: [Ctl; CTLS as usize],
    /// Highest sequence number sent to it.
    pub(crate) max_seq: u64,
    /// `stable` of its last acknowledged STABLE.
    pub(crate) stable_acked: u64,
    /// `stable` in the open STABLE.
    pub(crate) stable_sent: u64,
    pub(crate) reads_open: u32,
    /// Position in the list of near drives.
    pub(crate) rank: u16,
    /// No further report before this.
    pub(crate) report_at: Micros,
    /// Writes (index, round, member) that wait for its ticket or credit.
    pub(crate) waiters: Vec<(u32, u32, u8)>,
}

impl Drive {
    pub(crate) fn new(id: DriveId, rank: u16) -> Self {
        Drive {
            id,
            rank,
            up: false,
            mute: false,
            around: None,
            refused: false,
            direct_at: 0,
            nonce: 0,
            nonce_round: 0,
            granted: 0,
            used: 0,
            full: false,
            starved: false,
            polling: false,
            give_back: 0,
            give_sent: 0,
            ticket: None,
            ticket_sent: 0,
            ctl: [Ctl::default(); CTLS as usize],
            max_seq: 0,
            stable_acked: 0,
            stable_sent: 0,
            reads_open: 0,
            report_at: 0,
            waiters: Vec::new(),
        }
    }

    /// Whether a request goes to it over its own connection first.
    pub(crate) fn direct(&self) -> bool {
        self.up && !self.mute
    }

    /// Credits not used.
    pub(crate) fn free(&self) -> u32 {
        self.granted.wrapping_sub(self.used)
    }

    pub(crate) fn ctl(&self, kind: u8) -> Ctl {
        self.ctl.get(usize::from(kind)).copied().unwrap_or_default()
    }

    pub(crate) fn ctl_mut(&mut self, kind: u8) -> Option<&mut Ctl> {
        self.ctl.get_mut(usize::from(kind))
    }
}
