//! Numbers of the NBD protocol, and our own limits with their reasons.

pub(crate) const MAGIC_SERVER: u64 = 0x4e42_444d_4147_4943;
pub(crate) const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
pub(crate) const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
pub(crate) const MAGIC_REQUEST: u32 = 0x2560_9513;
pub(crate) const MAGIC_SIMPLE: u32 = 0x6744_6698;
pub(crate) const MAGIC_CHUNK: u32 = 0x668e_33ef;

pub(crate) const FLAG_FIXED_NEWSTYLE: u16 = 1;
pub(crate) const FLAG_NO_ZEROES: u16 = 2;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_STARTTLS: u32 = 5;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_LIST_META: u32 = 9;
pub(crate) const OPT_SET_META: u32 = 10;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META: u32 = 4;
pub(crate) const REP_ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const REP_ERR_POLICY: u32 = 0x8000_0002;
pub(crate) const REP_ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const REP_ERR_UNKNOWN: u32 = 0x8000_0006;
pub(crate) const REP_ERR_TOO_BIG: u32 = 0x8000_0009;

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_NAME: u16 = 1;
pub(crate) const INFO_DESCRIPTION: u16 = 2;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

pub(crate) const EXPORT_HAS_FLAGS: u16 = 1;
pub(crate) const EXPORT_READ_ONLY: u16 = 1 << 1;
pub(crate) const EXPORT_FLUSH: u16 = 1 << 2;
pub(crate) const EXPORT_FUA: u16 = 1 << 3;
pub(crate) const EXPORT_ROTATIONAL: u16 = 1 << 4;
pub(crate) const EXPORT_TRIM: u16 = 1 << 5;
pub(crate) const EXPORT_WRITE_ZEROES: u16 = 1 << 6;
pub(crate) const EXPORT_DF: u16 = 1 << 7;
pub(crate) const EXPORT_MULTI_CONN: u16 = 1 << 8;
pub(crate) const EXPORT_FAST_ZERO: u16 = 1 << 11;

pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_WRITE: u16 = 1;
pub(crate) const CMD_DISC: u16 = 2;
pub(crate) const CMD_FLUSH: u16 = 3;
pub(crate) const CMD_TRIM: u16 = 4;
pub(crate) const CMD_WRITE_ZEROES: u16 = 6;
pub(crate) const CMD_BLOCK_STATUS: u16 = 7;

pub(crate) const CMD_FLAG_FUA: u16 = 1;
pub(crate) const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
pub(crate) const CMD_FLAG_DF: u16 = 1 << 2;
pub(crate) const CMD_FLAG_ONE: u16 = 1 << 3;
pub(crate) const CMD_FLAG_FAST: u16 = 1 << 4;

pub(crate) const CHUNK_DONE: u16 = 1;
pub(crate) const CHUNK_NONE: u16 = 0;
pub(crate) const CHUNK_DATA: u16 = 1;
pub(crate) const CHUNK_HOLE: u16 = 2;
pub(crate) const CHUNK_STATUS: u16 = 5;
pub(crate) const CHUNK_ERROR: u16 = 0x8001;

/// The name of the only metadata context we keep, and the id we give it.
pub(crate) const CONTEXT: &str = "base:allocation";
pub(crate) const CONTEXT_ID: u32 = 1;

/// Sectors of 512 bytes are the smallest unit a guest may use; the sequencer joins them to blocks.
pub(crate) const BLOCK_MIN: u32 = 512;
/// The engine's block: anything smaller costs a read before the write.
pub(crate) const BLOCK_PREFERRED: u32 = 4096;
/// What clients assume where they were not told; it bounds one buffer.
pub(crate) const PAYLOAD_MAX: u32 = 32 << 20;
/// A write larger than allowed is read and thrown away up to this size, so the client gets its
/// error; beyond it the stream is more likely broken than sincere.
pub(crate) const SKIP_MAX: u32 = 64 << 20;
/// A string is at most 4096 bytes in the protocol; one name, a few contexts and the info list fit.
pub(crate) const OPTION_LEN_MAX: usize = 16 << 10;
/// `nbdinfo --list` needs a handful of options; a client that sends this many is not negotiating.
pub(crate) const OPTIONS_MAX: u32 = 128;
/// The protocol's bound on any string.
pub(crate) const NAME_MAX: usize = 4096;
/// Payloads up to this size are copied out of the stream buffer (1 µs); larger ones are received
/// in place, which costs one more system call.
pub(crate) const INLINE_PAYLOAD_MAX: usize = 32 << 10;
/// Extents in one answer: 32 KiB of answer. The protocol lets the server report less than asked.
pub(crate) const EXTENTS_MAX: usize = 4096;
/// Bytes of a request header.
pub(crate) const REQUEST_LEN: usize = 28;
