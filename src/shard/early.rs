//! Clients that are copied to another process while they are still served, before their shard rests
//! for an upgrade ([`crate::upgrade`]): their sockets, and the part of their sessions that seldom
//! changes. So little is left to copy in the time in which the clients are not served.
//!
//! In the old process, each socket that was copied has a number, and a hash of what was copied of
//! its session. If the hash is still the same when the shard rests, only the rest is sent. In the
//! new process, such a session is placed without a connection, and waits until it is claimed. It
//! has no client yet, no client publishes in the new process, and no timer fires, so the session
//! can be taken away without a trace.

use super::connection::Stage;
use super::pack::Packed;
use super::{Action, Shard};
use crate::ids::{ListenerId, ShardId, SocketId};
use crate::mutant::Mutant;
use crate::slab::Table;
use crate::time::Instant;
use crate::upgrade::client::{self, Early, MovedClient, Remainder};
use crate::upgrade::code::Code;
use hashbrown::HashMap;
use std::hash::BuildHasher;

/// Sockets that are looked at by one call of [`Shard::next_early`], at most.
const VISITS: u32 = 4096;

/// Which shard of the old process has copied a client, and under which number.
type CopyKey = (ShardId, u32);

/// The early copies of a shard: in the old process those that it made, in the new one those that
/// came.
#[derive(Default)]
pub(super) struct EarlyCopies {
    hasher: foldhash::quality::RandomState,
    /// What was copied, by socket.
    copied: Table<Copied>,
    /// The number of the next copy.
    next: u32,
    /// Copies that have come from the old process and are not claimed yet.
    unclaimed: HashMap<CopyKey, Unclaimed, foldhash::fast::FixedState>,
    /// Those of these copies that have a session here, by the index of the session.
    placed: HashMap<u32, CopyKey, foldhash::fast::FixedState>,
}

struct Copied {
    number: u32,
    /// Hash of the session's bytes, if the session was copied.
    hash: Option<u64>,
}

struct Unclaimed {
    socket: SocketId,
    session: Option<u32>,
}

impl EarlyCopies {
    fn hash(&self, session: &client::MovedSession) -> u64 {
        let mut bytes = Vec::with_capacity(session.length());
        session.put(&mut bytes);
        self.hasher.hash_one(&bytes)
    }
}

/// What the old process does.
impl Shard {
    /// Up to `most` sockets, from `cursor` on, whose clients can be copied and have not been; looks
    /// at some thousand sockets. `None` when all sockets were looked at.
    pub fn next_early(&self, cursor: &mut u32, most: usize) -> Option<Vec<SocketId>> {
        if *cursor >= self.connections.bound() {
            return None;
        }
        let mut found = Vec::new();
        let end = cursor.saturating_add(VISITS).min(self.connections.bound());
        while *cursor < end && found.len() < most {
            let socket = SocketId(*cursor);
            *cursor += 1;
            let copied = |early: &EarlyCopies| early.copied.get(socket.0).is_some();
            if !self.work.early.as_deref().is_some_and(copied) && self.movable(socket).is_some() {
                found.push(socket);
            }
        }
        Some(found)
    }

    /// The session of the client on that socket, if the client can be handed over with it.
    fn movable(&self, socket: SocketId) -> Option<u32> {
        let connection = self.connections.get(socket.0)?;
        let Stage::Open(index) = connection.stage else { return None };
        let moves = |all: &crate::transport::Layers| all.moved().is_some();
        let below = !connection.layered || self.layered.all.get(socket.0).is_some_and(moves);
        (below && self.sessions.get(index).is_some()).then_some(index)
    }

    /// The early copy of the client on that socket; `None` when the client is gone by now. With a
    /// store, the session is not copied.
    pub fn pack_early(&mut self, socket: SocketId) -> Option<Early> {
        let index = self.movable(socket)?;
        let listener = self.connections.get(socket.0)?.listener;
        let session = self.sessions.get(index)?;
        let client_id = session.client_id.clone();
        let session = self.storing.is_none().then(|| self.pack_quiet(session));
        let early = self.work.early.get_or_insert_default();
        let hash = session.as_ref().map(|session| early.hash(session));
        let number = early.next;
        early.next += 1;
        early.copied.insert(socket.0, Copied { number, hash });
        Some(Early { from: self.topology.id, number, client_id, listener, session })
    }

    /// That socket is closed, and may come again with another client.
    #[inline]
    pub(super) fn forget_early(&mut self, socket: SocketId) {
        if let Some(early) = &mut self.work.early
            && !Mutant::UpgradeCopyOfAnother.is_on()
        {
            early.copied.remove(socket.0);
        }
    }

    /// Forgets all copies: no process takes over.
    pub fn forget_all_early(&mut self) {
        self.work.early = None;
    }

