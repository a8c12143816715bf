//! What a bridge does with a message that the other broker refuses with a reason code: the message
//! is dropped, or sent again after a pause. Pure.
//!
//! A message that is to be sent again holds up the messages behind it, so that their order is kept:
//! after its refusal no further message is sent. When every message under way has been answered,
//! the refused ones are sent again after a pause, in order and one at a time; each message that is
//! taken allows one more to be under way.

use crate::config::BridgeRefused;
use crate::packet::ReasonCode;
use std::time::{Duration, Instant};

/// The pause after the first refusal; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a message is sent when its refusal may be temporary or permanent.
const TRIES: u32 = 6;

/// The reason codes that refuse a message [MQTT-3.4.2.1, MQTT-3.5.2.1], with their labels.
pub const REASONS: [(ReasonCode, &str); 7] = [
    (ReasonCode::UnspecifiedError, "unspecified"),
    (ReasonCode::ImplementationSpecificError, "implementation_specific"),
    (ReasonCode::NotAuthorized, "not_authorized"),
    (ReasonCode::TopicNameInvalid, "topic_name_invalid"),
    (ReasonCode::PacketIdentifierInUse, "packet_identifier_in_use"),
    (ReasonCode::QuotaExceeded, "quota_exceeded"),
    (ReasonCode::PayloadFormatInvalid, "payload_format_invalid"),
];

/// The decision on a refused message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// It is sent again.
    Again,
    /// It is dropped.
    Drop,
}

/// The state of refusals by a bridge's other end.
#[derive(Debug)]
pub struct Refusals {
    policy: BridgeRefused,
    /// The longest pause.
    longest: Duration,
    /// The first message that is to be sent again, and how often it was refused for a reason that
    /// may be temporary or permanent.
    first: Option<(u64, u32)>,
    /// Whether a message was refused, so that none is sent until all under way have been answered.
    ebbing: bool,
    /// When the next message may be sent; `None` when there is no pause.
    again: Option<Instant>,
    /// The number of pauses since a message was last taken.
    pauses: u32,
    /// The most messages that may be under way.
    window: usize,
}

impl Refusals {
    /// Starts without refusals; `longest` is the longest pause.
    pub fn new(policy: BridgeRefused, longest: Duration) -> Refusals {
        let (first, ebbing, again, pauses) = (None, false, None, 0);
        Refusals { policy, longest, first, ebbing, again, pauses, window: usize::MAX }
    }

    /// Decides on the message with this number, which was refused.
    pub fn judge(&mut self, number: u64, reason: ReasonCode) -> Judgement {
        let again = match (self.policy, reason) {
            (BridgeRefused::Drop, _) => false,
            (BridgeRefused::Wait, _) | (BridgeRefused::Auto, ReasonCode::QuotaExceeded) => true,
            (
                BridgeRefused::Auto,
                ReasonCode::UnspecifiedError
                | ReasonCode::ImplementationSpecificError
                | ReasonCode::PacketIdentifierInUse,
            ) => self.tries(number) < TRIES,
            (BridgeRefused::Auto, _) => false,
        };
        if again {
            self.ebbing = true;
            return Judgement::Again;
        }
        self.forget(number);
        Judgement::Drop
    }

    /// How often a message has been tried. Messages behind the first refused one are under way
    /// together with it the first time only. When one of them is refused without the first one, the
    /// first one has expired or was dropped.
    fn tries(&mut self, number: u64) -> u32 {
        let ebbing = self.ebbing;
        match &mut self.first {
            Some((first, tries)) if *first == number => {
                *tries += 1;
                *tries
            }
            Some((first, _)) if *first < number && ebbing => 1,
            first => {
                *first = Some((number, 1));
                1
            }
        }
    }

    fn forget(&mut self, number: u64) {
        self.first = self.first.filter(|&(first, _)| first != number);
    }

    /// Notes that the message with this number was taken.
    pub fn taken(&mut self, number: u64) {
        self.forget(number);
        self.pauses = 0;
        self.window = self.window.saturating_add(1);
    }

