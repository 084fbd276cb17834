//! The loop: take answers, tell the handler, hand over what it started, sleep.

use crate::config::{Config, SetupError};
use crate::ctx::Ctx;
use crate::op::{OpResult, UserToken};
use crate::remote::{channel, Inbox, Remote};
use crate::ring::{Answer, Wait};
use crate::spin::Spin;
use crate::sys;
use crate::timers::TimerId;
use core::fmt;
use std::collections::VecDeque;
use std::io;
use std::thread::JoinHandle;

/// Timers due in one turn before completions are looked at again: a storm of timers cannot
/// starve the sockets.
const TIMERS_PER_TURN: usize = 1024;

/// Up to this many requests under way a wake-up is latency that somebody waits for.
const SHALLOW: usize = 3;
/// Giving way takes under a microsecond when nobody wants the CPU; two switches take more than this.
const OTHERS_RAN_US: u64 = 3;

/// The program's side of a reactor. All calls come from the reactor's thread, one at a time.
pub trait Handler {
    /// What other threads may ask for.
    type Command: Send;
    /// A command from a [`Remote`].
    fn on_command(&mut self, cx: &mut Ctx, command: Self::Command);
    /// An operation ended, a connection came in, or a descriptor is closed.
    fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult);
    /// A timer is due.
    fn on_timer(&mut self, cx: &mut Ctx, timer: TimerId, token: UserToken);
    /// Everything that was ready has been delivered; what is started now still goes to the
    /// kernel in this turn's one system call. The place to flush queues.
    fn on_turn_end(&mut self, cx: &mut Ctx);
    /// Requests under way. With more than a few of them wake-ups hide behind each other, and looking
    /// for work instead of sleeping only costs CPU time.
    fn depth(&self) -> usize {
        0
    }
}

/// The loop could not go on: the kernel refused the ring itself.
#[derive(Debug)]
pub struct RunError(pub io::Error);

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the io_uring loop failed: {}", self.0)
    }
}

impl std::error::Error for RunError {}

/// One thread's event loop around a handler.
pub struct Reactor<H: Handler> {
    cx: Ctx,
    handler: H,
    inbox: Inbox<H::Command>,
    commands: VecDeque<H::Command>,
    answers: Vec<Answer>,
    spin: Spin,
    /// The last turn had work, so more is likely: the only time when spinning pays.
    busy: bool,
}

impl<H: Handler> Reactor<H> {
    /// Sets up the ring on the calling thread, which is the one that must run it, and builds the
    /// handler, which may start its first operations.
    pub fn new(
        config: Config,
        inbox: Inbox<H::Command>,
        build: impl FnOnce(&mut Ctx) -> H,
    ) -> Result<Reactor<H>, SetupError> {
        let mut cx = Ctx::new(&config)?;
        cx.start_wake(inbox.wake_fd());
        let handler = build(&mut cx);
        Ok(Reactor {
            cx,
            handler,
            inbox,
            commands: VecDeque::new(),
            answers: Vec::new(),
            spin: Spin::new(config.spin_us),
            busy: false,
        })
    }

    /// Runs until [`Ctx::stop`]; returns the handler.
    pub fn run(mut self) -> Result<H, RunError> {
        loop {
            self.turn();
            if self.cx.stopping {
                return Ok(self.handler);
            }
            self.enter().map_err(RunError)?;
        }
    }

    /// Delivers everything that is ready.
    fn turn(&mut self) {
        self.cx.turns += 1;
        let now_us = self.cx.refresh_now();
        self.cx.ring.take_answers(&mut self.answers);
        self.busy = !self.answers.is_empty();
        let mut answers = std::mem::take(&mut self.answers);
        for answer in answers.drain(..) {
            if self.cx.on_answer(answer) {
                self.cx.start_wake(self.inbox.wake_fd());
            }
            self.deliver_ready();
        }
        self.answers = answers;
        self.deliver_commands();
        for _ in 0..TIMERS_PER_TURN {
            let Some((timer, token)) = self.cx.timers.pop(now_us) else {
                break;
            };
            self.busy = true;
            self.handler.on_timer(&mut self.cx, timer, token);
        }
        self.deliver_ready();
        self.handler.on_turn_end(&mut self.cx);
    }

