//! The link against a server that drops connections at the worst moments.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use drystone_fe_fuse::link::{Link, Target};
use drystone_fe_fuse::queue::{Action, Request};

const SIZE: usize = 64 << 10;
const UNIT: usize = 512;
const DEADLINE: Duration = Duration::from_secs(60);

/// A small generator: the seed of a failing run replays its choices.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

struct Server {
    disk: Arc<Mutex<Vec<u8>>>,
    deaths: Arc<Mutex<u64>>,
    socket: PathBuf,
}

impl Server {
    fn start(name: &str, seed: u64) -> Self {
        let socket = std::env::temp_dir().join(format!("drystone-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let disk = Arc::new(Mutex::new(vec![0; SIZE]));
        let deaths = Arc::new(Mutex::new(0));
        let (bytes, count) = (Arc::clone(&disk), Arc::clone(&deaths));
        thread::spawn(move || {
            let mut random = Random(seed);
            for stream in listener.incoming() {
                serve(&mut stream.unwrap(), &bytes, &mut random);
                *count.lock().unwrap() += 1;
            }
        });
        Self { disk, deaths, socket }
    }

    fn link(&self) -> Arc<Link> {
        let target = Target { socket: self.socket.clone(), export: String::new() };
        Link::open(target, Duration::from_secs(10)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn greet(stream: &mut UnixStream) -> Option<()> {
    let mut hello = 0x4E42_444D_4147_4943u64.to_be_bytes().to_vec();
    hello.extend(0x4948_4156_454F_5054u64.to_be_bytes());
    hello.extend(3u16.to_be_bytes());
    stream.write_all(&hello).ok()?;
    let mut option = [0; 4 + 16 + 6];
    stream.read_exact(&mut option).ok()?;
    for (code, info) in [(3u32, 12u32), (1, 0)] {
        let mut reply = 0x0003_E889_0455_65A9u64.to_be_bytes().to_vec();
        reply.extend(7u32.to_be_bytes());
        reply.extend(code.to_be_bytes());
        reply.extend(info.to_be_bytes());
        if info > 0 {
            reply.extend(0u16.to_be_bytes());
            reply.extend((SIZE as u64).to_be_bytes());
            reply.extend(0x65u16.to_be_bytes());
        }
        stream.write_all(&reply).ok()?;
    }
    Some(())
}

/// Works for a while, then dies: before applying a request, or after it without an answer.
/// Up to three answers are held back and given in another order.
fn serve(stream: &mut UnixStream, disk: &Mutex<Vec<u8>>, random: &mut Random) {
    if greet(stream).is_none() {
        return;
    }
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut life = 1 + random.below(60);
    loop {
        let mut header = [0; 28];
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        let command = u16::from_be_bytes([header[6], header[7]]);
        let offset = u64::from_be_bytes(header[16..24].try_into().unwrap()) as usize;
        let length = u32::from_be_bytes(header[24..28].try_into().unwrap()) as usize;
        let mut data = vec![0; if command == 1 { length } else { 0 }];
        if stream.read_exact(&mut data).is_err() {
            return;
        }
        life -= 1;
        if life == 0 && random.below(2) == 0 {
            return;
        }
        let mut answer = vec![0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0];
        answer.extend(&header[8..16]);
        match command {
            0 => answer.extend(&disk.lock().unwrap()[offset..offset + length]),
            1 => disk.lock().unwrap()[offset..offset + length].copy_from_slice(&data),
            _ => {}
        }
        if life == 0 {
            return;
        }
        held.push(answer);
        if held.len() > 3 || random.below(2) == 0 {
            // Never leave a client waiting for what is held back: that would be no fault of its.
            while !held.is_empty() {
                let index = random.below(held.len() as u64) as usize;
                if stream.write_all(&held.swap_remove(index)).is_err() {
                    return;
                }
            }
        } else if stream.set_read_timeout(Some(Duration::from_millis(1))).is_ok() {
            flush_when_idle(stream, &mut held);
        }
    }
}

fn flush_when_idle(stream: &mut UnixStream, held: &mut Vec<Vec<u8>>) {
    // Reading nothing waits until there is something to read, or the time is up.
    let idle = stream.read(&mut []).is_err();
    let _ = stream.set_read_timeout(None);
    if idle {
        for answer in held.drain(..) {
            let _ = stream.write_all(&answer);
        }
    }
}

type Answer = (u64, Result<Vec<u8>, i32>);

/// Submits overlapping requests as fast as it can; gives what each read must return.
fn load(link: &Link, seed: u64, requests: u64) -> (HashMap<u64, Vec<u8>>, Vec<u8>, Receiver<Answer>) {
    let mut random = Random(seed);
    let mut model = vec![0u8; SIZE];
    let mut expected = HashMap::new();
    let (sender, answers) = channel();
    for number in 0..requests {
        let units = 1 + random.below(8) as usize;
        let start = random.below((SIZE / UNIT - units) as u64) as usize % 24 * UNIT;
        let range = start..start + units * UNIT;
        let action = match random.below(8) {
            0 => Action::Flush,
            1..=3 => {
                expected.insert(number, model[range.clone()].to_vec());
                Action::Read
            }
            _ => {
                let data: Vec<u8> = (number as u32).to_be_bytes().repeat(units * UNIT / 4);
                model[range.clone()].copy_from_slice(&data);
                Action::Write(data)
            }
        };
        let length = if action == Action::Flush { 0 } else { range.len() as u32 };
        let request = Request { action, offset: range.start as u64, length };
        let sender = sender.clone();
        let done = move |result| {
            let _ = sender.send((number, result));
        };
        link.submit(request, Box::new(done));
    }
    (expected, model, answers)
}

#[test]
fn every_request_is_answered_once_and_reads_see_exactly_the_writes_before_them() {
    for seed in 1..=4 {
        let server = Server::start(&format!("chaos{seed}"), seed);
        let link = server.link();
        let requests = 500;
        let (expected, model, answers) = load(&link, seed ^ 0xABCD, requests);
        for _ in 0..requests {
            let (number, result) = answers.recv_timeout(DEADLINE).expect("a request was lost");
            let data = result.expect("a lost connection became an error");
            if let Some(expected) = expected.get(&number) {
                assert_eq!(&data, expected, "seed {seed}, read {number}");
            }
        }
        assert!(answers.recv_timeout(Duration::ZERO).is_err(), "answered twice");
        assert_eq!(*server.disk.lock().unwrap(), model, "seed {seed}");
        assert!(*server.deaths.lock().unwrap() > 5, "the server hardly died: seed {seed}");
        assert_eq!(link.counters().queued, 0);
    }
}
