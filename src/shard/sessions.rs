//! The sessions whose home is this shard, by their places and by their ClientIds.

use super::client_limits::ClientLimiting;
use crate::ids::{ClientKey, SocketId};
use crate::session::Session;
use crate::slab::Slab;
use crate::split::SplitTable;

/// All sessions of a shard, online and offline.
pub(super) struct Sessions {
    all: Slab<Session>,
    /// The places of the sessions, by the hash of their ClientIds.
    names: SplitTable<u32>,
    /// The limits of single clients.
    pub(super) limiting: ClientLimiting,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Sessions {
            all: Slab::default(),
            names: SplitTable::default(),
            limiting: ClientLimiting::default(),
        }
    }

    /// How many sessions there are, including those that are ending.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// All places are below this.
    #[inline]
    pub(super) fn bound(&self) -> u32 {
        self.all.bound()
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&Session> {
        self.all.get(index)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Session> {
        self.all.get_mut(index)
    }

    /// Begins to note the places that change, or ceases.
    pub(super) fn watch_changes(&mut self, watch: bool) {
        self.all.watch_changes(watch);
    }

    /// The places that have changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<u32> {
        self.all.take_changed()
    }

    /// The places that have changed since then.
    pub(super) fn changed(&self) -> &[u32] {
        self.all.changed()
    }

    /// The session at that place, if it is still the one of that generation.
    #[inline]
    pub(super) fn get_of(&mut self, index: u32, generation: u32) -> Option<&mut Session> {
        self.all.get_of(index, generation)
    }

    /// The generation of the session at that place, which differs from those of earlier sessions
    /// there.
    #[inline]
    pub(super) fn generation(&self, index: u32) -> u32 {
        self.all.generation(index)
    }

    /// Adds a session, which can then be found by its ClientId; returns its place.
    pub(super) fn insert(&mut self, session: Session) -> u32 {
        let hash = session.key.0.get();
        let index = self.all.insert(session);
        let Sessions { all, names, .. } = self;
        names.insert(hash, index, |&other| hash_at(all, other));
        index
    }

    /// Removes the name of a session that ends. The session cannot be found by its ClientId any
    /// longer, and stays at its place until everything that belongs to it is gone.
    pub(super) fn forget_name(&mut self, key: ClientKey, index: u32) {
        let Sessions { all, names, .. } = self;
        let is_it = |&known: &u32| known == index;
        names.remove(key.0.get(), is_it, |&other| hash_at(all, other));
    }

    /// Takes out a session that has ended.
    pub(super) fn remove(&mut self, index: u32) -> Option<Session> {
        self.all.remove(index)
    }

    /// The place of the session with that ClientId.
    pub(super) fn find(&self, key: ClientKey, name: &str) -> Option<u32> {
        let named = |session: &Session| session.client_id.as_bytes() == name.as_bytes();
        self.names.find(key.0.get(), |&index| self.get(index).is_some_and(named)).copied()
    }

    /// The session of a client, if its home is this shard.
    pub(super) fn of_client(&self, client: ClientKey) -> Option<&Session> {
        let known = |session: &Session| session.key == client;
        let found = self.names.find(client.0.get(), |&index| self.get(index).is_some_and(known));
        self.get(*found?)
    }

    /// The number in the store of the session at that place, if it is stored.
    pub(super) fn stored(&self, index: u32) -> Option<u64> {
        self.get(index)?.stored.number()
    }

    /// The connection of a client, if it has one on this shard.
    pub(super) fn socket_of(&self, client: ClientKey) -> Option<SocketId> {
        self.of_client(client)?.socket()
    }
}

fn hash_at(all: &Slab<Session>, index: u32) -> u64 {
    all.get(index).map_or(0, |session| session.key.0.get())
}