    /// Called when no message is under way, or the connection has ended. Returns true when messages
    /// were refused; these are sent again after a pause, which begins now.
    pub fn ebb(&mut self, now: Instant) -> bool {
        if !std::mem::take(&mut self.ebbing) {
            return false;
        }
        let pause = PAUSE.saturating_mul(1 << self.pauses.min(16)).min(self.longest);
        self.pauses += 1;
        self.again = Some(now + pause);
        self.window = 1;
        true
    }

    /// The most messages of QoS 1 and 2 that may be under way now; none during a pause.
    pub fn window(&mut self, now: Instant) -> usize {
        self.again = self.again.filter(|&at| at > now);
        if self.ebbing || self.again.is_some() { 0 } else { self.window }
    }

    /// When the pause ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(policy: BridgeRefused, times: u32) -> Vec<ReasonCode> {
        let again = |reason: ReasonCode| {
            let mut refusals = Refusals::new(policy, PAUSE);
            (0..times).all(|_| refusals.judge(3, reason) == Judgement::Again)
        };
        REASONS.map(|(reason, _)| reason).into_iter().filter(|&reason| again(reason)).collect()
    }

    #[test]
    fn each_reason_is_for_now_for_good_or_either_by_the_policy() {
        use ReasonCode as R;
        let either =
            [R::UnspecifiedError, R::ImplementationSpecificError, R::PacketIdentifierInUse];
        let few = all(BridgeRefused::Auto, TRIES - 1);
        assert_eq!(few, [&either[..], &[R::QuotaExceeded]].concat());
        assert_eq!(all(BridgeRefused::Auto, 1000), [R::QuotaExceeded]);
        assert_eq!(all(BridgeRefused::Wait, 1000).len(), REASONS.len());
        assert_eq!(all(BridgeRefused::Drop, 1), []);
    }

    #[test]
    fn pauses_grow_until_something_is_taken_and_the_window_with_what_is_taken() {
        let mut refusals = Refusals::new(BridgeRefused::Auto, PAUSE * 3);
        let mut now = Instant::now();
        assert_eq!((refusals.window(now), refusals.ebb(now)), (usize::MAX, false));
        for pause in [PAUSE, PAUSE * 2, PAUSE * 3, PAUSE * 3] {
            assert_eq!(refusals.judge(7, ReasonCode::QuotaExceeded), Judgement::Again);
            assert_eq!(refusals.window(now), 0, "nothing is sent beside what is under way");
            assert!(refusals.ebb(now) && !refusals.ebb(now));
            assert_eq!(refusals.deadline(), Some(now + pause));
            assert_eq!(refusals.window(now + pause - Duration::from_millis(1)), 0);
            now += pause;
            assert_eq!((refusals.window(now), refusals.deadline()), (1, None));
        }
        for (number, window) in [(7, 2), (8, 3)] {
            refusals.taken(number);
            assert_eq!(refusals.window(now), window);
        }
        refusals.judge(9, ReasonCode::QuotaExceeded);
        assert!(refusals.ebb(now));
        assert_eq!(refusals.deadline(), Some(now + PAUSE));
    }

    /// Of messages that were refused together only the first one is counted: the others are not
    /// sent before it has been taken or dropped.
    #[test]
    fn a_message_that_may_be_refused_for_good_is_tried_a_few_times() {
        let mut refusals = Refusals::new(BridgeRefused::Auto, PAUSE);
        let reason = ReasonCode::ImplementationSpecificError;
        for number in [6, 4, 5] {
            assert_eq!(refusals.judge(number, reason), Judgement::Again);
        }
        for number in [4, 5, 6] {
            let tries = (1..).take_while(|_| refusals.judge(number, reason) == Judgement::Again);
            assert_eq!(tries.count() as u32, TRIES - if number == 4 { 2 } else { 1 }, "{number}");
        }
        refusals.judge(7, reason);
        refusals.taken(7);
        assert_eq!(refusals.first, None);
        // A message that has gone is not waited for.
        refusals.judge(8, reason);
        let mut sent = 0;
        while refusals.ebb(Instant::now()) {
            refusals.judge(9, reason);
            sent += 1;
        }
        assert_eq!(sent, TRIES);
    }
}
