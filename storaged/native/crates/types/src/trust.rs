//! Key derivation and MACs (§6 of the architecture): HMAC-SHA-256, compared in constant time.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// A 256-bit key or MAC.
pub type Key = [u8; 32];

/// HMAC-SHA-256 over the concatenation of `parts`.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Key {
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else {
        return [0; 32];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Role key `K = HMAC(master, role ‖ 0 ‖ uuid ‖ key epoch)`: a server verifies a peer without the store.
pub fn role_key(master: &Key, role: &str, uuid: &[u8; 16], key_epoch: u32) -> Key {
    hmac_sha256(master, &[role.as_bytes(), &[0], uuid, &key_epoch.to_le_bytes()])
}

/// Key of attach tickets: derivable by managers and servers only.
pub fn ticket_key(master: &Key, key_epoch: u32) -> Key {
    hmac_sha256(master, &[b"ticket", &[0], &key_epoch.to_le_bytes()])
}

/// Constant-time equality.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
