//! Arbitrary bytes from an NBD client, from the first byte on and in the transmission phase. What is
//! handed out lies inside the export and within the limits.
#![no_main]

use drystone_fe_nbd::{Export, Limits, NbdError, Op, Request, Session, Step, RECV_MIN};
use drystone_fuzz::Splits;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 1 << 20;
const LIMITS: Limits = Limits { requests: 4, bytes: 1 << 20 };
/// STRUCTURED_REPLY, then SET_META_CONTEXT for `base:allocation` of `vol`.
const STRUCTURED: &[u8] = b"IHAVEOPT\0\0\0\x08\0\0\0\0\
    IHAVEOPT\0\0\0\x0a\0\0\0\x1e\0\0\0\x03vol\0\0\0\x01\0\0\0\x0fbase:allocation";

fn check(request: &Request) {
    let (offset, len) = match &request.op {
        Op::Read { offset, len }
        | Op::Trim { offset, len, .. }
        | Op::WriteZeroes { offset, len, .. }
        | Op::BlockStatus { offset, len, .. } => (*offset, u64::from(*len)),
        Op::Write { offset, data, .. } => (*offset, data.len() as u64),
        Op::Flush => (0, 0),
    };
    let inside = offset.checked_add(len).is_some_and(|end| end <= SIZE);
    assert!(inside && offset % 512 == 0 && len % 512 == 0, "{offset}+{len}");
}

/// Feeds the session as a connection does; requests are answered when it pauses.
fn run(session: &mut Session, mut stream: &[u8], splits: &mut Splits) {
    let (mut out, mut here, mut open) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let Ok((used, step)) = session.decode(&here, &mut out) else { return };
        here.drain(..used);
        let request = match step {
            Step::Request(request) => request,
            Step::Fill(mut fill) => {
                let now = stream.len().min(fill.buf.len() - fill.at);
                fill.buf.as_mut_slice()[fill.at..fill.at + now].copy_from_slice(&stream[..now]);
                fill.at += now;
                stream = &stream[now..];
                let Ok(request) = session.filled(fill) else { return };
                request
            }
            Step::Paused => {
                assert!(!open.is_empty(), "a pause that no answer ends");
                open.drain(..).for_each(|to| session.reply_error(to, NbdError::Io, &mut out));
                out.clear();
                continue;
            }
            Step::More if stream.is_empty() => return,
            Step::More => {
                assert!(here.len() < RECV_MIN, "no progress with a full receive buffer");
                let (now, later) = stream.split_at(splits.size().min(stream.len()).min(RECV_MIN - here.len()));
                here.extend_from_slice(now);
                stream = later;
                continue;
            }
            Step::Close => return,
        };
        check(&request);
        open.push(request.to);
        assert!(session.in_flight() == open.len() && open.len() <= LIMITS.requests);
    }
}

/// Well-formed options with fuzzed numbers and bodies.
fn options(u: &mut Unstructured) -> Result<Vec<u8>> {
    let mut out = b"\0\0\0\x03".to_vec();
    for _ in 0..u.int_in_range(1..=6u8)? {
        let len = u.int_in_range(0..=40u8)?;
        out.extend_from_slice(b"IHAVEOPT\0\0\0");
        out.extend_from_slice(&[u.int_in_range(1..=12)?, 0, 0, 0, len]);
        // A name length that fits, most of the time.
        let body = u.bytes(usize::from(len))?;
        let name = if len >= 4 && u.ratio(3u8, 4u8)? { &[0, 0, 0, len % 8][..] } else { &[] };
        out.extend_from_slice(name);
        out.extend_from_slice(&body[name.len()..]);
    }
    Ok(out)
}

/// Well-formed requests with fuzzed fields; the payloads of writes follow them.
fn requests(u: &mut Unstructured) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for _ in 0..u.int_in_range(1..=12u8)? {
        let (flags, command) = (u.arbitrary::<u8>()? & 0x1f, u.int_in_range(0..=9u8)?);
        let (cookie, block, blocks): (u64, u16, u16) = u.arbitrary()?;
        let (ragged, far): (u8, u8) = u.arbitrary()?;
        let offset = u64::from(block % 2048) * 512 + if far == 1 { u64::MAX << 32 } else { u64::from(ragged == 1) };
        let len = u32::from(blocks % 300) * 512 + u32::from(ragged == 2);
        out.extend_from_slice(&0x2560_9513u32.to_be_bytes());
        out.extend_from_slice(&[0, flags, 0, command]);
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
        out.resize(out.len() + if command == 1 { len as usize } else { 0 }, ragged);
    }
    Ok(out)
}

fn well_formed(mut u: Unstructured) -> Result<()> {
    let (mut splits, mut out) = (Splits::new(&mut u, 1 << 18)?, Vec::new());
    let mut session = Session::new(Export::new("vol", SIZE), LIMITS, &mut out);
    run(&mut session, &options(&mut u)?, &mut splits);
    let (read_only, options) = (u.arbitrary()?, if u.arbitrary()? { STRUCTURED } else { b"" });
    let mut session = Session::new(Export { read_only, ..Export::new("vol", SIZE) }, LIMITS, &mut out);
    run(&mut session, &hello(options), &mut Splits::whole());
    run(&mut session, &requests(&mut u)?, &mut splits);
    Ok(())
}

fn hello(options: &[u8]) -> Vec<u8> {
    [b"\0\0\0\x03", options, b"IHAVEOPT\0\0\0\x01\0\0\0\x03vol"].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let _ = well_formed(Unstructured::new(bytes));
    let mut u = Unstructured::new(bytes);
    let Ok(mut splits) = Splits::new(&mut u, bytes.len()) else { return };
    let (stream, mut out) = (u.take_rest(), Vec::new());
    run(&mut Session::new(Export::new("vol", SIZE), LIMITS, &mut out), stream, &mut splits);
    // Simple replies, then structured ones with block status.
    for options in [&b""[..], STRUCTURED] {
        let mut session = Session::new(Export::new("vol", SIZE), LIMITS, &mut out);
        run(&mut session, &hello(options), &mut Splits::whole());
        assert!(session.is_transmitting(), "the handshake of an honest client failed");
        run(&mut session, stream, &mut splits);
    }
});
