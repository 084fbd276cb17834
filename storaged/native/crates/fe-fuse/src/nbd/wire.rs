//! The transmission phase: requests out, simple replies in. Pure encoding.

/// `NBD_CMD_READ`.
pub const CMD_READ: u16 = 0;
/// `NBD_CMD_WRITE`.
pub const CMD_WRITE: u16 = 1;
/// `NBD_CMD_DISC`: a polite end, without a reply.
pub const CMD_DISC: u16 = 2;
/// `NBD_CMD_FLUSH`.
pub const CMD_FLUSH: u16 = 3;
/// `NBD_CMD_TRIM`.
pub const CMD_TRIM: u16 = 4;
/// `NBD_CMD_WRITE_ZEROES`.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// `NBD_CMD_FLAG_NO_HOLE` of a write of zeroes: keep the range allocated.
pub const FLAG_NO_HOLE: u16 = 1 << 1;

/// Bytes of a request header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply header.
pub const REPLY_BYTES: usize = 16;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

/// `NBD_ESHUTDOWN`: the server is about to leave; the request has to be sent to its successor.
pub const ERROR_SHUTDOWN: u32 = 108;

/// A request header in wire order.
#[must_use]
pub fn request(command: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> [u8; REQUEST_BYTES] {
    let mut out = [0; REQUEST_BYTES];
    let fields = REQUEST_MAGIC
        .to_be_bytes()
        .into_iter()
        .chain(flags.to_be_bytes())
        .chain(command.to_be_bytes())
        .chain(cookie.to_be_bytes())
        .chain(offset.to_be_bytes())
        .chain(length.to_be_bytes());
    for (slot, byte) in out.iter_mut().zip(fields) {
        *slot = byte;
    }
    out
}

/// A simple reply header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// NBD error number, 0 for success.
    pub error: u32,
    /// The cookie of the request.
    pub cookie: u64,
}

/// Reads a reply header; `None` when it is not one, after which the stream is useless.
#[must_use]
pub fn reply(bytes: [u8; REPLY_BYTES]) -> Option<Reply> {
    let [m0, m1, m2, m3, e0, e1, e2, e3, cookie @ ..] = bytes;
    (u32::from_be_bytes([m0, m1, m2, m3]) == SIMPLE_REPLY_MAGIC)
        .then(|| Reply { error: u32::from_be_bytes([e0, e1, e2, e3]), cookie: u64::from_be_bytes(cookie) })
}

/// The system's error number for an NBD error. NBD's numbers are Linux's for those it names;
/// anything else is a server that invents some, and becomes an I/O error.
#[must_use]
pub fn errno(error: u32) -> i32 {
    match error {
        1 => libc::EPERM,
        12 => libc::ENOMEM,
        22 => libc::EINVAL,
        28 => libc::ENOSPC,
        75 => libc::EOVERFLOW,
        95 => libc::EOPNOTSUPP,
        _ => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_encoded_as_the_protocol_says() {
        let bytes = request(CMD_WRITE, 0x0102, 0x1122_3344_5566_7788, 0x0A0B_0C0D, 4096);
        assert_eq!(
            bytes,
            [
                0x25, 0x60, 0x95, 0x13, 1, 2, 0, 1, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0, 0x0A,
                0x0B, 0x0C, 0x0D, 0, 0, 0x10, 0
            ]
        );
    }

    #[test]
    fn a_reply_with_a_wrong_magic_is_refused() {
        let mut bytes = [0; REPLY_BYTES];
        assert_eq!(reply(bytes), None);
        bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes[7] = 5;
        bytes[15] = 9;
        assert_eq!(reply(bytes), Some(Reply { error: 5, cookie: 9 }));
    }

    #[test]
    fn an_unknown_error_number_becomes_an_input_output_error() {
        assert_eq!(errno(28), libc::ENOSPC);
        assert_eq!(errno(4711), libc::EIO);
    }
}
