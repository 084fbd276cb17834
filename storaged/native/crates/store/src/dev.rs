//! The small blocking device that formatting, opening and inspecting need.

use core::fmt;

/// Size of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DevGeometry {
    /// Bytes; only whole slots of 4096 are used.
    pub bytes: u64,
}

/// The device refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DevError(pub &'static str);

impl fmt::Display for DevError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the device failed: {}", self.0)
    }
}

/// Blocking access, used only before anything is served.
pub trait SyncDev {
    /// Size.
    fn geometry(&self) -> DevGeometry;
    /// Fills `buf` from `offset`; both are multiples of 4096.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DevError>;
    /// Writes `buf` at `offset`; both are multiples of 4096.
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), DevError>;
    /// Everything written before is durable when it returns.
    fn flush(&mut self) -> Result<(), DevError>;
}
