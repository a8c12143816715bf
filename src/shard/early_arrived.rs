//! Copies of clients that have come from the process that still serves them ([`super::early`]).
//! Each is put in its place as if it were handed over. No client publishes here, no timer fires,
//! and its socket is not read, so a copy can be taken away without a trace.

use super::{Action, Shard};
use crate::ids::{ListenerId, ShardId, SocketId};
use crate::mutant::Mutant;
use crate::session::StoredSessionRef;
use crate::slab::Table;
use crate::storage::image::SessionSum;
use crate::upgrade::client::{Early, MovedClient, Remainder, StoredAs};
use crate::upgrade::frame::UpgradeTotals;
use std::num::NonZeroU32;

/// Which shard of the old process has copied a client, and the number of the copy: among those of
/// that shard whose homes are here, if it comes by [`crate::upgrade::homes`].
type CopyKey = (ShardId, u32);

/// The copies of clients whose homes are here, until they are served.
#[derive(Default)]
pub(super) struct ArrivedCopies {
    /// By the shard of the old process, and the number.
    copies: Vec<Table<ArrivedCopy>>,
    /// The numbers of the copies that have a session here, by the place of the session.
    placed: Table<Number>,
    /// Connections that have something to do as soon as they are served.
    busy: Vec<SocketId>,
    /// The stored sessions that have come.
    pub(super) stored: SessionSum,
}

/// There may be a million of them while both processes have everything twice.
struct ArrivedCopy {
    socket: Option<Number>,
    session: Option<Number>,
    /// What has changed of it has not come yet, and the old process serves no more.
    stale: bool,
}

const _: () = assert!(size_of::<Option<ArrivedCopy>>() == 12);

/// A number below the largest one, to which an `Option` adds nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Number(NonZeroU32);

impl Number {
    fn of(number: u32) -> Number {
        Number(NonZeroU32::MIN.saturating_add(number))
    }

    fn get(self) -> u32 {
        self.0.get() - 1
    }
}

impl ArrivedCopy {
    fn socket(&self) -> Option<SocketId> {
        self.socket.map(|socket| SocketId(socket.get()))
    }
}

impl ArrivedCopies {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.copies.iter().any(|copies| !copies.is_empty())
    }

    fn get_mut(&mut self, (from, number): CopyKey) -> Option<&mut ArrivedCopy> {
        self.copies.get_mut(usize::from(from.0))?.get_mut(number)
    }

    /// False when there was one under that key.
    fn insert(&mut self, (from, number): CopyKey, copy: ArrivedCopy) -> bool {
        let at = usize::from(from.0);
        if self.copies.len() <= at {
            self.copies.resize_with(at + 1, Table::default);
        }
        if let Some(session) = copy.session {
            self.placed.insert(session.get(), Number::of(number));
        }
        self.copies.get_mut(at).is_none_or(|copies| copies.insert(number, copy).is_none())
    }

    fn remove(&mut self, (from, number): CopyKey) -> Option<ArrivedCopy> {
        let copy = self.copies.get_mut(usize::from(from.0))?.remove(number)?;
        if let Some(session) = copy.session {
            self.placed.remove(session.get());
        }
        Some(copy)
    }

    /// The copy whose session is at that place has none any more; returns its socket.
    fn part_with(&mut self, session: u32) -> Option<Option<SocketId>> {
        let number = self.placed.remove(session)?.get();
        let its = Some(Number::of(session));
        let copies = self.copies.iter_mut().filter_map(|copies| copies.get_mut(number));
        let copy = copies.into_iter().find(|copy| copy.session == its)?;
        copy.session = None;
        Some(copy.socket())
    }
}

impl Shard {
    /// Takes in the early copy of a client whose home is here, with its socket and the listener
    /// that it came in by if it has a connection.
    ///
    /// # Errors
    /// Why the copy cannot be taken in.
    pub fn adopt_early(
        &mut self,
        early: Early,
        connection: Option<(SocketId, ListenerId)>,
    ) -> Result<(), String> {
        let key = (early.from, early.number);
        let socket = connection.map(|(socket, _)| socket);
        if let Some((socket, _)) = connection {
            // It is not read before the shard serves.
            self.outputs.actions.push(Action::ReceiveStream(socket));
        }
        self.work.early.get_or_insert_default();
        let session = match early.session {
            Some(session) => {
                if let Some(socket) = socket.filter(|_| session.flow.is_some()) {
                    self.note_busy(socket);
                }
                let client = MovedClient { session: Some(session), connection: early.connection };
                self.adopt_whole(client, connection)?
            }
            None => None,
        };
        let Some(early) = &mut self.work.early else { return Ok(()) };
        let (socket, session) =
            (socket.map(|socket| Number::of(socket.0)), session.map(Number::of));
        match early.arrived.insert(key, ArrivedCopy { socket, session, stale: false }) {
            true => Ok(()),
            false => Err("a client was copied twice under one number".to_owned()),
        }
    }

