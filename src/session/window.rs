//! The outbound inflight window: QoS 1 and 2 messages that were sent and are not acknowledged.
//!
//! Packet identifiers are assigned in the order 1, 2, … 65,535, 1, … so the window is a run of
//! consecutive identifiers, and the message of an acknowledgement is found by subtraction. An
//! identifier is reused only after everything from it to the front of the run is acknowledged
//! [MQTT-2.2.1-3].

use super::Queued;
use crate::mutant::Mutant;
use crate::packet::{PacketId, Qos};
use std::collections::VecDeque;

/// The number of packet identifiers: 1 to 65,535.
const IDENTIFIERS: u32 = 65_535;
/// The run may be this many times as long as the window's limit. A client that never acknowledges
/// its oldest message gets no new messages beyond that.
const SPAN: usize = 16;

/// The state of one message's handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaits {
    Nothing,
    PubAck,
    PubRec,
    PubComp,
}

struct InFlight {
    /// The message, kept for redelivery when the session outlives the connection.
    queued: Option<Queued>,
    awaits: Awaits,
    /// The message has to be sent again, and has not been yet.
    again: bool,
    /// Its number in the store; 0 for none.
    stored: u32,
}

fn note_gone(gone: &mut Vec<u32>, stored: u32) {
    if stored != 0 {
        gone.push(stored);
    }
}

impl InFlight {
    #[inline]
    fn bytes(&self) -> usize {
        self.queued.as_ref().map_or(0, |queued| queued.message.size())
    }
}

/// What an acknowledgement meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledged {
    /// The message is complete; the window has room for one more.
    Complete,
    /// PUBREC accepted: send PUBREL.
    Release,
    /// No message with that identifier awaits anything.
    Unknown,
    /// The message awaits another kind of acknowledgement [MQTT-4.3.2-1, MQTT-4.3.3-1].
    WrongKind,
}

/// What remains of a message that was sent to a session which has ended.
pub enum Unfinished {
    /// QoS 1, unacknowledged: another member of its share group may get it.
    Unacknowledged(Queued),
    /// QoS 2: no other client may get it [MQTT-4.8.2-5]; or the message was not kept.
    Begun,
}

/// The window.
pub struct Window {
    run: VecDeque<InFlight>,
    first: u16,
    open: u16,
    again: u16,
    /// No message before this index of the run has to be sent again.
    again_from: usize,
    /// The bytes of the messages that are kept.
    kept: usize,
    /// The numbers of stored messages that are complete.
    gone: Vec<u32>,
}

impl Default for Window {
    fn default() -> Self {
        Window {
            run: VecDeque::new(),
            first: 1,
            open: 0,
            again: 0,
            again_from: 0,
            kept: 0,
            gone: Vec::new(),
        }
    }
}

impl Window {
    /// True when another message may be sent. `limit` is the smaller of our own limit and the
    /// client's Receive Maximum [MQTT-3.3.4-9]. Messages that have to be sent again come first.
    pub fn has_room(&self, limit: u16) -> bool {
        self.again == 0
            && (self.open < limit || Mutant::WindowTooWide.is_on() && self.open == limit)
            && self.run.len() < usize::from(limit).saturating_mul(SPAN).min(IDENTIFIERS as usize)
    }

    /// Messages not completely acknowledged.
    pub fn open(&self) -> u16 {
        self.open
    }

    /// Bytes of the messages that are kept until they are acknowledged.
    #[inline]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// The same, computed from scratch. For checks.
    pub fn count_kept(&self) -> usize {
        self.run.iter().map(InFlight::bytes).sum()
    }

    /// True when nothing awaits an acknowledgement.
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Assigns the next identifier to a message of QoS 1 or 2. `queued` is kept for redelivery, and
    /// is `None` when the session ends with its connection. The caller must have checked
    /// [`Self::has_room`].
    pub fn send(&mut self, qos: Qos, queued: Option<Queued>) -> PacketId {
        let awaits = if qos == Qos::AtLeastOnce { Awaits::PubAck } else { Awaits::PubRec };
        let id = self.id_at(self.run.len());
        self.kept += queued.as_ref().map_or(0, |queued| queued.message.size());
        let stored = queued.as_ref().map_or(0, |queued| queued.stored);
        self.run.push_back(InFlight { queued, awaits, again: false, stored });
        self.open += 1;
        id
    }

