//! Messages that a client does not get. Each is counted by its reason, and told to those who watch
//! ([`super::observe`]).

use super::Shard;
use crate::mutant::Mutant;
use crate::session::Pushed;
use crate::telemetry::Counters;

/// Why a message is not delivered to a client. The words are those of
/// `ringmq_messages_dropped_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DropReason {
    QueueFull,
    OutgoingFull,
    Expired,
    PacketTooLarge,
    NotEncodable,
    OfflineQos0,
    ShareFull,
    Memory,
    Overload,
    Unreadable,
}

impl DropReason {
    pub(super) fn word(self) -> &'static str {
        match self {
            DropReason::QueueFull => "queue_full",
            DropReason::OutgoingFull => "outgoing_full",
            DropReason::Expired => "expired",
            DropReason::PacketTooLarge => "packet_too_large",
            DropReason::NotEncodable => "not_encodable",
            DropReason::OfflineQos0 => "offline_qos0",
            DropReason::ShareFull => "share_full",
            DropReason::Memory => "memory",
            DropReason::Overload => "overload",
            DropReason::Unreadable => "unreadable",
        }
    }

    fn counter(self, counters: &mut Counters) -> &mut u64 {
        match self {
            DropReason::QueueFull => &mut counters.dropped_queue_full,
            DropReason::OutgoingFull => &mut counters.dropped_outgoing_full,
            DropReason::Expired => &mut counters.dropped_expired,
            DropReason::PacketTooLarge => &mut counters.dropped_packet_too_large,
            DropReason::NotEncodable => &mut counters.dropped_not_encodable,
            DropReason::OfflineQos0 => &mut counters.dropped_offline_qos0,
            DropReason::ShareFull => &mut counters.dropped_share_full,
            DropReason::Memory => &mut counters.dropped_memory,
            DropReason::Overload => &mut counters.dropped_overload,
            DropReason::Unreadable => &mut counters.dropped_unreadable,
        }
    }

    fn is_forgotten(self) -> bool {
        match self {
            DropReason::OfflineQos0 => Mutant::OfflineUncounted.is_on(),
            DropReason::OutgoingFull | DropReason::Overload => Mutant::ShedUncounted.is_on(),
            _ => false,
        }
    }
}

impl Shard {
    /// A message for this client is dropped.
    #[cold]
    #[inline(never)]
    pub(super) fn drop_message(&mut self, index: u32, topic: &str, reason: DropReason) {
        self.count_drops(reason, 1);
        self.observe_drops(index, Some(topic), reason, 1, topic);
    }

    /// Messages are dropped of which nothing else is known here.
    #[cold]
    #[inline(never)]
    pub(super) fn count_drops(&mut self, reason: DropReason, count: u64) {
        if !reason.is_forgotten() {
            *reason.counter(&mut self.counters) += count;
        }
    }

    /// A message with this topic came to a client's queue, which may have dropped it, or its oldest
    /// ones to make room.
    #[inline]
    pub(super) fn drop_pushed(
        &mut self,
        index: u32,
        topic: &str,
        reason: DropReason,
        pushed: Pushed,
    ) {
        match pushed {
            Pushed::Queued => {}
            Pushed::DroppedOldest(count) => self.drop_oldest(index, topic, reason, count.into()),
            Pushed::DroppedNew | Pushed::Disconnect => self.drop_message(index, topic, reason),
        }
    }

    #[cold]
    #[inline(never)]
    fn drop_oldest(&mut self, index: u32, topic: &str, reason: DropReason, count: u64) {
        self.count_drops(reason, count);
        self.observe_drops(index, None, reason, count, topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_counts_under_its_word() {
        use DropReason::*;
        let all = [
            QueueFull,
            OutgoingFull,
            Expired,
            PacketTooLarge,
            NotEncodable,
            OfflineQos0,
            ShareFull,
            Memory,
            Overload,
            Unreadable,
        ];
        for reason in all {
            let mut counters = Counters::default();
            *reason.counter(&mut counters) += 1;
            let mut counted = counters.iter().filter(|(_, value)| *value > 0);
            let (figure, _) = counted.next().unwrap();
            assert_eq!(figure.name, "ringmq_messages_dropped_total");
            assert_eq!(figure.labels, [("reason", reason.word())], "{reason:?}");
            assert!(counted.next().is_none());
        }
    }
}
