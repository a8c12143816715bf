//! Target `queues`: the timing wheel, the inflight window, the pending queue and a client's list of
//! subscriptions, under any sequence of calls, against naive ones.

use crate::input::Input;
use ringmq::config::OnFull;
use ringmq::message::{Message, MessageRef};
use ringmq::packet::{PacketId, Qos};
use ringmq::session::pending::{Pending, PendingBounds, Pushed};
use ringmq::session::window::Window;
use ringmq::session::{
    Acknowledged, ClientSubscriptions, Queued, SubscriptionIds, SubscriptionSlot,
};
use ringmq::time::{GRANULARITY_MILLIS, Instant, Wheel};
use ringmq::topic::FilterId;
use std::collections::{BTreeMap, VecDeque};

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        0 => wheel(&mut input),
        1 => window(&mut input),
        2 => pending(&mut input),
        _ => subscriptions(&mut input),
    }
}

/// A span of time of any magnitude.
fn span(input: &mut Input<'_>) -> u64 {
    let magnitude = input.below(64) as u32;
    u64::from(input.byte()).rotate_right(8) >> magnitude
}

/// The last milliseconds of time are in no whole tick.
const LAST: u64 = u64::MAX - 2 * GRANULARITY_MILLIS;

fn wheel(input: &mut Input<'_>) {
    let mut now = Instant(span(input) >> 1);
    let mut wheel = Wheel::new(now);
    let mut waiting: BTreeMap<u32, Instant> = BTreeMap::new();
    let (mut next, mut due) = (0u32, Vec::new());
    for _ in 0..2000 {
        if input.is_empty() {
            break;
        }
        match input.below(4) {
            0 | 1 => {
                let ahead = span(input);
                // Also what has passed already.
                let deadline = now.0.saturating_add(ahead).saturating_sub(input.flag().into());
                let deadline = Instant(deadline.min(LAST));
                wheel.insert(deadline, next);
                waiting.insert(next, deadline);
                next += 1;
            }
            2 => now = Instant(now.0.saturating_add(span(input) >> 2).min(LAST)),
            _ => {
                if let Some(next) = wheel.next_deadline() {
                    now = now.max(next);
                }
            }
        }
        let limit = 1 + input.below(8);
        for round in 0.. {
            let before = due.len();
            let more = wheel.expire(now, limit, &mut due);
            assert!(due.len() - before <= limit);
            if !more {
                break;
            }
            assert!(round < 100_000, "expiring does not end");
        }
        for item in due.drain(..) {
            let deadline = waiting.remove(&item).expect("fires once");
            assert!(deadline <= now, "fires early");
        }
        // The foremost deadline decides: nothing may be more than a tick late, or missed.
        let first = waiting.values().min();
        if let Some(&first) = first {
            let late = now.0 >= first.0.saturating_add(GRANULARITY_MILLIS);
            assert!(!late, "{first:?} has not fired at {now:?}");
            let told = wheel.next_deadline().expect("something waits");
            assert!(told.0 < first.0.saturating_add(GRANULARITY_MILLIS), "{told:?}, {first:?}");
        }
        assert_eq!((wheel.len(), wheel.is_empty()), (waiting.len(), waiting.is_empty()));
        assert_eq!(wheel.next_deadline().is_some(), !waiting.is_empty());
    }
}

fn queued(qos: Qos, payload: usize) -> Queued {
    let message = MessageRef {
        topic: "t",
        properties: &[],
        payload: &vec![7; payload],
        qos,
        retain: false,
        expires: None,
        publisher: None,
    };
    let message = Message::new(&message, &mut Vec::new());
    Queued {
        message,
        subscription_ids: SubscriptionIds::None,
        qos,
        retain: false,
        share: None,
        stored: 0,
    }
}

/// What a message in the window waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaits {
    PubAck,
    PubRec,
    PubComp,
}

#[derive(Default)]
struct NaiveWindow {
    /// In the order sent: identifier, what it awaits, kept for redelivery, to be sent again.
    sent: Vec<(PacketId, Awaits, bool, bool)>,
}