    /// The first identifier, and of it and each following one: what is awaited as a number, whether
    /// it is to be sent again, the message, and its number in the store. For [`Self::of_places`].
    pub fn places(&self) -> (u16, impl Iterator<Item = (u8, bool, Option<&Queued>, u32)>) {
        let place = |sent: &'_ InFlight| (sent.awaits as u8, sent.again, sent.stored);
        let places = self.run.iter().map(move |sent| {
            let (awaits, again, stored) = place(sent);
            (awaits, again, sent.queued.as_ref(), stored)
        });
        (self.first, places)
    }

    /// The window with these places.
    pub fn of_places(
        first: u16,
        places: impl Iterator<Item = (u8, bool, Option<Queued>, u32)>,
    ) -> Window {
        let mut window = Window { first: first.max(1), ..Window::default() };
        for (awaits, again, queued, stored) in places {
            let awaits = match awaits {
                1 => Awaits::PubAck,
                2 => Awaits::PubRec,
                3 => Awaits::PubComp,
                _ => Awaits::Nothing,
            };
            let again = again && queued.is_some();
            window.open += u16::from(awaits != Awaits::Nothing);
            window.again += u16::from(again);
            window.kept += queued.as_ref().map_or(0, |queued| queued.message.size());
            window.run.push_back(InFlight { queued, awaits, again, stored });
        }
        window.trim();
        window
    }

    /// Restores what a restart of the broker interrupted, in the order in which it was sent: each
    /// message under its identifier, or only its number in the store for a message whose PUBREL is
    /// due.
    pub fn restore(&mut self, sent: Vec<(PacketId, Result<Queued, u32>)>) {
        let Some((first, _)) = sent.first() else { return };
        self.first = first.get();
        for (id, what) in sent {
            let place = u32::from(id.get()) + IDENTIFIERS - u32::from(self.first);
            let place = (place % IDENTIFIERS) as usize;
            let nothing =
                || InFlight { queued: None, awaits: Awaits::Nothing, again: false, stored: 0 };
            if place < self.run.len() {
                continue; // an identifier is in use once
            }
            self.run.resize_with(place, nothing);
            let (queued, stored) = match what {
                Ok(queued) => (Some(queued), 0),
                Err(stored) => (None, stored),
            };
            let stored = queued.as_ref().map_or(stored, |queued| queued.stored);
            let awaits = match queued.as_ref().map(|queued| queued.qos) {
                None => Awaits::PubComp,
                Some(Qos::ExactlyOnce) => Awaits::PubRec,
                Some(_) => Awaits::PubAck,
            };
            self.kept += queued.as_ref().map_or(0, |queued| queued.message.size());
            self.run.push_back(InFlight { queued, awaits, again: false, stored });
            self.open += 1;
        }
    }

