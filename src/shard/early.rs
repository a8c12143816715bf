//! Clients that are copied to another process while they are still served, before their shard rests
//! for an upgrade ([`crate::upgrade`]). Those that change after that are copied again, and what
//! changes last is sent while the shard rests. So the time in which the clients are not served
//! depends on how many of them did something lately, and not on how many there are.
//!
//! Each copy has a number. The tables of connections and sessions note every place that is lent to
//! be changed, so no change goes unnoticed. What becomes of a copy in the new process is in
//! [`super::early_arrived`].
//!
//! With a store, a session whose messages wait there is copied while the shard rests, and before
//! that only its socket: the new process can place such messages only when it has the store.

use super::Shard;
use super::connection::Stage;
use super::early_arrived::ArrivedCopies;
use super::pack::Packed;
use crate::ids::{ClientKey, SocketId};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::session::Session;
use crate::slab::Table;
use crate::upgrade::client::{Early, MovedClient, Remainder};
use crate::upgrade::code::Code;
use crate::upgrade::frame::UpgradeTotals;
use std::cell::OnceCell;
use std::hash::BuildHasher;
use std::num::NonZeroU32;

/// Places that are looked at by one call of [`Shard::next_copies`], at most.
const VISITS: usize = 4096;

/// The early copies of a shard: in the old process those that it made, in the new one those that
/// came.
#[derive(Default)]
pub(super) struct EarlyCopies {
    hasher: foldhash::quality::RandomState,
    /// The copies of clients with a connection, by socket.
    online: Table<Copied>,
    /// The copies of sessions without a connection, by the place of the session.
    offline: Table<(ClientKey, Copied)>,
    /// The number of the next copy.
    next: u32,
    /// Connections and sessions that are to be looked at.
    due_sockets: DuePlaces,
    due_sessions: DuePlaces,
    /// Topics whose retained messages have changed.
    pub(super) due_topics: Vec<Box<str>>,
    /// Those of some of these topics, which are next.
    pub(super) changed_messages: Option<Vec<((u64, u64), Message)>>,
    /// The topic after which the retained messages were not looked at yet; none: at the first one.
    pub(super) retained_from: Option<Box<str>>,
    /// All retained messages were looked at.
    pub(super) retained_done: bool,
    /// Connections and sessions that could not be copied when they were looked at.
    skipped_sockets: Vec<u32>,
    skipped_sessions: Vec<u32>,
    /// The numbers of copies that are of no use any more, which the other process is not told yet.
    gone: Vec<u32>,
    /// The sessions that were being sent retained messages when the shard was at rest otherwise.
    replaying: OnceCell<Vec<u32>>,
    /// What has come from the old process.
    pub(super) arrived: ArrivedCopies,
}

/// What is remembered of a copy. There may be a million of them beside all that a broker has.
struct Copied {
    /// One more than the number of the copy.
    number: NonZeroU32,
    /// Hash of the session without its flow and its numbers in the store; zero if only the socket
    /// was copied.
    quiet: [u32; 2],
    /// Hash of all that was copied, to find changes that went unnoticed.
    #[cfg(debug_assertions)]
    whole: u64,
}

#[cfg(not(debug_assertions))]
const _: () = assert!(size_of::<Option<Copied>>() == 12);

impl Copied {
    fn number(&self) -> u32 {
        self.number.get() - 1
    }

    /// Whether only the socket was copied.
    fn is_bare(&self) -> bool {
        self.quiet == [0; 2]
    }
}

/// Places that are to be looked at, the last one first.
#[derive(Default)]
struct DuePlaces {
    /// In order, and none of them below `below`.
    list: Vec<u32>,
    /// All places below this one.
    below: u32,
}

impl DuePlaces {
    fn all_below(below: u32) -> DuePlaces {
        DuePlaces { list: Vec::new(), below }
    }

    fn add(&mut self, places: Vec<u32>) {
        self.list.extend(places.into_iter().filter(|&place| place >= self.below));
        self.list.sort_unstable();
        self.list.dedup();
    }

    fn pop(&mut self) -> Option<u32> {
        self.list.pop().or_else(|| {
            self.below = self.below.checked_sub(1)?;
            Some(self.below)
        })
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.list.iter().copied().chain(0..self.below)
    }

