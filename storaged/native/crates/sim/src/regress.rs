//! Seeds that failed once, made small and kept as files: they are played for ever.

use std::fmt;
use std::path::{Path, PathBuf};

use drystone_types::Rules;

use crate::recipe::{Knob, Recipe};
use crate::runner::{run_recipe_guarded, Trace, Verdict};
use crate::shrink::Shrunk;

/// Version of the files.
const FORMAT: &str = "1";
/// Ending of their names.
const ENDING: &str = "txt";

/// A regression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Regression {
    /// What is run.
    pub recipe: Recipe,
    /// The oracle that failed.
    pub oracle: String,
    /// Hash of plan and schedule when it was recorded.
    pub plan: u64,
    /// Commit it failed at.
    pub commit: String,
    /// What the oracle said, in one line.
    pub why: String,
}

/// Why a file of regressions cannot be used.
#[derive(Debug)]
pub enum RegressError {
    /// It cannot be read or written.
    Io(PathBuf, std::io::Error),
    /// A line says nothing that is understood.
    Line(String),
    /// A line is missing.
    Missing(&'static str),
}

impl fmt::Display for RegressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegressError::Io(path, why) => write!(f, "{}: {why}", path.display()),
            RegressError::Line(line) => write!(f, "line {line:?} is not understood; see README.md of the regressions"),
            RegressError::Missing(name) => write!(f, "line {name:?} is missing"),
        }
    }
}

impl std::error::Error for RegressError {}

impl Regression {
    /// Of a seed that was shrunk.
    pub fn of(shrunk: &Shrunk, commit: &str) -> Regression {
        let why = shrunk.failure.text.split_whitespace().collect::<Vec<_>>().join(" ");
        Regression {
            plan: shrunk.recipe.plan_hash(),
            recipe: shrunk.recipe.clone(),
            oracle: shrunk.failure.oracle.clone(),
            commit: commit.to_owned(),
            why,
        }
    }

    /// Whether plans and schedules are drawn as they were when it was recorded.
    pub fn plan_is_the_same(&self) -> bool {
        self.recipe.plan_hash() == self.plan
    }

    /// Text of its file.
    pub fn text(&self) -> String {
        let list = |items: Vec<String>| items.join(",");
        let mut lines = vec![
            format!("format = {FORMAT}"),
            format!("seed = {}", self.recipe.seed),
            format!("oracle = {}", self.oracle),
            format!("plan = {:016x}", self.plan),
        ];
        if let Some(keep) = &self.recipe.keep {
            lines.push(format!("keep = {}", list(keep.iter().map(usize::to_string).collect())));
        }
        if let Some(end) = self.recipe.end {
            lines.push(format!("end = {end}"));
        }
        if !self.recipe.without.is_empty() {
            let names = self.recipe.without.iter().map(|k| k.name().to_owned()).collect();
            lines.push(format!("without = {}", list(names)));
        }
        lines.push(format!("commit = {}", self.commit));
        lines.push(format!("why = {}", self.why));
        lines.join("\n") + "\n"
    }

    /// From the text of a file.
    pub fn parse(text: &str) -> Result<Regression, RegressError> {
        let mut found = Regression {
            recipe: Recipe::default(),
            oracle: String::new(),
            plan: 0,
            commit: String::new(),
            why: String::new(),
        };
        let mut seen = Vec::new();
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            let bad = || RegressError::Line(line.to_owned());
            let (name, value) = line.split_once('=').ok_or_else(bad)?;
            found.take(name.trim(), value.trim()).ok_or_else(bad)?;
            seen.push(name.trim().to_owned());
        }
        let missing = ["format", "seed", "oracle", "plan"].into_iter().find(|n| !seen.iter().any(|s| s == n));
        missing.map_or(Ok(found), |name| Err(RegressError::Missing(name)))
    }

    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        let items = || value.split(',').map(str::trim).filter(|v| !v.is_empty());
        match name {
            "format" => return (value == FORMAT).then_some(()),
            "seed" => self.recipe.seed = value.parse().ok()?,
            "oracle" => self.oracle = value.to_owned(),
            "plan" => self.plan = u64::from_str_radix(value, 16).ok()?,
            "keep" => self.recipe.keep = Some(items().map(|v| v.parse().ok()).collect::<Option<_>>()?),
            "end" => self.recipe.end = Some(value.parse().ok()?),
            "without" => self.recipe.without = items().map(Knob::of).collect::<Option<_>>()?,
            "commit" => self.commit = value.to_owned(),
            "why" => self.why = value.to_owned(),
            _ => return None,
        }
        Some(())
    }

    /// Plays it: it must pass.
    pub fn play(&self, rules: Rules) -> Verdict {
        run_recipe_guarded(&self.recipe, rules, Trace::Last)
    }

    /// Writes its file into a folder.
    pub fn save(&self, folder: &Path) -> Result<PathBuf, RegressError> {
        let plain: String = self.oracle.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let path = folder.join(format!("{}-{}.{ENDING}", self.recipe.seed, plain.to_lowercase()));
        let done = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, self.text()));
        done.map_err(|why| RegressError::Io(path.clone(), why))?;
        Ok(path)
    }
}

/// All regressions of a folder, by name.
pub fn load(folder: &Path) -> Result<Vec<(PathBuf, Regression)>, RegressError> {
    let io = |why| RegressError::Io(folder.to_owned(), why);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == ENDING) {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).map_err(|why| RegressError::Io(path.clone(), why))?;
        Regression::parse(&text).map(|found| (path, found))
    };
    paths.into_iter().map(read).collect()
}
