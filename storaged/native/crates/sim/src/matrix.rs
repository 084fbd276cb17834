//! The corruption matrix: every kind of damage to every kind of structure of a drive, at one or two of three
//! copies, while it runs and across a restart. Each cell is a world of its own; nothing a consumer reads may be wrong,
//! and at the end all three copies are in sync, equal, and free of damage.

use std::panic::{catch_unwind, AssertUnwindSafe};

use drystone_types::{Rules, VolumeId};

use crate::history::What;
use crate::matrix_damage::{damage, Before};
use crate::plan::Plan;
use crate::runner::build;
use crate::scenario::Script;
use crate::world::Time;

/// What happens to a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// One bit is another.
    BitFlip,
    /// It reads as zeros.
    Zeroed,
    /// It has changed places with the sector behind it.
    Neighbour,
    /// It holds what belongs to another volume.
    OtherVolume,
    /// It holds an older version of itself, valid in its time.
    RolledBack,
}

/// What the sector is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A block of a volume.
    Data,
    /// The header of a group.
    Header,
    /// The summary of a closed segment.
    Summary,
    /// The newest checkpoint: its root and the chunk before it.
    Checkpoint,
    /// Superblocks, so many of the four that no two are left; rolled back: two.
    Superblock,
}

/// One cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Damage.
    pub damage: Damage,
    /// Structure.
    pub part: Part,
    /// Copies that are damaged, of three.
    pub copies: usize,
    /// The damage is done while the drives' servers are stopped.
    pub restart: bool,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Sectors damaged.
    pub sectors: u64,
    /// Reads that met damage.
    pub met: u64,
    /// Damaged sectors that were written anew.
    pub replaced: u64,
    /// Blocks found bad, and drives that were suspect.
    pub found: u64,
    /// Blocks compared at consumers.
    pub reads: u64,
    /// What went wrong: wrong bytes, copies that differ, or no end of healing.
    pub wrong: Option<String>,
}

/// All cells.
pub fn cells() -> Vec<Cell> {
    use Damage::{BitFlip, Neighbour, OtherVolume, RolledBack, Zeroed};
    use Part::{Checkpoint, Data, Header, Summary, Superblock};
    let mut all = Vec::new();
    for part in [Data, Header, Summary, Checkpoint, Superblock] {
        for damage in [BitFlip, Zeroed, Neighbour, OtherVolume, RolledBack] {
            for (copies, restart) in [(1, false), (1, true), (2, false), (2, true)] {
                all.push(Cell { damage, part, copies, restart });
            }
        }
    }
    all
}

/// Two volumes on three drives.
fn plan() -> Plan {
    Plan { volumes: 2, chunks: 1, drive_slots: 4_096, ..Plan::quiet() }
}

/// Blocks written, and blocks a write: a pass over both volumes closes more than one segment.
pub(crate) const BLOCKS: u64 = 160;
const RUN: u64 = 8;
/// Longest that healing may take: two drops, two full copies and a few scrubs.
const HEAL_MAX: Time = 60_000_000;

/// Plays a cell.
pub fn play(cell: Cell) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| play_inner(cell)))
        .unwrap_or_else(|_| Outcome { wrong: Some("a core panicked".into()), ..Outcome::default() })
}

fn play_inner(cell: Cell) -> Outcome {
    let mut world = build(11, plan(), Rules::ALL);
    (world.scripted, world.tracing) = (true, true);
    let mut s = Script::new(world);
    s.start();
    s.until_active(1);
    let before = fill(&mut s);
    let drives: Vec<usize> = (0..cell.copies).collect();
    s.w.managed = true;
    if cell.restart {
        for d in &drives {
            s.w.stop_server(*d, true);
        }
    }
    let mut out = Outcome::default();
    for d in &drives {
        out.sectors += damage(&mut s, &before, cell, *d);
        s.w.flipped.insert(*d);
        s.w.drives[*d].dev.shadow.distrust();
    }
    if cell.restart {
        for d in &drives {
            s.w.start_server(*d);
        }
    }
    heal(&mut s, cell, &mut out);
    out
}

/// Writes everything twice, with a checkpoint in each pass and records behind the newest.
fn fill(s: &mut Script) -> Before {
    let mut before = Before::default();
    for pass in 0..2 {
        for block in (0..BLOCKS).step_by(RUN as usize) {
            for c in [0, 1] {
                let op = s.issue(c, What::Write(0), block, RUN);
                s.wait(op);
            }
            if block == BLOCKS / 2 {
                checkpoint(s);
                before.note_roots(s, pass);
            }
        }
        s.run(1_500_000);
        before.note_content(s, pass);
    }
    before
}

