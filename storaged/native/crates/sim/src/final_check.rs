//! After the healing: progress was made (liveness), every in-sync copy of a PG is equal (I6), and the
//! space of every drive adds up.

use drystone_store::api::{BlockKind, ObjectDigest, ObjectStore};
use drystone_types::{PgId, Version, VolumeId};

use crate::meta::POOL;
use crate::storage;
use crate::world::{Time, World};

/// Virtual time that healing may take: leases, drops, elections and copies of a small cluster take a
/// few seconds each.
pub const HEAL_MAX: Time = 120_000_000;

/// Blocks of a drive in a PG: (layer, chunk, block) → (kind, version, checksum).
type Content = std::collections::BTreeMap<(u64, u64, u16), (BlockKind, Version, u64)>;

impl World {
    /// Whether every PG is whole and every volume has an active owner with nothing open.
    pub fn healed(&self) -> bool {
        let calm = self.scrubbing.is_none() && self.atlas.reopen.is_none();
        self.whole() && self.volumes_ready() && calm && self.moves_over()
    }

    /// Whether every PG has all its copies.
    pub fn whole(&self) -> bool {
        let copies = self.plan.copies.min(self.plan.nodes);
        (0..self.meta.pg_count())
            .all(|pg| self.truth().pg(pg).is_some_and(|r| r.insync.len() == copies && r.joining.is_empty()))
    }

    /// Whether every volume has an active owner with nothing open.
    pub fn volumes_ready(&self) -> bool {
        (1..=self.plan.volumes as u64).all(|v| {
            let owner = self.owner_of(VolumeId(v));
            owner.is_some_and(|c| {
                let client = &self.clients[c];
                client.alive && client.was_active && !client.fenced && self.history.open_of(c) == 0
            })
        })
    }

    /// Why the world is not healed, in words.
    pub fn not_healed(&self) -> String {
        let mut why = Vec::new();
        for pg in 0..self.meta.pg_count() {
            if let Some(r) = self.truth().pg(pg) {
                why.push(format!(
                    "pg{pg} e{} insync {:?} joining {:?} target {:?}",
                    r.epoch, r.insync, r.joining, r.target
                ));
            }
        }
        for v in 1..=self.plan.volumes as u64 {
            if let Some(c) = self.owner_of(VolumeId(v)) {
                let client = &self.clients[c];
                let state = client.seq.as_ref().map(|s| (s.state(), s.open()));
                why.push(format!(
                    "volume {v}: client{c} alive {} fenced {} {state:?}, {} open",
                    client.alive,
                    client.fenced,
                    self.history.open_of(c)
                ));
            }
        }
        why.extend(self.left_by_moves().filter(|_| !self.plan.moves.is_empty()));
        why.join("; ")
    }

    /// One line for each drive and each client that lives.
    pub fn notes(&self) -> Vec<String> {
        let drive = |d: &crate::server::Drive| {
            let space = d.replica.as_ref().map(|r| r.store().space());
            format!("drive {} of node{}: serving {} {space:?}", d.id, d.node, d.replica.is_some())
        };
        let client = |(c, x): (usize, &crate::client::Client)| {
            let seq = x.seq.as_ref().map(|s| (s.state(), s.open(), s.versions()));
            x.alive.then(|| format!("client{c} of volume {} generation {}: {seq:?}", x.vol, x.gen))
        };
        let clients = self.clients.iter().enumerate().filter_map(client);
        self.drives.iter().map(drive).chain(clients).collect()
    }

    /// I6 over every PG. Ends the use of the drives' cores.
    pub fn compare_copies(&mut self) {
        for pg in 0..self.meta.pg_count() {
            let Some(record) = self.truth().pg(pg).cloned() else { continue };
            let mut first: Option<(usize, Content)> = None;
            for id in &record.insync {
                let Some(d) = self.drives.iter().position(|d| d.id == *id) else { continue };
                let content = self.content(d, pg);
                match &first {
                    None => first = Some((d, content)),
                    Some((other, reference)) if *reference != content => {
                        let text = difference(pg, *other, reference, d, &content);
                        self.fail("I6", text);
                        return;
                    }
                    Some(_) => {}
                }
            }
            self.counts.hit("check.i6");
        }
    }

    fn content(&mut self, d: usize, pg: u32) -> Content {
        let pg = PgId { pool: POOL, pg };
        let mut content = Content::new();
        let drive = &mut self.drives[d];
        let Some(replica) = drive.replica.as_mut() else { return content };
        let store = replica.store_mut();
        for (vol, chunk) in store.changed_chunks(pg, drystone_types::Epoch(0), None, 4096) {
            add_objects(&mut content, chunk, storage::digest_now(&mut drive.dev, store, vol, chunk));
        }
        content
    }
}

/// Holes are compared as absence: a copy may drop them once they are durably stable.
fn add_objects(content: &mut Content, chunk: u64, objects: Vec<ObjectDigest>) {
    for object in objects {
        for run in object.runs {
            for i in 0..run.count {
                let csum = run.csums.get(usize::from(i)).copied().unwrap_or(0);
                if matches!(run.kind, BlockKind::Data | BlockKind::Bad) {
                    content.insert((object.layer.0, chunk, run.first + i), (run.kind, run.version, csum));
                }
            }
        }
    }
}

fn difference(pg: u32, a: usize, left: &Content, b: usize, right: &Content) -> String {
    let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let key = keys.into_iter().find(|k| left.get(k) != right.get(k));
    match key {
        Some(k) => format!(
            "in-sync copies of pg{pg} differ at layer {} chunk {} block {}: drive{} has {:?}, drive{} has {:?}",
            k.0,
            k.1,
            k.2,
            a + 1,
            left.get(k),
            b + 1,
            right.get(k)
        ),
        None => format!("in-sync copies of pg{pg} differ"),
    }
}
