//! What the command line says.

use std::path::PathBuf;

/// Runs of each figure when no number is given: enough to see a bar missed, few enough for every change.
const FIGURES: u64 = 20;

/// Options.
pub struct Args {
    /// Seeds to run.
    pub seeds: u64,
    /// The first.
    pub from: u64,
    /// Threads.
    pub jobs: usize,
    /// One seed to replay.
    pub seed: Option<u64>,
    /// Its trace is printed.
    pub trace: bool,
    /// From its first event.
    pub trace_all: bool,
    /// A failure does not end the run.
    pub keep_going: bool,
    /// Rule to switch off, or `all`.
    pub mutate: Option<String>,
    /// The schedules are played.
    pub scenarios: bool,
    /// The corruption matrix is played.
    pub matrix: bool,
    /// Only those with this in their name.
    pub only: Option<String>,
    /// Mutants are hunted by seeds alone.
    pub random: bool,
    /// Folder of regressions to play.
    pub regressions: Option<PathBuf>,
    /// Folder where a failing seed is kept, made small.
    pub save: Option<PathBuf>,
    /// Runs of each figure.
    pub figures: Option<u64>,
}

fn defaults() -> Args {
    Args {
        seeds: 100,
        from: 0,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        seed: None,
        trace: false,
        trace_all: false,
        keep_going: false,
        mutate: None,
        scenarios: false,
        matrix: false,
        only: None,
        random: false,
        regressions: None,
        save: None,
        figures: None,
    }
}

/// Reads the command line.
pub fn parse() -> Result<Args, String> {
    let mut args = defaults();
    let mut list = std::env::args().skip(1).peekable();
    while let Some(name) = list.next() {
        match name.as_str() {
            "--scenarios" => args.scenarios = true,
            "--matrix" => args.matrix = true,
            "--random" => args.random = true,
            "--trace" => args.trace = true,
            "--trace-all" => args.trace_all = true,
            "--keep-going" => args.keep_going = true,
            "--figures" => {
                let runs = list.peek().and_then(|v| v.parse().ok());
                if runs.is_some() {
                    list.next();
                }
                args.figures = Some(runs.unwrap_or(FIGURES));
            }
            _ => take_value(&mut args, &name, list.next())?,
        }
    }
    Ok(args)
}

fn take_value(args: &mut Args, name: &str, value: Option<String>) -> Result<(), String> {
    let given = value.clone().ok_or(format!("{name} needs a value"));
    let number = || value.and_then(|v| v.parse::<u64>().ok()).ok_or(format!("{name} needs a number"));
    match name {
        "--seeds" => args.seeds = number()?,
        "--from" => args.from = number()?,
        "--jobs" => args.jobs = number()? as usize,
        "--seed" => args.seed = Some(number()?),
        "--only" => args.only = Some(given?),
        "--mutate" => args.mutate = Some(given?),
        "--regressions" => args.regressions = Some(PathBuf::from(given?)),
        "--save" => args.save = Some(PathBuf::from(given?)),
        _ => return Err(format!("unknown option {name}; see the head of main.rs")),
    }
    Ok(())
}
