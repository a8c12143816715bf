//! The pending queue: messages accepted for a client and not yet sent, because it is offline or
//! its window is full. Bounded in messages and bytes (`mqtt.pending`).

use super::Queued;
use crate::config::OnFull;
use crate::mutant::Mutant;
use crate::packet::Qos;
use std::collections::VecDeque;

/// Fixed cost charged per queued message, in bytes, so that empty payloads are not free.
const OVERHEAD: usize = 64;

/// Bounds and what happens at them.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most messages.
    pub messages: usize,
    /// Most bytes, each message with its topic, properties and 64 bytes of overhead.
    pub bytes: usize,
    /// The policy when full.
    pub on_full: OnFull,
}

/// What became of a pushed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// It waits; this many older ones were dropped for it, besides those of share groups.
    DroppedOldest(u32),
    /// It was dropped.
    DroppedNew,
    /// It was dropped and the client is to be disconnected.
    Disconnect,
}

/// The queue.
#[derive(Default)]
pub struct Pending {
    /// What goes before the rest: messages that came back to a share group from another member.
    first: VecDeque<Queued>,
    queue: VecDeque<Queued>,
    bytes: usize,
    qos0: usize,
    shares: usize,
    /// So many of `queue`'s oldest are still to be looked at, see [`Self::sift`].
    unsifted: usize,
    /// Messages of share groups that were dropped as the oldest: their groups may have them back.
    evicted: Vec<Queued>,
}

/// Where a message goes in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// At the end.
    End,
    /// Before what was published later: it comes back to a share group.
    Front,
}

