//! Peers that connect to a drive.

use std::collections::BTreeMap;

use drystone_frame::{HelloError, PeerIdentity, Role};
use drystone_link::{fresh_nonce, queue_frame, Item, Keys, LinkDecoder, LinkError};
use drystone_reactor::{CloseReason, ConnConfig, ConnId, Conns, Ctx, Event, FdId, OpResult, TimerId, UserToken};
use drystone_replica::{PeerId, PeerInfo, PeerRole};
use drystone_types::consts::Micros;
use drystone_types::{Frame, Uuid};

const CLASS_LISTEN: u32 = 1;
pub(super) const CLASS_CONN: u32 = 2;
const CLASS_HELLO: u32 = 3;
const CLASS_REFUSED: u32 = 4;
/// Connections of one drive: 1 000 clients of a node set and the servers, twice (data and bulk).
const PEERS_MAX: usize = 4096;
/// Connections that have not authenticated yet: more wait in the kernel's queue of the attacker's own making.
const HALF_OPEN_MAX: usize = 128;
/// A handshake takes two round trips; who needs longer is not speaking the protocol.
const HELLO_MAX: Micros = 5_000_000;

/// What every accepted connection is checked against.
pub struct Gate {
    pub keys: Keys,
    pub cluster: Uuid,
    pub node: Uuid,
}

pub struct Peers {
    gate: Gate,
    listener: FdId,
    conns: Conns<LinkDecoder>,
    half_open: BTreeMap<ConnId, TimerId>,
    scratch: Vec<u8>,
    refused: BTreeMap<&'static str, u64>,
}

impl Peers {
    pub fn new(cx: &mut Ctx, listener: FdId, gate: Gate) -> Peers {
        cx.accept(listener, UserToken::new(CLASS_LISTEN, 0));
        let conns = Conns::new(CLASS_CONN, ConnConfig::default());
        Peers { gate, listener, conns, half_open: BTreeMap::new(), scratch: Vec::new(), refused: BTreeMap::new() }
    }

    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Connections that were refused, by reason; every reason, also those that nobody met.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        REASONS.iter().map(|r| (*r, self.refused.get(r).copied().unwrap_or(0))).collect()
    }

    fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    #[cfg(test)]
    pub fn first(&self) -> Option<PeerId> {
        self.conns.ids().next().map(|id| PeerId(id.0))
    }

    pub fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        match (token.class, result) {
            (CLASS_CONN, result) => self.conns.on_completion(cx, token, result),
            (CLASS_LISTEN, OpResult::Accepted(Ok(fd))) => self.accepted(cx, fd),
            (CLASS_LISTEN, OpResult::Accepted(Err(_))) => {
                // Out of descriptors or a reset before the accept: go on, but not in a tight loop.
                cx.timer(10_000, UserToken::new(CLASS_LISTEN, 0));
            }
            _ => {}
        }
    }

    fn accepted(&mut self, cx: &mut Ctx, fd: FdId) {
        if self.conns.len() >= PEERS_MAX || self.half_open.len() >= HALF_OPEN_MAX {
            self.refuse(TOO_MANY);
            cx.close(fd, UserToken::new(CLASS_REFUSED, 0));
            return;
        }
        let gate = &self.gate;
        let make = |_: &mut _| LinkDecoder::accept(gate.keys.clone(), gate.cluster, gate.node, fresh_nonce());
        let id = self.conns.insert(fd, make);
        let timer = cx.timer(HELLO_MAX, UserToken::new(CLASS_HELLO, id.0));
        self.half_open.insert(id, timer);
    }

    pub fn on_timer(&mut self, cx: &mut Ctx, token: UserToken) {
        match token.class {
            CLASS_HELLO if self.half_open.remove(&ConnId(token.id)).is_some() => {
                self.conns.close(cx, ConnId(token.id));
                self.refuse(TOO_SLOW);
            }
            CLASS_LISTEN => {
                cx.accept(self.listener, UserToken::new(CLASS_LISTEN, 0));
            }
            _ => {}
        }
    }

    pub fn next(&mut self, cx: &mut Ctx) -> Option<(PeerId, Event<LinkDecoder>)> {
        let (id, event) = self.conns.next(cx)?;
        if let Event::Closed(CloseReason::Protocol(why)) = &event {
            self.refuse(reason_of(why));
        }
        if matches!(event, Event::Item(Item::Up(_)) | Event::Closed(_)) {
            if let Some(timer) = self.half_open.remove(&id) {
                cx.cancel_timer(timer);
            }
        }
        Some((PeerId(id.0), event))
    }

    /// Queues an answer; a peer that is gone needs none. A frame over the protocol's limits would
    /// be a defect of the core and closes nothing here: the peer asks again or gives up.
    pub fn send(&mut self, peer: PeerId, frame: &Frame) {
        if let Some((_, queue)) = self.conns.parts(ConnId(peer.0)) {
            let _ = queue_frame(frame, &mut self.scratch, queue);
        }
    }

    pub fn flush(&mut self, cx: &mut Ctx) {
        self.conns.flush(cx);
    }
}

/// Reasons of [`Peers::refused`].
const REASONS: [&str; 8] =
    ["malformed", "wrong_cluster", "protocol", "key_epoch", "bad_proof", "bad_frame", TOO_SLOW, TOO_MANY];
const TOO_SLOW: &str = "too_slow";
const TOO_MANY: &str = "too_many";

fn reason_of(why: &LinkError) -> &'static str {
    match why {
        LinkError::Hello(HelloError::Malformed | HelloError::Refused(_)) => "malformed",
        LinkError::Hello(HelloError::WrongCluster) => "wrong_cluster",
        LinkError::Hello(HelloError::NoCommonProtocol) => "protocol",
        LinkError::Hello(HelloError::UnknownKeyEpoch) => "key_epoch",
        LinkError::Hello(HelloError::BadProof) => "bad_proof",
        LinkError::Frame(_) => "bad_frame",
    }
}

/// What the core is told of a peer.
pub fn info(who: &PeerIdentity) -> PeerInfo {
    let role = match who.role {
        Role::Client => PeerRole::Client,
        Role::Server => PeerRole::Server,
        Role::Manager => PeerRole::Manager,
    };
    PeerInfo { role, uuid: who.uuid }
}
