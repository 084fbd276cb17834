//! Drystone frames over a connection: fixed-size HELLO frames until both sides know each other,
//! then headers, tables and data, the data received where it will be used.

use crate::conn::{Decoded, Decoder, Fill};
use crate::sendq::SendQueue;
use drystone_frame::header::{decode_header, decode_table};
use drystone_frame::{encode_head, FrameError, Lengths, HEADER_LEN, HELLO_LEN};
use drystone_types::{Buf, BufMut, Frame, Header};

/// Parts up to this size are copied out of the stream buffer (1 µs); larger ones are received in
/// place, which costs one more system call. The receive buffer must hold more than this.
const INLINE_MAX: usize = 32 << 10;

/// What arrives.
#[derive(Debug)]
pub enum WireItem {
    /// A handshake frame; after the last one call [`WireDecoder::establish`].
    Hello(Box<[u8; HELLO_LEN]>),
    /// A whole frame. Its table and metadata are checked against the header, its data is not
    /// checked against the table: that is for whoever stores or delivers it.
    Frame(Box<Frame>),
}

enum State {
    Hello,
    Head,
    Table(Header, Lengths),
    Data(Box<Frame>, Lengths),
}

/// The decoder of a connection between a sequencer and a server, either side.
pub struct WireDecoder {
    state: State,
}

/// Bytes consumed, and what they led to; `None` means go on.
type Progress = (usize, Option<Decoded<WireItem>>);

impl WireDecoder {
    /// A connection that starts with HELLO.
    pub fn new() -> WireDecoder {
        WireDecoder { state: State::Hello }
    }
    /// The handshake is over: everything from here on is frames. Call it before asking the
    /// connection for its next event, because frames may be in the receive buffer already.
    pub fn establish(&mut self) {
        if matches!(self.state, State::Hello) {
            self.state = State::Head;
        }
    }
    /// Whether frames are understood.
    pub fn is_established(&self) -> bool {
        !matches!(self.state, State::Hello)
    }

    fn table(&mut self, header: Header, lengths: Lengths, bytes: &[u8]) -> Result<Option<WireItem>, FrameError> {
        let (csums, meta) = decode_table(&lengths, bytes)?;
        let frame = Box::new(Frame { hdr: header, csums, meta, data: Buf::empty() });
        if lengths.data() == 0 {
            self.state = State::Head;
            return Ok(Some(WireItem::Frame(frame)));
        }
        self.state = State::Data(frame, lengths);
        Ok(None)
    }

    fn step(&mut self, input: &[u8]) -> Result<Progress, FrameError> {
        match std::mem::replace(&mut self.state, State::Head) {
            State::Hello => {
                self.state = State::Hello;
                let Some(raw) = input.first_chunk() else {
                    return Ok((0, Some(Decoded::More)));
                };
                Ok((HELLO_LEN, Some(Decoded::Item(WireItem::Hello(Box::new(*raw))))))
            }
            State::Head => {
                let Some(raw) = input.first_chunk() else {
                    return Ok((0, Some(Decoded::More)));
                };
                let (header, lengths) = decode_header(raw)?;
                self.state = State::Table(header, lengths);
                Ok((HEADER_LEN, None))
            }
            State::Table(header, lengths) => {
                let len = lengths.table_and_meta();
                if let Some(bytes) = input.get(..len) {
                    return Ok((len, self.table(header, lengths, bytes)?.map(Decoded::Item)));
                }
                self.state = State::Table(header, lengths);
                Ok(part(input, len))
            }
            State::Data(mut frame, lengths) => {
                let len = lengths.data();
                if let Some(bytes) = input.get(..len) {
                    frame.data = Buf::copy_from(bytes);
                    return Ok((len, Some(Decoded::Item(WireItem::Frame(frame)))));
                }
                self.state = State::Data(frame, lengths);
                Ok(part(input, len))
            }
        }
    }
}

/// A part that is not whole yet: small ones wait, large ones are received in place.
fn part(input: &[u8], len: usize) -> Progress {
    if len <= INLINE_MAX {
        return (0, Some(Decoded::More));
    }
    let mut buf = BufMut::with_len(len);
    if let Some(head) = buf.as_mut_slice().get_mut(..input.len()) {
        head.copy_from_slice(input);
    }
    (input.len(), Some(Decoded::Fill(Fill { buf, at: input.len() })))
}

impl Default for WireDecoder {
    fn default() -> WireDecoder {
        WireDecoder::new()
    }
}

impl Decoder for WireDecoder {
    type Item = WireItem;
    type Error = FrameError;

    fn decode(&mut self, input: &[u8], _: &mut SendQueue) -> Result<(usize, Decoded<WireItem>), FrameError> {
        let mut used = 0;
        loop {
            let (now, decoded) = self.step(input.get(used..).unwrap_or(&[]))?;
            used += now;
            if let Some(decoded) = decoded {
                return Ok((used, decoded));
            }
        }
    }

    fn filled(&mut self, fill: Fill, _: &mut SendQueue) -> Result<Option<WireItem>, FrameError> {
        match std::mem::replace(&mut self.state, State::Head) {
            State::Table(header, lengths) => self.table(header, lengths, fill.buf.as_slice()),
            State::Data(mut frame, lengths) if fill.buf.len() == lengths.data() => {
                frame.data = fill.buf.freeze();
                Ok(Some(WireItem::Frame(frame)))
            }
            _ => Err(FrameError::BadLength),
        }
    }
}

/// Queues a frame: header, table and metadata are encoded into the queue, the data goes by
/// reference. A frame over the protocol's bounds is refused and nothing of it is queued.
pub fn push_frame(frame: &Frame, out: &mut SendQueue) -> Result<(), FrameError> {
    out.push_head(|heads| encode_head(frame, heads))?;
    out.push_buf(frame.data.clone());
    Ok(())
}