impl NaiveWindow {
    fn acknowledge(&mut self, id: PacketId, kind: Awaits, accepted: bool) -> Acknowledged {
        let Some(at) = self.sent.iter().position(|sent| sent.0 == id) else {
            return Acknowledged::Unknown;
        };
        let awaits = self.sent[at].1;
        if kind == Awaits::PubRec && awaits == Awaits::PubComp {
            return Acknowledged::Release;
        }
        if kind != awaits {
            return Acknowledged::WrongKind;
        }
        if kind == Awaits::PubRec && accepted {
            self.sent[at] = (id, Awaits::PubComp, false, false);
            return Acknowledged::Release;
        }
        self.sent.remove(at);
        Acknowledged::Complete
    }

    fn again(&self) -> usize {
        self.sent.iter().filter(|sent| sent.3).count()
    }
}

fn window(input: &mut Input<'_>) {
    let mut window = Window::default();
    let mut naive = NaiveWindow::default();
    let limit = u16::from(input.byte()) + 1;
    for _ in 0..4000 {
        if input.is_empty() {
            break;
        }
        let choice = input.below(9);
        match choice {
            0..=2 => send(&mut window, &mut naive, limit, input),
            3..=5 => {
                let (kind, accepted) = match choice {
                    3 => (Awaits::PubAck, true),
                    4 => (Awaits::PubRec, input.flag()),
                    _ => (Awaits::PubComp, true),
                };
                let known = naive.sent.get(input.below(usize::from(limit))).map(|sent| sent.0);
                let id = known.or(PacketId::new(input.u16())).unwrap_or(ONE);
                let told = match kind {
                    Awaits::PubAck => window.puback(id),
                    Awaits::PubRec => window.pubrec(id, accepted),
                    Awaits::PubComp => window.pubcomp(id),
                };
                assert_eq!(told, naive.acknowledge(id, kind, accepted), "{id:?} {kind:?}");
            }
            6 => {
                let releases: Vec<PacketId> =
                    naive.sent.iter().filter_map(repeat_naively).collect();
                naive.sent.iter_mut().for_each(|sent| sent.3 |= sent.2);
                assert_eq!(window.repeat(), releases);
            }
            7 => {
                let limit = limit.min(1 + u16::from(input.byte()));
                let told = window.next_again(limit).map(|(id, _)| id);
                let first = naive.sent.iter_mut().find(|sent| sent.3);
                match (told, first) {
                    (Some(id), Some(sent)) => {
                        assert_eq!(id, sent.0, "in the original order");
                        sent.3 = false;
                    }
                    (None, Some(_)) => {
                        assert!(naive.sent.len() - naive.again() >= usize::from(limit));
                    }
                    (None, None) => {}
                    (Some(id), None) => panic!("{id:?} is not to be sent again"),
                }
            }
            _ => {
                let over = input.flag();
                let before = naive.sent.len();
                naive.sent.retain(|&(_, awaits, kept, _)| match awaits {
                    Awaits::PubAck => kept && !over,
                    Awaits::PubRec => kept,
                    Awaits::PubComp => true,
                });
                assert_eq!(window.abandon(|_| over) as usize, before - naive.sent.len());
            }
        }
        assert_eq!(usize::from(window.open()), naive.sent.len());
        assert_eq!(window.is_empty(), naive.sent.is_empty());
        assert_eq!(window.has_again(), naive.again() > 0);
        assert!(window.has_room(limit) || !naive.sent.is_empty(), "stuck with nothing open");
    }
}

const ONE: PacketId = PacketId::new(1).expect("not 0");

fn repeat_naively(sent: &(PacketId, Awaits, bool, bool)) -> Option<PacketId> {
    (sent.1 == Awaits::PubComp).then_some(sent.0)
}

