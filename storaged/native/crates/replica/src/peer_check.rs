//! The peer check at every open: one in-sync peer per PG tells its last stable versions; a drive
//! that misses one has lost acked writes (a lying cache, an old image of the drive) and leaves. So has one that still
//! holds what was trimmed at the peer.

use std::collections::{BTreeMap, BTreeSet};

use drystone_store::api::{BlockKind, MetaKey, ObjectDigest, ObjectStore};
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{
    CodecError, DriveId, Frame, Header, LayerId, MsgType, ObjKey, PgId, Reader, Rule, Status, Version, VolumeId, Writer,
};

use crate::api::PeerId;
use crate::limits::{PEER_CHECK_MAX, PEER_CHECK_TIMEOUT, SOURCE_JOBS_MAX};
use crate::replica::Replica;
use crate::requests::Ask;
use crate::resync::compare::{cells, object, Cell};
use crate::resync::wire::decode_version;
use crate::startup::{StoredRole, DISTRUSTED_KEY};
use crate::state::{CheckItem, Op, Role, Then};

/// A version somewhere.
type Known = (VolumeId, ObjKey, u16, Version);

/// Count of a question of somebody who understands an answer with a second list: what was trimmed.
const WITH_TRIMS: u32 = 1;

/// What became of a version of ours that was stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// Nothing that proves anything to the peer.
    No,
    /// It is here.
    Here,
    /// It was a trim, or was trimmed since; nothing is here.
    Trimmed,
}

/// The check of one PG.
struct Check {
    /// Peers not asked yet.
    peers: Vec<DriveId>,
    /// Digests of ours still awaited.
    left: usize,
    missing: bool,
}

/// A peer's question being answered.
struct Answer {
    peer: PeerId,
    hdr: Box<Header>,
    found: Vec<Found>,
    /// The peer asked for our list: what of it is still here is the answer.
    list: Option<Vec<Known>>,
    left: usize,
}

/// Checks of our own and of peers.
#[derive(Default)]
pub(crate) struct Checks {
    own: BTreeMap<PgId, Check>,
    next: u64,
    answers: BTreeMap<u64, Answer>,
    /// PGs in which a version is missing here, until everything was copied anew.
    distrusted: BTreeSet<PgId>,
}

impl Checks {
    pub(crate) fn distrusted(&self) -> Vec<PgId> {
        self.distrusted.iter().copied().collect()
    }
    pub(crate) fn distrusts(&self, id: PgId) -> bool {
        self.distrusted.contains(&id)
    }
    pub(crate) fn distrust(&mut self, id: PgId) {
        self.distrusted.insert(id);
    }
}

impl<S: ObjectStore> Replica<S> {
    pub(crate) fn start_peer_check(&mut self, id: PgId) {
        let me = self.cfg.drive;
        let Some(pg) = self.pgs.get_mut(&id).filter(|_| self.cfg.peer_check && self.cfg.rules.on(Rule::PeerCheck))
        else {
            return;
        };
        let mut peers: Vec<DriveId> = pg.rec.insync.iter().copied().filter(|d| *d != me).collect();
        if peers.is_empty() {
            return;
        }
        peers.reverse();
        pg.checking = true;
        self.checks.own.insert(id, Check { peers, left: 0, missing: false });
        self.next_check(id);
    }

    /// The drive left the PG: what a peer says of its old content no longer matters.
    pub(crate) fn forget_check(&mut self, id: PgId) {
        self.checks.own.remove(&id);
    }

    /// Asks the next peer; when none is left, nobody alive contradicts this drive.
    fn next_check(&mut self, id: PgId) {
        let Some(check) = self.checks.own.get_mut(&id) else { return };
        let Some(peer) = check.peers.pop() else {
            self.end_check(id);
            return;
        };
        let mut w = Writer::new();
        w.u32(0);
        let hdr = Header { kind: MsgType::PeerCheck, pg: id, count: WITH_TRIMS, ..Header::default() };
        self.ask(peer, hdr, w.finish(), Ask::Check(id), PEER_CHECK_TIMEOUT);
    }

