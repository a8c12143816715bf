//! The bodies of this shard's stored messages: which of them are in memory, and how many sessions
//! wait for each.
//!
//! A session either has a handle of the message (the message is at the head of the session's queue,
//! or in flight), or it has only the message's number: then the message is *away* and is read back
//! from the store before it is sent ([`super::away`]). A body is in memory while some session has a
//! handle of it, and a little longer, because a fan-out may reach further sessions, which must find
//! the message's number. The bodies that no session has a handle of are bounded by [`RECENT`] and
//! [`RECENT_BYTES`].

use crate::message::Message;
use crate::mutant::Mutant;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Bodies in memory that no session has a handle of, at most.
const RECENT: usize = 256;
/// Bytes of those bodies, at most.
const RECENT_BYTES: usize = 1 << 20;

type NumberMap<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// A stored message whose body is in memory.
struct CachedBody {
    /// This handle keeps the message's address from becoming another message's: `numbers` relies on
    /// it.
    message: Message,
    /// How many sessions wait for the message, and how many of these have a handle.
    sessions: u32,
    here: u32,
    /// CRC32C of its record.
    checksum: u32,
    /// The body is in [`Bodies::recent`]; it is there once.
    recent: bool,
}

/// The bodies of a shard's stored messages.
#[derive(Default)]
pub(super) struct Bodies {
    /// The number of the message behind each handle, by session and by the session's own number for
    /// it.
    slots: NumberMap<(u32, u32), u64>,
    kept: NumberMap<u64, CachedBody>,
    /// Numbers of the messages in memory, by their address.
    numbers: NumberMap<usize, u64>,
    /// How many sessions wait for a message that is not in memory, if more than one does.
    shared: NumberMap<u64, u32>,
    /// Bodies that were left without a handle, the oldest first, and their bytes. Some of them have
    /// a handle again, or are gone.
    recent: VecDeque<(u64, usize)>,
    recent_bytes: usize,
}

impl Bodies {
    /// The number of a message that is in memory.
    pub(super) fn number(&self, message: &Message) -> Option<u64> {
        self.numbers.get(&message.address()).copied()
    }

    /// The number of the message that a session has under `slot`, a number of the session's own.
    pub(super) fn of_slot(&self, index: u32, slot: u32) -> Option<u64> {
        self.slots.get(&(index, slot)).copied()
    }

    /// A session has a handle of the message from now on.
    pub(super) fn set_slot(&mut self, index: u32, slot: u32, number: u64) {
        self.slots.insert((index, slot), number);
    }

    /// The session does not have a handle under that number any more.
    pub(super) fn take_slot(&mut self, index: u32, slot: u32) -> Option<u64> {
        self.slots.remove(&(index, slot))
    }

    /// One more session waits for a message, with a handle. `message` and `checksum` are its body
    /// and checksum, should the body not be in memory.
    pub(super) fn hold(&mut self, number: u64, message: Message, checksum: u32) {
        let kept = self.keep(number, message, checksum, 0);
        kept.sessions += 1;
        kept.here += 1;
    }

    /// What is kept of a message, with this body and checksum should its body not be in memory.
    /// `alone` is how many sessions wait for the message when `shared` does not say.
    fn keep(
        &mut self,
        number: u64,
        message: Message,
        checksum: u32,
        alone: u32,
    ) -> &mut CachedBody {
        let Bodies { kept, numbers, shared, .. } = self;
        kept.entry(number).or_insert_with(|| {
            numbers.insert(message.address(), number);
            let sessions = shared.remove(&number).unwrap_or(alone);
            CachedBody { message, sessions, here: 0, checksum, recent: false }
        })
    }

    /// One more session waits, with a handle, for a message that is in memory.
    pub(super) fn hold_again(&mut self, number: u64) {
        if let Some(kept) = self.kept.get_mut(&number) {
            kept.sessions += 1;
            kept.here += 1;
        }
    }

    /// A session that had a handle does not wait for the message any more. True when no session
    /// does.
    #[must_use]
    pub(super) fn let_go(&mut self, number: u64) -> bool {
        let Some(kept) = self.kept.get_mut(&number) else { return false };
        kept.sessions -= 1;
        kept.here -= 1;
        self.look_at(number)
    }

    /// A session gives up its handle and keeps only the number; returns the checksum of the
    /// message.
    pub(super) fn send_away(&mut self, number: u64) -> u32 {
        let Some(kept) = self.kept.get_mut(&number) else { return 0 };
        let checksum = kept.checksum;
        kept.here -= 1;
        self.look_at(number);
        checksum
    }

    /// After a restart: one more session waits for a message, of which it has only the number.
    pub(super) fn adopt_away(&mut self, number: u64) {
        match self.kept.get_mut(&number) {
            Some(kept) => kept.sessions += 1,
            None => *self.shared.entry(number).or_insert(0) += 1,
        }
    }

    /// The restart is over. Counts of a single session are not kept: a message without a count is
    /// one that a single session waits for.
    pub(super) fn adopted(&mut self) {
        self.shared.retain(|_, sessions| *sessions > 1);
        self.shared.shrink_to_fit();
    }

    /// The message, if it is in memory.
    pub(super) fn get(&self, number: u64) -> Option<&Message> {
        self.kept.get(&number).map(|kept| &kept.message)
    }

    /// CRC32C of the record of a message that is in memory.
    pub(super) fn checksum(&self, number: u64) -> Option<u32> {
        self.kept.get(&number).map(|kept| kept.checksum)
    }

