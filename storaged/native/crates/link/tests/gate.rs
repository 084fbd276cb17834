//! Whom the accepting side lets in.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod common;

use std::net::SocketAddr;
use std::sync::mpsc;

use common::*;
use drystone_frame::header::HEADER_LEN;
use drystone_frame::{ClientHello, HelloError, HELLO_LEN};
use drystone_link::{fresh_nonce, queue_frame, Item, LinkDecoder, PeerUp};
use drystone_reactor::{
    listen_tcp, spawn, Config, ConnConfig, Conns, Ctx, Event, FdId, Handler, OpResult, Remote, Running, TimerId,
    UserToken,
};

const CLASS_LISTEN: u32 = 1;
const CLASS_CONN: u32 = 2;

/// Accepts, and echoes the frames of whoever it let in.
struct Gate {
    _listener: FdId,
    conns: Conns<LinkDecoder>,
    seen: mpsc::Sender<String>,
}

impl Handler for Gate {
    type Command = ();
    fn on_command(&mut self, cx: &mut Ctx, (): ()) {
        cx.stop();
    }
    fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        match (token.class, result) {
            (CLASS_CONN, result) => self.conns.on_completion(cx, token, result),
            (_, OpResult::Accepted(fd)) => {
                let make = |_: &mut _| LinkDecoder::accept(keys(MASTER), CLUSTER, SERVER, fresh_nonce());
                self.conns.insert(fd.unwrap(), make);
            }
            _ => {}
        }
    }
    fn on_timer(&mut self, _: &mut Ctx, _: TimerId, _: UserToken) {}
    fn on_turn_end(&mut self, cx: &mut Ctx) {
        while let Some((id, event)) = self.conns.next(cx) {
            let seen = match event {
                Event::Item(Item::Up(PeerUp::Accepted(who))) => format!("up {:?}", who.uuid == CLIENT),
                Event::Item(Item::Up(up)) => panic!("{up:?}"),
                Event::Item(Item::Frame(frame)) => {
                    if let Some((_, out)) = self.conns.parts(id) {
                        queue_frame(&frame, &mut Vec::new(), out).unwrap();
                    }
                    format!("frame {}", frame.hdr.request)
                }
                Event::Closed(reason) => format!("closed: {reason}"),
            };
            self.seen.send(seen).unwrap();
        }
        self.conns.flush(cx);
    }
}

fn gate() -> (Remote<()>, Running, SocketAddr, mpsc::Receiver<String>) {
    let (listener, addr) = listen_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let (tell, seen) = mpsc::channel();
    let build = move |cx: &mut Ctx| {
        let listener = cx.adopt(listener);
        cx.accept(listener, UserToken::new(CLASS_LISTEN, 0));
        Gate { _listener: listener, conns: Conns::new(CLASS_CONN, ConnConfig::default()), seen: tell }
    };
    let (remote, running) = spawn("gate", Config::default(), build).unwrap();
    (remote, running, addr, seen)
}

#[test]
fn the_right_key_is_let_in_and_a_wrong_one_is_refused_with_a_reason_whatever_else_it_sends() {
    let (remote, running, addr, seen) = gate();
    let next = || seen.recv_timeout(std::time::Duration::from_secs(60)).unwrap();

    let mut good = Peer::connect(addr);
    assert_eq!(good.introduce(&me(MASTER)), Ok(SERVER));
    good.send(&[ping(1)]);
    assert_eq!(good.frames(), [ping(1)]);
    assert_eq!([next(), next()], ["up true", "frame 1"]);

    // An honest peer with an old key finds out by itself.
    let mut old = Peer::connect(addr);
    assert_eq!(old.introduce(&me(OTHER_MASTER)), Err(HelloError::BadProof));
    drop(old);
    assert!(next().starts_with("closed"));

    // One that goes on all the same, with a proof made of the wrong key and frames behind it.
    let mut liar = Peer::connect(addr);
    let wrong = me(OTHER_MASTER);
    let (hello, first) = ClientHello::new(wrong.who, wrong.key, wrong.key_epoch, [4; 32]);
    let (_, forged) = challenge(&first, OTHER_MASTER).unwrap();
    let (_, _, proof) = hello.on_challenge(&forged).unwrap();
    liar.raw(&first);
    liar.hello().unwrap();
    liar.raw(&proof);
    liar.send(&[ping(2)]);
    let verdict = liar.hello().unwrap();
    assert_eq!(hello.on_verdict(&verdict), Err(HelloError::Refused(HelloError::BadProof.code())));
    assert_eq!(liar.hello(), None);
    assert!(next().contains("BadProof"));

    // And one that skips the handshake.
    let mut rude = Peer::connect(addr);
    rude.send(&[ping(3), ping(4)]);
    assert_eq!(rude.hello().map(|raw| raw[5]), Some(4), "a verdict");
    assert!(next().contains("Malformed"));
    const { assert!(HEADER_LEN <= HELLO_LEN, "a frame is looked at as a handshake frame") };

    good.send(&[ping(5)]);
    assert_eq!(good.frames(), [ping(5)]);
    remote.send(()).unwrap();
    running.join().unwrap().unwrap();
}
