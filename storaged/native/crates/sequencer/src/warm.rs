//! Which drive a lone reader asks: the one that answered it last is awake and has its caches warm.
//!
//! Only between drives that are equally near and equally loaded, and for a bounded number of reads
//! in a row: then another is asked, so that no drive is preferred for ever.

use crate::drive::Dx;

/// Reads in a row that one drive is preferred for: long beside a wake-up, short beside a second.
const RUN: u16 = 256;

/// The drive asked last.
#[derive(Debug, Default)]
pub(crate) struct Warm {
    drive: Option<Dx>,
    left: u16,
}

impl Warm {
    /// Order among equals: the drive asked last comes first, and last once its run is over.
    pub(crate) fn order(&self, dx: Dx) -> u8 {
        match (self.drive == Some(dx), self.left) {
            (false, _) => 1,
            (true, 0) => 2,
            (true, _) => 0,
        }
    }

    /// `dx` was asked.
    pub(crate) fn asked(&mut self, dx: Dx) {
        match self.order(dx) {
            0 => self.left -= 1,
            _ => *self = Warm { drive: Some(dx), left: RUN - 1 },
        }
    }
}
