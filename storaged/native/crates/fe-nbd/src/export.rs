//! What is exported, and how much one connection may hold.

use crate::proto;

/// One exported volume. A session serves exactly one; the empty name selects it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Name the client asks for.
    pub name: String,
    /// Text for people, shown by `nbdinfo`.
    pub description: String,
    /// Size in bytes; a multiple of 512. Growing: [`crate::Session::set_size`].
    pub size: u64,
    /// Writes are refused with EPERM.
    pub read_only: bool,
    /// Several connections see each other's acked writes, and FLUSH covers all of them.
    pub multi_conn: bool,
    /// The medium seeks slowly.
    pub rotational: bool,
}

impl Export {
    /// A writable export with several connections allowed, as volumes are.
    pub fn new(name: &str, size: u64) -> Export {
        Export {
            name: name.to_owned(),
            description: String::new(),
            size,
            read_only: false,
            multi_conn: true,
            rotational: false,
        }
    }

    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }

    /// Transmission flags; DF only means something with structured replies.
    pub(crate) fn flags(&self, structured: bool) -> u16 {
        let mut flags = proto::EXPORT_HAS_FLAGS | proto::EXPORT_FLUSH | proto::EXPORT_FUA;
        let mut set = |on: bool, flag: u16| flags |= if on { flag } else { 0 };
        set(self.read_only, proto::EXPORT_READ_ONLY);
        set(!self.read_only, proto::EXPORT_TRIM | proto::EXPORT_WRITE_ZEROES | proto::EXPORT_FAST_ZERO);
        set(self.multi_conn, proto::EXPORT_MULTI_CONN);
        set(self.rotational, proto::EXPORT_ROTATIONAL);
        set(structured, proto::EXPORT_DF);
        flags
    }
}

/// How much one connection may have in flight before the session stops reading from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests handed out and not yet answered. Kernels use 128 per connection; fio 64.
    pub requests: usize,
    /// Bytes of read answers and write payloads. A lone request may exceed it, so the largest
    /// payload (32 MiB) always passes.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { requests: 512, bytes: 64 << 20 }
    }
}
