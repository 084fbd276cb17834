//! The connection's state machine.

use drystone_frame::header::{decode_header, decode_table};
use drystone_frame::hello::verdict;
use drystone_frame::{ClientHello, FrameError, HelloError, Lengths, PeerIdentity, ServerHello, HEADER_LEN, HELLO_LEN};
use drystone_reactor::{Decoded, Decoder, Fill, SendQueue};
use drystone_types::{Buf, BufMut, Frame, Header, Uuid};

use crate::keys::{Keys, MyIdentity};

/// Tables and metadata up to this size are taken from the receive buffer, larger ones are
/// received in place: it must stay below the receive buffer of a connection.
const TABLE_INLINE_MAX: usize = 16 << 10;

/// What a connection yields.
#[derive(Debug)]
pub enum Item {
    /// The handshake is complete. On the connecting side `uuid` names the server's node.
    Up(PeerUp),
    /// A frame.
    Frame(Frame),
}

/// Who is on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerUp {
    /// A peer connected to us and proved itself.
    Accepted(PeerIdentity),
    /// The server we connected to proved itself.
    Connected {
        /// Its node.
        node: Uuid,
        /// Protocol version.
        protocol: u16,
    },
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// The handshake failed.
    Hello(HelloError),
    /// The bytes are no frame.
    Frame(FrameError),
}

impl core::fmt::Display for LinkError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LinkError::Hello(e) => write!(f, "handshake refused: {e:?}"),
            LinkError::Frame(e) => write!(f, "{e}"),
        }
    }
}

impl From<FrameError> for LinkError {
    fn from(e: FrameError) -> Self {
        LinkError::Frame(e)
    }
}

enum State {
    /// Accepting: waiting for the peer's challenge.
    Accepting { keys: Keys, cluster: Uuid, node: Uuid, nonce: [u8; 32] },
    /// Accepting: waiting for the peer's proof.
    Proving(Box<ServerHello>),
    /// Connecting: waiting for the server's challenge and proof.
    Challenging(Box<ClientHello>),
    /// Connecting: waiting for the verdict.
    Judging { hello: Box<ClientHello>, node: Uuid, protocol: u16 },
    /// At a frame boundary.
    Head,
    /// Receiving a large table in place.
    Table(Header, Lengths),
    /// Receiving data in place.
    Data(Frame),
}

/// Handshake and frames of one connection.
pub struct LinkDecoder {
    state: State,
}

impl LinkDecoder {
    /// Accepting side. `nonce` is fresh randomness.
    pub fn accept(keys: Keys, cluster: Uuid, node: Uuid, nonce: [u8; 32]) -> LinkDecoder {
        LinkDecoder { state: State::Accepting { keys, cluster, node, nonce } }
    }

    /// Connecting side; queues the first handshake frame. `nonce` is fresh randomness.
    pub fn connect(me: &MyIdentity, nonce: [u8; 32], out: &mut SendQueue) -> LinkDecoder {
        let (hello, first) = ClientHello::new(me.who, me.key, me.key_epoch, nonce);
        out.push_bytes(&first);
        LinkDecoder { state: State::Challenging(Box::new(hello)) }
    }

