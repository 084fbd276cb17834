//! HELLO: mutual challenge-response before anything else is parsed (architecture §6).
//!
//! Four fixed-size frames of 128 bytes: client challenge, server challenge and proof, client
//! proof, verdict. The key is the *connecting* side's role key, which a server derives from the
//! master; so both prove that they belong, and a consumer holds no key but its own. Every field
//! that was agreed is under both MACs: nothing can be replayed, reflected or downgraded.

use drystone_types::codec::{Reader, Writer};
use drystone_types::trust::{equal, hmac_sha256, role_key, Key};
use drystone_types::{CodecError, Uuid};

/// Bytes of each handshake frame.
pub const HELLO_LEN: usize = 128;
/// Oldest and newest protocol version this build speaks.
pub const PROTOCOL: (u16, u16) = (1, 1);
const MAGIC: u32 = u32::from_le_bytes(*b"DRYH");

/// Who connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Role {
    /// A block daemon: may touch volumes it holds tickets for.
    Client = 1,
    /// Another server: resync, relay, peer check.
    Server = 2,
    /// A manager.
    Manager = 3,
}

impl Role {
    /// The name under which the role's key is derived.
    pub fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Server => "server",
            Role::Manager => "manager",
        }
    }
    fn from_u8(raw: u8) -> Option<Role> {
        [Role::Client, Role::Server, Role::Manager].into_iter().find(|r| *r as u8 == raw)
    }
}

/// Why a handshake failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloError {
    /// Not a handshake frame.
    Malformed,
    /// The peer belongs to another cluster.
    WrongCluster,
    /// No protocol version is spoken by both.
    NoCommonProtocol,
    /// The key epoch is not one of those valid now.
    UnknownKeyEpoch,
    /// The proof does not match: another key, or an attacker.
    BadProof,
    /// The other side refused with this code.
    Refused(u8),
}

impl From<CodecError> for HelloError {
    fn from(_: CodecError) -> Self {
        HelloError::Malformed
    }
}

impl HelloError {
    /// Code sent in the verdict; it tells an honest peer what to fix and an attacker nothing more.
    pub fn code(self) -> u8 {
        match self {
            HelloError::Malformed => 1,
            HelloError::WrongCluster => 2,
            HelloError::NoCommonProtocol => 3,
            HelloError::UnknownKeyEpoch => 4,
            HelloError::BadProof => 5,
            HelloError::Refused(code) => code,
        }
    }
}

/// Identity of one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    /// Role.
    pub role: Role,
    /// Client id or node UUID.
    pub uuid: Uuid,
    /// Cluster.
    pub cluster: Uuid,
}

#[derive(Clone, Copy)]
struct Challenge {
    range: (u16, u16),
    who: PeerIdentity,
    key_epoch: u32,
    nonce: [u8; 32],
}

fn framed(kind: u8, fill: impl FnOnce(&mut Writer)) -> [u8; HELLO_LEN] {
    let mut w = Writer::new();
    w.u32(MAGIC).u8(1).u8(kind).u16(0);
    fill(&mut w);
    let mut raw = w.finish();
    raw.resize(HELLO_LEN, 0);
    raw.as_slice().try_into().unwrap_or([0; HELLO_LEN])
}

fn opened(raw: &[u8; HELLO_LEN], kind: u8) -> Result<Reader<'_>, HelloError> {
    let mut r = Reader::new(raw);
    let ok = r.u32()? == MAGIC && r.u8()? == 1 && r.u8()? == kind && r.u16()? == 0;
    if ok {
        Ok(r)
    } else {
        Err(HelloError::Malformed)
    }
}

fn proof(key: &Key, side: &str, c: &Challenge, server: &Uuid, server_nonce: &[u8; 32], chosen: u16) -> Key {
    hmac_sha256(
        key,
        &[
            side.as_bytes(),
            &[0],
            &c.range.0.to_le_bytes(),
            &c.range.1.to_le_bytes(),
            &chosen.to_le_bytes(),
            &[c.who.role as u8],
            &c.who.uuid.0,
            &c.who.cluster.0,
            &c.key_epoch.to_le_bytes(),
            &server.0,
            &c.nonce,
            server_nonce,
        ],
    )
}

/// Connecting side.
pub struct ClientHello {
    challenge: Challenge,
    key: Key,
}

