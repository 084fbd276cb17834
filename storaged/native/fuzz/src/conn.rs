//! What a connection of the reactor does with its decoder: a receive buffer of fixed size, large
//! payloads in place.

use drystone_reactor::{ConnConfig, Decoded, Decoder, SendQueue};

use crate::wire::Splits;

/// Feeds `stream` in the given splits; every item goes to `on_item`. Ends with the stream or at the
/// first error.
///
/// # Panics
/// When the decoder makes no progress with a full buffer, or piles up answers for a peer that only
/// talks: what it sends by itself is the handshake.
pub fn receive<D: Decoder>(
    decoder: &mut D,
    queue: &mut SendQueue,
    mut stream: &[u8],
    splits: &mut Splits,
    mut on_item: impl FnMut(&mut D, D::Item),
) -> Option<D::Error> {
    let room = ConnConfig::default().recv_buf;
    let mut here = Vec::new();
    loop {
        let (used, decoded) = match decoder.decode(&here, queue) {
            Ok(step) => step,
            Err(e) => return Some(e),
        };
        assert!(queue.len() <= 3 * 128, "a peer that is only listened to makes answers pile up");
        here.drain(..used);
        match decoded {
            Decoded::Item(item) => on_item(decoder, item),
            Decoded::Fill(mut fill) => {
                let (now, later) = stream.split_at_checked(fill.buf.len() - fill.at)?;
                fill.buf.as_mut_slice()[fill.at..].copy_from_slice(now);
                (fill.at, stream) = (fill.buf.len(), later);
                match decoder.filled(fill, queue) {
                    Ok(Some(item)) => on_item(decoder, item),
                    Ok(None) => {}
                    Err(e) => return Some(e),
                }
            }
            Decoded::More if used > 0 => {}
            Decoded::More if stream.is_empty() => return None,
            Decoded::More => {
                assert!(here.len() < room, "no progress with a full receive buffer");
                let (now, later) = stream.split_at(splits.size().min(stream.len()).min(room - here.len()));
                here.extend_from_slice(now);
                stream = later;
            }
            Decoded::Paused | Decoded::Close => return None,
        }
    }
}
