//! Crash replay: every write and flush of recorded runs, the image rebuilt at every moment at which
//! something becomes durable and with subsets of what was not, opened again, compared with what was acked.
//!
//! `make crash-replay POINTS=N` runs more of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
use common::acked::{append, note_acks, observe, wrong_bytes, Ledger, Made, Short};
use common::*;
use drystone_store::testing::{CrashDev, Image, Journal, Keep, Replay, Rng};
use drystone_store::{Config, LogStore, OpenParams};

/// At least so many points, and so many per cent of them with writes that were not durable.
const POINTS: u64 = 1_000;
const UNFLUSHED_PERCENT: u64 = 30;
/// Subsets by chance of what was not durable, at each moment.
const SUBSETS: usize = 2;

/// What one drive lived through between two opens.
struct Life {
    /// Changes recorded when its open had ended.
    from: usize,
    ledger: Ledger,
}

/// A recorded run.
struct Run {
    journal: Journal,
    lives: Vec<Life>,
}

/// What was done in recorded runs, and what became of their crash points.
#[derive(Default, Debug)]
struct Figures {
    runs: u64,
    boundaries: u64,
    points: u64,
    unflushed: u64,
    torn: u64,
    reopened: u64,
    acked: u64,
    made: Made,
    moved: u64,
    checkpoints: u64,
    stops: u64,
    discarded: u64,
    wrong: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Stop,
    Kill,
    PowerCut,
}

struct Recorder {
    dev: CrashDev,
    rng: Rng,
    cfg: Config,
    seq: u64,
    lives: Vec<Life>,
}

impl Recorder {
    fn new(seed: u64) -> Recorder {
        let mut dev = new_dev(20);
        // One run in four is on a drive that keeps what it acked, another one discards.
        let (power_loss_protected, discard) = (seed % 4 == 3, seed % 4 == 2);
        dev.protected = power_loss_protected;
        dev.record();
        Recorder {
            dev,
            rng: Rng(seed),
            cfg: Config { power_loss_protected, discard, ..config() },
            seq: 0,
            lives: Vec::new(),
        }
    }

    /// Opens the drive, works, and ends in one of three ways.
    fn live(&mut self, end: End, figures: &mut Figures) {
        let params = OpenParams { nonce: self.lives.len() as u64 + 1, ..OpenParams::default() };
        let (mut store, report) = LogStore::open(&mut self.dev, self.cfg, params).expect("opens");
        assert_eq!(report.suspect, None, "{report:?}");
        let base = observe(&mut store, &mut self.dev);
        self.lives.push(Life { from: self.dev.recorded(), ledger: Ledger { base, log: Vec::new() } });
        self.work(&mut store, figures);
        match end {
            End::Stop => {
                store.stop();
                self.run_until(&mut store, LogStore::is_stopped);
                figures.stops += 1;
            }
            // The kernel ends what a killed process began.
            End::Kill => {
                for id in self.dev.running() {
                    self.dev.finish(id);
                }
            }
            End::PowerCut => self.dev.power_cut(&mut self.rng),
        }
        figures.moved += store.moved_blocks();
        figures.checkpoints += store.checkpoints();
    }

    fn work(&mut self, store: &mut LogStore, figures: &mut Figures) {
        let mut events = Vec::new();
        let rounds = 8 + self.rng.below(14);
        for round in 0..rounds {
            let life = self.lives.last_mut().expect("it lives");
            for _ in 0..self.rng.below(5) {
                let now = self.dev.recorded();
                let made = append(store, &mut life.ledger, &mut self.rng, &mut self.seq, now);
                figures.made.writes += made.writes;
                figures.made.trims += made.trims;
                figures.made.values += made.values;
            }
            if round == rounds / 2 {
                store.checkpoint_now();
            }
            for _ in 0..self.rng.below(6) {
                step(store, &mut self.dev, &mut self.rng, &mut events);
                note_acks(&mut life.ledger, &mut events, self.dev.recorded());
            }
        }
    }
    fn run_until(&mut self, store: &mut LogStore, done: impl Fn(&LogStore) -> bool) {
        let mut events = Vec::new();
        let mut left = 100_000;
        while !done(store) {
            left -= 1;
            assert!(left > 0, "the store never stops: {}", store.describe());
            step(store, &mut self.dev, &mut self.rng, &mut events);
            let life = self.lives.last_mut().expect("it lives");
            note_acks(&mut life.ledger, &mut events, self.dev.recorded());
        }
    }
}

fn recorded(seed: u64, figures: &mut Figures) -> Run {
    let mut r = Recorder::new(seed);
    for end in [End::Stop, End::Kill, End::PowerCut, End::Stop] {
        r.live(end, figures);
    }
    figures.runs += 1;
    Run { journal: r.dev.take_journal().expect("it was recorded"), lives: r.lives }
}