impl Pending {
    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.first.len() + self.queue.len()
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.queue.is_empty()
    }

    /// True when a message that a share group sent here waits.
    pub fn has_shares(&self) -> bool {
        self.shares > 0
    }

    /// True when a message of `size` bytes fits without another being dropped for it.
    pub fn has_room(&self, size: usize, bounds: &Bounds) -> bool {
        self.len() < bounds.messages && self.bytes + size + OVERHEAD <= bounds.bytes
    }

    /// True when a message of QoS 0 waits: the next one of QoS 0 must not overtake it.
    pub fn has_qos0(&self) -> bool {
        self.qos0 > 0
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a message at the end, within `bounds`.
    pub fn push(&mut self, queued: Queued, bounds: &Bounds) -> Pushed {
        self.push_to(Line::End, queued, bounds)
    }

    /// Adds a message at that place, within `bounds`.
    pub fn push_to(&mut self, line: Line, queued: Queued, bounds: &Bounds) -> Pushed {
        let cost = queued.message.size() + OVERHEAD;
        let mut dropped = 0;
        let most = bounds.messages.saturating_add(usize::from(Mutant::PendingOverBound.is_on()));
        while self.len() >= most || self.bytes + cost > bounds.bytes {
            match bounds.on_full {
                // A message larger than the whole queue cannot be helped by dropping others.
                OnFull::DropOldest if cost <= bounds.bytes && !self.is_empty() => {
                    match self.pop() {
                        Some(old) if old.share.is_some() => self.evicted.push(old),
                        _ => dropped += u32::from(!Mutant::PendingDropUncounted.is_on()),
                    }
                }
                OnFull::DropOldest | OnFull::DropNew => return Pushed::DroppedNew,
                OnFull::Disconnect => return Pushed::Disconnect,
            }
        }
        self.bytes += cost;
        self.qos0 += usize::from(queued.qos == Qos::AtMostOnce);
        self.shares += usize::from(queued.share.is_some());
        match line {
            Line::End => self.queue.push_back(queued),
            Line::Front => self.first.push_back(queued),
        }
        if dropped == 0 && self.evicted.is_empty() {
            Pushed::Queued
        } else {
            Pushed::DroppedOldest(dropped)
        }
    }

    /// Messages of share groups that the last [`Self::push`] took out to make room.
    pub fn take_evicted(&mut self) -> Vec<Queued> {
        std::mem::take(&mut self.evicted)
    }

    /// The next message.
    pub fn front(&self) -> Option<&Queued> {
        self.first.front().or_else(|| self.queue.front())
    }

    /// Takes the next message.
    pub fn pop(&mut self) -> Option<Queued> {
        let queued = match self.first.pop_front() {
            Some(queued) => queued,
            None => {
                let queued = self.queue.pop_front()?;
                self.unsifted = self.unsifted.saturating_sub(1);
                queued
            }
        };
        self.forget(&queued);
        for queue in [&mut self.first, &mut self.queue] {
            if queue.len() < 8 && queue.capacity() > 64 {
                queue.shrink_to(16);
            }
        }
        Some(queued)
    }

    fn forget(&mut self, queued: &Queued) {
        self.bytes -= queued.message.size() + OVERHEAD;
        self.qos0 -= usize::from(queued.qos == Qos::AtMostOnce);
        self.shares -= usize::from(queued.share.is_some());
    }

    /// Begins to look at every message that waits now, by [`Self::sift`]. Costs no more than a copy
    /// of the queue's handles.
    pub fn begin_sift(&mut self) {
        self.first.append(&mut self.queue);
        std::mem::swap(&mut self.first, &mut self.queue);
        self.unsifted = self.queue.len();
    }

    /// Looks at `most` further messages, oldest first, and takes out those that `leaves` says; true
    /// when all have been looked at. The others keep their order.
    pub fn sift(
        &mut self,
        most: usize,
        leaves: impl Fn(&Queued) -> bool,
        taken: &mut Vec<Queued>,
    ) -> bool {
        for _ in 0..most.min(self.unsifted) {
            let Some(queued) = self.queue.pop_front() else { break };
            self.unsifted -= 1;
            if leaves(&queued) {
                self.forget(&queued);
                taken.push(queued);
            } else {
                self.first.push_back(queued);
            }
        }
        if self.queue.is_empty() {
            self.unsifted = 0;
        }
        self.unsifted == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, MessageRef};
    use crate::session::SubscriptionIds;

    fn queued(payload: &[u8]) -> Queued {
        let message = MessageRef {
            topic: "t",
            properties: &[],
            payload,
            qos: Qos::AtLeastOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        Queued {
            message: Message::new(&message, &mut Vec::new()),
            subscription_ids: SubscriptionIds::None,
            qos: Qos::AtLeastOnce,
            retain: false,
            share: None,
        }
    }

    fn bounds(messages: usize, bytes: usize, on_full: OnFull) -> Bounds {
        Bounds { messages, bytes, on_full }
    }

    #[test]
    fn each_policy_keeps_the_bounds() {
        let mut pending = Pending::default();
        let oldest = bounds(2, 1000, OnFull::DropOldest);
        assert_eq!(pending.push(queued(b"1"), &oldest), Pushed::Queued);
        assert_eq!(pending.push(queued(b"2"), &oldest), Pushed::Queued);
        assert_eq!(pending.push(queued(b"3"), &oldest), Pushed::DroppedOldest(1));
        assert_eq!(pending.front().unwrap().message.view().payload, b"2");
        assert_eq!(pending.push(queued(&[0; 2000]), &oldest), Pushed::DroppedNew);
        assert_eq!(pending.len(), 2);
        assert_eq!(
            pending.push(queued(b"4"), &bounds(2, 1000, OnFull::DropNew)),
            Pushed::DroppedNew
        );
        let harsh = bounds(2, 1000, OnFull::Disconnect);
        assert_eq!(pending.push(queued(b"4"), &harsh), Pushed::Disconnect);
        assert_eq!(pending.pop().unwrap().message.view().payload, b"2");
        assert_eq!(pending.pop().unwrap().message.view().payload, b"3");
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    fn shared(payload: &[u8]) -> Queued {
        Queued { share: Some(crate::session::ShareName::new("$share/g/t")), ..queued(payload) }
    }

    fn rest(pending: &mut Pending) -> Vec<u8> {
        std::iter::from_fn(|| pending.pop()).map(|one| one.message.view().payload[0]).collect()
    }

    #[test]
    fn what_comes_back_goes_first_and_in_its_order() {
        let mut pending = Pending::default();
        let all = bounds(9, 9000, OnFull::DropNew);
        for payload in [b"5", b"6"] {
            pending.push(queued(payload), &all);
        }
        for payload in [b"1", b"2"] {
            pending.push_to(Line::Front, shared(payload), &all);
        }
        assert_eq!((pending.len(), pending.has_shares()), (4, true));
        assert_eq!(rest(&mut pending), b"1256");
        assert_eq!((pending.bytes(), pending.has_shares()), (0, false));
    }

    #[test]
    fn a_sift_takes_out_what_leaves_and_keeps_the_order_of_the_rest() {
        for most in 1..6 {
            let mut pending = Pending::default();
            let all = bounds(99, 99_000, OnFull::DropNew);
            pending.push_to(Line::Front, shared(b"1"), &all);
            for payload in [b"2", b"3", b"4", b"5"] {
                pending.push(queued(payload), &all);
                pending.push(shared(payload), &all);
            }
            let mut taken = Vec::new();
            pending.begin_sift();
            // What is sent and what comes meanwhile does not disturb it.
            assert!(!pending.sift(1, |queued| queued.share.is_some(), &mut taken));
            assert_eq!(pending.pop().unwrap().message.view().payload, b"2");
            pending.push(queued(b"6"), &all);
            while !pending.sift(most, |queued| queued.share.is_some(), &mut taken) {}
            let taken: Vec<u8> = taken.iter().map(|one| one.message.view().payload[0]).collect();
            assert_eq!(taken, b"12345");
            assert!(!pending.has_shares());
            assert_eq!(rest(&mut pending), b"3456");
            assert_eq!((pending.len(), pending.bytes()), (0, 0));
        }
    }

    #[test]
    fn room_is_what_a_push_needs_not_to_drop() {
        let mut pending = Pending::default();
        let two = bounds(2, 500, OnFull::DropNew);
        let size = queued(&[0; 100]).message.size();
        for left in [true, true, false] {
            assert_eq!(pending.has_room(size, &two), left);
            assert_eq!(pending.push(queued(&[0; 100]), &two) == Pushed::Queued, left);
        }
        assert!(pending.pop().is_some() && !pending.has_room(500, &two));
    }

    #[test]
    fn a_message_of_a_group_that_has_to_go_can_be_given_back() {
        let mut pending = Pending::default();
        let two = bounds(2, 1000, OnFull::DropOldest);
        pending.push(shared(b"1"), &two);
        pending.push(queued(b"2"), &two);
        assert_eq!(pending.push(queued(b"3"), &two), Pushed::DroppedOldest(0));
        assert_eq!(pending.take_evicted()[0].message.view().payload, b"1");
        assert_eq!(pending.push(queued(b"4"), &two), Pushed::DroppedOldest(1));
        assert!(pending.take_evicted().is_empty() && !pending.has_shares());
        assert_eq!(rest(&mut pending), b"34");
    }
}