    /// If there is a copy of a session with that ClientId, takes it away. Its client was copied
    /// before, and has had another connection since.
    pub(super) fn replace_early(&mut self, name: &str) {
        if self.work.early.is_none() || Mutant::UpgradeEarlyTwice.is_on() {
            return;
        }
        let Some(index) = self.find_session(name) else { return };
        let Some(early) = &mut self.work.early else { return };
        let Some(socket) = early.arrived.part_with(index) else { return };
        self.take_away(socket, index);
    }

    /// Takes away what was put in its place of a copy.
    fn take_away(&mut self, socket: Option<SocketId>, index: u32) {
        self.counters.clients_taken_over -= 1;
        self.disown_stored(index);
        if let Some(socket) = socket {
            let ends = self.sessions.get(index).and_then(|session| session.grant());
            if let Some(ends) = ends.map(|grant| grant.ends) {
                self.access.admissions.ends.remove(&(ends, socket));
            }
            self.disown_connection(socket, index);
            let Some(session) = self.sessions.get_mut(index) else { return };
            session.set_socket(None);
            self.counters.sessions_persistent += 1;
        }
        self.end_moved(index);
    }

    /// The session's records stay in the store, as those of a session that comes again or of one
    /// that has ended in the old process.
    fn disown_stored(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let stored = std::mem::take(&mut session.stored);
        if let (Some(number), Some(early)) = (stored.number(), &mut self.work.early) {
            early.arrived.stored.take(number);
        }
    }

