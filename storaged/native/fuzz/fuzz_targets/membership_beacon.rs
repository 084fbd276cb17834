//! A beacon under any order of events and any authentic or forged heartbeat: it never panics, and no
//! lease is longer than the design allows.
#![no_main]

use drystone_fuzz::{damage, KEY_EPOCH, MASTER};
use drystone_membership::beacon::{Action, Event};
use drystone_membership::{BeaconConfig, BeaconCore, Echo, Heartbeat, Suspect};
use drystone_types::consts::READ_LEASE;
use drystone_types::{Rev, Rules, Uuid};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const SLOTS: usize = 3;

fn node(u: &mut Unstructured) -> Result<Uuid> {
    Ok(Uuid([u.int_in_range(0..=5)?; 16]))
}

fn suspect(u: &mut Unstructured) -> Result<Suspect> {
    Ok(Suspect { node: node(u)?, round: Rev(u.arbitrary::<u8>()?.into()) })
}

/// Small numbers, which meet what the beacon sent, and any other.
fn number(u: &mut Unstructured) -> Result<u64> {
    if u.ratio(3u8, 4u8)? {
        Ok(u.arbitrary::<u8>()?.into())
    } else {
        u.arbitrary()
    }
}

fn heartbeat(u: &mut Unstructured) -> Result<Vec<u8>> {
    let mut beat = Heartbeat {
        node: node(u)?,
        boot: number(u)?,
        seq: number(u)?,
        sent_at: u.arbitrary()?,
        map_rev: Rev(number(u)?),
        voters_version: number(u)?,
        echoes: Vec::new(),
    };
    for _ in 0..u.int_in_range(0..=4u8)? {
        beat.echoes.push(Echo { node: node(u)?, boot: number(u)?, seq: number(u)? });
    }
    let mut bytes = beat.seal(&MASTER, KEY_EPOCH);
    if u.ratio(1u8, 8u8)? {
        damage(u, &mut bytes)?;
    }
    Ok(bytes)
}

fn event(u: &mut Unstructured, now: u64) -> Result<Event> {
    Ok(match u.int_in_range(0..=12u8)? {
        0 => Event::Tick,
        1 => Event::Slots(u.arbitrary::<[u8; SLOTS]>()?.iter().map(|c| u64::from(*c)).collect()),
        2 => Event::Map { rev: Rev(number(u)?), read_at: u.arbitrary::<bool>()?.then_some(now) },
        3 => Event::Suspects { as_of: Rev(number(u)?), keys: vec![suspect(u)?; u.int_in_range(0..=2)?] },
        4 => Event::Voters {
            version: number(u)?,
            voters: (0..u.int_in_range(0..=5)?).map(|n| Uuid([n; 16])).collect(),
            nodes: (0..u.int_in_range(0..=5)?).map(|n| Uuid([n; 16])).collect(),
        },
        5 => Event::Hold { round: Rev(number(u)?), gone: u.arbitrary()? },
        6 => Event::AskVote(suspect(u)?),
        7 => Event::Release(suspect(u)?),
        8 => Event::Server { counters: u.arbitrary::<[u8; SLOTS]>()?.iter().map(|c| u64::from(*c)).collect() },
        9 => Event::Datagram(u.arbitrary::<[u8; 40]>()?.to_vec()),
        _ => Event::Datagram(heartbeat(u)?),
    })
}

fn run(mut u: Unstructured) -> Result<()> {
    let config = BeaconConfig {
        node: Uuid([0; 16]),
        boot: 1,
        master: MASTER,
        key_epoch: KEY_EPOCH,
        slots: SLOTS,
        rules: Rules::ALL,
    };
    let mut now = u.arbitrary::<u32>()?.into();
    let mut beacon = BeaconCore::new(config, now);
    while !u.is_empty() {
        now += u64::from(u.arbitrary::<u16>()?) * if u.ratio(1u8, 16u8)? { 100 } else { 1 };
        let event = event(&mut u, now)?;
        let mut out = Vec::new();
        beacon.step(now, event, &mut out);
        for action in &out {
            if let Action::Lease(page) = action {
                assert!(page.len() == SLOTS && page.iter().all(|until| *until <= now + READ_LEASE));
            }
        }
        let _ = (beacon.silent(now), beacon.voters_version_seen(now), beacon.next_deadline());
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = run(Unstructured::new(bytes));
});