/// Visits every moment at which something becomes durable: just before it, and just after.
fn replay(run: &Run, seed: u64, figures: &mut Figures) {
    let mut replay = Replay::new(&run.journal);
    let mut rng = Rng(seed ^ 0x5eed);
    loop {
        if replay.before_boundary() && replay.unflushed() > 0 {
            crash_here(run, &replay, seed, &mut rng, figures);
        }
        match replay.advance() {
            None => return,
            Some(true) => {
                figures.boundaries += 1;
                crash_here(run, &replay, seed, &mut rng, figures);
            }
            Some(false) => {}
        }
    }
}

fn crash_here(run: &Run, replay: &Replay<'_>, seed: u64, rng: &mut Rng, figures: &mut Figures) {
    let mut keeps = vec![Keep::Nothing];
    if replay.unflushed() > 0 {
        keeps.push(Keep::Everything);
        keeps.extend([Keep::Some; SUBSETS]);
    }
    for keep in keeps {
        let Image { mut dev, kept, lost } = replay.image(keep, rng);
        figures.points += 1;
        figures.unflushed += u64::from(kept + lost > 0);
        figures.torn += u64::from(kept > 0 && lost > 0);
        let found = judge(run, &mut dev, replay.at(), rng, figures);
        let place = format!("seed {seed}, after change {} ({keep:?}: kept {kept}, lost {lost}): ", replay.at());
        figures.wrong.extend(found.into_iter().map(|what| format!("{place}{what}")));
    }
}

fn judge(run: &Run, dev: &mut CrashDev, at: usize, rng: &mut Rng, figures: &mut Figures) -> Vec<String> {
    // Some opens are cut short by the next power cut.
    let mut nonce = 100;
    while rng.below(6) == 0 {
        let mut short = Short { dev, writes_left: rng.below(8) };
        let _ = LogStore::open(&mut short, config(), OpenParams { nonce, ..OpenParams::default() });
        dev.power_cut(rng);
        figures.reopened += 1;
        nonce += 1;
    }
    let (mut store, report) = match LogStore::open(dev, config(), OpenParams { nonce, ..OpenParams::default() }) {
        Ok(opened) => opened,
        Err(e) => return vec![format!("it does not open: {e}")],
    };
    figures.discarded += report.groups_discarded;
    if let Some(why) = report.suspect {
        return vec![format!("an honest device is suspected: {why:?}")];
    }
    let seen = observe(&mut store, dev);
    let empty = Ledger::default();
    let ledger = run.lives.iter().rev().find(|l| l.from <= at).map_or(&empty, |l| &l.ledger);
    let (acked, mut wrong) = ledger.judge(&seen, at);
    figures.acked += acked;
    wrong.extend(wrong_bytes(&mut store, dev, &seen, rng));
    wrong
}

#[test]
fn no_acked_record_is_lost_at_any_crash_point_of_recorded_runs() {
    let set = |name: &str| std::env::var(name).ok().and_then(|s| s.parse().ok());
    let wanted = set("STORE_REPLAY_POINTS").unwrap_or(POINTS);
    let mut f = Figures::default();
    for seed in set("STORE_REPLAY_FROM").unwrap_or(0).. {
        let run = recorded(seed, &mut f);
        replay(&run, seed, &mut f);
        if f.points >= wanted && f.runs >= 4 {
            break;
        }
    }
    let share = f.unflushed * 100 / f.points;
    println!("crash replay: {} recorded runs, {} orderly stops, {} checkpoints", f.runs, f.stops, f.checkpoints);
    println!(
        "  {} writes, {} trims, {} small values, {} blocks moved",
        f.made.writes, f.made.trims, f.made.values, f.moved
    );
    println!("  {} boundaries, {} crash points, {share} % with writes not durable", f.boundaries, f.points);
    println!("  {} torn, {} opens cut short, {} groups of a torn tail dropped", f.torn, f.reopened, f.discarded);
    println!("  {} acked records compared, {} lost or wrong", f.acked, f.wrong.len());
    assert_eq!(f.wrong, [""; 0], "acked records are lost");
    assert!(f.points >= wanted && f.boundaries > 0, "{} crash points", f.points);
    assert!(share >= UNFLUSHED_PERCENT, "{share} % of the points had writes that were not durable");
    let made =
        [f.made.writes, f.made.trims, f.made.values, f.moved, f.checkpoints, f.stops, f.torn, f.discarded, f.acked];
    assert!(made.iter().all(|n| *n > 0), "something did not happen in the recorded runs: {f:?}");
}
