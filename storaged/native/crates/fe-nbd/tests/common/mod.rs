//! A client in the small: builds what a client sends and reads what a server answers.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing)]

use drystone_fe_nbd::{Export, Fill, Limits, Request, Session, SessionError, Step};

pub const SIZE: u64 = 1 << 20;
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const ZEROES: u16 = 6;
pub const STATUS: u16 = 7;

pub fn option(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = b"IHAVEOPT".to_vec();
    out.extend(number.to_be_bytes());
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(body);
    out
}

pub fn info_body(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut out = (name.len() as u32).to_be_bytes().to_vec();
    out.extend(name.as_bytes());
    out.extend((infos.len() as u16).to_be_bytes());
    infos.iter().for_each(|info| out.extend(info.to_be_bytes()));
    out
}

pub fn meta_body(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = (name.len() as u32).to_be_bytes().to_vec();
    out.extend(name.as_bytes());
    out.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        out.extend((query.len() as u32).to_be_bytes());
        out.extend(query.as_bytes());
    }
    out
}

pub fn request(command: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut out = 0x2560_9513u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    out
}

pub fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut out = request(WRITE, 0, cookie, offset, data.len() as u32);
    out.extend(data);
    out
}

/// What a real connection does: keeps a buffer, shows it, receives fills in place.
pub struct Link {
    pub session: Session,
    pub out: Vec<u8>,
    pub requests: Vec<Request>,
    pub closed: bool,
    pub paused: bool,
    pending: Vec<u8>,
    fill: Option<Fill>,
}

impl Link {
    pub fn new(export: Export, limits: Limits) -> Link {
        let mut out = Vec::new();
        let session = Session::new(export, limits, &mut out);
        Link { session, out, requests: vec![], closed: false, paused: false, pending: vec![], fill: None }
    }

    /// Past negotiation; `structured` also selects the allocation context.
    pub fn transmitting(structured: bool) -> Link {
        let mut link = Link::new(Export::new("vol", SIZE), Limits::default());
        link.feed(&3u32.to_be_bytes()).unwrap();
        if structured {
            link.feed(&option(8, b"")).unwrap();
            link.feed(&option(10, &meta_body("vol", &["base:allocation"]))).unwrap();
        }
        link.feed(&option(7, &info_body("vol", &[]))).unwrap();
        assert!(link.session.is_transmitting());
        link.out.clear();
        link
    }

    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), SessionError> {
        if let Some(mut fill) = self.fill.take() {
            let now = bytes.len().min(fill.buf.len() - fill.at);
            fill.buf.as_mut_slice()[fill.at..fill.at + now].copy_from_slice(&bytes[..now]);
            fill.at += now;
            bytes = &bytes[now..];
            if fill.at < fill.buf.len() {
                self.fill = Some(fill);
                return Ok(());
            }
            self.requests.push(self.session.filled(fill)?);
        }
        self.pending.extend_from_slice(bytes);
        self.pump()
    }

    pub fn pump(&mut self) -> Result<(), SessionError> {
        self.paused = false;
        loop {
            let pending = std::mem::take(&mut self.pending);
            let (used, step) = self.session.decode(&pending, &mut self.out)?;
            self.pending = pending[used..].to_vec();
            match step {
                Step::Request(request) => self.requests.push(request),
                Step::More => {
                    assert!(self.pending.len() < drystone_fe_nbd::RECV_MIN);
                    return Ok(());
                }
                Step::Fill(fill) => {
                    assert!(self.pending.is_empty());
                    self.fill = Some(fill);
                    return Ok(());
                }
                Step::Paused => {
                    self.paused = true;
                    return Ok(());
                }
                Step::Close => {
                    self.closed = true;
                    return Ok(());
                }
            }
        }
    }

    /// The option replies so far: (option, type, body).
    pub fn option_replies(&mut self) -> Vec<(u32, u32, Vec<u8>)> {
        let out = std::mem::take(&mut self.out);
        let mut rest = out.as_slice();
        let mut replies = Vec::new();
        while !rest.is_empty() {
            assert_eq!(be(rest, 0, 8), 0x3e889045565a9);
            let len = be(rest, 16, 4) as usize;
            replies.push((be(rest, 8, 4) as u32, be(rest, 12, 4) as u32, rest[20..20 + len].to_vec()));
            rest = &rest[20 + len..];
        }
        replies
    }

    /// One simple reply: (cookie, error).
    pub fn simple_reply(&mut self) -> (u64, u32) {
        let out: Vec<u8> = self.out.drain(..16).collect();
        assert_eq!(be(&out, 0, 4), 0x67446698);
        (be(&out, 8, 8), be(&out, 4, 4) as u32)
    }

    /// One structured chunk: (flags, type, cookie, body).
    pub fn chunk(&mut self) -> (u16, u16, u64, Vec<u8>) {
        let head: Vec<u8> = self.out.drain(..20).collect();
        assert_eq!(be(&head, 0, 4), 0x668e33ef);
        let len = be(&head, 16, 4) as usize;
        let body = self.out.drain(..len).collect();
        (be(&head, 4, 2) as u16, be(&head, 6, 2) as u16, be(&head, 8, 8), body)
    }
}

pub fn be(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
