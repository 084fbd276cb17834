//! Arbitrary bytes from a client, from the first byte on and in the transmission phase.
#![no_main]

use drystone_fe_nbd::{Export, Limits, NbdError, Session, Step};
use libfuzzer_sys::fuzz_target;

fn run(session: &mut Session, mut input: &[u8]) {
    let mut out = Vec::new();
    while let Ok((used, step)) = session.decode(input, &mut out) {
        input = &input[used..];
        match step {
            Step::Request(request) => session.reply_error(request.to, NbdError::Io, &mut out),
            Step::Fill(mut fill) => {
                let now = input.len().min(fill.buf.len() - fill.at);
                fill.buf.as_mut_slice()[fill.at..fill.at + now].copy_from_slice(&input[..now]);
                fill.at += now;
                input = &input[now..];
                match session.filled(fill) {
                    Ok(request) => session.reply_error(request.to, NbdError::Io, &mut out),
                    Err(_) => return,
                }
            }
            Step::More | Step::Paused | Step::Close => return,
        }
        out.clear();
    }
}

fuzz_target!(|input: &[u8]| {
    let mut out = Vec::new();
    run(&mut Session::new(Export::new("vol", 1 << 20), Limits::default(), &mut out), input);
    let mut session = Session::new(Export::new("vol", 1 << 20), Limits::default(), &mut out);
    run(&mut session, b"\0\0\0\x03IHAVEOPT\0\0\0\x08\0\0\0\0IHAVEOPT\0\0\0\x01\0\0\0\x03vol");
    run(&mut session, input);
});
