//! How often everything happened. A run in which an enabled fault or path never occurred fails,
//! because it tested less than it says.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    by_name: BTreeMap<Cow<'static, str>, u64>,
}

impl Counts {
    /// Adds to a counter.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, n: u64) {
        *self.by_name.entry(name.into()).or_insert(0) += n;
    }
    /// Adds one.
    pub fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }
    /// Value of a counter.
    pub fn get(&self, name: &str) -> u64 {
        self.by_name.get(name).copied().unwrap_or(0)
    }
    /// Adds every counter of another run.
    pub fn merge(&mut self, other: &Counts) {
        for (name, n) in &other.by_name {
            self.add(name.clone(), *n);
        }
    }
    /// Adds the fields of a struct of counters, named `prefix.field`, from its debug form: a core's new
    /// counter shows up here without a change.
    pub fn add_fields(&mut self, prefix: &str, debug: &str) {
        for field in debug.split(['{', ',', '}']) {
            let Some((name, value)) = field.split_once(':') else { continue };
            if let Ok(n) = value.trim().parse() {
                self.add(format!("{prefix}.{}", name.trim()), n);
            }
        }
    }
    /// All counters by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> + '_ {
        self.by_name.iter().map(|(k, v)| (k.as_ref(), *v))
    }
}
