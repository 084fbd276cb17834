//! The incremental decoder: damaged streams give the same frames and the same error however they are split.
#![no_main]

use drystone_frame::{Decoder, FrameError};
use drystone_fuzz::{damage, frames, Splits};
use drystone_types::Frame;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fn decode(mut bytes: &[u8], splits: &mut Splits, bulk: bool) -> (Vec<Frame>, Option<FrameError>) {
    let (mut decoder, mut out) = (Decoder::new(), Vec::new());
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(splits.size().min(bytes.len()));
        let mut rest = now;
        // Data that is received in place, as the shell does with large blocks.
        if let Some(slot) = decoder.bulk().filter(|slot| bulk && !slot.is_empty()) {
            let n = slot.len().min(now.len());
            slot[..n].copy_from_slice(&now[..n]);
            rest = &now[n..];
            if let Err(e) = decoder.bulk_done(n, &mut out) {
                return (out, Some(e));
            }
        }
        if let Err(e) = decoder.feed(rest, &mut out) {
            return (out, Some(e));
        }
        bytes = later;
    }
    (out, None)
}

fn run(mut u: Unstructured) -> Result<()> {
    let (sent, mut bytes) = frames(&mut u)?;
    let damaged = damage(&mut u, &mut bytes)?;
    let (mut splits, bulk) = (Splits::new(&mut u, bytes.len())?, u.arbitrary()?);
    let whole = decode(&bytes, &mut Splits::whole(), false);
    assert_eq!(decode(&bytes, &mut splits, bulk), whole);
    if !damaged {
        assert_eq!(whole, (sent, None));
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = run(Unstructured::new(bytes));
});
