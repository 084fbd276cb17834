//! A perfect in-memory replica of one drive: the rules of §4.3 as far as the sequencer can tell.

use std::collections::BTreeMap;

use drystone_csum::block_csum;
use drystone_types::*;

/// One block of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub version: Version,
    pub kind: u8,
    pub data: Buf,
    pub pg: PgId,
}

/// One drive.
pub struct Rep {
    pub id: DriveId,
    pub lineages: BTreeMap<LayerId, VolumeId>,
    pub sealed: Gen,
    pub serial: u32,
    pub map: ClusterMap,
    pub cells: BTreeMap<(LayerId, u64), Cell>,
    pub stable: Version,
    /// Answers UNREAD as an in-sync member does.
    pub in_sync: bool,
    pub granted: u32,
    pub full: bool,
    /// Statuses to answer instead, by type, each once.
    pub refuse: Vec<(MsgType, Status)>,
    /// Blocks that the device cannot read.
    pub broken: Vec<u64>,
    /// Blocks whose bytes do not match their checksum.
    pub rotten: Vec<u64>,
    /// Flips a byte of every answer with data.
    pub rot: bool,
    pub frozen: Vec<(LayerId, Version)>,
    pub nonce: u64,
    pub recall: u32,
    pub returned: u32,
    /// Slots that no write will use any more, as the volume said last.
    pub settled: u32,
    pub seen: Vec<Frame>,
}

impl Rep {
    pub fn new(id: DriveId, map: ClusterMap, lineages: BTreeMap<LayerId, VolumeId>) -> Rep {
        Rep {
            id,
            lineages,
            sealed: Gen(0),
            serial: 0,
            map,
            cells: BTreeMap::new(),
            stable: Version::ZERO,
            in_sync: false,
            granted: 100_000,
            full: false,
            refuse: Vec::new(),
            broken: Vec::new(),
            rotten: Vec::new(),
            rot: false,
            frozen: Vec::new(),
            nonce: 1,
            recall: 0,
            returned: 0,
            settled: 0,
            seen: Vec::new(),
        }
    }

    pub fn handle(&mut self, req: &Frame) -> Vec<Frame> {
        self.seen.push(req.clone());
        let h = &req.hdr;
        let mut status = self.admit(h);
        if let Some(i) = self.refuse.iter().position(|r| r.0 == h.kind) {
            status = self.refuse.remove(i).1;
        }
        let mut answers = match status {
            Status::Ok => self.serve(req),
            Status::NackEpoch => {
                let mut w = Writer::new();
                w.u64(self.map.revision.0);
                self.map.pg(h.pg).cloned().unwrap_or_default().encode(&mut w);
                vec![Frame::with_meta(h.reply(Status::NackEpoch), w.finish())]
            }
            s => vec![Frame::bare(h.reply(s))],
        };
        for a in &mut answers {
            a.hdr.drive = self.id;
            a.hdr.credits = self.granted;
            a.hdr.pg_epoch = self.map.pg(h.pg).map_or(Epoch(0), |pg| pg.epoch);
            a.hdr.map_rev = self.map.revision;
            if a.hdr.status == Status::NackGen {
                a.hdr.gen = self.sealed;
            }
        }
        answers
    }

    fn admit(&mut self, h: &Header) -> Status {
        if h.kind == MsgType::Seal {
            if h.gen < self.sealed {
                return Status::NackGen;
            }
            self.sealed = h.gen;
            return Status::Ok;
        }
        let data = matches!(h.kind, MsgType::Write | MsgType::Trim | MsgType::Zero | MsgType::Read | MsgType::ChunkMap);
        if data {
            let Some(pg) = self.map.pg(h.pg) else { return Status::Invalid };
            if h.pg_epoch != pg.epoch || !pg.is_member(self.id) {
                return Status::NackEpoch;
            }
            let consumer_read = h.kind == MsgType::Read && !h.flags.has(Flags::ROLL);
            if consumer_read && !pg.is_insync(self.id) {
                return Status::NackEpoch;
            }
        }
        if h.gen != self.sealed {
            return Status::NackGen;
        }
        if self.serial == 0 && h.kind != MsgType::Layer {
            return Status::NeedTicket;
        }
        Status::Ok
    }

