//! The reactor's own decoder of frames, without a handshake that anybody checks: damaged streams in any split.
#![no_main]

use drystone_frame::{FrameError, HELLO_LEN};
use drystone_fuzz::{damage, frames, receive, Splits};
use drystone_reactor::{SendQueue, WireDecoder, WireItem};
use drystone_types::Frame;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fn listen(stream: &[u8], splits: &mut Splits) -> (Vec<Frame>, Option<FrameError>) {
    let (mut decoder, mut queue, mut frames) = (WireDecoder::new(), SendQueue::new(), Vec::new());
    let error = receive(&mut decoder, &mut queue, stream, splits, |decoder, item| match item {
        WireItem::Hello(_) => decoder.establish(),
        WireItem::Frame(frame) => frames.push(*frame),
    });
    (frames, error)
}

fn run(mut u: Unstructured) -> Result<()> {
    let (sent, mut bytes) = frames(&mut u)?;
    let damaged = damage(&mut u, &mut bytes)?;
    let stream = [&[7; HELLO_LEN][..], &bytes].concat();
    let whole = listen(&stream, &mut Splits::whole());
    assert_eq!(listen(&stream, &mut Splits::new(&mut u, stream.len())?), whole);
    if !damaged {
        assert_eq!(whole, (sent, None));
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = listen(bytes, &mut Splits::whole());
    let _ = run(Unstructured::new(bytes));
});