fn send(window: &mut Window, naive: &mut NaiveWindow, limit: u16, input: &mut Input<'_>) {
    let (choice, kept) = (input.below(8), input.flag());
    let (qos, awaits) = match choice % 2 {
        0 => (Qos::AtLeastOnce, Awaits::PubAck),
        _ => (Qos::ExactlyOnce, Awaits::PubRec),
    };
    // Sometimes a whole run of them, acknowledged at once: the identifiers come round.
    let runs = if choice == 7 { 3000 } else { 1 };
    for _ in 0..runs {
        if !window.has_room(limit) {
            return;
        }
        assert!(naive.sent.len() < usize::from(limit) && naive.again() == 0);
        let id = window.send(qos, kept.then(|| queued(qos, 0)));
        assert!(naive.sent.iter().all(|sent| sent.0 != id), "{id:?} is still open");
        naive.sent.push((id, awaits, kept, false));
        if runs > 1 {
            assert_eq!(window.pubrec(id, false), Acknowledged::Complete);
            naive.sent.pop();
        }
    }
}

fn pending(input: &mut Input<'_>) {
    let bounds = PendingBounds {
        messages: input.below(12),
        bytes: 32 * input.below(64),
        on_full: input.pick(&[OnFull::DropOldest, OnFull::DropNew, OnFull::Disconnect]),
    };
    let mut pending = Pending::default();
    let mut naive: VecDeque<(Qos, usize)> = VecDeque::new();
    for _ in 0..2000 {
        if input.is_empty() {
            break;
        }
        if input.below(3) == 0 {
            let front = pending.front().map(|queued| queued.qos);
            assert_eq!(front, naive.front().map(|front| front.0));
            let popped = pending.pop().map(|queued| (queued.qos, queued.message.size() + 64));
            assert_eq!(popped, naive.pop_front());
        } else {
            let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][input.below(3)];
            let queued = queued(qos, usize::from(input.byte()) * 2);
            let cost = queued.message.size() + 64;
            let total = |naive: &VecDeque<(Qos, usize)>| naive.iter().map(|n| n.1).sum::<usize>();
            let fits = |naive: &VecDeque<(Qos, usize)>| {
                naive.len() < bounds.messages && total(naive) + cost <= bounds.bytes
            };
            let mut dropped = 0;
            let possible = cost <= bounds.bytes && bounds.messages > 0;
            let expected = if fits(&naive) {
                Pushed::Queued
            } else if bounds.on_full == OnFull::DropOldest && possible {
                while !fits(&naive) {
                    naive.pop_front();
                    dropped += 1;
                }
                Pushed::DroppedOldest(dropped)
            } else if bounds.on_full == OnFull::Disconnect {
                Pushed::Disconnect
            } else {
                Pushed::DroppedNew
            };
            if matches!(expected, Pushed::Queued | Pushed::DroppedOldest(_)) {
                naive.push_back((qos, cost));
            }
            assert_eq!(pending.push(queued, &bounds), expected);
        }
        assert_eq!((pending.len(), pending.is_empty()), (naive.len(), naive.is_empty()));
        assert_eq!(pending.bytes(), naive.iter().map(|n| n.1).sum::<usize>());
        assert_eq!(pending.has_qos0(), naive.iter().any(|n| n.0 == Qos::AtMostOnce));
    }
}

fn subscriptions(input: &mut Input<'_>) {
    let mut subscriptions = ClientSubscriptions::default();
    let mut naive: BTreeMap<u32, u32> = BTreeMap::new();
    for _ in 0..2000 {
        if input.is_empty() {
            break;
        }
        let filter = FilterId(u32::from(input.byte() % 100));
        match input.below(5) {
            0..=2 => {
                let position = u32::from(input.byte());
                subscriptions.set(SubscriptionSlot { filter, position });
                naive.insert(filter.0, position);
            }
            3 => assert_eq!(subscriptions.remove(filter), naive.remove(&filter.0)),
            _ => {
                if let Some(place) = subscriptions.any() {
                    assert_eq!(subscriptions.remove(place.filter), naive.remove(&place.filter.0));
                }
            }
        }
        assert_eq!(subscriptions.position(filter), naive.get(&filter.0).copied());
        assert_eq!(
            (subscriptions.len(), subscriptions.is_empty()),
            (naive.len(), naive.is_empty())
        );
        assert_eq!(subscriptions.any().is_some(), !naive.is_empty());
        let mut all = subscriptions.all();
        all.sort_by_key(|place| place.filter.0);
        assert!(all.iter().map(|place| (&place.filter.0, &place.position)).eq(naive.iter()));
    }
}