    fn serve(&mut self, req: &Frame) -> Vec<Frame> {
        let h = &req.hdr;
        if h.stable > self.stable && !h.flags.has(Flags::ROLL) {
            self.stable = h.stable;
        }
        let ok = h.reply(Status::Ok);
        match h.kind {
            MsgType::Seal => return self.seal(req),
            MsgType::Layer => self.serial = Ticket::peek(&req.meta).map_or(0, |t| t.serial),
            MsgType::Recovered => self.stable = self.stable.max(Version { gen: h.gen, seq: 0 }),
            MsgType::Stable => return vec![self.space(req)],
            MsgType::Freeze => self.frozen.push((h.layer, h.version())),
            MsgType::Write if h.flags.has(Flags::UNREAD) => return vec![self.unread(h)],
            MsgType::Write | MsgType::Trim | MsgType::Zero => self.write(req),
            MsgType::Read if h.flags.has(Flags::ROLL) => return vec![self.exact(h)],
            MsgType::Read => return vec![self.read(req)],
            MsgType::ChunkMap => {
                let mut map = vec![0u8; 128];
                for i in 0..1024u64 {
                    if self.cells.get(&(h.layer, h.block + i)).is_some_and(|c| c.kind == 1) {
                        map[(i / 8) as usize] |= 1 << (i % 8);
                    }
                }
                return vec![Frame::with_meta(ok, map)];
            }
            _ => {}
        }
        vec![Frame::bare(ok)]
    }

    fn space(&mut self, req: &Frame) -> Frame {
        let mut meta = Reader::new(&req.meta);
        let (given, settled, nonce) = (meta.u32().unwrap(), meta.u32().unwrap(), meta.u64().unwrap());
        meta.finish().unwrap();
        if nonce == self.nonce {
            self.returned += given;
            self.settled = settled;
        }
        let status = if self.full { Status::Full } else { Status::Ok };
        let recall = core::mem::take(&mut self.recall);
        Frame::with_meta(req.hdr.reply(status), recall.to_le_bytes().to_vec())
    }

    /// A joiner waits for its copy; an in-sync member has what is stable, or nothing to wait for.
    fn unread(&self, h: &Header) -> Frame {
        let known = h.version() <= self.stable || !self.in_sync;
        Frame::bare(h.reply(if known { Status::Ok } else { Status::Invalid }))
    }

    fn write(&mut self, req: &Frame) {
        let h = &req.hdr;
        let kind = match h.kind {
            MsgType::Trim => 2,
            MsgType::Zero => 3,
            _ if h.flags.has(Flags::BAD) => 4,
            _ => 1,
        };
        for i in 0..u64::from(h.count) {
            let data = if kind == 1 { req.data.block(i as usize) } else { Buf::empty() };
            if kind == 1 {
                let lineage = self.lineages[&h.layer];
                assert_eq!(req.csums[i as usize], block_csum(lineage, h.block + i, data.as_slice()), "wrong checksum");
            }
            let key = (h.layer, h.block + i);
            let given_back = |c: &Cell| c.version == h.version() && c.kind == 4 && kind != 4;
            let newer = self.cells.get(&key).is_none_or(|c| c.version < h.version() || given_back(c));
            if newer && h.version() > self.stable {
                self.cells.insert(key, Cell { version: h.version(), kind, data, pg: h.pg });
            }
        }
    }

