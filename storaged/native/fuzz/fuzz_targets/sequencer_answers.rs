//! The sequencer over servers that lie: every answer has fuzzed fields and metadata. It may fence or
//! fail the volume; it never panics.
#![no_main]

use std::sync::Arc;

use drystone_fuzz::{frame, KEY_EPOCH, MASTER};
use drystone_sequencer::{Action, Config, Event, Io, Sequencer, State};
use drystone_types::*;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 16 << 20;

fn ticket(serial: u32) -> Vec<u8> {
    let chain = vec![(LayerId(70), Version::ZERO), (LayerId(69), Version::new(1, 4))];
    let parents = vec![ParentRef {
        lineage: VolumeId(3),
        layer: LayerId(30),
        size: SIZE / 2,
        pool: PoolId(1),
        ..ParentRef::default()
    }];
    let (gen, pool) = (Gen(2), PoolId(1));
    let ticket =
        Ticket { serial, vol: VolumeId(7), gen, nonce: 1, pool, size: SIZE, chain, parents, ..Ticket::default() };
    ticket.seal(&MASTER, KEY_EPOCH)
}

fn map(rev: u64, insync: u32) -> Arc<ClusterMap> {
    let rec = PgRecord { epoch: Epoch(rev as u32), insync: (1..=insync).map(DriveId).collect(), ..PgRecord::default() };
    let shards = vec![MapShard { pgs: vec![rec; 2] }];
    let pools = vec![PoolMap { pool: PoolId(1), copies: 3, min_insync: 2, pg_count: 2, shards }];
    let drives = (1..=3).map(|d| DriveInfo { id: DriveId(d), nonce: 1, ..DriveInfo::default() }).collect();
    Arc::new(ClusterMap { revision: Rev(rev), drives, pools, ..ClusterMap::default() })
}

struct World {
    sequencer: Sequencer,
    now: u64,
    tag: u64,
    rev: u64,
    sent: Vec<(DriveId, Frame)>,
}

impl World {
    fn event(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut out = Vec::new();
            self.now += 1;
            self.sequencer.step(self.now, event, &mut out);
            for action in out {
                match action {
                    Action::Send { drive, via, frame } => self.sent.push((via.unwrap_or(drive), frame)),
                    Action::Complete { tag, .. } => events.push(Event::Answered { tag }),
                    Action::WantActivate { .. } => events.push(Event::Activated(Ok(()))),
                    _ => {}
                }
            }
        }
    }
}

/// An honest answer of an empty drive, so that an attach can succeed.
fn honest(asked: &Frame) -> Frame {
    let hdr = Header { credits: 1000, ..asked.hdr.reply(Status::Ok) };
    let mut w = Writer::new();
    match asked.hdr.kind {
        MsgType::Seal => {
            w.u32(2).u8(0).count(2);
            for pg in 0..2 {
                w.u32(PgId { pool: PoolId(1), pg }.to_wire()).u32(1).count(0);
            }
        }
        MsgType::Read => {
            w.bytes(&vec![0; 2 * asked.hdr.count.div_ceil(8) as usize]);
        }
        MsgType::ChunkMap => {
            w.bytes(&[0; 128]);
        }
        _ => {}
    }
    Frame::with_meta(Header { flags: hdr.flags.with(Flags::LAST), ..hdr }, w.finish())
}

/// A reply to SEAL that is well formed, with any entries.
fn entries(u: &mut Unstructured) -> Result<Vec<u8>> {
    let mut w = Writer::new();
    w.u32(2).u8(1).count(2);
    for pg in 0..2 {
        let count = u.int_in_range(0..=3u8)?;
        w.u32(PgId { pool: PoolId(1), pg }.to_wire()).u32(1).u32(count.into());
        for _ in 0..count {
            let (layer, gen) = (u.int_in_range(69..=71)?, u.int_in_range(0..=3)?);
            let (block, seq) = (u.arbitrary::<u16>()? % 5000, u.arbitrary::<u8>()?);
            w.u64(layer).u64(block.into()).u32(gen).u64(seq.into()).u8(u.int_in_range(0..=5)?);
        }
    }
    Ok(w.finish())
}

