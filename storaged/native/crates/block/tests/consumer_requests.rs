//! A block thread without any drive: requests wait until the volume is fenced, and are counted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use drystone_block::{spawn_block, BlockCommand, BlockConfig, BlockEvent, BlockRemote, IoStats, OpStats};
use drystone_frame::{PeerIdentity, Role};
use drystone_link::{mailbox, MyIdentity};
use drystone_types::trust::ticket_key;
use drystone_types::{Gen, LayerId, PoolId, Ticket, Uuid, Version, VolumeId};

const PATIENCE: Duration = Duration::from_secs(20);
const VOL: VolumeId = VolumeId(1);
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const EIO: u32 = 5;

fn attached(socket: PathBuf) -> (BlockRemote, drystone_block::EventSource) {
    let who = PeerIdentity { role: Role::Client, uuid: Uuid([2; 16]), cluster: Uuid([1; 16]) };
    let me = MyIdentity { who, key: [3; 32], key_epoch: 1 };
    let (sink, source) = mailbox::<BlockEvent>().unwrap();
    let (remote, _thread) = spawn_block(BlockConfig { me, spin_us: 0 }, sink).unwrap();
    let ticket = Ticket {
        serial: 1,
        vol: VOL,
        gen: Gen(1),
        nonce: 9,
        client: who.uuid,
        pool: PoolId(1),
        size: 1 << 30,
        chain: vec![(LayerId(1), Version::ZERO)],
        ..Ticket::default()
    };
    let ticket = ticket.seal(&ticket_key(&[7; 32], 1), 1);
    let attach = BlockCommand::Attach { ticket, socket, export: "v".to_owned(), recover: true, near_node: None };
    assert!(remote.send(attach).is_ok());
    (remote, source)
}

/// The counters of the volume; also the way to know that earlier commands are done.
fn counted(remote: &BlockRemote) -> Option<IoStats> {
    let (reply, answer) = channel();
    assert!(remote.send(BlockCommand::Stats(reply)).is_ok());
    answer.recv_timeout(PATIENCE).unwrap().volumes.first().map(|v| v.io)
}

fn until(remote: &BlockRemote, what: &str, holds: impl Fn(&IoStats) -> bool) -> IoStats {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = counted(remote).unwrap();
        if holds(&found) {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}: {found:?}");
    }
}

/// Past the handshake, with the oldest option: its answer has no frame.
fn connected(socket: &PathBuf) -> UnixStream {
    let mut nbd = UnixStream::connect(socket).unwrap();
    nbd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 18];
    nbd.read_exact(&mut greeting).unwrap();
    let mut hello = 3u32.to_be_bytes().to_vec();
    hello.extend_from_slice(b"IHAVEOPT");
    hello.extend_from_slice(&1u32.to_be_bytes());
    hello.extend_from_slice(&1u32.to_be_bytes());
    hello.extend_from_slice(b"v");
    nbd.write_all(&hello).unwrap();
    let mut export = [0; 10];
    nbd.read_exact(&mut export).unwrap();
    assert_eq!(export[..8], (1u64 << 30).to_be_bytes());
    nbd
}

fn ask(nbd: &mut UnixStream, command: u16, cookie: u64, len: u32, data: &[u8]) {
    let mut out = 0x2560_9513u32.to_be_bytes().to_vec();
    out.extend_from_slice(&0u16.to_be_bytes());
    out.extend_from_slice(&command.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    // Far apart: requests of one range wait for each other.
    out.extend_from_slice(&(cookie << 20).to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(data);
    nbd.write_all(&out).unwrap();
}

/// Cookie and error of the next answer.
fn answer(nbd: &mut UnixStream) -> (u64, u32) {
    let mut reply = [0; 16];
    nbd.read_exact(&mut reply).unwrap();
    let be = |from: usize, to: usize| reply[from..to].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    assert_eq!(be(0, 4), 0x6744_6698);
    (be(8, 16), be(4, 8) as u32)
}

#[test]
fn requests_are_in_flight_until_a_fence_answers_them_with_errors() {
    let dir = std::env::temp_dir().join(format!("drystone-block-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("v.sock");
    let (remote, _source) = attached(socket.clone());
    assert_eq!(counted(&remote), Some(IoStats::default()));
    let mut nbd = connected(&socket);

    ask(&mut nbd, FLUSH, 1, 0, &[]);
    assert_eq!(answer(&mut nbd), (1, 0));
    ask(&mut nbd, WRITE, 2, 4096, &[7; 4096]);
    ask(&mut nbd, TRIM, 3, 1 << 20, &[]);
    let waiting = until(&remote, "two requests", |io| io.in_flight == 2);
    assert_eq!((waiting.write, waiting.trim), (OpStats::default(), OpStats::default()));
    assert_eq!(waiting.flush, OpStats { completed: 1, failed: 0, bytes: 0 });

    assert!(remote.send(BlockCommand::Revoked(VOL)).is_ok());
    let mut answers = [answer(&mut nbd), answer(&mut nbd)];
    answers.sort_unstable();
    assert_eq!(answers, [(2, EIO), (3, EIO)]);
    let failed = OpStats { completed: 0, failed: 1, bytes: 0 };
    let io = until(&remote, "no request", |io| io.in_flight == 0);
    assert_eq!((io.write, io.trim, io.flush.completed), (failed, failed, 1));
    assert_eq!(io.write_latency.count(), 0, "an error says nothing of the speed");

    assert!(remote.send(BlockCommand::Detach(VOL)).is_ok());
    assert_eq!(counted(&remote), None, "the figures go with the attachment");
    assert!(remote.send(BlockCommand::Stop).is_ok());
    std::fs::remove_dir_all(&dir).unwrap();
}