impl ClientHello {
    /// `nonce` must be fresh randomness; `key` the role key for `key_epoch`.
    pub fn new(who: PeerIdentity, key: Key, key_epoch: u32, nonce: [u8; 32]) -> (ClientHello, [u8; HELLO_LEN]) {
        let c = Challenge { range: PROTOCOL, who, key_epoch, nonce };
        let raw = framed(1, |w| {
            w.u16(c.range.0).u16(c.range.1).u8(who.role as u8).bytes(&who.cluster.0).bytes(&who.uuid.0);
            w.u32(key_epoch).bytes(&nonce);
        });
        (ClientHello { challenge: c, key }, raw)
    }

    /// Handles the server's challenge; returns its node UUID, the protocol version and the proof to send.
    pub fn on_challenge(&self, raw: &[u8; HELLO_LEN]) -> Result<(Uuid, u16, [u8; HELLO_LEN]), HelloError> {
        if let Ok(mut r) = opened(raw, 4) {
            return Err(HelloError::Refused(r.u8()?));
        }
        let mut r = opened(raw, 2)?;
        let chosen = r.u16()?;
        let server = Uuid(r.array()?);
        let nonce: [u8; 32] = r.array()?;
        let mac: [u8; 32] = r.array()?;
        if chosen < self.challenge.range.0 || chosen > self.challenge.range.1 {
            return Err(HelloError::NoCommonProtocol);
        }
        if !equal(&mac, &proof(&self.key, "server", &self.challenge, &server, &nonce, chosen)) {
            return Err(HelloError::BadProof);
        }
        let mine = proof(&self.key, "client", &self.challenge, &server, &nonce, chosen);
        Ok((
            server,
            chosen,
            framed(3, |w| {
                w.bytes(&mine);
            }),
        ))
    }

    /// Handles the verdict.
    pub fn on_verdict(&self, raw: &[u8; HELLO_LEN]) -> Result<(), HelloError> {
        match opened(raw, 4)?.u8()? {
            0 => Ok(()),
            code => Err(HelloError::Refused(code)),
        }
    }
}

/// Accepting side, after the first frame of the peer.
pub struct ServerHello {
    challenge: Challenge,
    key: Key,
    server: Uuid,
    nonce: [u8; 32],
    chosen: u16,
}

impl ServerHello {
    /// Handles the peer's challenge. `master_of(key epoch)` gives the master key of a valid epoch.
    pub fn on_challenge(
        raw: &[u8; HELLO_LEN],
        cluster: Uuid,
        server: Uuid,
        nonce: [u8; 32],
        master_of: impl Fn(u32) -> Option<Key>,
    ) -> Result<(ServerHello, [u8; HELLO_LEN]), HelloError> {
        let mut r = opened(raw, 1)?;
        let range = (r.u16()?, r.u16()?);
        let role = Role::from_u8(r.u8()?).ok_or(HelloError::Malformed)?;
        let who = PeerIdentity { role, cluster: Uuid(r.array()?), uuid: Uuid(r.array()?) };
        let c = Challenge { range, who, key_epoch: r.u32()?, nonce: r.array()? };
        if who.cluster != cluster {
            return Err(HelloError::WrongCluster);
        }
        let chosen = PROTOCOL.1.min(range.1);
        if chosen < PROTOCOL.0.max(range.0) {
            return Err(HelloError::NoCommonProtocol);
        }
        let master = master_of(c.key_epoch).ok_or(HelloError::UnknownKeyEpoch)?;
        let key = role_key(&master, role.name(), &who.uuid.0, c.key_epoch);
        let mac = proof(&key, "server", &c, &server, &nonce, chosen);
        let reply = framed(2, |w| {
            w.u16(chosen).bytes(&server.0).bytes(&nonce).bytes(&mac);
        });
        Ok((ServerHello { challenge: c, key, server, nonce, chosen }, reply))
    }

    /// Handles the peer's proof; on success returns who it is and the verdict to send.
    pub fn on_proof(&self, raw: &[u8; HELLO_LEN]) -> Result<(PeerIdentity, [u8; HELLO_LEN]), HelloError> {
        let mac: [u8; 32] = opened(raw, 3)?.array()?;
        let expected = proof(&self.key, "client", &self.challenge, &self.server, &self.nonce, self.chosen);
        if equal(&mac, &expected) {
            Ok((self.challenge.who, verdict(0)))
        } else {
            Err(HelloError::BadProof)
        }
    }
}

/// The frame that ends a handshake: 0 = welcome, else [`HelloError::code`].
pub fn verdict(code: u8) -> [u8; HELLO_LEN] {
    framed(4, |w| {
        w.u8(code);
    })
}