    pub(crate) fn check_answered(&mut self, _drive: DriveId, id: PgId, frame: Option<Frame>) {
        let ok = frame.filter(|f| f.hdr.status == Status::Ok);
        let Some((here, trimmed)) = ok.and_then(|f| decode_lists(&f.meta).ok()) else {
            self.next_check(id);
            return;
        };
        let freed = &self.freed;
        let groups = |list: Vec<Known>, trimmed: bool| {
            let list = list.into_iter().filter(|(_, key, _, _)| !freed.contains(&key.layer)).collect();
            by_object(list).into_iter().map(move |group| (group, trimmed))
        };
        let groups: Vec<_> = groups(here, false).chain(groups(trimmed, true)).collect();
        let Some(check) = self.checks.own.get_mut(&id) else { return };
        check.left = groups.len();
        if groups.is_empty() {
            self.end_check(id);
        }
        for (((vol, key), expect), trimmed) in groups {
            let blocks = blocks_of(&expect);
            let op = self.ops.insert(Op { left: 1, then: Then::CheckDigest { pg: id, expect, trimmed } });
            self.store.digest_blocks(vol, key, &blocks, op);
        }
    }

    pub(crate) fn check_digest(&mut self, id: PgId, expect: &[CheckItem], trimmed: bool, objects: &[ObjectDigest]) {
        let Some(check) = self.checks.own.get_mut(&id) else { return };
        let lost = |item: &CheckItem| if trimmed { holds_older(objects, item) } else { !holds(objects, item) };
        check.missing |= expect.iter().any(lost);
        check.left = check.left.saturating_sub(1);
        if check.left == 0 {
            self.end_check(id);
        }
    }

    /// What failed its check is closed at every open, until the map drops this drive: peers that are silent, or gone,
    /// do not make up for what is missing. A drive that is back in sync although it noted that it was not holds what
    /// was copied since, or what a person declared to be all that is left (`pool mark-lost`).
    pub(crate) fn close_distrusted(&mut self, id: PgId) {
        let noted = self.noted.get(&id).copied();
        let Some(pg) = self.pgs.get_mut(&id).filter(|pg| pg.role == Role::InSync && self.checks.distrusts(id)) else {
            return;
        };
        let out = |(since, role)| since < pg.rec.epoch && matches!(role, StoredRole::Out | StoredRole::Joining);
        if noted.is_some_and(out) {
            self.trust(id);
        } else if self.cfg.rules.on(Rule::DistrustStays) {
            pg.checking = true;
        }
    }

    /// Whether this drive answers nobody in a PG of its own, by a check that is not over or failed.
    pub(crate) fn is_closed(&self, id: PgId) -> bool {
        self.pgs.get(&id).is_some_and(|pg| pg.checking)
    }

    /// Everything the drive holds of the PG is a copy of one join.
    pub(crate) fn trust(&mut self, id: PgId) {
        if self.checks.distrusted.remove(&id) {
            self.log_distrusted();
        }
    }

    /// A restart must not forget it: the next join would then copy only what changed lately. Refused for space, it
    /// is still told to the manager at once.
    fn log_distrusted(&mut self) {
        let mut w = Writer::new();
        self.checks.distrusted.iter().for_each(|id| {
            w.u32(id.to_wire());
        });
        let _ = self.append_meta(MetaKey::Drive(DISTRUSTED_KEY), w.finish());
    }

    fn end_check(&mut self, id: PgId) {
        let Some(check) = self.checks.own.remove(&id) else { return };
        if check.missing {
            // The PG stays closed here until the map drops this drive.
            self.stats.peer_checks_failed += 1;
            self.checks.distrust(id);
            // Durable before the distrust: that it was in sync when its check failed.
            self.log_pg(id);
            self.log_distrusted();
            self.ask_to_leave();
            return;
        }
        self.stats.peer_checks += 1;
        if let Some(pg) = self.pgs.get_mut(&id) {
            pg.checking = false;
        }
    }