    /// The numbers of stored messages that were completed or dropped since the last call.
    pub fn take_gone(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.gone)
    }

    /// The number in the store of the message with that identifier; 0 for none.
    pub fn stored(&self, id: PacketId) -> u32 {
        self.find(id).map_or(0, |at| self.run[at].stored)
    }

    /// Calls `look` with the number of every stored message.
    pub fn each_stored(&self, look: impl FnMut(u32)) {
        self.run.iter().map(|sent| sent.stored).filter(|&stored| stored != 0).for_each(look);
    }

    /// Gives every stored message another number, 0 for none: what `number` says of those that
    /// another member of their share group may get, and 0 for the others.
    pub fn renumber(&mut self, number: &mut dyn FnMut(&Queued) -> u32) {
        for sent in &mut self.run {
            sent.stored = 0;
            let Some(queued) = &mut sent.queued else { continue };
            let moves = sent.awaits == Awaits::PubAck && queued.share.is_some();
            queued.stored = if moves { number(queued) } else { 0 };
            sent.stored = queued.stored;
        }
    }

    /// Handles a PUBACK.
    pub fn puback(&mut self, id: PacketId) -> Acknowledged {
        self.acknowledge(id, Awaits::PubAck, Awaits::Nothing)
    }

    /// Handles a PUBREC. With a reason code of failure the message is complete [MQTT-4.3.3-4].
    pub fn pubrec(&mut self, id: PacketId, accepted: bool) -> Acknowledged {
        if let Some(at) = self.find(id)
            && self.run[at].awaits == Awaits::PubComp
        {
            // The PUBREL for this PUBREC was sent before. The client has reconnected, so it is sent
            // again.
            return Acknowledged::Release;
        }
        self.acknowledge(
            id,
            Awaits::PubRec,
            if accepted { Awaits::PubComp } else { Awaits::Nothing },
        )
    }

    /// Handles a PUBCOMP.
    pub fn pubcomp(&mut self, id: PacketId) -> Acknowledged {
        self.acknowledge(id, Awaits::PubComp, Awaits::Nothing)
    }

    /// Marks every unanswered PUBLISH to be sent again by [`Self::next_again`], in the original
    /// order [MQTT-4.6.0-1]. Returns the identifiers whose PUBREL has to be sent again
    /// [MQTT-4.4.0-1]. Messages that were not kept stay as they are.
    pub fn repeat(&mut self) -> Vec<PacketId> {
        let mut releases = Vec::new();
        self.again_from = 0;
        for at in 0..self.run.len() {
            let id = self.id_at(at);
            let sent = &mut self.run[at];
            match sent.awaits {
                Awaits::PubComp if Mutant::PubRelNotRepeated.is_on() => {}
                Awaits::PubComp => releases.push(id),
                Awaits::PubAck | Awaits::PubRec if sent.queued.is_some() && !sent.again => {
                    sent.again = true;
                    self.again += 1;
                }
                _ => {}
            }
        }
        releases
    }

    /// True when some message is still to be sent again.
    pub fn has_again(&self) -> bool {
        self.again > 0
    }

    /// Returns the next message to send again, with DUP set [MQTT-3.3.1-1], if `limit` allows one
    /// more on this connection [MQTT-3.3.4-9].
    pub fn next_again(&mut self, limit: u16) -> Option<(PacketId, Queued)> {
        if self.again == 0 || self.open - self.again >= limit {
            return None;
        }
        // Continues after the last one, so that sending a whole run again looks at each entry once.
        let from = self.again_from;
        let mut at = from + self.run.range(from..).position(|sent| sent.again)?;
        self.again_from = at;
        if Mutant::RedeliveryReversed.is_on() {
            at = self.run.iter().rposition(|sent| sent.again)?;
        }
        let id = self.id_at(at);
        let sent = &mut self.run[at];
        sent.again = false;
        self.again -= 1;
        Some((id, sent.queued.clone()?))
    }

    /// Handles a message that cannot be sent again on this connection. With QoS 1 it is complete.
    /// With QoS 2 the client may hold it and wait for its release, so PUBREL is sent.
    pub fn skip(&mut self, id: PacketId) -> Acknowledged {
        match self.find(id).map(|at| self.run[at].awaits) {
            Some(Awaits::PubAck) => self.puback(id),
            Some(Awaits::PubRec) => self.pubrec(id, true),
            _ => Acknowledged::Unknown,
        }
    }

    /// Completes the messages that were not kept, and those of QoS 1 for which `over` says that
    /// they have expired. Returns how many. QoS 2 messages do not expire once they were sent
    /// [MQTT-4.3.3-7]: the client may hold the message, and would take the next message with that
    /// identifier for a repetition.
    pub fn abandon(&mut self, mut over: impl FnMut(&Queued) -> bool) -> u32 {
        let mut abandoned = 0;
        for sent in &mut self.run {
            let over = match (sent.awaits, &sent.queued) {
                (Awaits::PubAck | Awaits::PubRec, None) => true,
                (Awaits::PubAck, Some(queued)) => over(queued),
                _ => false,
            };
            if over {
                self.again -= u16::from(sent.again);
                self.kept -= sent.bytes();
                note_gone(&mut self.gone, sent.stored);
                *sent = InFlight { queued: None, awaits: Awaits::Nothing, again: false, stored: 0 };
                self.open -= 1;
                abandoned += 1;
            }
        }
        self.trim();
        abandoned
    }

    /// True when it contains a message of a share group. Looks at all messages.
    pub fn has_shares(&self) -> bool {
        self.run.iter().any(|sent| sent.queued.as_ref().is_some_and(|q| q.share.is_some()))
    }

    /// Makes messages of share groups the session's own.
    pub fn forget_shares(&mut self) {
        self.run.iter_mut().filter_map(|sent| sent.queued.as_mut()).for_each(|q| q.share = None);
    }

    /// Removes and returns the oldest message of a window whose session has ended. `None` when none
    /// is left.
    pub fn dissolve(&mut self) -> Option<Unfinished> {
        loop {
            let sent = self.run.pop_front()?;
            self.kept -= sent.bytes();
            let InFlight { queued, awaits, again, .. } = sent;
            self.again -= u16::from(again);
            if awaits == Awaits::Nothing {
                continue;
            }
            self.open -= 1;
            return Some(match queued {
                Some(queued) if awaits == Awaits::PubAck || Mutant::ShareQos2Moves.is_on() => {
                    Unfinished::Unacknowledged(queued)
                }
                _ => Unfinished::Begun,
            });
        }
    }

    fn acknowledge(&mut self, id: PacketId, expected: Awaits, next: Awaits) -> Acknowledged {
        let Some(at) = self.find(id) else { return Acknowledged::Unknown };
        let sent = &mut self.run[at];
        if sent.awaits == Awaits::Nothing {
            return Acknowledged::Unknown;
        }
        if sent.awaits != expected {
            return Acknowledged::WrongKind;
        }
        sent.awaits = next;
        self.kept -= sent.bytes();
        sent.queued = None;
        self.again -= u16::from(std::mem::take(&mut sent.again));
        if next == Awaits::PubComp {
            if Mutant::ReleasedAtPubRec.is_on() {
                (sent.awaits, self.open) = (Awaits::Nothing, self.open - 1);
            }
            return Acknowledged::Release;
        }
        note_gone(&mut self.gone, std::mem::take(&mut sent.stored));
        self.open -= 1;
        self.trim();
        Acknowledged::Complete
    }

    fn trim(&mut self) {
        while self.run.front().is_some_and(|sent| sent.awaits == Awaits::Nothing) {
            self.run.pop_front();
            self.again_from = self.again_from.saturating_sub(1);
            self.first = if self.first == u16::MAX { 1 } else { self.first + 1 };
        }
    }

    fn find(&self, id: PacketId) -> Option<usize> {
        let (id, first) = (u32::from(id.get()), u32::from(self.first));
        let at = (id + IDENTIFIERS - first) % IDENTIFIERS;
        ((at as usize) < self.run.len()).then_some(at as usize)
    }

    fn id_at(&self, at: usize) -> PacketId {
        let id = (u32::from(self.first) - 1 + at as u32) % IDENTIFIERS + 1;
        PacketId::new(id as u16).expect("1 to 65,535")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).unwrap()
    }

    #[test]
    fn identifiers_run_on_and_wrap_without_zero() {
        let mut window = Window::default();
        for round in 0..200_000u32 {
            let expected = (round % 65_535 + 1) as u16;
            assert_eq!(window.send(Qos::AtLeastOnce, None).get(), expected);
            assert_eq!(window.puback(id(expected)), Acknowledged::Complete);
        }
        assert!(window.is_empty());
    }

    #[test]
    fn an_identifier_is_not_reused_while_it_is_open() {
        let mut window = Window::default();
        let stuck = window.send(Qos::AtLeastOnce, None);
        let mut sent = 0;
        while window.has_room(10) {
            let next = window.send(Qos::AtLeastOnce, None);
            assert_ne!(next, stuck);
            assert_eq!(window.puback(next), Acknowledged::Complete);
            sent += 1;
        }
        assert_eq!(sent, 10 * SPAN - 1);
        assert_eq!(window.puback(stuck), Acknowledged::Complete);
        assert!(window.has_room(10));
    }

    #[test]
    fn qos_2_goes_through_release_and_rejects_the_wrong_kind() {
        let mut window = Window::default();
        let first = window.send(Qos::ExactlyOnce, None);
        assert_eq!(window.puback(first), Acknowledged::WrongKind);
        assert_eq!(window.pubcomp(first), Acknowledged::WrongKind);
        assert_eq!(window.pubrec(first, true), Acknowledged::Release);
        assert_eq!(window.pubrec(first, true), Acknowledged::Release);
        assert_eq!(window.repeat(), [first]);
        assert_eq!(window.pubcomp(first), Acknowledged::Complete);
        assert_eq!(window.pubcomp(first), Acknowledged::Unknown);
        let second = window.send(Qos::ExactlyOnce, None);
        assert_eq!(window.pubrec(second, false), Acknowledged::Complete);
        assert!(window.is_empty());
    }

    #[test]
    fn a_window_that_is_dissolved_gives_qos_1_back_in_its_order_and_nothing_of_qos_2() {
        let queued = |qos| {
            let message = crate::message::MessageRef {
                topic: "t",
                properties: &[],
                payload: b"x",
                qos,
                retain: false,
                expires: None,
                publisher: None,
            };
            let message = crate::message::Message::new(&message, &mut Vec::new());
            let subscription_ids = super::super::SubscriptionIds::None;
            Some(Queued { message, subscription_ids, qos, retain: false, share: None, stored: 0 })
        };
        let mut window = Window::default();
        let (one, two) = (Qos::AtLeastOnce, Qos::ExactlyOnce);
        let ids = [one, one, two, two, one].map(|qos| window.send(qos, queued(qos)));
        window.send(one, None);
        assert_eq!(window.puback(ids[1]), Acknowledged::Complete);
        assert_eq!(window.pubrec(ids[3], true), Acknowledged::Release);
        window.repeat();
        let left: Vec<bool> = std::iter::from_fn(|| window.dissolve())
            .map(|left| matches!(left, Unfinished::Unacknowledged(_)))
            .collect();
        assert_eq!(left, [true, false, false, true, false]);
        assert!(window.is_empty() && !window.has_again());
    }

    proptest::proptest! {
        #[test]
        fn the_window_behaves_like_a_map_of_open_identifiers(
            steps in proptest::collection::vec((0u8..4, 0u16..40), 0..400)
        ) {
            let mut window = Window::default();
            let mut model = std::collections::BTreeMap::new();
            for (step, pick) in steps {
                match step {
                    0 | 1 if window.has_room(20) => {
                        let qos = if step == 0 { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
                        let new = window.send(qos, None);
                        proptest::prop_assert!(model.insert(new.get(), (qos, false)).is_none());
                    }
                    2 | 3 => {
                        let Some(&key) = model.keys().nth(usize::from(pick) % model.len().max(1))
                        else {
                            continue;
                        };
                        match model[&key] {
                            (Qos::AtLeastOnce, _) => {
                                proptest::prop_assert_eq!(
                                    window.puback(id(key)), Acknowledged::Complete);
                                model.remove(&key);
                            }
                            (_, false) => {
                                proptest::prop_assert_eq!(
                                    window.pubrec(id(key), true), Acknowledged::Release);
                                model.insert(key, (Qos::ExactlyOnce, true));
                            }
                            (_, true) => {
                                proptest::prop_assert_eq!(
                                    window.pubcomp(id(key)), Acknowledged::Complete);
                                model.remove(&key);
                            }
                        }
                    }
                    _ => {}
                }
                proptest::prop_assert_eq!(usize::from(window.open()), model.len());
            }
        }
    }
}
