//! Switching a volume to a new head layer (engine §7, S1 to S4): what snapshots are made of.

use drystone_types::{Gen, LayerId, Rule, Version, VolumeId};

use crate::checks::{FrozenBlocks, FrozenLayer};
use crate::event::{Ev, Proc, Request};
use crate::meta::Meta;
use crate::world::World;

/// Heads of a volume at most: enough for reads through several, few enough for the simulated drives. Ids of
/// layers are ten times the volume's plus their number.
const LAYERS_MAX: usize = 5;

impl Meta {
    /// Serial and layers of a ticket made now: with a head that is being switched to, if there is one.
    pub fn ticket_chain(&self, vol: VolumeId) -> (u32, Vec<(LayerId, Version)>) {
        let Some(v) = self.volumes.get(&vol) else { return (1, Vec::new()) };
        let next = v.next_head.map(|layer| (layer, Version::ZERO));
        (v.serial, next.into_iter().chain(v.chain.iter().copied()).collect())
    }
    /// S1. Repeating it gives the same ticket.
    pub fn new_head(&mut self, vol: VolumeId, gen: Gen) -> Option<(u32, Vec<(LayerId, Version)>)> {
        let v = self.volumes.get_mut(&vol)?;
        let stale = v.gen != gen || !v.active;
        if (stale && self.rules.on(Rule::S1Gen)) || v.chain.len() >= LAYERS_MAX {
            return None;
        }
        if v.next_head.is_none() {
            v.next_head = Some(LayerId(vol.0 * 10 + v.chain.len() as u64));
            v.serial += 1;
        }
        Some(self.ticket_chain(vol))
    }
    /// S4: the new head is the head, the old one frozen at its cut. Returns the frozen layer.
    pub fn finish_head(&mut self, vol: VolumeId, gen: Gen, frozen: Option<(LayerId, Version)>) -> Option<LayerId> {
        let v = self.volumes.get_mut(&vol)?;
        let (next, old) = (v.next_head?, v.chain.first_mut()?);
        // A later attacher writes to the new head only, so every older version is below its generation.
        let (layer, cut) = frozen.unwrap_or((old.0, Version { gen, seq: 0 }));
        if (v.gen != gen && self.rules.on(Rule::S1Gen)) || layer != old.0 {
            return None;
        }
        old.1 = cut;
        v.chain.insert(0, (next, Version::ZERO));
        v.next_head = None;
        Some(layer)
    }
}

impl World {
    /// Wants a new head for a volume; `false` when nobody is there who could switch.
    pub fn start_new_head(&mut self, vol: VolumeId) -> bool {
        let ready = self.owner_of(vol).is_some_and(|c| self.clients[c].was_active && !self.clients[c].fenced);
        if ready {
            self.after(0, Ev::NewHead(vol));
        }
        ready
    }

    /// S1 is asked for in the owner's name; the ticket comes with the answer (S2).
    pub fn new_head(&mut self, vol: VolumeId) {
        let Some(c) = self.owner_of(vol) else { return };
        let gen = self.clients[c].gen;
        self.call(Proc::Client(c), Request::NewHead(vol, gen));
    }

    /// Every member has frozen the old head.
    pub fn head_frozen(&mut self, c: usize, layer: LayerId, cut: Version) {
        self.trace(|| format!("client{c} froze layer {} at {cut}", layer.0));
        let (vol, gen) = (self.clients[c].vol, self.clients[c].gen);
        self.call(Proc::Client(c), Request::HeadFrozen(vol, gen, layer, cut));
    }

    /// S4 in the store; from here on the layer may not change (I12).
    pub fn finish_head(&mut self, vol: VolumeId, gen: Gen, frozen: Option<(LayerId, Version)>) {
        let Some(layer) = self.meta.finish_head(vol, gen, frozen) else { return };
        self.trace(|| format!("store: layer {} of volume {vol} is frozen", layer.0));
        self.counts.hit(if frozen.is_some() { "layer.frozen" } else { "layer.frozen_by_next" });
        let content = self.layer_content(layer);
        if let Some(content) = content {
            self.checks.frozen.insert(layer, content);
        }
    }

    /// A cut that was begun does not outlive the next activation: nobody else would ever end it.
    pub fn check_head_finished(&mut self, vol: VolumeId) {
        let begun = self.meta.volumes.get(&vol).and_then(|v| v.next_head);
        if let Some(layer) = begun {
            let text = format!("volume {vol} is ACTIVE while its switch to layer {} is not finished", layer.0);
            self.fail("S4", text);
        }
    }

    /// What the in-sync members hold of a layer, by PG; they must agree where nothing is in flight (I6). Of a PG where
    /// each of them is doubtful nothing is said.
    fn layer_content(&mut self, layer: LayerId) -> Option<FrozenLayer> {
        let mut all = FrozenLayer::new();
        for pg in 0..self.meta.pg_count() {
            let record = self.truth().pg(pg)?.clone();
            let mut first: Option<(usize, FrozenBlocks)> = None;
            for d in (0..self.drives.len()).filter(|d| record.is_insync(self.drives[*d].id)) {
                if self.doubtful(d) {
                    continue;
                }
                let content = self.layer_on(d, pg, layer);
                match &first {
                    Some((other, reference)) if *reference != content => {
                        let differs = content.iter().find(|(k, v)| reference.get(*k) != Some(*v));
                        let lacks = reference.iter().find(|(k, _)| !content.contains_key(*k));
                        let text = format!(
                            "pg{pg}, layer {}: drive{} and drive{} differ when it is frozen: {differs:?}, {lacks:?}",
                            layer.0,
                            other + 1,
                            d + 1
                        );
                        self.fail("I12", text);
                        return None;
                    }
                    Some(_) => {}
                    None => first = Some((d, content)),
                }
            }
            all.extend(first.map(|(_, content)| (pg, content)));
        }
        Some(all)
    }

    fn layer_on(&self, d: usize, pg: u32, layer: LayerId) -> FrozenBlocks {
        let objects = self.drives[d].dev.shadow.model.objects.iter();
        let objects = objects.filter(|(key, o)| key.layer == layer && o.pg.pg == pg);
        let shown = objects.flat_map(|(key, o)| o.cells.iter().map(|(block, cell)| ((key.chunk, *block), cell)));
        shown.filter(|(_, cell)| cell.shows()).map(|(at, cell)| (at, cell.content())).collect()
    }

    /// I12 at the end: every in-sync member still holds every frozen layer as it was.
    pub fn compare_frozen(&mut self) {
        let layers: Vec<LayerId> = self.checks.frozen.keys().copied().collect();
        for layer in layers {
            let Some(now) = self.layer_content(layer) else { return };
            let was = self.checks.frozen.get(&layer).cloned().unwrap_or_default();
            self.counts.hit("check.i12_layers");
            let changed = now.iter().find_map(|(pg, now)| blocks_changed(was.get(pg)?, now).map(|x| (*pg, x)));
            if let (None, Some((pg, what))) = (&self.failure, changed) {
                let text = format!("pg{pg}, layer {} is not what it was when it was frozen: {what}", layer.0);
                self.fail("I12", text);
            }
        }
    }
}

fn blocks_changed(was: &FrozenBlocks, now: &FrozenBlocks) -> Option<String> {
    let at = was.keys().chain(now.keys()).find(|k| was.get(k) != now.get(k))?;
    Some(format!("block {at:?} was {:?}, is {:?}", was.get(at), now.get(at)))
}
