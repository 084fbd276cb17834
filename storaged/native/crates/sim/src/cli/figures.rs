//! The table of figures.

use std::process::ExitCode;

use drystone_sim::figures::{measure, BREAKS, HEAD};

/// Measures every fault and prints the table.
pub fn figures(runs: u64, from: u64, jobs: usize) -> ExitCode {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| loop {
                let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(what) = BREAKS.get(i) else { return };
                let figure = measure(*what, runs, from);
                found.lock().expect("no thread panics with the lock").push((i, figure));
            });
        }
    });
    let mut found = found.into_inner().expect("every thread has ended");
    found.sort_by_key(|(i, _)| *i);
    println!("{HEAD}");
    for (_, figure) in &found {
        println!("{figure}");
        figure.failures.iter().for_each(|why| println!("  {why}"));
    }
    let met = found.iter().filter(|(_, f)| f.met()).count();
    println!("figures: {met} passed, {} failed", found.len() - met);
    if met == BREAKS.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