fn answer(u: &mut Unstructured, asked: &Frame) -> Result<Frame> {
    let honest = honest(asked);
    let lie: u8 = u.arbitrary()?;
    if lie < 128 {
        return Ok(honest);
    }
    let mut frame = frame(u)?;
    let fuzzed = frame.hdr;
    let status = if lie & 1 == 0 { Status::Ok } else { fuzzed.status };
    frame.hdr = Header { status, ..honest.hdr };
    if lie & 2 != 0 {
        (frame.hdr.credits, frame.hdr.pg_epoch, frame.hdr.map_rev) = (fuzzed.credits, fuzzed.pg_epoch, fuzzed.map_rev);
    }
    if lie & 4 != 0 {
        (frame.hdr.block, frame.hdr.count, frame.hdr.seq, frame.hdr.gen) =
            (fuzzed.block, fuzzed.count, fuzzed.seq, fuzzed.gen);
    }
    if lie & 8 != 0 {
        (frame.hdr.flags, frame.hdr.request, frame.hdr.kind) = (fuzzed.flags, fuzzed.request, fuzzed.kind);
    }
    if asked.hdr.kind == MsgType::Seal && lie & 32 != 0 {
        (frame.hdr, frame.meta) = (honest.hdr, entries(u)?);
    } else if lie & 16 != 0 {
        // The right length, any content.
        frame.meta.resize(honest.meta.len(), lie);
    }
    Ok(frame)
}

fn io(u: &mut Unstructured) -> Result<Io> {
    let offset = u64::from(u.arbitrary::<u16>()? % 40_000) * 512;
    let len = u64::from(u.int_in_range(1..=64u16)?) * 512;
    Ok(match u.int_in_range(0..=5u8)? {
        0 | 1 => Io::Write { offset, data: Buf::copy_from(&vec![1; len as usize]) },
        2 => Io::Read { offset, len },
        3 => Io::Trim { offset, len: len * 16 },
        4 => Io::WriteZeroes { offset, len: len * 16 },
        _ => Io::BlockStatus { offset, len: len * 64 },
    })
}

fn step(w: &mut World, u: &mut Unstructured) -> Result<()> {
    match u.int_in_range(0..=15u8)? {
        0 => {
            w.now += u64::from(u.arbitrary::<u16>()?) * 16;
            w.event(Event::Tick);
        }
        1 => {
            let drive = DriveId(u.int_in_range(1..=3)?);
            w.event(if u.arbitrary()? {
                Event::DriveDown { drive, refused: false }
            } else {
                Event::DriveUp { drive, nonce: 1 }
            });
        }
        2 => {
            w.rev += 1;
            w.event(Event::Map(map(w.rev, u.int_in_range(1..=3)?)));
        }
        3 => w.event(Event::Ticket(ticket(u.int_in_range(1..=3)?))),
        4..=6 => {
            w.tag += 1;
            let io = io(u)?;
            w.event(Event::Io { tag: w.tag, io });
        }
        _ if !w.sent.is_empty() => {
            // In any order; now and then twice.
            let at = u.choose_index(w.sent.len())?;
            let (drive, asked) = if u.ratio(1u8, 16u8)? { w.sent[at].clone() } else { w.sent.remove(at) };
            let frame = answer(u, &asked)?;
            w.event(Event::Frame { drive, frame });
        }
        _ => {}
    }
    Ok(())
}

fn run(mut u: Unstructured) -> Result<()> {
    let sequencer = Sequencer::new(Config::default(), &ticket(1)).expect("a ticket");
    let mut w = World { sequencer, now: 1_000_000, tag: 0, rev: 1, sent: Vec::new() };
    for drive in 1..=3 {
        w.event(Event::DriveUp { drive: DriveId(drive), nonce: 1 });
    }
    w.event(Event::Map(map(1, 3)));
    if u.ratio(3u8, 4u8)? {
        // Attach honestly, so that reads and writes are reached.
        for _ in 0..64 {
            let Some((drive, asked)) = w.sent.pop() else { break };
            w.event(Event::Frame { drive, frame: honest(&asked) });
        }
        assert_eq!(w.sequencer.state(), State::Active, "honest servers were not understood");
    }
    while !u.is_empty() {
        step(&mut w, &mut u)?;
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let _ = run(Unstructured::new(bytes));
});
