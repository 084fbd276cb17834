//! Credits (W0): slots promised to a volume, so that an issued write never meets "no space".
//!
//! `granted` and `used` are cumulative and wrap, as the wire has them. What is granted and
//! unused is reserved in the store; an upper bound of it is logged before it is told, and
//! stays reserved after an open until the volume restates or is sealed anew.

use drystone_store::api::{MetaKey, ObjectStore, Space};
use drystone_types::consts::Micros;
use drystone_types::{Frame, Gen, Reader, Status, VolumeId, Writer};

use crate::api::{PeerId, PeerRole};
use crate::limits::{GRANT_FAST, GRANT_FIRST, GRANT_MAX, GRANT_MIN};
use crate::replica::Replica;
use crate::state::{Refusal, Then};

/// STABLE requests without a write in between after which a volume counts as starved: an idle
/// volume sends one, a waiting one polls every 50 ms.
const POLLS_STARVED: u8 = 4;
/// And after which a full drive says so whatever others still hold, about 5 s: an idle volume gives its slots back
/// after one, so what has not come by then comes never (its client is gone, or the slots were lost with a connection).
const POLLS_HOPELESS: u8 = 100;
/// Most volumes one SESSION restates: all that one daemon can have attached.
const RESTATE_MAX: usize = 65_536;

/// Credits of one volume on this drive.
#[derive(Default)]
pub(crate) struct Grant {
    /// Generation they belong to.
    pub gen: Gen,
    granted: u32,
    used: u32,
    /// Issued before this open and not arrived yet; reserved beside the new grants.
    restated: u64,
    /// Set from an open until the volume restates: `restated` is only an upper bound then.
    unrestated: bool,
    /// Reserved for older generations, freed by RECOVERED.
    old: u64,
    /// Durable upper bound of what may be outstanding.
    bound: u64,
    /// A higher bound is being logged.
    raising: bool,
    /// Slots kept outstanding for the volume.
    window: u64,
    topped_at: Micros,
    /// STABLE requests since the last write that used a credit.
    polls: u8,
    /// It was given something because it was starved, and has not used it: that is not asked back.
    fed: bool,
}

impl Grant {
    /// Cumulative number told to this generation.
    pub(crate) fn told(&self, gen: Gen) -> u32 {
        if gen == self.gen {
            self.granted
        } else {
            0
        }
    }
    /// Granted in this open and not used.
    fn open(&self) -> u64 {
        u64::from(self.granted.wrapping_sub(self.used))
    }
    /// Everything reserved for the current generation.
    fn outstanding(&self) -> u64 {
        self.open() + self.restated
    }
    pub(crate) fn covers(&self, gen: Gen, slots: u64) -> bool {
        gen == self.gen && self.outstanding() >= slots
    }
    /// What an open finds: the logged bound stays reserved.
    pub(crate) fn reopened(gen: Gen, bound: u64) -> Grant {
        Grant { gen, restated: bound, unrestated: true, bound, window: GRANT_FIRST, ..Grant::default() }
    }
    /// Nothing granted yet to a generation.
    pub(crate) fn fresh(gen: Gen) -> Grant {
        Grant { gen, ..Grant::default() }
    }
    /// Whether it belongs to a generation below the sealed one.
    pub(crate) fn is_of_older(&self, sealed: Gen) -> bool {
        self.gen < sealed
    }
    pub(crate) fn reserved_at_open(&self) -> u64 {
        self.restated
    }
    /// Whether some of it can come to another volume: by a recall or from a pause, by a restatement, by RECOVERED.
    fn may_come_back(&self) -> bool {
        self.open() > GRANT_MIN || self.unrestated && self.restated > 0 || self.old > 0
    }
    /// The window after this one; it grows by use, and not while space is scarce.
    fn next_window(&self, now: Micros, space: Space) -> u64 {
        // One volume may hold at most a sixteenth of a drive unused, or a few would starve the others.
        let most = (space.total / 16).clamp(GRANT_MIN, GRANT_MAX);
        let fast = self.topped_at > 0 && now.saturating_sub(self.topped_at) < GRANT_FAST;
        match (is_scarce(space), fast) {
            (true, _) => self.window,
            (false, true) => (self.window * 2).min(most),
            (false, false) => self.window.max(GRANT_FIRST.min(most)),
        }
    }
}

