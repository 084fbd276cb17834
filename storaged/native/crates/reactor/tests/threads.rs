//! Commands from other threads, timers, sleeping and ending.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod common;

use common::*;
use drystone_reactor::{channel, spawn, Config, Ctx, Handler, OpResult, Remote, SendError, TimerId, UserToken};
use drystone_types::BufMut;
use std::cell::RefCell;
use std::sync::mpsc;

fn senders(remote: &Remote<u64>, threads: u64, each: u64) {
    for t in 0..threads {
        let remote = remote.clone();
        std::thread::spawn(move || (0..each).for_each(|i| remote.send(t * 1_000_000 + i).unwrap()));
    }
}

fn all_arrive_in_order(config: Config) {
    const EACH: u64 = 5000;
    let mut next = [0u64; 4];
    run_with(
        config,
        |_, remote| senders(&remote, 4, EACH),
        |cx, what| {
            let What::Command(command) = what else { return };
            let (thread, i) = ((command / 1_000_000) as usize, command % 1_000_000);
            assert_eq!(next[thread], i);
            next[thread] += 1;
            if next == [EACH; 4] {
                cx.stop();
            }
        },
    );
}

#[test]
fn commands_of_each_thread_arrive_once_and_in_order() {
    all_arrive_in_order(Config::default());
}

#[test]
fn spinning_before_sleeping_loses_no_command() {
    all_arrive_in_order(Config { spin_us: 50, ..Config::default() });
}

#[test]
fn a_command_to_an_ended_reactor_comes_back() {
    let (remote, inbox) = channel::<u64>().unwrap();
    remote.send(1).unwrap();
    drop(inbox);
    assert_eq!(remote.send(2), Err(SendError::Gone(2)));
}

#[test]
fn a_queue_that_nobody_drains_is_full_at_some_point() {
    let (remote, _inbox) = channel::<u64>().unwrap();
    let refused = (0..1_000_000).find_map(|i| remote.send(i).err());
    assert_eq!(refused, Some(SendError::Full(65_536)));
}

#[test]
fn timers_fire_in_order_and_not_before_their_time() {
    let fired = RefCell::new(Vec::new());
    let start = |cx: &mut Ctx, _| {
        for delay in [3000, 1000, 2000] {
            cx.timer(delay, UserToken::new(1, cx.now_us() + delay));
        }
        let cancelled = cx.timer(1500, UserToken::new(2, 0));
        assert!(cx.cancel_timer(cancelled));
    };
    run(start, |cx, what| {
        let What::Timer(token) = what else { return };
        assert_eq!(token.class, 1);
        assert!(cx.now_us() >= token.id);
        fired.borrow_mut().push(token.id);
        if fired.borrow().len() == 3 {
            cx.stop();
        }
    });
    assert!(fired.borrow().is_sorted());
}

/// Answers each command with the number of turns so far.
struct Turns(mpsc::Sender<u64>);

impl Handler for Turns {
    type Command = bool;
    fn on_command(&mut self, cx: &mut Ctx, stop: bool) {
        self.0.send(cx.stats().turns).unwrap();
        if stop {
            cx.stop();
        }
    }
    fn on_completion(&mut self, _: &mut Ctx, _: UserToken, _: OpResult) {}
    fn on_timer(&mut self, _: &mut Ctx, _: TimerId, _: UserToken) {}
    fn on_turn_end(&mut self, _: &mut Ctx) {}
}

#[test]
fn an_idle_reactor_takes_no_turns() {
    for spin_us in [0, 20] {
        let (turns, answers) = mpsc::channel();
        let build = move |cx: &mut Ctx| {
            // Far away: an armed timer alone wakes nobody.
            cx.timer(3_600_000_000, UserToken::new(0, 0));
            Turns(turns)
        };
        let (remote, thread) = spawn("idle", Config { spin_us, ..Config::default() }, build).unwrap();
        remote.send(false).unwrap();
        let before = answers.recv().unwrap();
        // A second reactor measures out a stretch in which the first could go round.
        let start = |cx: &mut Ctx, _| {
            cx.timer(50_000, UserToken::new(1, 1));
        };
        run(start, |cx, what| {
            if let What::Timer(_) = what {
                cx.stop();
            }
        });
        remote.send(true).unwrap();
        let turns = answers.recv().unwrap() - before;
        assert!(turns <= 4, "{turns} turns while idle");
        thread.join().unwrap().unwrap();
    }
}

#[test]
fn ending_with_operations_in_flight_gives_their_memory_back_without_hanging() {
    let (listener, addr) = drystone_reactor::listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = std::net::TcpStream::connect(addr).unwrap();
    let start = |cx: &mut Ctx, remote: Remote<u64>| {
        let listener = cx.adopt(listener);
        cx.accept(listener, ACCEPT);
        let client = cx.adopt(client.into());
        cx.recv(client, UserToken::new(7, 0), BufMut::with_len(1 << 20), 0..1 << 20, true);
        remote.send(0).unwrap();
    };
    run(start, |cx, what| {
        if let What::Command(_) = what {
            assert!(cx.stats().in_flight >= 2);
            cx.stop();
        }
    });
}

#[test]
fn a_cancelled_operation_still_ends_with_its_buffer() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let op = std::cell::Cell::new(None);
    let start = |cx: &mut Ctx, remote: Remote<u64>| {
        let socket = cx.adopt(ours.into());
        op.set(Some(cx.recv(socket, UserToken::new(3, 0), BufMut::with_len(100), 0..100, false)));
        remote.send(0).unwrap();
    };
    run(start, |cx, what| match what {
        What::Command(_) => cx.cancel(op.get().unwrap()),
        What::Done(UserToken { class: 3, .. }, OpResult::Received { result, buf }) => {
            assert!(result.is_err());
            assert_eq!(buf.len(), 100);
            cx.stop();
        }
        _ => {}
    });
    drop(theirs);
}
