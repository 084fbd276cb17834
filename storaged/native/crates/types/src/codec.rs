//! Bounded little-endian reading and writing of records; every length is checked before use.

/// Why bytes could not be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodecError {
    /// The input ended inside a field.
    Truncated,
    /// A count or length is over its limit.
    TooLarge,
    /// A field has a value that is not defined.
    Invalid,
    /// Bytes follow the last field.
    Trailing,
}

impl core::fmt::Display for CodecError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            CodecError::Truncated => "the record ends inside a field",
            CodecError::TooLarge => "a length in the record is over its limit",
            CodecError::Invalid => "a field of the record has an undefined value",
            CodecError::Trailing => "bytes follow the end of the record",
        })
    }
}

impl std::error::Error for CodecError {}

/// Cursor over bytes.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }
    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }
    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], CodecError> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(CodecError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }
    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        self.bytes(N)?.try_into().map_err(|_| CodecError::Truncated)
    }
    /// u8.
    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    /// Little-endian u16.
    pub fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    /// Little-endian u32.
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    /// Little-endian u64.
    pub fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    /// A count no larger than `max`, so that nothing is allocated for a lie.
    pub fn count(&mut self, max: usize) -> Result<usize, CodecError> {
        let n = self.u32()? as usize;
        if n > max {
            Err(CodecError::TooLarge)
        } else {
            Ok(n)
        }
    }
    /// A length-prefixed byte string of at most `max` bytes.
    pub fn blob(&mut self, max: usize) -> Result<&'a [u8], CodecError> {
        let n = self.count(max)?;
        self.bytes(n)
    }
    /// Demands that everything was read.
    pub fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing)
        }
    }
}

/// Little-endian writer.
#[derive(Default, Debug)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Empty.
    pub fn new() -> Self {
        Writer::default()
    }
    /// Raw bytes.
    pub fn bytes(&mut self, b: &[u8]) -> &mut Self {
        self.out.extend_from_slice(b);
        self
    }
    /// u8.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes(&[v])
    }
    /// Little-endian u16.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    /// Little-endian u32.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    /// Little-endian u64.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_le_bytes())
    }
    /// A u32 count.
    pub fn count(&mut self, n: usize) -> &mut Self {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX))
    }
    /// A length-prefixed byte string.
    pub fn blob(&mut self, b: &[u8]) -> &mut Self {
        self.count(b.len()).bytes(b)
    }
    /// The bytes written.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}
