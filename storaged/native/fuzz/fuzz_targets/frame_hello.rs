//! The handshake: arbitrary and damaged frames to both sides. Nobody who does not hold the key is let in.
#![no_main]

use drystone_frame::{ClientHello, PeerIdentity, Role, ServerHello, HELLO_LEN};
use drystone_fuzz::{damage, KEY_EPOCH, MASTER};
use drystone_types::trust::role_key;
use drystone_types::Uuid;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const CLUSTER: Uuid = Uuid([1; 16]);
const SERVER: Uuid = Uuid([2; 16]);

/// Damages one of the frames of a handshake, or puts another in its place; gives whether it differs.
fn tamper(u: &mut Unstructured, raw: &mut [u8; HELLO_LEN]) -> Result<bool> {
    let honest = *raw;
    if u.ratio(1u8, 4u8)? {
        u.fill_buffer(&mut raw[8..])?;
    }
    let mut bytes = raw.to_vec();
    damage(u, &mut bytes)?;
    bytes.resize(HELLO_LEN, 0);
    raw.copy_from_slice(&bytes);
    Ok(*raw != honest)
}

fn run(mut u: Unstructured) -> Result<()> {
    let role = *u.choose(&[Role::Client, Role::Server, Role::Manager])?;
    let who = PeerIdentity { role, uuid: Uuid(u.arbitrary()?), cluster: CLUSTER };
    let key = role_key(&MASTER, role.name(), &who.uuid.0, KEY_EPOCH);
    let (client, mut challenge) = ClientHello::new(who, key, KEY_EPOCH, u.arbitrary()?);
    let tampered = tamper(&mut u, &mut challenge)?;
    let master_of = |epoch| (epoch == KEY_EPOCH).then_some(MASTER);
    let Ok((server, mut answer)) = ServerHello::on_challenge(&challenge, CLUSTER, SERVER, u.arbitrary()?, master_of)
    else {
        assert!(tampered, "an honest challenge was refused");
        return Ok(());
    };
    let forged = tamper(&mut u, &mut answer)?;
    let Ok((node, _, mut proof)) = client.on_challenge(&answer) else {
        assert!(tampered || forged, "an honest answer was refused");
        return Ok(());
    };
    assert_eq!(node, SERVER);
    let lied = tamper(&mut u, &mut proof)?;
    match server.on_proof(&proof) {
        Ok((peer, mut verdict)) => {
            assert_eq!(peer, who, "a peer was taken for another");
            tamper(&mut u, &mut verdict)?;
            let _ = client.on_verdict(&verdict);
        }
        Err(_) => assert!(tampered || forged || lied, "an honest proof was refused"),
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(raw) = bytes.first_chunk::<HELLO_LEN>() {
        let _ = ServerHello::on_challenge(raw, CLUSTER, SERVER, [0; 32], |_| Some(MASTER));
    }
    let _ = run(Unstructured::new(bytes));
});
