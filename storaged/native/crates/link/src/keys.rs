//! What a process needs to prove itself and to check others.

use drystone_frame::PeerIdentity;
use drystone_types::trust::Key;

/// Master keys by epoch: two are valid during a rotation. Only servers and managers have them.
#[derive(Clone, Default)]
pub struct Keys {
    /// (key epoch, master key).
    pub masters: Vec<(u32, Key)>,
}

impl Keys {
    /// The master key of an epoch that is valid now.
    pub fn master(&self, epoch: u32) -> Option<Key> {
        self.masters.iter().find(|(e, _)| *e == epoch).map(|(_, k)| *k)
    }
}

impl core::fmt::Debug for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Keys never reach a log.
        write!(f, "Keys({} epochs)", self.masters.len())
    }
}

/// This process as a connecting side.
#[derive(Clone)]
pub struct MyIdentity {
    /// Role, uuid and cluster.
    pub who: PeerIdentity,
    /// Role key.
    pub key: Key,
    /// Its epoch.
    pub key_epoch: u32,
}