    /// What [`Shard::adopt_connection`] and [`Shard::adopt_limits`] have done is undone. The socket
    /// stays open.
    fn disown_connection(&mut self, socket: SocketId, index: u32) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let (listener, peer, source) = (connection.listener, connection.peer, connection.source());
        drop(connection.take_input(&mut self.memory.tally.input));
        if let Some(aliases) = connection.aliases.take() {
            self.memory.tally.names -= aliases.bytes();
        }
        self.counters.connections_open -= 1;
        self.leave_group_of_users(index);
        self.leave_listener(listener, peer, source);
        self.forget(socket);
    }

    /// Takes in what has changed of a client that was copied.
    ///
    /// # Errors
    /// Why it cannot be taken in.
    pub fn adopt_rest(&mut self, rest: Remainder, listener: ListenerId) -> Result<(), String> {
        let copy = self.copy((rest.from, rest.number))?;
        copy.stale = false;
        let (Some(socket), Some(index)) = (copy.socket(), copy.session.map(Number::get)) else {
            return Err("a session that is said to be copied is not here".to_owned());
        };
        self.adopt_stored_again(index, rest.stored)?;
        self.disown_connection(socket, index);
        let Some(session) = self.sessions.get_mut(index) else {
            return Err("a session that was copied is gone".to_owned());
        };
        if let Some(flow) = session.flow.take() {
            let gone = self.counters.dropped_session_gone;
            self.forget_flow(&flow);
            self.counters.dropped_session_gone = gone;
        }
        if let Some(flow) = rest.flow.filter(|_| !Mutant::UpgradeRestFlowLost.is_on()) {
            self.adopt_flow(index, flow)?;
        }
        self.adopt_connection(socket, listener, rest.connection, Some(index))?;
        self.adopt_limits(index, listener);
        self.note_busy(socket);
        Ok(())
    }

    fn adopt_stored_again(&mut self, index: u32, stored: Option<StoredAs>) -> Result<(), String> {
        let known = self.sessions.get(index).and_then(|session| session.stored.number());
        match stored {
            Some(StoredAs { number, .. })
                if known == Some(number) && Mutant::UpgradeSlotStale.is_on() =>
            {
                Ok(())
            }
            Some(StoredAs { number, slot }) if known == Some(number) => {
                let Some(session) = self.sessions.get_mut(index) else { return Ok(()) };
                session.stored = StoredSessionRef::new(number, slot);
                Ok(())
            }
            stored => {
                self.disown_stored(index);
                stored.map_or(Ok(()), |stored| self.adopt_stored(index, stored))
            }
        }
    }

    /// Takes in a client that was copied and comes as a whole again, with the listener of its
    /// connection if it has one.
    ///
    /// # Errors
    /// Why it cannot be taken in.
    pub fn adopt_again(
        &mut self,
        from: ShardId,
        number: u32,
        client: MovedClient,
        listener: Option<ListenerId>,
    ) -> Result<(), String> {
        let copy = self.copy((from, number))?;
        copy.stale = false;
        let (socket, session) = (copy.socket(), copy.session.take());
        if let Some(index) = session.map(Number::get) {
            if let Some(early) = &mut self.work.early {
                early.arrived.placed.remove(index);
            }
            self.take_away(socket, index);
        }
        let session = self.adopt_whole(client, socket.zip(listener))?;
        if let Some(socket) = socket {
            self.note_busy(socket);
        }
        self.copy((from, number))?.session = session.map(Number::of);
        if let (Some(early), Some(index)) = (&mut self.work.early, session) {
            early.arrived.placed.insert(index, Number::of(number));
        }
        Ok(())
    }

    fn copy(&mut self, key: CopyKey) -> Result<&mut ArrivedCopy, String> {
        let copy = self.work.early.as_mut().and_then(|early| early.arrived.get_mut(key));
        copy.ok_or_else(|| "a client that is said to be copied is not here".to_owned())
    }

    /// A copy is of no use any more: its connection or session has ended.
    ///
    /// # Errors
    /// When there is no copy of that number.
    pub fn end_early(&mut self, from: ShardId, number: u32) -> Result<(), String> {
        self.copy((from, number))?;
        self.end_copy((from, number));
        Ok(())
    }

    fn end_copy(&mut self, key: CopyKey) {
        let Some(early) = &mut self.work.early else { return };
        let Some(copy) = early.arrived.remove(key) else { return };
        if let Some(index) = copy.session.map(Number::get) {
            self.take_away(copy.socket(), index);
        }
        if let Some(socket) = copy.socket() {
            self.outputs.actions.push(Action::Close(socket));
        }
    }

    /// The old process serves no more, and what has changed of that copy follows.
    ///
    /// # Errors
    /// When there is no copy of that number.
    pub fn mark_stale(&mut self, from: ShardId, number: u32) -> Result<(), String> {
        self.copy((from, number))?.stale = true;
        Ok(())
    }

    /// All has come that will come. Copies are taken away of which it is not known that they are
    /// right: those of shards of the old process that are not among `told`, which have not said
    /// what has changed, and those of which that has not come. The old process has so many
    /// `shards`. Returns how many clients that were.
    pub fn end_stale(&mut self, told: &[ShardId], shards: u8) -> usize {
        if (0..shards).any(|shard| !told.contains(&ShardId(shard))) {
            self.end_stale_retained(told, shards);
        }
        let Some(early) = self.work.early.as_deref() else { return 0 };
        let mut wrong: Vec<CopyKey> = Vec::new();
        for (from, copies) in early.arrived.copies.iter().enumerate() {
            let from = ShardId(from as u8);
            let has_told = told.contains(&from);
            let is_wrong = |copy: &ArrivedCopy| copy.stale || !has_told;
            let wrong_here = |&number: &u32| copies.get(number).is_some_and(is_wrong);
            wrong.extend((0..copies.bound()).filter(wrong_here).map(|number| (from, number)));
        }
        if !Mutant::UpgradeStaleStay.is_on() {
            wrong.iter().for_each(|&key| self.end_copy(key));
        }
        wrong.len()
    }

    /// What has been taken in.
    pub fn taken_in(&self) -> UpgradeTotals {
        UpgradeTotals {
            sessions: (self.sessions.len() - self.ending()) as u64,
            connections: self.connections.len() as u64,
            retained: self.retained.of_clients(),
        }
    }

    /// That connection has something to do as soon as it is served.
    pub(super) fn note_busy(&mut self, socket: SocketId) {
        self.work.early.get_or_insert_default().arrived.busy.push(socket);
    }

    /// The connections that have something to do now that they are served, each once. The copies
    /// are what they are a copy of.
    pub(super) fn end_copies(&mut self) -> Vec<SocketId> {
        let mut busy = self.work.early.take().map_or_else(Vec::new, |early| early.arrived.busy);
        busy.sort_unstable();
        busy.dedup();
        busy
    }
}
