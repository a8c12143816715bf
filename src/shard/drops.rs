//! Messages that a client does not get. Each is counted by its reason and shown to the observers
//! ([`super::observe`]).

use super::Shard;
use crate::limits::DROPS_FOLLOWED;
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::session::Pushed;
use crate::telemetry::Counters;
use crate::time::Instant;
use hashbrown::HashMap;

/// Declares the reasons: each once, with its word and its counter.
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident $word:literal $counter:ident)*) => {
        /// Why a message is not delivered to a client. The words are those of
        /// `ringmq_messages_dropped_total`.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum DropReason { $($(#[$doc])* $reason,)* }

        impl DropReason {
            pub(super) const ALL: &[DropReason] = &[$(DropReason::$reason,)*];

            pub(super) fn word(self) -> &'static str {
                match self { $(DropReason::$reason => $word,)* }
            }

            fn counter(self, counters: &mut Counters) -> &mut u64 {
                match self { $(DropReason::$reason => &mut counters.$counter,)* }
            }
        }
    };
}

reasons! {
    QueueFull "queue_full" dropped_queue_full
    OutgoingFull "outgoing_full" dropped_outgoing_full
    Expired "expired" dropped_expired
    PacketTooLarge "packet_too_large" dropped_packet_too_large
    NotEncodable "not_encodable" dropped_not_encodable
    OfflineQos0 "offline_qos0" dropped_offline_qos0
    ShareFull "share_full" dropped_share_full
    Memory "memory" dropped_memory
    Overload "overload" dropped_overload
    Unreadable "unreadable" dropped_unreadable
    ReadDenied "read_denied" dropped_read_denied
}

impl DropReason {
    fn is_forgotten(self) -> bool {
        match self {
            DropReason::OfflineQos0 => Mutant::OfflineUncounted.is_on(),
            DropReason::OutgoingFull | DropReason::Overload => Mutant::ShedUncounted.is_on(),
            _ => false,
        }
    }
}

/// What was dropped for one client since the shard has followed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientDrops {
    /// For how many milliseconds it has been followed.
    pub millis: u64,
    /// How many messages were dropped, by reason, without reasons that have none. The reasons are
    /// those of `ringmq_messages_dropped_total`.
    pub counts: Vec<(&'static str, u64)>,
}

/// What is known of one client.
struct Followed {
    /// Index and generation of its session.
    session: (u32, u32),
    since: Instant,
    counts: [u32; DropReason::ALL.len()],
}

/// What was dropped for which client. A client for which nothing was dropped has no place here.
/// There are [`DROPS_FOLLOWED`] places; when all are taken, the next client gets the place that was
/// given out longest ago.
#[derive(Default)]
pub(super) struct DropsByClient {
    all: Vec<Followed>,
    /// Places in `all`, by the index of the session.
    places: HashMap<u32, u32>,
    next: usize,
}

impl DropsByClient {
    fn add(&mut self, session: (u32, u32), reason: DropReason, count: u64, now: Instant) {
        let place = match self.places.get(&session.0) {
            Some(&place) => place as usize,
            None => self.make_place(session, now),
        };
        let Some(followed) = self.all.get_mut(place) else { return };
        if followed.session != session {
            // The place is that of an earlier session with that index.
            *followed = Followed { session, since: now, counts: Default::default() };
        }
        if let Some(counted) = followed.counts.get_mut(reason as usize) {
            *counted = counted.saturating_add(count.min(u64::from(u32::MAX)) as u32);
        }
    }

    fn make_place(&mut self, session: (u32, u32), now: Instant) -> usize {
        let new = Followed { session, since: now, counts: Default::default() };
        let place = if self.all.len() < DROPS_FOLLOWED {
            self.all.push(new);
            self.all.len() - 1
        } else {
            let place = self.next;
            self.next = (place + 1) % DROPS_FOLLOWED;
            if let Some(oldest) = self.all.get_mut(place) {
                self.places.remove(&oldest.session.0);
                *oldest = new;
            }
            place
        };
        self.places.insert(session.0, place as u32);
        place
    }

    /// What was dropped for a session so far. `session` is its index and generation.
    pub(super) fn told(&self, session: (u32, u32), now: Instant) -> ClientDrops {
        let Some(followed) = self.of(session) else {
            return ClientDrops { millis: 0, counts: Vec::new() };
        };
        let counts = DropReason::ALL.iter().zip(followed.counts);
        let counts = counts.filter(|(_, count)| *count > 0);
        let counts = counts.map(|(reason, count)| (reason.word(), u64::from(count))).collect();
        ClientDrops { millis: now.millis_since(followed.since), counts }
    }

