//! The one place where native errors become Python exceptions.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(_native, NativeError, PyException, "What the native side refused, and why.");

/// A refusal with its reason.
pub fn refuse(reason: impl core::fmt::Display) -> PyErr {
    NativeError::new_err(reason.to_string())
}

/// A 32-byte key.
pub fn key32(bytes: &[u8]) -> PyResult<[u8; 32]> {
    bytes.try_into().map_err(|_| refuse(format_args!("a key has 32 bytes, not {}", bytes.len())))
}

/// A 16-byte uuid.
pub fn uuid16(bytes: &[u8]) -> PyResult<[u8; 16]> {
    bytes.try_into().map_err(|_| refuse(format_args!("a uuid has 16 bytes, not {}", bytes.len())))
}
