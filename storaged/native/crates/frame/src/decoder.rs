//! From a byte stream to frames, whatever the chunks it arrives in.

use drystone_types::{Buf, BufMut, Frame, Header};

use crate::header::{decode_header, decode_table, FrameError, Lengths, HEADER_LEN};

enum State {
    Head,
    Table(Header, Lengths),
    Data { frame: Frame, data: BufMut, filled: usize },
}

/// Incremental decoder of one connection.
///
/// Small parts are fed from the receive buffer with [`Decoder::feed`]; when a large block of data
/// is under way, [`Decoder::bulk`] gives its destination so that the shell can receive
/// straight into it.
pub struct Decoder {
    state: State,
    scratch: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { state: State::Head, scratch: Vec::with_capacity(HEADER_LEN) }
    }
}

impl Decoder {
    /// At a frame boundary.
    pub fn new() -> Self {
        Decoder::default()
    }

    /// Consumes all of `input`, appending complete frames to `out`. After an error the
    /// connection must be closed; the decoder refuses everything by the same error.
    pub fn feed(&mut self, mut input: &[u8], out: &mut Vec<Frame>) -> Result<(), FrameError> {
        loop {
            self.finish_if_complete(out)?;
            if input.is_empty() {
                return Ok(());
            }
            if let State::Data { data, filled, .. } = &mut self.state {
                let slot = data.as_mut_slice().get_mut(*filled..).unwrap_or(&mut []);
                let n = slot.len().min(input.len());
                let (now, later) = input.split_at(n);
                if let Some(slot) = slot.get_mut(..n) {
                    slot.copy_from_slice(now);
                }
                *filled += n;
                input = later;
            } else {
                let missing = self.scratch_goal() - self.scratch.len();
                let (now, later) = input.split_at(missing.min(input.len()));
                self.scratch.extend_from_slice(now);
                input = later;
            }
        }
    }

    /// Where the next bytes of data belong, when data is under way.
    pub fn bulk(&mut self) -> Option<&mut [u8]> {
        match &mut self.state {
            State::Data { data, filled, .. } => data.as_mut_slice().get_mut(*filled..),
            _ => None,
        }
    }

    /// `n` bytes were received into [`Decoder::bulk`].
    pub fn bulk_done(&mut self, n: usize, out: &mut Vec<Frame>) -> Result<(), FrameError> {
        if let State::Data { data, filled, .. } = &mut self.state {
            *filled = filled.saturating_add(n).min(data.len());
        }
        self.finish_if_complete(out)
    }

    fn scratch_goal(&self) -> usize {
        match &self.state {
            State::Head => HEADER_LEN,
            State::Table(_, lengths) => lengths.table_and_meta(),
            State::Data { .. } => 0,
        }
    }

    fn finish_if_complete(&mut self, out: &mut Vec<Frame>) -> Result<(), FrameError> {
        loop {
            match &self.state {
                State::Data { data, filled, .. } if *filled < data.len() => return Ok(()),
                State::Data { .. } => {}
                _ if self.scratch.len() < self.scratch_goal() => return Ok(()),
                _ => {}
            }
            match core::mem::replace(&mut self.state, State::Head) {
                State::Head => {
                    let raw: [u8; HEADER_LEN] =
                        self.scratch.as_slice().try_into().map_err(|_| FrameError::BadLength)?;
                    let (header, lengths) = decode_header(&raw)?;
                    self.scratch.clear();
                    self.state = State::Table(header, lengths);
                }
                State::Table(hdr, lengths) => {
                    let (csums, meta) = decode_table(&lengths, &self.scratch)?;
                    self.scratch.clear();
                    let frame = Frame { hdr, csums, meta, data: Buf::empty() };
                    if lengths.data() == 0 {
                        out.push(frame);
                    } else {
                        self.state = State::Data { frame, data: BufMut::with_len(lengths.data()), filled: 0 };
                    }
                }
                State::Data { mut frame, data, .. } => {
                    frame.data = data.freeze();
                    out.push(frame);
                }
            }
            if matches!(self.state, State::Head) && self.scratch.is_empty() {
                return Ok(());
            }
        }
    }
}
