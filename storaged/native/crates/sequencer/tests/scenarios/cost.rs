//! Processor time of the sequencer alone for a replicated 4 KiB write and read; a figure for
//! people, never a verdict: `cargo test --release -p drystone-sequencer cost -- --ignored --nocapture`.

use std::time::Instant;

use drystone_sequencer::*;
use drystone_types::*;

use crate::world::{pattern, World};

fn answers(out: &mut Vec<Action>, data: &Buf, csum: impl Fn(u64) -> u64) -> Vec<Event> {
    let mut events = Vec::new();
    for action in out.drain(..) {
        match action {
            Action::Send { drive, frame, .. } => {
                let mut answer = Frame::bare(frame.hdr.reply(Status::Ok));
                answer.hdr.credits = 1 << 30;
                if frame.hdr.kind == MsgType::Read {
                    answer.meta = vec![1, 0];
                    answer.csums = vec![csum(frame.hdr.block)];
                    answer.data = data.clone();
                }
                events.push(Event::Frame { drive, frame: answer });
            }
            Action::Complete { tag, .. } => events.push(Event::Answered { tag }),
            _ => {}
        }
    }
    events
}

#[test]
#[ignore = "prints a figure, judges nothing"]
fn cost_of_a_replicated_write_and_of_a_read() {
    let mut w = World::attached();
    for d in 1..=3 {
        w.rep(d).granted = 1 << 30;
    }
    w.write(0, &pattern(1, 4096));
    let data = Buf::copy_from(&pattern(1, 4096));
    let csum = |block| drystone_csum::block_csum(crate::world::VOL, block, data.as_slice());
    let rounds = 200_000u64;
    for write in [true, false] {
        let (mut inside, mut out) = (0u128, Vec::new());
        for i in 0..rounds {
            let offset = i * 7919 % 16_384 * 4096;
            let io = if write { Io::Write { offset, data: data.clone() } } else { Io::Read { offset, len: 4096 } };
            let mut events = vec![Event::Io { tag: 1_000_000 + i, io }];
            while !events.is_empty() {
                for event in core::mem::take(&mut events) {
                    let start = Instant::now();
                    w.seq.step(w.now + i * 10, event, &mut out);
                    inside += start.elapsed().as_nanos();
                    events.extend(answers(&mut out, &data, csum));
                }
            }
        }
        println!("{}: {} ns in the sequencer", if write { "write" } else { "read" }, inside / u128::from(rounds));
    }
    assert_eq!(w.seq.open(), (0, 0));
}
