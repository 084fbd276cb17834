//! A handler made of one closure, run with a deadline.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

use drystone_reactor::{
    channel, Config, ConnConfig, Conns, Ctx, Decoded, Decoder, FdId, Fill, Handler, OpResult, Reactor, Remote,
    SendQueue, TimerId, UserToken,
};
use drystone_types::{Buf, BufMut};

/// A test that takes this long hangs.
const DEADLINE_US: u64 = 60_000_000;
pub const WATCHDOG: UserToken = UserToken::new(u32::MAX, 0);

pub enum What {
    Command(u64),
    Done(UserToken, OpResult),
    Timer(UserToken),
    TurnEnd,
}

pub struct Script<F>(F);

impl<F: FnMut(&mut Ctx, What)> Handler for Script<F> {
    type Command = u64;
    fn on_command(&mut self, cx: &mut Ctx, command: u64) {
        (self.0)(cx, What::Command(command));
    }
    fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        (self.0)(cx, What::Done(token, result));
    }
    fn on_timer(&mut self, cx: &mut Ctx, _: TimerId, token: UserToken) {
        assert_ne!(token, WATCHDOG, "the test hangs: {:?}", cx.stats());
        (self.0)(cx, What::Timer(token));
    }
    fn on_turn_end(&mut self, cx: &mut Ctx) {
        (self.0)(cx, What::TurnEnd);
    }
}

/// Runs a reactor on this thread until the script stops it.
pub fn run<F: FnMut(&mut Ctx, What)>(start: impl FnOnce(&mut Ctx, Remote<u64>), script: F) {
    run_with(Config::default(), start, script);
}

pub fn run_with<F: FnMut(&mut Ctx, What)>(config: Config, start: impl FnOnce(&mut Ctx, Remote<u64>), script: F) {
    let (remote, inbox) = channel().unwrap();
    let reactor = Reactor::new(config, inbox, |cx| {
        cx.timer(DEADLINE_US, WATCHDOG);
        start(cx, remote);
        Script(script)
    });
    reactor.unwrap().run().unwrap();
}

/// Frames of a 4-byte length and a body; long bodies are received in place.
pub struct Frames {
    pub paused: bool,
}

pub const TOO_LONG: u32 = 64 << 20;
const IN_PLACE: usize = 16 << 10;

impl Decoder for Frames {
    type Item = Buf;
    type Error = String;
    fn decode(&mut self, input: &[u8], out: &mut SendQueue) -> Result<(usize, Decoded<Buf>), String> {
        let Some((head, rest)) = input.split_first_chunk() else {
            return Ok((0, Decoded::More));
        };
        let len = u32::from_le_bytes(*head);
        if len > TOO_LONG {
            out.push_bytes(b"too long");
            return Err("too long".into());
        }
        if self.paused {
            return Ok((0, Decoded::Paused));
        }
        let len = len as usize;
        if len == 0 {
            return Ok((4, Decoded::Close));
        }
        let here = rest.len().min(len);
        if here < len && len <= IN_PLACE {
            return Ok((0, Decoded::More));
        }
        let mut buf = BufMut::with_len(len);
        buf.as_mut_slice()[..here].copy_from_slice(&rest[..here]);
        if here == len {
            return Ok((4 + len, Decoded::Item(buf.freeze())));
        }
        Ok((4 + here, Decoded::Fill(Fill { buf, at: here })))
    }
    fn filled(&mut self, fill: Fill, _: &mut SendQueue) -> Result<Option<Buf>, String> {
        Ok(Some(fill.buf.freeze()))
    }
}

pub const ACCEPT: UserToken = UserToken::new(1, 0);
pub const CONN: u32 = 2;

pub fn frames(config: ConnConfig) -> Conns<Frames> {
    Conns::new(CONN, config)
}

pub fn add(conns: &mut Conns<Frames>, fd: FdId) {
    conns.insert(fd, |_| Frames { paused: false });
}

/// A frame as bytes.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(body);
    out
}

/// A path that no other test uses.
pub fn scratch(name: &str) -> std::path::PathBuf {
    let dir = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, Into::into);
    let path = dir.join(format!("drystone-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}
