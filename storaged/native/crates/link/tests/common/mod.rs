//! A peer that speaks the protocol with blocking sockets, so that a test decides each step of it.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use drystone_frame::{encode_head, ClientHello, Decoder, HelloError, PeerIdentity, Role, ServerHello, HELLO_LEN};
use drystone_link::{Keys, MyIdentity};
use drystone_types::trust::{role_key, Key};
use drystone_types::{Frame, Header, Uuid};

pub const CLUSTER: Uuid = Uuid([7; 16]);
pub const SERVER: Uuid = Uuid([1; 16]);
pub const CLIENT: Uuid = Uuid([2; 16]);
pub const MASTER: Key = [9; 32];
pub const OTHER_MASTER: Key = [8; 32];
const EPOCH: u32 = 3;
/// A peer that waits this long hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the accepting side checks with.
pub fn keys(master: Key) -> Keys {
    Keys { masters: vec![(EPOCH, master)] }
}

/// The connecting side, with the key derived from `master`.
pub fn me(master: Key) -> MyIdentity {
    let who = PeerIdentity { role: Role::Client, uuid: CLIENT, cluster: CLUSTER };
    MyIdentity { who, key: role_key(&master, who.role.name(), &who.uuid.0, EPOCH), key_epoch: EPOCH }
}

/// A frame that is known by its number.
pub fn ping(request: u64) -> Frame {
    Frame { hdr: Header { request, ..Header::default() }, ..Frame::default() }
}

/// One end of a connection.
pub struct Peer {
    stream: TcpStream,
    decoder: Decoder,
}

impl Peer {
    pub fn connect(to: SocketAddr) -> Peer {
        Peer::over(TcpStream::connect(to).unwrap())
    }
    pub fn accept(listener: &TcpListener) -> Peer {
        Peer::over(listener.accept().unwrap().0)
    }
    pub fn peer(&self) -> SocketAddr {
        self.stream.peer_addr().unwrap()
    }
    fn over(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { stream, decoder: Decoder::new() }
    }

    /// One frame of the handshake; `None` when the other side has closed instead.
    pub fn hello(&mut self) -> Option<[u8; HELLO_LEN]> {
        let mut raw = [0; HELLO_LEN];
        self.stream.read_exact(&mut raw).ok().map(|()| raw)
    }
    pub fn raw(&mut self, bytes: &[u8]) {
        // The other side may have closed: then what it says next is what counts.
        let _ = self.stream.write_all(bytes);
    }

    /// The whole handshake of the accepting side.
    pub fn welcome(&mut self, master: Key) -> Result<PeerIdentity, HelloError> {
        let (proof, reply) = challenge(&self.hello().unwrap(), master)?;
        self.raw(&reply);
        // A dialler that does not believe us closes.
        let (who, verdict) = proof.on_proof(&self.hello().ok_or(HelloError::BadProof)?)?;
        self.raw(&verdict);
        Ok(who)
    }
    /// The whole handshake of the connecting side; returns the node of the other one.
    pub fn introduce(&mut self, me: &MyIdentity) -> Result<Uuid, HelloError> {
        let (hello, first) = ClientHello::new(me.who, me.key, me.key_epoch, [4; 32]);
        self.raw(&first);
        let (node, _, proof) = hello.on_challenge(&self.hello().ok_or(HelloError::Malformed)?)?;
        self.raw(&proof);
        hello.on_verdict(&self.hello().ok_or(HelloError::Malformed)?)?;
        Ok(node)
    }

    pub fn send(&mut self, frames: &[Frame]) {
        let mut bytes = Vec::new();
        for frame in frames {
            encode_head(frame, &mut bytes).unwrap();
            bytes.extend_from_slice(frame.data.as_slice());
        }
        self.raw(&bytes);
    }
    /// The next frames; none when the other side has closed.
    pub fn frames(&mut self) -> Vec<Frame> {
        let (mut out, mut buf) = (Vec::new(), [0; 4096]);
        while out.is_empty() {
            match self.stream.read(&mut buf) {
                Ok(n) if n > 0 => self.decoder.feed(&buf[..n], &mut out).unwrap(),
                Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset => unreachable!("the test hangs: {e}"),
                _ => break,
            }
        }
        out
    }
    /// The numbers of all frames until the other side closes.
    pub fn numbers_to_the_end(&mut self) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            match self.frames() {
                frames if frames.is_empty() => return all,
                frames => all.extend(frames.iter().map(|f| f.hdr.request)),
            }
        }
    }
}

/// The accepting side's answer to a first frame.
pub fn challenge(first: &[u8; HELLO_LEN], master: Key) -> Result<(ServerHello, [u8; HELLO_LEN]), HelloError> {
    ServerHello::on_challenge(first, CLUSTER, SERVER, [5; 32], |epoch| keys(master).master(epoch))
}
