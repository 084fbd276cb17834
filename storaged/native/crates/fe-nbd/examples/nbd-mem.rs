//! Serves a memory disk over NBD on a unix socket: `nbd-mem SOCKET BYTES [SPIN_US]`.
//! For protocol tests and for measuring what the front end itself costs.

use drystone_fe_nbd::{Export, Extent, Limits, Op, ReplyTo, Session};
use drystone_reactor::{
    channel, listen_unix, Config, ConnConfig, ConnId, Conns, Ctx, Event, Handler, OpResult, Reactor, SendQueue,
    TimerId, UserToken,
};
use drystone_types::BufMut;
use std::os::fd::OwnedFd;
use std::path::Path;

const ACCEPT: u32 = 1;
const CONNS: u32 = 2;

/// The handler: one disk, any number of connections.
pub struct Server {
    export: Export,
    disk: Vec<u8>,
    conns: Conns<Session>,
}

impl Server {
    /// Serves a disk of `size` zero bytes on a listening socket.
    pub fn new(cx: &mut Ctx, listener: OwnedFd, size: usize) -> Server {
        let listener = cx.adopt(listener);
        cx.accept(listener, UserToken::new(ACCEPT, 0));
        let conns = Conns::new(CONNS, ConnConfig::default());
        Server { export: Export::new("", size as u64), disk: vec![0; size], conns }
    }

    fn range(&mut self, offset: u64, len: usize) -> &mut [u8] {
        // The session hands out nothing that lies beyond the export.
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        self.disk.get_mut(start..start.saturating_add(len)).unwrap_or(&mut [])
    }

    fn zero(&mut self, offset: u64, len: u32) {
        self.range(offset, len as usize).fill(0);
    }

    fn carry_out(&mut self, id: ConnId, to: ReplyTo, op: Op) {
        match op {
            Op::Read { offset, len } => {
                let mut buf = BufMut::with_len(len as usize);
                buf.as_mut_slice().copy_from_slice(self.range(offset, len as usize));
                return self.reply(id, |session, out| session.reply_data(to, buf.freeze(), out));
            }
            Op::Write { offset, data, .. } => self.range(offset, data.len()).copy_from_slice(data.as_slice()),
            Op::Trim { offset, len, .. } | Op::WriteZeroes { offset, len, .. } => self.zero(offset, len),
            Op::Flush => {}
            Op::BlockStatus { offset, len, .. } => {
                let zero = self.range(offset, len as usize).iter().all(|byte| *byte == 0);
                let extent = Extent { len, hole: false, zero };
                return self.reply(id, |session, out| session.reply_extents(to, &[extent], out));
            }
        }
        self.reply(id, |session, out| session.reply_done(to, out));
    }

    fn reply(&mut self, id: ConnId, make: impl FnOnce(&mut Session, &mut SendQueue)) {
        if let Some((session, out)) = self.conns.parts(id) {
            make(session, out);
        }
    }
}

impl Handler for Server {
    type Command = ();
    /// The only command: end.
    fn on_command(&mut self, cx: &mut Ctx, (): ()) {
        cx.stop();
    }
    fn on_timer(&mut self, _: &mut Ctx, _: TimerId, _: UserToken) {}
    fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        match result {
            OpResult::Accepted(Ok(fd)) => {
                let export = self.export.clone();
                self.conns.insert(fd, |out| Session::new(export, Limits::default(), out));
            }
            OpResult::Accepted(Err(e)) => {
                eprintln!("accepting ended: {e}");
                cx.stop();
            }
            other => self.conns.on_completion(cx, token, other),
        }
    }
    fn on_turn_end(&mut self, cx: &mut Ctx) {
        while let Some((id, event)) = self.conns.next(cx) {
            if let Event::Item(request) = event {
                self.carry_out(id, request.to, request.op);
            }
        }
        self.conns.flush(cx);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(size)) = (args.next(), args.next()) else {
        return Err("usage: nbd-mem SOCKET BYTES [SPIN_US]".into());
    };
    let spin_us = args.next().map_or(Ok(0), |text| text.parse())?;
    let size: usize = size.parse()?;
    let listener = listen_unix(Path::new(&path))?;
    let (_remote, inbox) = channel()?;
    let config = Config { spin_us, ..Config::default() };
    let reactor = Reactor::new(config, inbox, |cx| Server::new(cx, listener, size))?;
    reactor.run()?;
    Ok(())
}
