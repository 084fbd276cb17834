//! A session as the decoder of a reactor connection.

use crate::{Request, Session, SessionError, Sink, Step};
use drystone_reactor::{Decoded, Decoder, Fill, SendQueue};
use drystone_types::Buf;

impl Sink for SendQueue {
    fn bytes(&mut self, bytes: &[u8]) {
        self.push_bytes(bytes);
    }
    fn buf(&mut self, buf: Buf) {
        self.push_buf(buf);
    }
}

impl Decoder for Session {
    type Item = Request;
    type Error = SessionError;

    fn decode(&mut self, input: &[u8], out: &mut SendQueue) -> Result<(usize, Decoded<Request>), SessionError> {
        let (used, step) = Session::decode(self, input, out)?;
        let decoded = match step {
            Step::More => Decoded::More,
            Step::Request(request) => Decoded::Item(request),
            Step::Fill(fill) => Decoded::Fill(Fill { buf: fill.buf, at: fill.at }),
            Step::Paused => Decoded::Paused,
            Step::Close => Decoded::Close,
        };
        Ok((used, decoded))
    }

    fn filled(&mut self, fill: Fill, _out: &mut SendQueue) -> Result<Option<Request>, SessionError> {
        Session::filled(self, crate::Fill { buf: fill.buf, at: fill.at }).map(Some)
    }
}