    /// A peer's check. It is answered as soon as the log is replayed, before this drive serves.
    pub(crate) fn on_peer_check(&mut self, peer: PeerId, frame: &Frame) -> Result<(), crate::state::Refusal> {
        use crate::state::Refusal;
        let h = &frame.hdr;
        let asked = decode_known(&frame.meta).map_err(|_| Refusal::Invalid)?;
        let own = asked.is_empty();
        let list = if own { self.store.recent_stable(h.pg, PEER_CHECK_MAX) } else { asked };
        if list.is_empty() {
            self.send(peer, h, Status::Ok, encode_lists(h, &[], &[]));
            return Ok(());
        }
        if self.checks.answers.len() >= SOURCE_JOBS_MAX {
            return Err(Refusal::Retry);
        }
        self.checks.next += 1;
        let job = self.checks.next;
        let found = vec![Found::No; list.len()];
        let groups = by_object(list.clone());
        let list = own.then_some(list);
        let answer = Answer { peer, hdr: Box::new(*h), found, list, left: groups.len() };
        self.checks.answers.insert(job, answer);
        for ((vol, key), items) in groups {
            let blocks = blocks_of(&items);
            let op = self.ops.insert(Op { left: 1, then: Then::AnswerCheckDigest { job, items } });
            self.store.digest_blocks(vol, key, &blocks, op);
        }
        Ok(())
    }

    pub(crate) fn answer_check_digest(&mut self, job: u64, items: &[CheckItem], objects: &[ObjectDigest]) {
        let Some(answer) = self.checks.answers.get_mut(&job) else { return };
        let known = answer.list.as_ref();
        let stable = |item: &CheckItem| {
            let vol = known.and_then(|list| list.get(item.0)).and_then(|(vol, ..)| self.vols.get(vol));
            vol.map_or(Version::ZERO, |v| v.stable)
        };
        for item in items {
            let found = match known {
                Some(_) if holds_data(objects, item) => Found::Here,
                // Of a layer that was freed here the peer may still have everything.
                Some(_) if !self.freed.contains(&item.1) && is_trimmed(objects, item, stable(item)) => Found::Trimmed,
                None if holds(objects, item) || self.freed.contains(&item.1) => Found::Here,
                _ => Found::No,
            };
            if let Some(slot) = answer.found.get_mut(item.0) {
                *slot = found;
            }
        }
        answer.left = answer.left.saturating_sub(1);
        if answer.left > 0 {
            return;
        }
        let Some(answer) = self.checks.answers.remove(&job) else { return };
        if let Some(list) = answer.list {
            let those = |wanted: Found| -> Vec<Known> {
                list.iter().zip(&answer.found).filter(|(_, found)| **found == wanted).map(|(known, _)| *known).collect()
            };
            let lists = encode_lists(&answer.hdr, &those(Found::Here), &those(Found::Trimmed));
            self.send(answer.peer, &answer.hdr, Status::Ok, lists);
            return;
        }
        let mut w = Writer::new();
        let found: Vec<u8> = answer.found.iter().map(|f| u8::from(*f == Found::Here)).collect();
        w.count(found.len()).bytes(&found);
        self.send(answer.peer, &answer.hdr, Status::Ok, w.finish());
    }
}

/// Present or newer; a trimmed block shows as a hole or, once its hole was dropped, the peer
/// that asks has dropped it as well.
fn holds(objects: &[ObjectDigest], (_, layer, block, version): &CheckItem) -> bool {
    let cell = cells(object(objects, *layer)).get(usize::from(*block)).copied().flatten();
    cell.is_some_and(|c| c.version >= *version)
}