    /// What is ready now, not what these deliveries make ready: those wait for the next turn,
    /// so a handler that always fails and retries cannot hold the loop.
    fn deliver_ready(&mut self) {
        for _ in 0..self.cx.ready.len() {
            let Some((token, result)) = self.cx.ready.pop_front() else {
                return;
            };
            self.handler.on_completion(&mut self.cx, token, result);
        }
    }

    fn deliver_commands(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        self.inbox.drain(&mut commands);
        self.busy |= !commands.is_empty();
        for command in commands.drain(..) {
            self.handler.on_command(&mut self.cx, command);
        }
        self.commands = commands;
    }

    fn wait(&mut self) -> Wait {
        if !self.cx.ready.is_empty() || self.inbox.has_waiting() {
            return Wait::No;
        }
        match self.cx.timers.next_deadline() {
            None => Wait::Forever,
            Some(deadline) => match deadline.saturating_sub(sys::now_us()) {
                0 => Wait::No,
                left => Wait::AtMostUs(left),
            },
        }
    }

    fn enter(&mut self) -> io::Result<()> {
        let mut wait = self.wait();
        let shallow = self.busy && self.handler.depth() <= SHALLOW;
        if wait != Wait::No && shallow && self.spin.window_us() > 0 {
            if self.cx.ring.has_unsubmitted() {
                self.cx.ring.enter(Wait::No)?;
            }
            if self.look_for_work() {
                wait = Wait::No;
            }
        }
        if wait != Wait::No && !self.inbox.may_sleep() {
            wait = Wait::No;
        }
        if wait != Wait::No {
            let before = sys::now_us();
            self.cx.ring.enter(wait)?;
            if shallow {
                self.spin.slept(sys::now_us().saturating_sub(before));
            }
        } else if self.cx.ring.needs_enter() {
            self.cx.ring.enter(wait)?;
        }
        self.inbox.awake();
        Ok(())
    }

    /// Looks for work until the window is over; says whether there is some. This only replaces the
    /// sleep of a CPU: as soon as somebody else has used the CPU in between, it would not sleep
    /// anyway, and looking would take time from those who have work.
    fn look_for_work(&mut self) -> bool {
        let mut now = sys::now_us();
        let until = now + self.spin.window_us();
        while now < until {
            for _ in 0..16 {
                if self.cx.ring.has_answers() || self.inbox.has_waiting() {
                    return true;
                }
                if self.cx.ring.has_deferred() {
                    // Waiting does this work first, and sleeps only if no answer comes of it: the next
                    // piece of a large receive is no reason to leave the kernel.
                    return false;
                }
                std::hint::spin_loop();
            }
            let before = sys::now_us();
            std::thread::yield_now();
            now = sys::now_us();
            if now - before >= OTHERS_RAN_US {
                return self.cx.ring.has_answers() || self.inbox.has_waiting();
            }
        }
        false
    }
}

/// Starts a reactor on a thread of its own; the handler is built, lives and dies there. Set-up
/// errors come back here, not on the thread.
pub fn spawn<H, B>(name: &str, config: Config, build: B) -> Result<(Remote<H::Command>, Running), SetupError>
where
    H: Handler + 'static,
    H::Command: 'static,
    B: FnOnce(&mut Ctx) -> H + Send + 'static,
{
    let (remote, inbox) = channel()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let reactor = match Reactor::new(config, inbox, build) {
            Ok(reactor) => {
                let _ = ready.send(Ok(()));
                reactor
            }
            Err(e) => {
                let _ = ready.send(Err(e));
                return Err(RunError(io::Error::other("the reactor was not set up")));
            }
        };
        reactor.run().map(drop)
    })?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok((remote, thread)),
        Ok(Err(e)) => Err(e),
        Err(_) => Err(SetupError::Io(io::Error::other("the reactor thread ended during set-up"))),
    }
}

/// The thread of [`spawn`].
pub type Running = JoinHandle<Result<(), RunError>>;