    /// Whether frames may be sent.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Head | State::Table(..) | State::Data(_))
    }

    fn hello(&mut self, raw: &[u8; HELLO_LEN], out: &mut SendQueue) -> Result<Option<Item>, HelloError> {
        match core::mem::replace(&mut self.state, State::Head) {
            State::Accepting { keys, cluster, node, nonce } => {
                let (hello, reply) = ServerHello::on_challenge(raw, cluster, node, nonce, |e| keys.master(e))?;
                out.push_bytes(&reply);
                self.state = State::Proving(Box::new(hello));
                Ok(None)
            }
            State::Proving(hello) => {
                let (peer, welcome) = hello.on_proof(raw)?;
                out.push_bytes(&welcome);
                Ok(Some(Item::Up(PeerUp::Accepted(peer))))
            }
            State::Challenging(hello) => {
                let (node, protocol, proof) = hello.on_challenge(raw)?;
                out.push_bytes(&proof);
                self.state = State::Judging { hello, node, protocol };
                Ok(None)
            }
            State::Judging { hello, node, protocol } => {
                hello.on_verdict(raw)?;
                Ok(Some(Item::Up(PeerUp::Connected { node, protocol })))
            }
            other => {
                self.state = other;
                Ok(None)
            }
        }
    }

    fn head(&mut self, input: &[u8]) -> Result<(usize, Decoded<Item>), FrameError> {
        let Some((raw, rest)) = input.split_first_chunk::<HEADER_LEN>() else { return Ok((0, Decoded::More)) };
        let (header, lengths) = decode_header(raw)?;
        let table = lengths.table_and_meta();
        if table > TABLE_INLINE_MAX {
            let (fill, used) = start_fill(table, rest);
            self.state = State::Table(header, lengths);
            return Ok((HEADER_LEN + used, Decoded::Fill(fill)));
        }
        let Some((table_bytes, rest)) = rest.split_at_checked(table) else { return Ok((0, Decoded::More)) };
        let (csums, meta) = decode_table(&lengths, table_bytes)?;
        let frame = Frame { hdr: header, csums, meta, data: Buf::empty() };
        let (used, decoded) = self.data(frame, &lengths, rest);
        Ok((HEADER_LEN + table + used, decoded))
    }

    fn data(&mut self, mut frame: Frame, lengths: &Lengths, rest: &[u8]) -> (usize, Decoded<Item>) {
        let len = lengths.data();
        if let Some(bytes) = rest.get(..len) {
            frame.data = Buf::copy_from(bytes);
            return (len, Decoded::Item(Item::Frame(frame)));
        }
        let (fill, used) = start_fill(len, rest);
        self.state = State::Data(frame);
        (used, Decoded::Fill(fill))
    }
}

/// A buffer of `len` bytes with what has arrived of it already.
fn start_fill(len: usize, arrived: &[u8]) -> (Fill, usize) {
    let mut buf = BufMut::with_len(len);
    let at = arrived.len().min(len);
    if let (Some(to), Some(from)) = (buf.as_mut_slice().get_mut(..at), arrived.get(..at)) {
        to.copy_from_slice(from);
    }
    (Fill { buf, at }, at)
}

impl Decoder for LinkDecoder {
    type Item = Item;
    type Error = LinkError;

    fn decode(&mut self, input: &[u8], out: &mut SendQueue) -> Result<(usize, Decoded<Item>), LinkError> {
        if matches!(self.state, State::Head) {
            return Ok(self.head(input)?);
        }
        if matches!(self.state, State::Data(_)) {
            // A large table was received in place; its data goes on in the stream.
            if let State::Data(frame) = core::mem::replace(&mut self.state, State::Head) {
                let lengths = Lengths { csums: frame.csums.len(), ..Lengths::default() };
                return Ok(self.data(frame, &lengths, input));
            }
        }
        let Some((raw, _)) = input.split_first_chunk::<HELLO_LEN>() else { return Ok((0, Decoded::More)) };
        let accepting = matches!(self.state, State::Accepting { .. } | State::Proving(_));
        match self.hello(raw, out) {
            Ok(Some(item)) => Ok((HELLO_LEN, Decoded::Item(item))),
            // Shown the rest again at once, or asked for more by the next call.
            Ok(None) => Ok((HELLO_LEN, Decoded::More)),
            Err(e) => {
                if accepting {
                    out.push_bytes(&verdict(e.code()));
                }
                Err(LinkError::Hello(e))
            }
        }
    }

    fn filled(&mut self, fill: Fill, _out: &mut SendQueue) -> Result<Option<Item>, LinkError> {
        match core::mem::replace(&mut self.state, State::Head) {
            State::Table(hdr, lengths) => {
                let (csums, meta) = decode_table(&lengths, fill.buf.as_slice())?;
                let frame = Frame { hdr, csums, meta, data: Buf::empty() };
                if lengths.data() == 0 {
                    return Ok(Some(Item::Frame(frame)));
                }
                self.state = State::Data(frame);
                Ok(None)
            }
            State::Data(mut frame) => {
                frame.data = fill.buf.freeze();
                Ok(Some(Item::Frame(frame)))
            }
            other => {
                self.state = other;
                Err(FrameError::BadLength.into())
            }
        }
    }
}