fn checkpoint(s: &mut Script) {
    for drive in &mut s.w.drives {
        if let Some(r) = drive.replica.as_mut() {
            r.store_mut().checkpoint_now();
        }
    }
    // What is logged next starts it.
    for c in [0, 1] {
        s.write_wait(c, 0);
    }
    s.run(500_000);
}

/// Reads, scrubs, and waits until everything is whole again; then looks at all of it.
fn heal(s: &mut Script, cell: Cell, out: &mut Outcome) {
    look(s, out);
    let until = s.w.now + HEAL_MAX;
    while s.w.now < until && s.w.failure.is_none() {
        let before = found(s);
        scrub_all(s);
        let seen: u64 = s.w.drives.iter().filter_map(|d| d.replica.as_ref()).map(|r| r.stats().unhealed).sum();
        if s.w.healed() && found(s) == before && seen == 0 {
            break;
        }
    }
    if !s.w.healed() {
        let why = s.w.not_healed();
        s.w.fail("HEALING", why);
    }
    // Nobody reads a checkpoint before the next start, and the next one replaces it.
    if cell.part != Part::Checkpoint || cell.restart {
        checkpoint(s);
    }
    for d in 0..cell.copies {
        s.w.stop_server(d, true);
        s.w.start_server(d);
    }
    s.until("every drive to be open", |w| w.drives.iter().all(|d| d.replica.is_some()));
    s.run(2_000_000);
    s.until("everything in sync after one more start", |w| w.healed());
    look(s, out);
    if s.w.failure.is_none() {
        s.w.compare_copies();
    }
    out.found = found(s) + s.count("replica.bad_found") + s.count("leave.suspect");
    for d in 0..cell.copies {
        let dev = &s.w.drives[d].dev;
        out.met += dev.met.get();
        out.replaced += dev.replaced;
    }
    out.wrong = s.w.failure.as_ref().map(|f| format!("{} {}", f.oracle, f.text));
}

/// Bad blocks found by the cores that run.
fn found(s: &Script) -> u64 {
    s.w.drives.iter().filter_map(|d| d.replica.as_ref()).map(|r| r.stats().bad_found).sum()
}

/// Reads everything at every copy that is in sync.
fn look(s: &mut Script, out: &mut Outcome) {
    for (c, vol) in [(0, VolumeId(1)), (1, VolumeId(2))] {
        for block in (0..BLOCKS).step_by(RUN as usize) {
            if s.w.failure.is_some() || s.w.owner_of(vol) != Some(c) {
                return;
            }
            out.reads += s.read_each_run(c, block, RUN);
        }
    }
}

fn scrub_all(s: &mut Script) {
    for d in 0..s.w.drives.len() {
        let life = s.w.drives[d].life;
        s.w.scrub(d, life);
    }
    s.run(2_000_000);
}

/// Plays all cells, prints the table, and tells whether every one is as it must be.
pub fn run(jobs: usize) -> bool {
    let cells = cells();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let outcomes = std::sync::Mutex::new(vec![Outcome::default(); cells.len()]);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| loop {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(cell) = cells.get(n) else { return };
                let outcome = play(*cell);
                if let Ok(mut all) = outcomes.lock() {
                    all[n] = outcome;
                }
            });
        }
    });
    let Ok(outcomes) = outcomes.into_inner() else { return false };
    println!("{:<11} {:<12} copies  when     damaged  met  found  replaced  reads  result", "structure", "damage");
    let mut bad = 0;
    for (cell, o) in cells.iter().zip(&outcomes) {
        let empty = o.sectors == 0 || o.met + o.replaced == 0;
        bad += u64::from(empty || o.wrong.is_some());
        let when = if cell.restart { "restart" } else { "running" };
        let result = o.wrong.as_deref().unwrap_or(if empty { "EMPTY: nothing met the damage" } else { "healed" });
        println!(
            "{:<11} {:<12} {:>6}  {when:<7} {:>8} {:>4} {:>6} {:>9} {:>6}  {result}",
            format!("{:?}", cell.part),
            format!("{:?}", cell.damage),
            cell.copies,
            o.sectors,
            o.met,
            o.found,
            o.replaced,
            o.reads
        );
    }
    let sum = |f: fn(&Outcome) -> u64| outcomes.iter().map(f).sum::<u64>();
    let (met, reads, sectors) = (sum(|o| o.met), sum(|o| o.reads), sum(|o| o.sectors));
    println!("matrix: {sectors} sectors damaged, {met} reads met damage, {reads} blocks compared at consumers");
    println!("matrix: {} of {} cells detected and healed, with no wrong byte", cells.len() as u64 - bad, cells.len());
    println!("{} passed, {bad} failed", cells.len() as u64 - bad);
    bad == 0 && met > 0
}