    fn of(&self, session: (u32, u32)) -> Option<&Followed> {
        let place = *self.places.get(&session.0)?;
        self.all.get(place as usize).filter(|followed| followed.session == session)
    }
}

impl Shard {
    /// A message for this client is dropped.
    #[cold]
    #[inline(never)]
    pub(super) fn drop_message(
        &mut self,
        index: u32,
        message: &MessageRef<'_>,
        reason: DropReason,
    ) {
        self.lose(index, reason, 1);
        self.observe_drop(index, message, reason);
    }

    /// Messages for this client are dropped, of which nothing else is known here.
    #[cold]
    #[inline(never)]
    pub(super) fn lose(&mut self, index: u32, reason: DropReason, count: u64) {
        if count == 0 {
            return;
        }
        self.count_drops(reason, count);
        if self.sessions.get(index).is_some() && !Mutant::DropsOfNobody.is_on() {
            let session = (index, self.sessions.generation(index));
            self.work.observers.drops.add(session, reason, count, self.now);
        }
    }

    /// So many messages for this client have expired; usually none.
    #[inline]
    pub(super) fn lose_expired(&mut self, index: u32, expired: u32) {
        if expired > 0 {
            self.lose(index, DropReason::Expired, expired.into());
        }
    }

    /// Counts dropped messages of which nothing else is known here, not even the client.
    #[cold]
    #[inline(never)]
    pub(super) fn count_drops(&mut self, reason: DropReason, count: u64) {
        if !reason.is_forgotten() {
            *reason.counter(&mut self.counters) += count;
        }
    }

    /// A message was put into a client's queue, which may have dropped the message, or its oldest
    /// ones to make room.
    #[inline]
    pub(super) fn drop_pushed(
        &mut self,
        index: u32,
        message: &MessageRef<'_>,
        reason: DropReason,
        pushed: Pushed,
    ) {
        match pushed {
            Pushed::Queued => {}
            Pushed::DroppedOldest(count) => {
                self.drop_oldest(index, message.topic, reason, count.into());
            }
            Pushed::DroppedNew | Pushed::Disconnect => self.drop_message(index, message, reason),
        }
    }

    #[cold]
    #[inline(never)]
    fn drop_oldest(&mut self, index: u32, topic: &str, reason: DropReason, count: u64) {
        self.lose(index, reason, count);
        self.observe_drops(index, None, reason, count, topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_counts_under_its_word() {
        for reason in DropReason::ALL {
            let mut counters = Counters::default();
            *reason.counter(&mut counters) += 1;
            let mut counted = counters.iter().filter(|(_, value)| *value > 0);
            let (figure, _) = counted.next().unwrap();
            assert_eq!(figure.name, "ringmq_messages_dropped_total");
            assert_eq!(figure.labels, [("reason", reason.word())], "{reason:?}");
            assert!(counted.next().is_none());
        }
    }

    #[test]
    fn drops_are_counted_for_each_client_and_the_oldest_makes_room() {
        let mut drops = DropsByClient::default();
        let of = |drops: &DropsByClient, session| {
            drops.of(session).map(|followed| (followed.since, followed.counts.iter().sum::<u32>()))
        };
        drops.add((7, 1), DropReason::Expired, 2, Instant(5));
        drops.add((7, 1), DropReason::QueueFull, u64::MAX, Instant(6));
        assert_eq!(drops.of((7, 1)).unwrap().counts[DropReason::QueueFull as usize], u32::MAX);
        assert_eq!(of(&drops, (7, 2)), None);
        drops.add((7, 2), DropReason::Expired, 1, Instant(9));
        assert_eq!((of(&drops, (7, 1)), of(&drops, (7, 2))), (None, Some((Instant(9), 1))));
        for other in 0..DROPS_FOLLOWED as u32 {
            drops.add((100 + other, 0), DropReason::Memory, 1, Instant(10));
        }
        assert_eq!(of(&drops, (7, 2)), None, "the oldest");
        assert_eq!(of(&drops, (100, 0)), Some((Instant(10), 1)));
        assert_eq!((drops.all.len(), drops.places.len()), (DROPS_FOLLOWED, DROPS_FOLLOWED));
    }
}
