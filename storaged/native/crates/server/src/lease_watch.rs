//! The server's eye on a lease page that another process writes: what the beacon asks for becomes news.

use drystone_reactor::{spawn, Config, Ctx, Handler, OpResult, Remote, Running, SetupError, TimerId, UserToken};
use drystone_types::consts::Micros;
use drystone_types::Rev;

use crate::events::{EventSink, ServerEvent};
use crate::lease::LeasePage;
use crate::lease_file::Seat;

/// As often as an idle drive's thread moves its slot: a lapsed lease comes back a little later, an idle node
/// wakes ten times a second for it.
const LOOK: Micros = 100_000;
/// Looks between two at the file itself: once a second.
const LOOKS_PER_SEAT: u32 = 10;

/// What the process tells the watch.
pub enum WatchCommand {
    /// End.
    Stop,
}

struct LeaseWatch {
    page: LeasePage,
    seat: Seat,
    events: EventSink,
    wanted: u64,
    quorum: bool,
    looks: u32,
    lost: bool,
}

/// Starts to watch; page and seat are those of [`crate::lease_file::attach_server`].
pub fn spawn_watch(
    page: LeasePage,
    seat: Seat,
    events: EventSink,
) -> Result<(Remote<WatchCommand>, Running), SetupError> {
    spawn("lease-watch", Config::default(), move |cx| {
        cx.timer(LOOK, UserToken::new(0, 0));
        let wanted = page.map_wanted();
        LeaseWatch { page, seat, events, wanted, quorum: false, looks: 0, lost: false }
    })
}

impl Handler for LeaseWatch {
    type Command = WatchCommand;

    fn on_command(&mut self, cx: &mut Ctx, command: WatchCommand) {
        match command {
            WatchCommand::Stop => {
                self.page.leave();
                cx.stop();
            }
        }
    }

    fn on_completion(&mut self, _: &mut Ctx, _: UserToken, _: OpResult) {}

    fn on_timer(&mut self, cx: &mut Ctx, _: TimerId, token: UserToken) {
        cx.timer(LOOK, token);
        let wanted = self.page.map_wanted();
        if core::mem::replace(&mut self.wanted, wanted) != wanted {
            self.events.put(ServerEvent::NeedMap { at_least: Rev(0) });
        }
        let quorum = self.page.in_quorum();
        if core::mem::replace(&mut self.quorum, quorum) != quorum {
            self.events.put(ServerEvent::Quorum(quorum));
        }
        self.looks = (self.looks + 1) % LOOKS_PER_SEAT;
        if self.looks == 0 && !self.lost && !self.seat.is_current() {
            self.lost = true;
            self.events.put(ServerEvent::LeasePageLost);
        }
    }

    fn on_turn_end(&mut self, _: &mut Ctx) {}
}