    /// A session that had only the number gets a handle: of the message that is in memory already,
    /// or of this one.
    pub(super) fn come_back(&mut self, number: u64, message: Message, checksum: u32) -> Message {
        let kept = self.keep(number, message, checksum, 1);
        kept.here += 1;
        kept.message.clone()
    }

    /// A session that has only the number does not wait for the message any more. True when no
    /// session does.
    #[must_use]
    pub(super) fn let_go_away(&mut self, number: u64) -> bool {
        if let Some(kept) = self.kept.get_mut(&number) {
            kept.sessions -= 1;
            return self.look_at(number);
        }
        let Some(sessions) = self.shared.get_mut(&number) else { return true };
        *sessions -= 1;
        if *sessions == 1 {
            self.shared.remove(&number);
        }
        Mutant::StorageAwayForgotten.is_on()
    }

    /// Decides what becomes of a body that a session has let go. True when no session waits for the
    /// message any more.
    fn look_at(&mut self, number: u64) -> bool {
        let Some(kept) = self.kept.get_mut(&number) else { return false };
        if kept.sessions == 0 {
            self.forget(number);
            return true;
        }
        if kept.here == 0 && !std::mem::replace(&mut kept.recent, true) {
            let size = kept.message.size();
            self.recent.push_back((number, size));
            self.recent_bytes += size;
            self.trim();
        }
        false
    }

    fn forget(&mut self, number: u64) -> Option<CachedBody> {
        let kept = self.kept.remove(&number)?;
        self.numbers.remove(&kept.message.address());
        Some(kept)
    }

    /// Lets go of the bodies that have been without a handle for longest. One that is still being
    /// delivered stays, as the newest: the delivery may need its number.
    fn trim(&mut self) {
        let mut delivered = false;
        while self.recent.len() > RECENT || self.recent_bytes > RECENT_BYTES {
            let Some((number, size)) = self.recent.pop_front() else { return };
            self.recent_bytes -= size;
            let Some(kept) = self.kept.get_mut(&number) else { continue };
            if kept.here > 0 {
                kept.recent = false;
                continue;
            }
            if kept.message.handles() > 1 && !std::mem::replace(&mut delivered, true) {
                self.recent.push_back((number, size));
                self.recent_bytes += size;
                continue;
            }
            if let Some(kept) = self.forget(number)
                && kept.sessions > 1
            {
                self.shared.insert(number, kept.sessions);
            }
        }
    }

    /// Bytes of memory, without the messages that sessions have handles of.
    pub(super) fn held(&self) -> usize {
        fn table<K, V>(map: &NumberMap<K, V>) -> usize {
            map.capacity() * (size_of::<(K, V)>() + 1)
        }
        table(&self.slots)
            + table(&self.kept)
            + table(&self.numbers)
            + table(&self.shared)
            + self.recent_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageRef;
    use crate::packet::Qos;

    fn message(size: usize) -> Message {
        let payload = vec![0; size];
        let message = MessageRef {
            topic: "t",
            properties: &[],
            payload: &payload,
            qos: Qos::AtLeastOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        Message::new(&message, &mut Vec::new())
    }

    #[test]
    fn bodies_without_a_handle_are_bounded_and_sessions_are_still_counted() {
        let mut bodies = Bodies::default();
        for number in 1..=2000u64 {
            let message = message(100);
            bodies.hold(number, message, number as u32);
            bodies.hold_again(number);
            assert_eq!(bodies.send_away(number), number as u32);
            assert!(bodies.get(number).is_some(), "one session has a handle");
            assert_eq!(bodies.send_away(number), number as u32);
        }
        assert!(bodies.kept.len() <= RECENT && bodies.numbers.len() <= RECENT);
        assert!(bodies.get(1).is_none() && bodies.get(2000).is_some());
        for number in 1..=2000 {
            assert!(!bodies.let_go_away(number), "{number}: another session waits");
            assert!(bodies.let_go_away(number), "{number}: nobody waits");
        }
        assert_eq!((bodies.kept.len(), bodies.shared.len()), (0, 0));
    }

    #[test]
    fn a_message_that_comes_back_is_counted_as_before() {
        let mut bodies = Bodies::default();
        bodies.hold(1, message(2 << 20), 7);
        bodies.hold_again(1);
        bodies.send_away(1);
        bodies.send_away(1);
        assert!(bodies.get(1).is_none(), "it is larger than what is kept without a handle");
        let back = bodies.come_back(1, message(10), 7);
        assert_eq!(bodies.number(&back), Some(1));
        assert!(!bodies.let_go(1));
        assert!(bodies.let_go_away(1));
        assert!(bodies.numbers.is_empty());
    }

    #[test]
    fn a_body_that_is_let_go_again_and_again_counts_once() {
        let mut bodies = Bodies::default();
        bodies.hold(1, message(100), 0);
        bodies.hold_again(1);
        bodies.send_away(1);
        bodies.send_away(1);
        let once = bodies.recent_bytes;
        for _ in 0..RECENT {
            let _ = bodies.come_back(1, message(100), 0);
            bodies.send_away(1);
        }
        assert_eq!((bodies.recent.len(), bodies.recent_bytes), (1, once));
        assert!(bodies.get(1).is_some());
    }

    #[test]
    fn what_is_still_delivered_keeps_its_number() {
        let mut bodies = Bodies::default();
        let first = message(1);
        bodies.hold(1, first.clone(), 0);
        bodies.send_away(1);
        for number in 2..1000 {
            bodies.hold(number, message(1), 0);
            bodies.send_away(number);
        }
        assert_eq!(bodies.number(&first), Some(1));
    }
}