impl<S: ObjectStore> Replica<S> {
    /// A new generation starts with nothing granted; what the old one had stays reserved until
    /// RECOVERED, because its writes may still be rolled forward.
    pub(crate) fn new_grant(&mut self, vol_id: VolumeId, gen: Gen) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        let mut old = vol.grant.old + vol.grant.outstanding();
        if vol.grant.unrestated {
            // Reserved only because of the open; the new seal ends that (§4.4 W0).
            self.store.grant(-signed(vol.grant.restated));
            old -= vol.grant.restated;
        }
        vol.grant = Grant { gen, old, ..Grant::default() };
    }

    /// Logs the first bound of a generation together with its seal: nothing starts at zero (L1).
    pub(crate) fn log_first_grant(&mut self, vol_id: VolumeId) -> Option<u64> {
        let space = self.store.space();
        let vol = self.vols.get_mut(&vol_id)?;
        if vol.grant.bound > 0 || vol.ticket.is_none() {
            return None;
        }
        let window = (space.grantable / 16).clamp(GRANT_MIN, GRANT_FIRST);
        let gen = vol.grant.gen;
        // A bound that is not in the log grants nothing: a restart would promise the same slots again (L3).
        let token = self.append_meta(MetaKey::Grant(vol_id), encode_grant(gen, window)).ok()?;
        if let Some(vol) = self.vols.get_mut(&vol_id) {
            vol.grant.bound = window;
            vol.grant.window = window;
        }
        Some(token)
    }

    /// Fills the window when half of it is used. O(1), and rare by construction.
    pub(crate) fn top_up(&mut self, vol_id: VolumeId, gen: Gen) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        let attached = vol.ticket.is_some();
        let g = &mut vol.grant;
        // A volume that polls without writing may count slots as used that never arrived here
        // (sent while this drive was out of the PG): without this it would wait for ever.
        // Bounded, because a client that only says STABLE would collect the whole drive.
        let starved =
            g.polls >= POLLS_STARVED && g.open() < GRANT_MAX || g.polls >= POLLS_HOPELESS && g.open() < 2 * GRANT_MAX;
        if gen != g.gen || !attached || !starved && g.open() * 2 >= g.window.max(1) {
            return;
        }
        let space = self.store.space();
        let next = g.next_window(self.now, space);
        // What was logged for a larger window, before a recall or a pause, still holds.
        if next > g.window && next + g.restated <= g.bound {
            g.window = next;
        }
        let window = if is_scarce(space) { g.window.min(GRANT_MIN) } else { g.window };
        let want = if starved { GRANT_MIN } else { window.saturating_sub(g.open()) };
        let room = g.bound.saturating_sub(g.outstanding());
        let add = want.min(room).min(space.grantable);
        // What is reserved from before an open must not keep new credits away either.
        let short = room < want || next > g.window;
        let bound = g.outstanding() + next.max(want);
        if add > 0 {
            g.topped_at = self.now;
            g.polls = 0;
            g.fed |= starved;
            self.give(vol_id, add);
        }
        if short && space.grantable > 0 {
            self.raise_bound(vol_id, bound, next);
        }
    }

    fn give(&mut self, vol_id: VolumeId, add: u64) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        vol.grant.granted = vol.grant.granted.wrapping_add(u32::try_from(add).unwrap_or(0));
        self.store.grant(signed(add));
        self.stats.slots_granted += add;
        let after = self.store.space();
        self.assert_that(
            after.live + after.reserve + after.granted <= after.total,
            "I20: more slots are granted than are free above the reserve",
        );
    }

    /// Logs a higher bound; only when that is durable more is granted (L3).
    fn raise_bound(&mut self, vol_id: VolumeId, bound: u64, window: u64) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        if vol.grant.raising || bound <= vol.grant.bound {
            return;
        }
        vol.grant.raising = true;
        let gen = vol.grant.gen;
        match self.append_meta(MetaKey::Grant(vol_id), encode_grant(gen, bound)) {
            Ok(token) => self.then(token, Then::GrantLogged { vol: vol_id, gen, bound, window }),
            // The next request tries again.
            Err(_) => {
                if let Some(vol) = self.vols.get_mut(&vol_id) {
                    vol.grant.raising = false;
                }
            }
        }
    }

    pub(crate) fn grant_logged(&mut self, vol_id: VolumeId, gen: Gen, bound: u64, window: u64) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        if vol.grant.gen == gen {
            vol.grant.raising = false;
            vol.grant.bound = vol.grant.bound.max(bound);
            vol.grant.window = vol.grant.window.max(window);
            self.top_up(vol_id, gen);
        }
    }

    /// A STABLE of the volume, which is also how it asks for credits.
    pub(crate) fn polled(&mut self, vol_id: VolumeId) {
        if let Some(vol) = self.vols.get_mut(&vol_id) {
            vol.grant.polls = vol.grant.polls.saturating_add(1);
        }
    }

    /// A write used `slots`, of which the log took `taken` from its reservation when it admitted
    /// them. What was issued before this open goes first: it is resent first.
    pub(crate) fn use_credit(&mut self, vol_id: VolumeId, gen: Gen, slots: u64, taken: u64) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        let g = &mut vol.grant;
        if gen != g.gen || slots == 0 {
            return;
        }
        g.polls = 0;
        g.fed = false;
        let before = slots.min(g.restated);
        g.restated -= before;
        let now = (slots - before).min(g.open());
        g.used = g.used.wrapping_add(u32::try_from(now).unwrap_or(0));
        self.store.grant(-signed((before + now).saturating_sub(taken)));
    }

    /// The volume says which slots no write will use any more (cumulative, wrapping): those of writes that ended, also
    /// where they never arrived (sent while this drive was out of the PG) or had arrived already, and those that it gave
    /// back unissued, when asked or after a pause. A maximum, so that a frame may come twice or late. `gives`: some were
    /// given back; the window shrinks then: what comes back must not be granted again at once, or both sides never rest.
    /// Use lets it grow again.
    pub(crate) fn settle_slots(&mut self, vol_id: VolumeId, gen: Gen, settled: u32, gives: bool) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        let g = &mut vol.grant;
        if gen != g.gen {
            return;
        }
        // Also where a frame that overtook this one has told how many.
        if gives {
            g.window = g.window.min(GRANT_MIN);
            g.fed = false;
            g.polls = 0;
        }
        let more = settled.wrapping_sub(g.used);
        if more > u32::MAX / 2 {
            return;
        }
        let more = u64::from(more).min(g.open());
        g.used = g.used.wrapping_add(u32::try_from(more).unwrap_or(0));
        self.store.grant(-signed(more));
    }

    /// Slots this volume should give back because space is scarce.
    pub(crate) fn recall_wanted(&mut self, vol_id: VolumeId, gen: Gen) -> u32 {
        let space = self.store.space();
        let Some(vol) = self.vols.get_mut(&vol_id) else { return 0 };
        if gen != vol.grant.gen || vol.grant.fed || !is_scarce(space) {
            return 0;
        }
        let recall = vol.grant.open().saturating_sub(GRANT_MIN);
        self.stats.slots_recalled += recall;
        u32::try_from(recall).unwrap_or(0)
    }

    /// Whether this volume has too little and nobody holds slots that could come to it. While others hold slots above
    /// the smallest grant, those are recalled first: no wrong ENOSPC (L2). But not for ever. Asked only while the drive
    /// is full; looks at every volume then.
    pub(crate) fn is_out_of_space(&self, vol_id: VolumeId, gen: Gen) -> bool {
        let space = self.store.space();
        let Some(vol) = self.vols.get(&vol_id) else { return false };
        if gen != vol.grant.gen || space.grantable > 0 {
            return false;
        }
        let short = vol.grant.open() < GRANT_MIN;
        vol.grant.polls >= POLLS_HOPELESS || short && !self.vols.values().any(|v| v.grant.may_come_back())
    }

    /// RECOVERED: nothing of older generations can arrive any more.
    pub(crate) fn free_old_grants(&mut self, vol_id: VolumeId) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        let old = core::mem::take(&mut vol.grant.old);
        self.store.grant(-signed(old));
    }

    /// A deleted volume needs nothing any more.
    pub(crate) fn forget_grants(&mut self, vol_id: VolumeId) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        let all = vol.grant.old + vol.grant.outstanding();
        vol.grant = Grant::default();
        self.store.grant(-signed(all));
    }

    /// SESSION: a peer restates what it has issued; answers the drive's nonce and whether it serves.
    pub(crate) fn on_session(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        let mut r = Reader::new(&frame.meta);
        let stated = read_session(&mut r).ok_or(Refusal::Invalid)?;
        let info = self.peer(peer).ok_or(Refusal::Denied)?;
        for (vol, gen, slots) in stated {
            if info.role != PeerRole::Client || self.is_client_of(vol, info.uuid) {
                self.restate(vol, gen, u64::from(slots));
            }
        }
        let serving = !self.failed && !self.cfg.suspect && self.map.revision.0 > 0;
        let mut w = Writer::new();
        w.u32(self.cfg.feature_level).u32(self.map.incarnation.max(self.cfg.incarnation));
        w.u32(self.cfg.drive.0).u64(self.cfg.open_nonce).u8(u8::from(serving));
        self.send(peer, &frame.hdr, Status::Ok, w.finish());
        Ok(())
    }

    fn restate(&mut self, vol_id: VolumeId, gen: Gen, slots: u64) {
        let Some(vol) = self.vols.get_mut(&vol_id) else { return };
        let g = &mut vol.grant;
        if g.gen != gen || !g.unrestated {
            return;
        }
        // Writes that arrived between the open and the restatement are counted already.
        let keep = slots.min(g.restated);
        let freed = g.restated - keep;
        g.restated = keep;
        g.unrestated = false;
        self.store.grant(-signed(freed));
        self.top_up(vol_id, gen);
    }
}