/// Holds data there at exactly that version: below a newer one may lie a trim, which leaves no trace
/// at the peer once its hole is dropped.
fn holds_data(objects: &[ObjectDigest], (_, layer, block, version): &CheckItem) -> bool {
    let cell = cells(object(objects, *layer)).get(usize::from(*block)).copied().flatten();
    cell.is_some_and(|c| c.version == *version && c.kind == BlockKind::Data)
}

/// Nothing is there any more, for good: the version was a trim or was trimmed since, on every in-sync member before the
/// hole could be dropped here. A trim above the stable value may not be at the peer yet.
fn is_trimmed(objects: &[ObjectDigest], (_, layer, block, version): &CheckItem, stable: Version) -> bool {
    let cell = cells(object(objects, *layer)).get(usize::from(*block)).copied().flatten();
    let hole = |c: Cell| matches!(c.kind, BlockKind::Hole | BlockKind::Zero) && c.version >= *version;
    cell.is_none_or(|c| hole(c) && c.version <= stable)
}

/// Holds something in the place of a trim that it does not know: its hole may be dropped, the trim may not be undone.
fn holds_older(objects: &[ObjectDigest], (_, layer, block, version): &CheckItem) -> bool {
    let cell = cells(object(objects, *layer)).get(usize::from(*block)).copied().flatten();
    cell.is_some_and(|c| !matches!(c.kind, BlockKind::Hole | BlockKind::Zero) && c.version <= *version)
}

fn by_object(list: Vec<Known>) -> BTreeMap<(VolumeId, ObjKey), Vec<CheckItem>> {
    let mut groups: BTreeMap<(VolumeId, ObjKey), Vec<CheckItem>> = BTreeMap::new();
    for (i, (vol, key, block, version)) in list.into_iter().enumerate() {
        groups.entry((vol, key)).or_default().push((i, key.layer, block, version));
    }
    groups
}

/// The blocks of these items, each once.
fn blocks_of(items: &[CheckItem]) -> Vec<(u16, u16)> {
    let blocks: BTreeSet<u16> = items.iter().map(|(_, _, block, _)| *block).collect();
    blocks.into_iter().map(|block| (block, 1)).collect()
}

/// What is here, and to whom understands it what was trimmed.
fn encode_lists(asked: &Header, here: &[Known], trimmed: &[Known]) -> Vec<u8> {
    let mut w = Writer::new();
    put_known(&mut w, here);
    if asked.count == WITH_TRIMS {
        put_known(&mut w, trimmed);
    }
    w.finish()
}

fn put_known(w: &mut Writer, list: &[Known]) {
    w.count(list.len());
    for (vol, key, block, version) in list {
        let number = key.chunk * u64::from(CHUNK_BLOCKS) + u64::from(*block);
        w.u64(vol.0).u64(key.layer.0).u64(number).u32(version.gen.0).u64(version.seq);
    }
}

/// A peer that knows no second list sends none.
fn decode_lists(meta: &[u8]) -> Result<(Vec<Known>, Vec<Known>), CodecError> {
    let mut r = Reader::new(meta);
    let here = take_known(&mut r)?;
    let trimmed = if r.remaining() > 0 { take_known(&mut r)? } else { Vec::new() };
    r.finish()?;
    Ok((here, trimmed))
}

fn decode_known(meta: &[u8]) -> Result<Vec<Known>, CodecError> {
    let mut r = Reader::new(meta);
    let list = take_known(&mut r)?;
    r.finish()?;
    Ok(list)
}

fn take_known(r: &mut Reader<'_>) -> Result<Vec<Known>, CodecError> {
    let n = r.count(PEER_CHECK_MAX)?;
    let mut list = Vec::with_capacity(n);
    for _ in 0..n {
        let (vol, layer, number) = (VolumeId(r.u64()?), LayerId(r.u64()?), r.u64()?);
        let chunk = number / u64::from(CHUNK_BLOCKS);
        let block = u16::try_from(number % u64::from(CHUNK_BLOCKS)).unwrap_or(0);
        list.push((vol, ObjKey { layer, chunk }, block, decode_version(r)?));
    }
    Ok(list)
}
