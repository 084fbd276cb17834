//! Identifiers and figures between JSON and native types.

use drystone_types::{Latency, Uuid};
use pyo3::PyResult;
use serde_json::{json, Value};

use crate::error::refuse;

/// A uuid in either spelling.
pub fn uuid(text: &str) -> PyResult<Uuid> {
    Uuid::parse(text).ok_or_else(|| refuse(format_args!("{text:?} is not a uuid")))
}

/// A 32-byte key in hexadecimal.
pub fn key(text: &str) -> PyResult<[u8; 32]> {
    let halves: Option<Vec<u8>> = (0..text.len())
        .step_by(2)
        .map(|i| text.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    // The text is a secret: it is not repeated in the error.
    halves.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| refuse("a key must be 64 hexadecimal digits"))
}

/// A histogram: each bound in microseconds with the samples that took at most that long.
pub fn latency_json(latency: &Latency) -> Value {
    let buckets: Vec<(u64, u64)> = latency.cumulative().collect();
    json!({"buckets": buckets, "count": latency.count(), "sum_us": latency.sum_us()})
}
