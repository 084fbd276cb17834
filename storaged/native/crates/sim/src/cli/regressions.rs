//! Plays the regressions of a folder.

use std::path::Path;
use std::process::ExitCode;

use drystone_sim::regress;
use drystone_types::Rules;

use super::show_failure;

/// Plays all of them: each must pass.
pub fn regressions(folder: &Path) -> ExitCode {
    let all = match regress::load(folder) {
        Ok(all) => all,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = 0;
    for (path, regression) in &all {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if !regression.plan_is_the_same() {
            println!("note    {name}: plans are drawn differently since it was recorded at {}", regression.commit);
        }
        let verdict = regression.play(Rules::ALL);
        if verdict.failure.is_some() {
            failed += 1;
            verdict.trace.iter().for_each(|line| println!("{line}"));
            println!("FAILED  regression {name}");
            show_failure(&verdict);
        } else {
            println!("ok      regression {name}");
        }
    }
    println!("regressions: {} passed, {failed} failed", all.len() - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