    fn len(&self) -> usize {
        self.list.len() + self.below as usize
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Clients whose turn it is to be copied.
#[derive(Default)]
pub struct DueCopies {
    /// The sockets of those that were not copied before: each needs another descriptor, and is then
    /// packed by [`Shard::pack_early`].
    pub sockets: Vec<SocketId>,
    /// What is to be sent of others.
    pub packed: Vec<Packed>,
    /// The sockets of those of the others that have one.
    pub again: Vec<SocketId>,
}

impl EarlyCopies {
    fn hash(&self, value: &impl Code) -> u64 {
        let mut bytes = Vec::with_capacity(value.length());
        value.put(&mut bytes);
        let hash = self.hasher.hash_one(&bytes);
        zeroize::Zeroize::zeroize(&mut bytes);
        hash
    }

    /// Notes that a client was copied: the session of a connection, or one without a connection.
    /// Returns the number of the copy.
    fn note(&mut self, place: Result<SocketId, (u32, ClientKey)>, packed: &mut MovedClient) -> u32 {
        let number = self.next;
        self.next += 1;
        let copied = self.copied(number, packed);
        match place {
            Ok(socket) => drop(self.online.insert(socket.0, copied)),
            Err((session, client)) => drop(self.offline.insert(session, (client, copied))),
        }
        number
    }

    fn copied(&self, number: u32, packed: &mut MovedClient) -> Copied {
        let quiet = packed.session.as_mut().map_or(0, |session| {
            let (flow, stored) = (session.flow.take(), session.stored.take());
            let quiet = self.hash(session);
            (session.flow, session.stored) = (flow, stored);
            quiet.max(1)
        });
        #[cfg(debug_assertions)]
        let whole = self.hash(packed);
        Copied {
            number: NonZeroU32::MIN.saturating_add(number),
            quiet: [quiet as u32, (quiet >> 32) as u32],
            #[cfg(debug_assertions)]
            whole,
        }
    }
}

/// What the old process does.
impl Shard {
    /// Begins to note what changes. Every client is to be looked at.
    pub fn begin_copies(&mut self) {
        self.connections.watch_changes(true);
        self.sessions.watch_changes(true);
        let (sockets, sessions) = (self.connections.bound(), self.sessions.bound());
        let early = self.work.early.get_or_insert_default();
        // The last one is looked at first. The kernel finds the receive that is to be cancelled
        // the sooner the later it was begun.
        early.due_sockets = DuePlaces::all_below(sockets);
        early.due_sessions = DuePlaces::all_below(sessions);
        self.begin_retained_copies();
    }

    /// Everything that has changed since the last call is to be looked at; returns how many
    /// clients that are.
    pub fn look_for_changes(&mut self) -> usize {
        let mut sockets = self.connections.take_changed();
        let mut sessions = self.sessions.take_changed();
        sessions.retain(|&index| match self.sessions.get(index).and_then(|all| all.socket()) {
            Some(socket) => {
                sockets.push(socket.0);
                // If it was copied without a connection, that copy is of no use any more.
                let early = self.work.early.as_deref();
                early.is_some_and(|early| early.offline.get(index).is_some())
            }
            None => true,
        });
        let Some(early) = &mut self.work.early else { return 0 };
        early.due_sockets.add(sockets);
        early.due_sessions.add(sessions);
        early.due_topics.extend(self.retained.take_changed());
        early.due_sockets.len() + early.due_sessions.len() + early.due_topics.len()
    }

    /// What is to be looked at while the shard rests: what was not copied while it was served, and
    /// what has changed since. Everything, if nothing was copied.
    pub(super) fn look_at_rest(&mut self) {
        if self.work.early.is_none() {
            return self.begin_copies();
        }
        self.look_for_changes();
        if let Some(early) = &mut self.work.early
            && !Mutant::UpgradeSkippedForgotten.is_on()
        {
            early.due_sockets.add(std::mem::take(&mut early.skipped_sockets));
            early.due_sessions.add(std::mem::take(&mut early.skipped_sessions));
        }
    }

    /// The numbers of the copies that are to be looked at.
    pub(super) fn due_numbers(&self) -> Vec<u32> {
        let Some(early) = self.work.early.as_deref() else { return Vec::new() };
        let online = early.due_sockets.iter().filter_map(|at| early.online.get(at));
        let offline = early.due_sessions.iter().filter_map(|at| early.offline.get(at));
        let copied = online.chain(offline.map(|(_, copied)| copied));
        copied.map(Copied::number).chain(early.gone.iter().copied()).collect()
    }

    pub(super) fn next_due_socket(&mut self) -> Option<SocketId> {
        self.work.early.as_mut()?.due_sockets.pop().map(SocketId)
    }

    pub(super) fn next_due_session(&mut self) -> Option<u32> {
        self.work.early.as_mut()?.due_sessions.pop()
    }

    /// The numbers of copies that are of no use any more, each once.
    pub(super) fn take_gone(&mut self) -> Vec<u32> {
        self.work.early.as_mut().map_or_else(Vec::new, |early| std::mem::take(&mut early.gone))
    }

    /// Some of the clients that are to be looked at: about `most` of them, and none if none of
    /// those that were looked at is to be copied. `None` when all were looked at.
    pub fn next_copies(&mut self, most: usize) -> Option<DueCopies> {
        let mut due = DueCopies::default();
        for _ in 0..VISITS {
            if due.sockets.len() + due.packed.len() >= most {
                return Some(due);
            }
            if let Some(socket) = self.next_due_socket() {
                self.copy_connection(socket, &mut due);
            } else if let Some(index) = self.next_due_session() {
                due.packed.extend(self.copy_offline(index));
            } else {
                let gone = self.take_gone();
                if !gone.is_empty() {
                    due.packed.push(Packed::Gone(self.topology.id, gone));
                } else if let Some(packed) = self.next_retained() {
                    due.packed.push(packed);
                } else {
                    break;
                }
            }
        }
        let early = self.work.early.as_deref()?;
        let left = !early.due_sockets.is_empty() || !early.due_sessions.is_empty();
        (left || !due.sockets.is_empty() || !due.packed.is_empty()).then_some(due)
    }

    fn copy_connection(&mut self, socket: SocketId, due: &mut DueCopies) {
        let movable = self.movable(socket).is_some();
        let Some(early) = &mut self.work.early else { return };
        match (early.online.get(socket.0).is_some(), movable) {
            (false, true) => due.sockets.push(socket),
            (false, false) => {
                if self.connections.get(socket.0).is_some() {
                    early.skipped_sockets.push(socket.0);
                }
            }
            (true, false) => self.forget_early(socket),
            (true, true) => match self.pack_connection(socket) {
                Some(client) if is_in_store(&client) => self.skip_socket(socket),
                Some(client) => {
                    due.again.push(socket);
                    due.packed.push(self.packed_online(socket, client));
                }
                None => {}
            },
        }
    }

    fn skip_socket(&mut self, socket: SocketId) {
        if let Some(early) = &mut self.work.early {
            early.skipped_sockets.push(socket.0);
        }
    }

    fn copy_offline(&mut self, index: u32) -> Option<Packed> {
        let known = self.offline_copy(index);
        let session = self.sessions.get(index).filter(|session| is_offline(session))?;
        let (key, client_id) = (session.key, session.client_id.boxed());
        let session = Some(self.pack_session(index, session));
        let mut packed = MovedClient { session, connection: None };
        if is_in_store(&packed) {
            self.work.early.as_mut()?.skipped_sessions.push(index);
            return None;
        }
        if known.is_some() {
            return Some(self.packed_offline(index, packed));
        }
        let early = self.work.early.as_mut()?;
        let number = early.note(Err((index, key)), &mut packed);
        let (from, session) = (self.topology.id, packed.session.take());
        let early = Early { from, number, client_id, listener: None, session, connection: None };
        Some(Packed::Early(Box::new(early)))
    }

    /// The number of the copy of the session without a connection at that place. If the copy is of
    /// another session, or this one has a connection now, the copy is of no use any more.
    pub(super) fn offline_copy(&mut self, index: u32) -> Option<u32> {
        let session = self.sessions.get(index).filter(|session| is_offline(session));
        let key = session.map(|session| session.key);
        let early = self.work.early.as_mut()?;
        let (client, copied) = early.offline.get(index)?;
        if key == Some(*client) {
            return Some(copied.number());
        }
        early.gone.push(copied.number());
        early.offline.remove(index);
        None
    }

    /// The session of the client on that socket, if the client can be handed over with it.
    fn movable(&self, socket: SocketId) -> Option<u32> {
        let connection = self.connections.get(socket.0)?;
        let Stage::Open(index) = connection.stage else { return None };
        let moves = |all: &crate::transport::Layers| all.moved().is_some();
        let below = !connection.layered || self.layered.all.get(socket.0).is_some_and(moves);
        (below && self.sessions.get(index).is_some()).then_some(index)
    }

    /// The early copy of the client on that socket; `None` when the client is gone by now. Of a
    /// session whose messages wait in the store, only the socket is copied.
    pub fn pack_early(&mut self, socket: SocketId) -> Option<Early> {
        let index = self.movable(socket)?;
        let listener = self.connections.get(socket.0)?.listener;
        let client_id = self.sessions.get(index)?.client_id.boxed();
        let mut packed = self.pack_connection(socket)?;
        if is_in_store(&packed) {
            packed = MovedClient { session: None, connection: None };
            self.skip_socket(socket);
        }
        let number = self.work.early.get_or_insert_default().note(Ok(socket), &mut packed);
        let MovedClient { session, connection } = packed;
        let (from, listener) = (self.topology.id, Some(listener));
        Some(Early { from, number, client_id, listener, session, connection })
    }

    /// That socket is closed, and may come again with another client.
    #[inline]
    pub(super) fn forget_early(&mut self, socket: SocketId) {
        if let Some(early) = &mut self.work.early
            && !Mutant::UpgradeCopyOfAnother.is_on()
            && let Some(copied) = early.online.remove(socket.0)
            && !Mutant::UpgradeGoneUntold.is_on()
        {
            early.gone.push(copied.number());
        }
    }

    /// Forgets all copies: no process takes over.
    pub fn forget_all_early(&mut self) {
        self.work.early = None;
        self.connections.watch_changes(false);
        self.sessions.watch_changes(false);
        self.retained.watch_changes(false);
    }

    /// What the copies have that were made and are of use, and all retained messages.
    pub fn copies(&self) -> UpgradeTotals {
        let early = self.work.early.as_deref();
        let (online, offline) = early.map_or((0, 0), |all| (all.online.len(), all.offline.len()));
        UpgradeTotals {
            sessions: (online + offline) as u64,
            connections: online as u64,
            retained: self.retained.of_clients(),
        }
    }

    /// What is sent of a client that is copied again or handed over now: if it was copied before,
    /// only what has changed.
    pub(super) fn packed_online(&mut self, socket: SocketId, mut client: MovedClient) -> Packed {
        let from = self.topology.id;
        let Some(early) = &mut self.work.early else {
            return Packed::Online(socket, Box::new(client));
        };
        let Some(before) = early.online.remove(socket.0) else {
            return Packed::Online(socket, Box::new(client));
        };
        let number = before.number();
        let copied = early.copied(number, &mut client);
        let same = copied.quiet == before.quiet && !copied.is_bare();
        early.online.insert(socket.0, copied);
        match client {
            MovedClient { session: Some(session), connection: Some(connection) }
                if same || !before.is_bare() && Mutant::UpgradeChangeUntold.is_on() =>
            {
                let (flow, stored) = (session.flow, session.stored);
                Packed::Rest(Box::new(Remainder { from, number, flow, stored, connection }))
            }
            client => Packed::Known(from, number, Box::new(client)),
        }
    }

    /// The same for a session without a connection.
    pub(super) fn packed_offline(&mut self, index: u32, mut client: MovedClient) -> Packed {
        let from = self.topology.id;
        if self.offline_copy(index).is_none() {
            return Packed::Offline(Box::new(client));
        }
        let Some(early) = &mut self.work.early else { return Packed::Offline(Box::new(client)) };
        let Some((key, before)) = early.offline.remove(index) else {
            return Packed::Offline(Box::new(client));
        };
        let number = before.number();
        let copied = early.copied(number, &mut client);
        early.offline.insert(index, (key, copied));
        Packed::Known(from, number, Box::new(client))
    }

    /// Whether some session is still being sent retained messages. Looks at every session, but only
    /// once while a shard with copies comes to rest: after that, at those that have changed.
    pub(super) fn is_replaying(&self) -> bool {
        let replays = |index: &u32| {
            let flow = self.sessions.get(*index).and_then(|session| session.flow.as_ref());
            flow.is_some_and(|flow| !flow.replays.is_empty())
        };
        let mut all = 0..self.sessions.bound();
        let Some(early) = self.work.early.as_deref() else { return all.any(|at| replays(&at)) };
        if early.arrived.any() {
            return false; // nobody has subscribed here yet
        }
        let known = early.replaying.get_or_init(|| all.filter(replays).collect());
        known.iter().any(replays) || self.sessions.changed().iter().any(replays)
    }

    /// For tests of builds with debug assertions: the numbers of copies that are not what they are
    /// a copy of, although they are not known to have changed.
    pub fn unnoticed_changes(&self) -> Vec<u32> {
        #[cfg(debug_assertions)]
        if let Some(early) = self.work.early.as_deref() {
            let sockets = (0..self.connections.bound()).map(SocketId);
            let copied = sockets.filter_map(|at| Some((at, early.online.get(at.0)?)));
            let changed = copied.filter(|(at, copied)| {
                let client = self.pack_connection(*at);
                client.is_none_or(|client| early.hash(&client) != copied.whole)
            });
            return changed.map(|(_, copied)| copied.number()).collect();
        }
        Vec::new()
    }
}

/// Whether messages wait for the client in the store.
fn is_in_store(client: &MovedClient) -> bool {
    let flow = client.session.as_ref().and_then(|session| session.flow.as_ref());
    flow.is_some_and(|flow| {
        let sent = flow.sent.iter().any(|sent| sent.kept.is_some());
        sent || !flow.away.is_empty() || flow.pending.iter().any(|one| one.kept.is_some())
    })
}

pub(super) fn is_offline(session: &Session) -> bool {
    session.socket().is_none() && !session.is_ending()
}