    fn read(&mut self, req: &Frame) -> Frame {
        let h = &req.hdr;
        let mut r = Reader::new(&req.meta);
        let layers: Vec<LayerId> = (0..r.u32().unwrap()).map(|_| LayerId(r.u64().unwrap())).collect();
        let bytes = h.count.div_ceil(8) as usize;
        let (mut present, mut masked) = (vec![0u8; bytes], vec![0u8; bytes]);
        let (mut csums, mut data) = (Vec::new(), Vec::new());
        for i in 0..u64::from(h.count) {
            if self.broken.contains(&(h.block + i)) {
                return Frame::bare(h.reply(Status::Eio));
            }
            if self.rotten.contains(&(h.block + i)) {
                return Frame::bare(h.reply(Status::BadChecksum));
            }
            let cell =
                layers.iter().find_map(|l| Some((l, self.cells.get(&(*l, h.block + i)).filter(|c| c.kind != 2)?)));
            match cell {
                Some((l, c)) if c.kind == 1 => {
                    present[(i / 8) as usize] |= 1 << (i % 8);
                    csums.push(block_csum(self.lineages[l], h.block + i, c.data.as_slice()));
                    data.extend_from_slice(c.data.as_slice());
                }
                Some((_, c)) if c.kind == 4 => return Frame::bare(h.reply(Status::Eio)),
                Some(_) => masked[(i / 8) as usize] |= 1 << (i % 8),
                None => {}
            }
        }
        if self.rot && !data.is_empty() {
            data[100] ^= 1;
        }
        present.extend(masked);
        Frame { hdr: h.reply(Status::Ok), csums, meta: present, data: Buf::copy_from(&data) }
    }

    fn exact(&self, h: &Header) -> Frame {
        match self.cells.get(&(h.layer, h.block)) {
            Some(_) if self.broken.contains(&h.block) => Frame::bare(h.reply(Status::Eio)),
            Some(_) if self.rotten.contains(&h.block) => Frame::bare(h.reply(Status::BadChecksum)),
            Some(c) if c.version == h.version() => {
                let csums = if c.kind == 1 {
                    vec![block_csum(self.lineages[&h.layer], h.block, c.data.as_slice())]
                } else {
                    vec![]
                };
                Frame { hdr: h.reply(Status::Ok), csums, meta: vec![c.kind], data: c.data.clone() }
            }
            _ => Frame::bare(h.reply(Status::Invalid)),
        }
    }

    /// One entry a part, to exercise answers in parts.
    fn seal(&mut self, req: &Frame) -> Vec<Frame> {
        let ticket = Ticket::peek(&req.meta).expect("a ticket");
        self.serial = ticket.serial;
        let pools: Vec<PoolId> = [ticket.pool].into_iter().chain(ticket.parents.iter().map(|p| p.pool)).collect();
        let mut pgs: Vec<(PgId, Epoch)> = Vec::new();
        for pool in &self.map.pools {
            for pg in 0..pool.pg_count {
                let rec = pool.pg(pg).unwrap();
                if pools.contains(&pool.pool) && rec.is_member(self.id) {
                    pgs.push((PgId { pool: pool.pool, pg }, rec.epoch));
                }
            }
        }
        let unstable: Vec<_> = self.cells.iter().filter(|(_, c)| c.version > self.stable).collect();
        let parts = unstable.len().max(1);
        (0..parts)
            .map(|n| {
                let entry = unstable.get(n);
                let mut w = Writer::new();
                let listed: Vec<_> = pgs.iter().filter(|p| n == 0 || entry.is_some_and(|e| e.1.pg == p.0)).collect();
                w.u32(self.sealed.0).u8(1).count(listed.len());
                for (pg, epoch) in listed {
                    let mine: Vec<_> = entry.into_iter().filter(|e| e.1.pg == *pg).collect();
                    w.u32(pg.to_wire()).u32(epoch.0).count(mine.len());
                    for (key, c) in mine {
                        w.u64(key.0 .0).u64(key.1).u32(c.version.gen.0).u64(c.version.seq).u8(c.kind);
                    }
                }
                let mut hdr = req.hdr.reply(Status::Ok);
                if n + 1 == parts {
                    hdr.flags = hdr.flags.with(Flags::LAST);
                }
                Frame::with_meta(hdr, w.finish())
            })
            .collect()
    }
}
