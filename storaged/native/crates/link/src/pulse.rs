//! Whether the other end of a connection still lives: asked with a PING when requests stay unanswered, given up when
//! that stays unanswered too. Without it a cut that nobody tells of (packets just vanish) would leave the connection
//! to the kernel, which tries ever more rarely: up to two minutes after the network is back.

use drystone_types::consts::Micros;

/// Time between two beats. Only while something is asked and not answered does a clock run at all.
pub(crate) const BEAT: Micros = 250_000;
/// Beats without a word until PING: a second, so that a drive that is just busy is not asked in vain.
const PING_AT: u8 = 5;
/// Beats without a word until the connection is given up: two seconds more, many times the time of an answer.
const DEAD_AT: u8 = PING_AT + 8;

/// What a beat leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Beat {
    /// Nothing is asked: no further beat is needed.
    Calm,
    /// Too early to tell.
    Wait,
    /// Ask whether it lives.
    Ping,
    /// It does not.
    Dead,
}

/// One connection. It counts beats and reads no clock: a process that stood still itself comes back to one beat, not
/// to a verdict about everybody else.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pulse {
    asked: bool,
    beats: u8,
}

impl Pulse {
    /// A frame went out.
    pub(crate) fn sent(&mut self) {
        self.asked = true;
    }
    /// A frame came in.
    pub(crate) fn heard(&mut self) {
        *self = Pulse::default();
    }
    /// A beat passed.
    pub(crate) fn beat(&mut self) -> Beat {
        if !self.asked {
            return Beat::Calm;
        }
        self.beats = self.beats.saturating_add(1);
        match self.beats {
            PING_AT => Beat::Ping,
            n if n >= DEAD_AT => Beat::Dead,
            _ => Beat::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered_is_asked_once_and_then_given_up() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.beat(), Beat::Calm);
        pulse.sent();
        let beats: Vec<Beat> = (0..DEAD_AT).map(|_| pulse.beat()).collect();
        assert_eq!(beats.iter().filter(|b| **b == Beat::Ping).count(), 1);
        assert_eq!(beats.iter().position(|b| *b == Beat::Ping), Some(usize::from(PING_AT) - 1));
        assert_eq!(beats.iter().position(|b| *b == Beat::Dead), Some(usize::from(DEAD_AT) - 1));
    }

    #[test]
    fn any_word_of_the_other_end_begins_anew() {
        let mut pulse = Pulse::default();
        for _ in 0..100 {
            pulse.sent();
            assert!((1..PING_AT).all(|_| pulse.beat() == Beat::Wait));
            pulse.heard();
        }
        assert_eq!(pulse.beat(), Beat::Calm);
    }
}
