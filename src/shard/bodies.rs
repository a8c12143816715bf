//! The bodies of this shard's stored messages: which of them are in memory, and how many sessions
//! wait for each.
//!
//! A session either has a handle of the message (the message is at the head of the session's queue,
//! or in flight), or it has only the message's number: then the message is *away* and is read back
//! from the store before it is sent ([`super::away`]). A body is in memory while some session has a
//! handle of it, and a little longer, because a fan-out may reach further sessions, which must find
//! the message's number. The bodies that no session has a handle of are bounded by [`RECENT`] and
//! [`RECENT_BYTES`].
//!
//! Most messages wait for one session that is not connected, which gives its handle up at once. So
//! what was put in last is not in the tables yet: a message comes there when the next one is put
//! in, if it is still needed.

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
    /// The message is in [`Bodies::numbers`].
    numbered: bool,
}

/// The bodies of a shard's stored messages.
#[derive(Default)]
pub(super) struct Bodies {
    /// The number of the message behind each handle, by session and by the session's own number for
    /// it.
    slots: NumberMap<(u32, u32), u64>,
    /// The newest of them, which is not in the map yet.
    latest_slot: Option<((u32, u32), u64)>,
    kept: NumberMap<u64, CachedBody>,
    /// The newest message, which is not in the map yet.
    latest: Option<(u64, CachedBody)>,
    /// Numbers of the messages in memory, by their address. Those that were read back for a session
    /// are not in it: they reach no other session.
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
        match &self.latest {
            Some((number, latest)) if latest.message.address() == message.address() => {
                Some(*number)
            }
            _ => self.numbers.get(&message.address()).copied(),
        }
    }

    /// The number of the message that a session has under `slot`, a number of the session's own.
    pub(super) fn of_slot(&self, index: u32, slot: u32) -> Option<u64> {
        match self.latest_slot {
            Some((key, number)) if key == (index, slot) => Some(number),
            _ => self.slots.get(&(index, slot)).copied(),
        }
    }

    /// A session has a handle of the message from now on.
    pub(super) fn set_slot(&mut self, index: u32, slot: u32, number: u64) {
        let before = self.latest_slot.replace(((index, slot), number));
        if let Some((key, number)) = before.filter(|(key, _)| *key != (index, slot)) {
            self.slots.insert(key, number);
        }
    }

    /// The session does not have a handle under that number any more.
    pub(super) fn take_slot(&mut self, index: u32, slot: u32) -> Option<u64> {
        match self.latest_slot.take_if(|(key, _)| *key == (index, slot)) {
            Some((_, number)) => Some(number),
            None => self.slots.remove(&(index, slot)),
        }
    }

    fn entry(&mut self, number: u64) -> Option<&mut CachedBody> {
        match &mut self.latest {
            Some((latest, body)) if *latest == number => Some(body),
            _ => self.kept.get_mut(&number),
        }
    }

    fn known(&self, number: u64) -> Option<&CachedBody> {
        match &self.latest {
            Some((latest, body)) if *latest == number => Some(body),
            _ => self.kept.get(&number),
        }
    }

    /// One more session waits for a message, with a handle. `message` and `checksum` are its body
    /// and checksum, should the body not be in memory.
    pub(super) fn hold(&mut self, number: u64, message: Message, checksum: u32) {
        if let Some(kept) = self.entry(number) {
            kept.sessions += 1;
            kept.here += 1;
            return;
        }
        self.settle();
        let sessions = self.take_shared(number).unwrap_or(0) + 1;
        let body =
            CachedBody { message, sessions, here: 1, checksum, recent: false, numbered: false };
        self.latest = Some((number, body));
    }

    /// How many sessions wait for a message that is not in memory, if more than one does. The
    /// caller counts them from now on.
    fn take_shared(&mut self, number: u64) -> Option<u32> {
        if self.shared.is_empty() { None } else { self.shared.remove(&number) }
    }

    /// Puts the newest message into the map, if it is still needed.
    fn settle(&mut self) {
        let Some((number, mut body)) = self.latest.take() else { return };
        if body.here == 0 && body.message.handles() == 1 {
            // No delivery is under way that could reach another session.
            if body.sessions > 1 {
                self.shared.insert(number, body.sessions);
            }
            return;
        }
        self.numbers.insert(body.message.address(), number);
        body.numbered = true;
        self.kept.insert(number, body);
        // Some session waits for it: the last that does not wait any more takes it out.
        let _ = self.look_at(number);
    }

    /// One more session waits, with a handle, for a message that is in memory.
    pub(super) fn hold_again(&mut self, number: u64) {
        if let Some(kept) = self.entry(number) {
            kept.sessions += 1;
            kept.here += 1;
        }
    }

    /// A session that had a handle does not wait for the message any more. True when no session
    /// does.
    #[must_use]
    pub(super) fn let_go(&mut self, number: u64) -> bool {
        let Some(kept) = self.entry(number) else { return false };
        kept.sessions -= 1;
        kept.here -= 1;
        self.look_at(number)
    }

    /// A session gives up its handle and keeps only the number; returns the checksum of the
    /// message.
    pub(super) fn send_away(&mut self, number: u64) -> u32 {
        let Some(kept) = self.entry(number) else { return 0 };
        let checksum = kept.checksum;
        kept.here -= 1;
        self.look_at(number);
        checksum
    }

    /// After a restart: one more session waits for a message, of which it has only the number.
    pub(super) fn adopt_away(&mut self, number: u64) {
        match self.entry(number) {
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
        self.known(number).map(|kept| &kept.message)
    }

    /// CRC32C of the record of a message that is in memory.
    pub(super) fn checksum(&self, number: u64) -> Option<u32> {
        self.known(number).map(|kept| kept.checksum)
    }

    /// A session that had only the number gets a handle: of the message that is in memory already,
    /// or of this one.
    pub(super) fn come_back(&mut self, number: u64, message: Message, checksum: u32) -> Message {
        if let Some(kept) = self.entry(number) {
            kept.here += 1;
            return kept.message.clone();
        }
        let sessions = self.take_shared(number).unwrap_or(1);
        let back = message.clone();
        let body =
            CachedBody { message, sessions, here: 1, checksum, recent: false, numbered: false };
        self.kept.insert(number, body);
        back
    }

    /// A session that has only the number does not wait for the message any more. True when no
    /// session does.
    #[must_use]
    pub(super) fn let_go_away(&mut self, number: u64) -> bool {
        if let Some(kept) = self.entry(number) {
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
        let latest = self.latest.as_ref().is_some_and(|(latest, _)| *latest == number);
        let Some(kept) = self.entry(number) else { return false };
        if kept.sessions == 0 {
            self.forget(number);
            return true;
        }
        if latest {
            if kept.here == 0 && kept.message.size() > RECENT_BYTES {
                self.settle();
            }
            return false;
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
        if let Some((_, body)) = self.latest.take_if(|(latest, _)| *latest == number) {
            return Some(body);
        }
        let kept = self.kept.remove(&number)?;
        if kept.numbered {
            self.numbers.remove(&kept.message.address());
        }
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
        let latest = self.latest.as_ref().filter(|(_, body)| body.here == 0);
        table(&self.slots)
            + latest.map_or(0, |(_, body)| body.message.size())
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
        assert!(bodies.get(1).is_some_and(|known| known.address() == back.address()));
        assert!(!bodies.let_go(1));
        assert!(bodies.let_go_away(1));
        assert!(bodies.numbers.is_empty());
    }

    #[test]
    fn a_body_that_is_let_go_again_and_again_counts_once() {
        let mut bodies = Bodies::default();
        let delivered = message(100);
        bodies.hold(1, delivered.clone(), 0);
        bodies.hold_again(1);
        bodies.send_away(1);
        bodies.send_away(1);
        bodies.hold(2, message(100), 0);
        let once = bodies.recent_bytes;
        assert_eq!((bodies.recent.len(), once), (1, delivered.size()));
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
        let mut last = first.clone();
        for number in 2..1000 {
            let next = message(1);
            bodies.hold(number, next.clone(), 0);
            bodies.send_away(number);
            // It was delivered until the next one was.
            last = next;
        }
        assert_eq!(bodies.number(&last), Some(999));
        assert_eq!(bodies.number(&first), Some(1));
        assert!(bodies.kept.len() <= RECENT);
    }

    #[test]
    fn what_waits_for_one_session_in_the_store_only_comes_to_no_table() {
        let mut bodies = Bodies::default();
        for number in 1..1000 {
            bodies.hold(number, message(1), 7);
            bodies.set_slot(3, number as u32, number);
            assert_eq!(bodies.take_slot(3, number as u32), Some(number));
            assert_eq!(bodies.send_away(number), 7);
        }
        let tables = [bodies.slots.len(), bodies.numbers.len(), bodies.shared.len()];
        assert_eq!((tables, bodies.kept.len()), ([0; 3], 0));
        assert!((1..1000).all(|number| bodies.let_go_away(number)));
    }

    #[test]
    fn each_slot_has_its_message_whichever_was_put_last() {
        let mut bodies = Bodies::default();
        (1..=3).for_each(|slot| bodies.set_slot(7, slot, 10 + u64::from(slot)));
        bodies.set_slot(7, 3, 20);
        assert_eq!(
            [1, 2, 3, 4].map(|slot| bodies.of_slot(7, slot)),
            [Some(11), Some(12), Some(20), None]
        );
        assert_eq!(
            [1, 3, 3, 2].map(|slot| bodies.take_slot(7, slot)),
            [Some(11), Some(20), None, Some(12)]
        );
        assert!(bodies.slots.is_empty() && bodies.latest_slot.is_none());
    }
}