fn read_session(r: &mut Reader<'_>) -> Option<Vec<(VolumeId, Gen, u32)>> {
    let _feature_level = r.u32().ok()?;
    let _incarnation = r.u32().ok()?;
    let _map_rev = r.u64().ok()?;
    let n = r.count(RESTATE_MAX).ok()?;
    let mut out = Vec::with_capacity(n.min(r.remaining() / 16));
    for _ in 0..n {
        out.push((VolumeId(r.u64().ok()?), Gen(r.u32().ok()?), r.u32().ok()?));
    }
    Some(out)
}

/// Whether so little is left that volumes get what one write needs and no more.
fn is_scarce(space: Space) -> bool {
    space.grantable < (space.total / 64).max(GRANT_MIN)
}

fn signed(slots: u64) -> i64 {
    i64::try_from(slots).unwrap_or(i64::MAX)
}

fn encode_grant(gen: Gen, bound: u64) -> Vec<u8> {
    let mut w = Writer::new();
    w.u32(gen.0).u64(bound);
    w.finish()
}

pub(crate) fn decode_grant(value: &[u8]) -> Option<(Gen, u64)> {
    let mut r = Reader::new(value);
    let grant = (Gen(r.u32().ok()?), r.u64().ok()?);
    r.finish().ok()?;
    Some(grant)
}
