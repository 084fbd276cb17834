//! A whole connection from its first byte: handshake, then damaged frames, split as a socket splits them.
#![no_main]

use drystone_frame::hello::verdict;
use drystone_frame::{ClientHello, PeerIdentity, Role, ServerHello};
use drystone_fuzz::{damage, frames, receive, Splits, KEY_EPOCH, MASTER};
use drystone_link::{Item, Keys, LinkDecoder, LinkError, MyIdentity};
use drystone_reactor::SendQueue;
use drystone_types::trust::role_key;
use drystone_types::{Frame, Uuid};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const CLUSTER: Uuid = Uuid([1; 16]);
const NODE: Uuid = Uuid([2; 16]);
const NONCE: [u8; 32] = [9; 32];

fn me() -> MyIdentity {
    let who = PeerIdentity { role: Role::Client, uuid: Uuid([3; 16]), cluster: CLUSTER };
    MyIdentity { who, key: role_key(&MASTER, who.role.name(), &who.uuid.0, KEY_EPOCH), key_epoch: KEY_EPOCH }
}

/// A decoder, and what an honest peer sends it before the frames.
fn side(accepting: bool, out: &mut SendQueue) -> (LinkDecoder, Vec<u8>) {
    let keys = Keys { masters: vec![(KEY_EPOCH, MASTER)] };
    let (client, first) = ClientHello::new(me().who, me().key, KEY_EPOCH, NONCE);
    let (_, answer) = ServerHello::on_challenge(&first, CLUSTER, NODE, NONCE, |e| keys.master(e)).expect("honest");
    if accepting {
        let (_, _, proof) = client.on_challenge(&answer).expect("honest");
        (LinkDecoder::accept(keys, CLUSTER, NODE, NONCE), [first, proof].concat())
    } else {
        (LinkDecoder::connect(&me(), NONCE, out), [answer, verdict(0)].concat())
    }
}

/// Whether the handshake was completed, the frames after it, and how it ended.
fn listen(accepting: bool, stream: &[u8], splits: &mut Splits) -> (bool, Vec<Frame>, Option<LinkError>) {
    let (mut queue, mut frames, mut up) = (SendQueue::new(), Vec::new(), false);
    let (mut link, _) = side(accepting, &mut queue);
    let error = receive(&mut link, &mut queue, stream, splits, |_, item| match item {
        Item::Up(_) => up = true,
        Item::Frame(frame) => {
            assert!(up, "a frame before the handshake was complete");
            frames.push(frame);
        }
    });
    (up, frames, error)
}

fn run(mut u: Unstructured) -> Result<()> {
    let accepting = u.arbitrary()?;
    let (_, mut stream) = side(accepting, &mut SendQueue::new());
    // Mostly honest handshakes, or nothing behind them would be reached.
    let lies = u.ratio(1u8, 4u8)? && damage(&mut u, &mut stream)?;
    let (sent, mut bytes) = frames(&mut u)?;
    let damaged = damage(&mut u, &mut bytes)?;
    stream.append(&mut bytes);
    let whole = listen(accepting, &stream, &mut Splits::whole());
    assert_eq!(listen(accepting, &stream, &mut Splits::new(&mut u, stream.len())?), whole);
    if !lies && !damaged {
        assert_eq!(whole, (true, sent, None));
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = listen(true, bytes, &mut Splits::whole());
    let _ = listen(false, bytes, &mut Splits::whole());
    let _ = run(Unstructured::new(bytes));
});
