//! Fixed newstyle negotiation with `NBD_OPT_GO`.

use std::fmt;
use std::io::{self, Read, Write};

const MAGIC: u64 = 0x4E42_444D_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
const REPLY_MAGIC: u64 = 0x0003_E889_0455_65A9;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;

/// Longest option reply that is read. The longest that is meant for people is a text of
/// 4096 bytes by the protocol's own rule for strings; a longer one is not a reply.
const REPLY_BYTES_MAX: u32 = 8192;

/// Option replies read for one option: a server sends a handful of informations, and
/// without a bound a broken one could keep the client here for ever.
const REPLIES_MAX: usize = 64;

/// What the server told about the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
}

impl Export {
    /// The server refuses writes.
    #[must_use]
    pub fn read_only(self) -> bool {
        self.flags & (1 << 1) != 0
    }

    /// The server understands `FLUSH`.
    #[must_use]
    pub fn flush(self) -> bool {
        self.flags & (1 << 2) != 0
    }

    /// The server understands `TRIM`.
    #[must_use]
    pub fn trim(self) -> bool {
        self.flags & (1 << 5) != 0
    }

    /// The server understands `WRITE_ZEROES`.
    #[must_use]
    pub fn write_zeroes(self) -> bool {
        self.flags & (1 << 6) != 0
    }
}

/// Why a negotiation failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// The connection broke or timed out.
    Io(io::Error),
    /// The peer does not speak fixed newstyle NBD.
    NotNbd(&'static str),
    /// The server refused the export.
    Refused {
        /// The number of the option reply.
        code: u32,
        /// What the server says about it.
        text: String,
    },
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection: {error}"),
            Self::NotNbd(what) => write!(f, "not an NBD server that can be used: {what}"),
            Self::Refused { code, text } => write!(f, "server refused ({code:#x}): {text}"),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Negotiates the export called `name`; afterwards the stream is in the transmission phase.
///
/// # Errors
/// When the stream fails, the peer is no NBD server, or it refuses the export.
pub fn negotiate<S: Read + Write>(stream: &mut S, name: &str) -> Result<Export, HandshakeError> {
    if read_u64(stream)? != MAGIC || read_u64(stream)? != OPTION_MAGIC {
        return Err(HandshakeError::NotNbd("wrong magic"));
    }
    let offered = read_u16(stream)?;
    if offered & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(HandshakeError::NotNbd("no fixed newstyle handshake"));
    }
    let flags = u32::from(offered & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
    stream.write_all(&flags.to_be_bytes())?;
    stream.write_all(&go(name)?)?;
    answers(stream)
}

/// The `GO` option for an export, asking for no further information.
fn go(name: &str) -> Result<Vec<u8>, HandshakeError> {
    let too_long = |_| HandshakeError::NotNbd("export name too long");
    let name_bytes = u32::try_from(name.len()).map_err(too_long)?;
    let mut out = Vec::with_capacity(22 + name.len());
    out.extend(OPTION_MAGIC.to_be_bytes());
    out.extend(OPT_GO.to_be_bytes());
    out.extend((name_bytes + 6).to_be_bytes());
    out.extend(name_bytes.to_be_bytes());
    out.extend(name.as_bytes());
    out.extend(0u16.to_be_bytes());
    Ok(out)
}

fn answers<S: Read>(stream: &mut S) -> Result<Export, HandshakeError> {
    let mut export = None;
    for _ in 0..REPLIES_MAX {
        if read_u64(stream)? != REPLY_MAGIC || read_u32(stream)? != OPT_GO {
            return Err(HandshakeError::NotNbd("malformed option reply"));
        }
        let code = read_u32(stream)?;
        let length = read_u32(stream)?;
        if length > REPLY_BYTES_MAX {
            return Err(HandshakeError::NotNbd("oversized option reply"));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        match code {
            REP_INFO => export = parse_info(&data).or(export),
            REP_ACK => return export.ok_or(HandshakeError::NotNbd("no size was told")),
            _ if code & REP_ERROR != 0 => {
                let text = String::from_utf8_lossy(&data).into_owned();
                return Err(HandshakeError::Refused { code, text });
            }
            _ => {}
        }
    }
    Err(HandshakeError::NotNbd("endless option replies"))
}

fn parse_info(mut data: &[u8]) -> Option<Export> {
    let kind = read_u16(&mut data).ok()?;
    let size = read_u64(&mut data).ok()?;
    let flags = read_u16(&mut data).ok()?;
    (kind == INFO_EXPORT).then_some(Export { size, flags })
}

fn read_u16<S: Read>(stream: &mut S) -> io::Result<u16> {
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32<S: Read>(stream: &mut S) -> io::Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64<S: Read>(stream: &mut S) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    struct Peer {
        input: Cursor<Vec<u8>>,
        output: Vec<u8>,
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.input.read(buffer)
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.output.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn talk(input: Vec<u8>) -> (Result<Export, HandshakeError>, Vec<u8>) {
        let mut peer = Peer { input: Cursor::new(input), output: Vec::new() };
        let result = negotiate(&mut peer, "a");
        (result, peer.output)
    }

    fn hello() -> Vec<u8> {
        let mut bytes = MAGIC.to_be_bytes().to_vec();
        bytes.extend(OPTION_MAGIC.to_be_bytes());
        bytes.extend(3u16.to_be_bytes());
        bytes
    }

    fn option_reply(code: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend(OPT_GO.to_be_bytes());
        bytes.extend(code.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn an_export_is_negotiated() {
        let mut info = 0u16.to_be_bytes().to_vec();
        info.extend(4096u64.to_be_bytes());
        info.extend(0x65u16.to_be_bytes());
        let input = [hello(), option_reply(REP_INFO, &info), option_reply(REP_ACK, &[])].concat();
        let (result, sent) = talk(input);
        let export = result.unwrap();
        assert_eq!(export, Export { size: 4096, flags: 0x65 });
        assert!(export.flush() && export.trim() && export.write_zeroes() && !export.read_only());
        assert_eq!(sent[..4], 3u32.to_be_bytes());
        assert_eq!(&sent[sent.len() - 7..], [0, 0, 0, 1, b'a', 0, 0]);
    }

    #[test]
    fn a_refusal_carries_the_text_of_the_server() {
        let input = [hello(), option_reply(REP_ERROR | 6, b"no such export")].concat();
        let (result, _) = talk(input);
        assert!(result.unwrap_err().to_string().contains("no such export"));
    }

    #[test]
    fn an_oversized_reply_is_refused_before_it_is_read() {
        let mut input = [hello(), option_reply(REP_INFO, &[])].concat();
        let at = input.len() - 4;
        input[at..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(talk(input).0, Err(HandshakeError::NotNbd("oversized option reply"))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_after_the_greeting_never_panic(
            tail in proptest::collection::vec(any::<u8>(), 0..200)
        ) {
            let _ = talk([hello(), tail].concat()).0;
        }
    }
}
