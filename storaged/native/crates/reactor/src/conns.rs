//! Many connections: which of them have something to decode, and which to send.

use crate::conn::{Conn, ConnConfig, Decoder, Event};
use crate::ctx::Ctx;
use crate::desc::FdId;
use crate::op::{OpResult, UserToken};
use crate::sendq::SendQueue;
use crate::slab::Slab;
use std::collections::VecDeque;

/// Names one connection of a [`Conns`]. Names are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Up to so many streams are sent to directly, each by a call of its own; through the ring they
/// would cost one further turn together. Measured: two calls cost about as much as that turn.
const DIRECT_MAX: usize = 2;

struct Entry<D: Decoder> {
    conn: Conn<D>,
    in_ready: bool,
    in_dirty: bool,
    in_finishing: bool,
}

/// A set of connections with the same decoder. Its completions carry tokens of one class.
///
/// In a handler: completions of the class go to [`Conns::on_completion`]; at the end of the
/// turn, `while let Some((id, event)) = conns.next(cx) { … }`, then [`Conns::flush`]. Timers of the
/// class may come in too and need no handling.
pub struct Conns<D: Decoder> {
    class: u32,
    config: ConnConfig,
    slab: Slab<Entry<D>>,
    ready: VecDeque<ConnId>,
    dirty: Vec<ConnId>,
    /// Connections that only send, by their deadline.
    finishing: VecDeque<(u64, ConnId)>,
}

impl<D: Decoder> Conns<D> {
    /// An empty set whose tokens have the class `class`.
    pub fn new(class: u32, config: ConnConfig) -> Conns<D> {
        Conns {
            class,
            config,
            slab: Slab::new(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            finishing: VecDeque::new(),
        }
    }
    /// Connections in the set, closing ones included.
    pub fn len(&self) -> usize {
        self.slab.len()
    }
    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The names of all connections.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.slab.keys().map(ConnId)
    }

    /// Adds a connection over an adopted socket; `make` builds its decoder and may queue a greeting.
    pub fn insert(&mut self, fd: FdId, make: impl FnOnce(&mut SendQueue) -> D) -> ConnId {
        // The token needs the key, so the connection gets it right after.
        let conn = Conn::new(fd, UserToken::new(self.class, 0), self.config, make);
        let key = self.slab.insert(Entry { conn, in_ready: false, in_dirty: false, in_finishing: false });
        if let Some(entry) = self.slab.get_mut(key) {
            entry.conn.set_token(UserToken::new(self.class, key));
        }
        self.touch(ConnId(key));
        ConnId(key)
    }

    /// To be looked at again by `next` and `flush`.
    fn touch(&mut self, id: ConnId) {
        let Some(entry) = self.slab.get_mut(id.0) else {
            return;
        };
        if !std::mem::replace(&mut entry.in_ready, true) {
            self.ready.push_back(id);
        }
        if !std::mem::replace(&mut entry.in_dirty, true) {
            self.dirty.push(id);
        }
    }

    /// A completion whose token has this set's class.
    pub fn on_completion(&mut self, cx: &mut Ctx, token: UserToken, result: OpResult) {
        if let Some(entry) = self.slab.get_mut(token.id) {
            entry.conn.on_completion(cx, result);
            self.touch(ConnId(token.id));
        }
    }

    /// The next event of any connection. After [`Event::Closed`] the name is dead.
    pub fn next(&mut self, cx: &mut Ctx) -> Option<(ConnId, Event<D>)> {
        loop {
            let id = *self.ready.front()?;
            let event = self.slab.get_mut(id.0).and_then(|entry| {
                let event = entry.conn.next(cx);
                entry.in_ready = event.is_some();
                event
            });
            match event {
                None => {
                    self.ready.pop_front();
                }
                Some(Event::Closed(reason)) => {
                    self.ready.pop_front();
                    self.slab.remove(id.0);
                    return Some((id, Event::Closed(reason)));
                }
                Some(item) => return Some((id, item)),
            }
        }
    }

    /// The decoder and the output queue of a connection, for replies; `None` when it is gone.
    /// What is queued goes out with the next [`Conns::flush`].
    pub fn parts(&mut self, id: ConnId) -> Option<(&mut D, &mut SendQueue)> {
        self.touch(id);
        self.slab.get_mut(id.0).filter(|entry| entry.conn.is_open()).map(|entry| entry.conn.parts())
    }
    /// The connection itself, for looking at it.
    pub fn get(&self, id: ConnId) -> Option<&Conn<D>> {
        self.slab.get(id.0).map(|entry| &entry.conn)
    }
    /// Ends a connection at once; [`Event::Closed`] follows.
    pub fn close(&mut self, cx: &mut Ctx, id: ConnId) {
        if let Some(entry) = self.slab.get_mut(id.0) {
            entry.conn.close(cx);
        }
    }
    /// Sends what is queued on a connection, then ends it; [`Event::Closed`] follows.
    pub fn finish(&mut self, cx: &mut Ctx, id: ConnId) {
        self.touch(id);
        if let Some(entry) = self.slab.get_mut(id.0) {
            entry.conn.finish(cx);
        }
    }

    /// One send per connection that has something queued.
    pub fn flush(&mut self, cx: &mut Ctx) {
        // A few are sent at once; many share the turn's one call into the ring.
        let now = self.dirty.len() <= DIRECT_MAX;
        while let Some(id) = self.dirty.pop() {
            let Some(entry) = self.slab.get_mut(id.0) else {
                continue;
            };
            entry.in_dirty = false;
            entry.conn.flush_how(cx, now);
            if entry.conn.is_finishing() && !std::mem::replace(&mut entry.in_finishing, true) {
                let deadline = cx.now_us().saturating_add(self.config.finish_us);
                self.finishing.push_back((deadline, id));
                // Only to have a turn then; nobody needs to handle it.
                cx.timer_at(deadline, UserToken::new(self.class, u64::MAX));
            }
        }
        self.cut_finished(cx);
    }

    fn cut_finished(&mut self, cx: &mut Ctx) {
        while let Some((_, id)) = self.finishing.front().copied().filter(|(deadline, _)| *deadline <= cx.now_us()) {
            self.finishing.pop_front();
            self.close(cx, id);
        }
    }
}