    /// What is sent of a client that is handed over now: if it was copied before, only what has
    /// changed.
    pub(super) fn packed_online(&self, socket: SocketId, client: MovedClient) -> Packed {
        let early = self.work.early.as_deref();
        let Some((early, copied)) =
            early.and_then(|early| Some((early, early.copied.get(socket.0)?)))
        else {
            return Packed::Online(socket, Box::new(client));
        };
        let (from, number) = (self.topology.id, copied.number);
        match client {
            MovedClient { session: Some(mut session), connection: Some(connection) } => {
                let flow = session.flow.take();
                let same = copied.hash == Some(early.hash(&session));
                if same || copied.hash.is_some() && Mutant::UpgradeChangeUntold.is_on() {
                    let rest = Remainder { from, number, flow, connection };
                    return Packed::Rest(Box::new(rest));
                }
                session.flow = flow;
                let connection = Some(connection);
                Packed::Known(
                    from,
                    number,
                    Box::new(MovedClient { session: Some(session), connection }),
                )
            }
            client => Packed::Known(from, number, Box::new(client)),
        }
    }
}

/// What the new process does.
impl Shard {
    /// Takes in the early copy of a client whose home is here.
    ///
    /// # Errors
    /// Why the copy cannot be taken in.
    pub fn adopt_early(&mut self, early: Early, socket: SocketId) -> Result<(), String> {
        let key = (early.from, early.number);
        let session =
            match early.session {
                Some(session) => {
                    // The client was copied before, and has had another connection since.
                    self.replace_early(&session.client_id);
                    Some(self.adopt_session(
                        client::MovedSession { ends: Instant::END, ..session },
                        None,
                    )?)
                }
                None => None,
            };
        let early = self.work.early.get_or_insert_default();
        if let Some(index) = session {
            early.placed.insert(index, key);
        }
        match early.unclaimed.insert(key, Unclaimed { socket, session }) {
            None => Ok(()),
            Some(_) => Err("a client was copied twice under one number".to_owned()),
        }
    }

    /// If there is an early copy of a session with that ClientId, takes the session away.
    pub(super) fn replace_early(&mut self, name: &str) {
        if self.work.early.is_none() || Mutant::UpgradeEarlyTwice.is_on() {
            return;
        }
        let Some(index) = self.find_session(name) else { return };
        let Some(early) = &mut self.work.early else { return };
        let Some(key) = early.placed.remove(&index) else { return };
        if let Some(unclaimed) = early.unclaimed.get_mut(&key) {
            unclaimed.session = None;
        }
        self.end_moved(index);
    }

    fn claim_early(&mut self, key: CopyKey) -> Result<Unclaimed, String> {
        let early = self.work.early.as_deref_mut();
        let found = early.and_then(|early| {
            let unclaimed = early.unclaimed.remove(&key)?;
            if let Some(index) = unclaimed.session {
                early.placed.remove(&index);
            }
            Some(unclaimed)
        });
        found.ok_or_else(|| "a client that is said to be copied is not here".to_owned())
    }

    /// Takes in the rest of a client that was copied early.
    ///
    /// # Errors
    /// Why the rest cannot be taken in.
    pub fn adopt_rest(&mut self, rest: Remainder, listener: ListenerId) -> Result<(), String> {
        let Unclaimed { socket, session } = self.claim_early((rest.from, rest.number))?;
        let index = session.ok_or("a session that is said to be copied is not here")?;
        let Some(session) = self.sessions.get_mut(index) else {
            return Err("a session that was copied is gone".to_owned());
        };
        session.socket = Some(socket);
        let ends = session.grant().map(|grant| grant.ends);
        self.counters.clients_taken_over += 1;
        self.counters.sessions_persistent -= 1;
        if let Some(ends) = ends {
            self.note_end(socket, ends);
        }
        self.tell_presence(index, true);
        if let Some(flow) = rest.flow.filter(|_| !Mutant::UpgradeRestFlowLost.is_on()) {
            self.adopt_flow(index, flow)?;
        }
        self.adopt_connection(socket, listener, rest.connection, Some(index))?;
        self.adopt_limits(index, listener);
        Ok(())
    }

    /// Takes the socket of a client that was copied early and has changed since: the client comes
    /// as a whole.
    ///
    /// # Errors
    /// When there is no copy of that number.
    pub fn take_early_socket(&mut self, from: ShardId, number: u32) -> Result<SocketId, String> {
        let Unclaimed { socket, session } = self.claim_early((from, number))?;
        if let Some(index) = session {
            self.end_moved(index);
        }
        Ok(socket)
    }

    /// All clients that are handed over have come: copies that were not claimed are taken away.
    /// Their clients have gone since, or have come as a whole with other sockets.
    pub fn end_unclaimed(&mut self) {
        let Some(early) = self.work.early.take() else { return };
        if Mutant::UpgradeUnclaimedStay.is_on() {
            return;
        }
        for (_, Unclaimed { socket, session }) in early.unclaimed {
            self.outputs.actions.push(Action::Close(socket));
            if let Some(index) = session {
                self.end_moved(index);
            }
        }
    }
}
