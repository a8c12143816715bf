//! The state of one client, which may outlive its connections: who the client is, what it has
//! subscribed to, what is in flight, and what is waiting.
//!
//! This module owns [`Session`] and its parts. A session lives on the home shard of its ClientId
//! and nowhere else. It does not know sockets, shards or routing: the shard moves the bytes, and
//! the session gives them their meaning.

pub mod away;
pub mod backlog;
pub mod flow;
pub mod inbound;
pub mod pending;
mod replays;
pub mod share;
mod subscription_slots;
pub mod window;

pub use away::AwayMessage;
pub use backlog::Backlog;
pub use flow::Flow;
pub use inbound::Inbound;
pub use pending::{Pending, Pushed};
pub use replays::{Replay, Replays};
pub use share::{Membership, ShareName, Shares};
pub use subscription_slots::SubscriptionSlots;
pub use window::{Acknowledged, Window};

use crate::access::Grant;
use crate::ids::{ClientKey, SocketId};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::packet::{Qos, Version};
use crate::text::CompactText;
use crate::time::Instant;
use crate::topic::FilterId;

/// The time in milliseconds between two removals of expired messages from the queue of one offline
/// session.
const EXPIRY_REST: u64 = 1000;
/// The Session Expiry Interval that means "never" [MQTT5 3.1.2.11.2].
pub const NEVER: u32 = u32::MAX;

/// A client's session.
pub struct Session {
    /// The client's identifier. Unique on this shard and, through placement, in the broker.
    pub client_id: CompactText,
    /// The hash of the identifier.
    pub key: ClientKey,
    /// Its subscriptions. Shared subscriptions are in `extras`.
    pub subscriptions: ClientSubscriptions,
    /// Its window and queues; `None` while nothing is in flight.
    pub flow: Option<Box<Flow>>,
    /// The Will Message of the current connection, or the one waiting for its delay.
    pub will: Option<Box<SessionWill>>,
    /// What few clients have.
    pub extras: Option<Box<Extras>>,
    /// See [`Session::ends`].
    ends: CompactInstant,
    /// See [`Session::armed`].
    armed: CompactInstant,
    /// See [`Session::socket`].
    socket: u32,
    /// Where it is stored, if it is.
    pub stored: StoredSessionRef,
    /// The Session Expiry Interval in seconds. With 0 the session ends with its connection, with
    /// [`NEVER`] it never ends.
    pub expiry: u32,
    /// The client's Maximum Packet Size in bytes; `u32::MAX` when it set none.
    pub maximum_packet_size: u32,
    /// The largest number of QoS 1 and 2 messages that may be unacknowledged by the client.
    pub window_limit: u16,
    /// The protocol version of the last connection.
    pub version: Version,
    /// Whether the client wants reason strings and user properties on failures [MQTT-3.1.2-29].
    pub problem_information: bool,
    /// The last connection was that of a mosquitto bridge that uses MQTT 3. Its subscriptions are
    /// treated as No Local and Retain As Published, which it has no other way to request.
    pub bridge: bool,
    /// When the last connection began.
    pub connected: Since,
}

// This size is multiplied by a million clients.
const _: () = assert!(size_of::<Session>() == 104);

/// The number that stands for no socket.
const NO_SOCKET: u32 = u32::MAX;

impl Session {
    /// A new session of the client with that identifier, whose hash is `key`.
    pub fn new(client_id: &str, key: ClientKey) -> Session {
        Session {
            client_id: client_id.into(),
            key,
            subscriptions: ClientSubscriptions::None,
            flow: None,
            will: None,
            extras: None,
            ends: CompactInstant::of(Instant::END),
            armed: CompactInstant::of(Instant(0)),
            socket: NO_SOCKET,
            stored: StoredSessionRef::default(),
            expiry: 0,
            maximum_packet_size: u32::MAX,
            window_limit: 1,
            version: Version::V311,
            problem_information: true,
            bridge: false,
            connected: Since::default(),
        }
    }

    /// The socket of the connection, while there is one.
    #[inline]
    pub fn socket(&self) -> Option<SocketId> {
        (self.socket != NO_SOCKET).then_some(SocketId(self.socket))
    }

    /// Changes it.
    pub fn set_socket(&mut self, socket: Option<SocketId>) {
        self.socket = socket.map_or(NO_SOCKET, |SocketId(number)| number);
    }

    /// While the client is offline: when the session ends. [`Instant::END`] while it is online, and
    /// for [`NEVER`].
    pub fn ends(&self) -> Instant {
        self.ends.instant()
    }

    /// Changes it, to that time or up to four milliseconds later.
    pub fn set_ends(&mut self, ends: Instant) {
        self.ends = CompactInstant::of(ends);
    }

    /// The deadline of the earliest entry that the timing wheel has for this session; 0 for none.
    pub fn armed(&self) -> Instant {
        self.armed.instant()
    }

    /// Changes it, to that time or up to four milliseconds later.
    pub fn set_armed(&mut self, deadline: Instant) {
        self.armed = CompactInstant::of(deadline);
    }

    /// When an offline session next has something to do: its will is due, the session ends, or
    /// messages expire.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self.will.as_ref().and_then(|will| will.due);
        let ends = Some(self.ends()).filter(|&ends| ends != Instant::END);
        [ends, due, self.expiry_due()].into_iter().flatten().min()
    }

    /// When expired messages are removed from the queue of an offline session. This is a little
    /// late on purpose, so that messages which expire one after the other do not need a timer each.
    pub fn expiry_due(&self) -> Option<Instant> {
        let earliest = self.flow.as_ref()?.pending.next_expiry()?;
        Some(earliest.plus_millis(EXPIRY_REST)).filter(|_| !Mutant::ExpiredNotSwept.is_on())
    }

    /// True when the session has ended and its last subscriptions are being removed. Nothing is
    /// delivered to it any more.
    #[inline]
    pub fn is_ending(&self) -> bool {
        self.socket == NO_SOCKET && self.expiry == 0
    }

    /// True when the session outlives its connection.
    pub fn is_persistent(&self) -> bool {
        self.expiry > 0
    }

    /// The flow state, created if there is none.
    pub fn flow(&mut self) -> &mut Flow {
        self.flow.get_or_insert_with(Box::default)
    }

    /// The rarely needed parts, created if there are none.
    pub fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_with(Box::default)
    }

    /// Whether it is a member of that share group.
    pub fn is_member(&self, name: &ShareName) -> bool {
        self.shares().is_some_and(|shares| shares.list.get(name).is_some())
    }

    /// Memberships in share groups, if there are any.
    pub fn shares(&self) -> Option<&Shares> {
        self.extras.as_ref()?.shares.as_deref()
    }

    /// The same, to change.
    pub fn shares_mut(&mut self) -> Option<&mut Shares> {
        self.extras.as_mut()?.shares.as_deref_mut()
    }

    /// How many share groups it is a member of.
    pub fn shared(&self) -> usize {
        self.shares().map_or(0, |shares| shares.list.len())
    }

    /// What the client is allowed to do, if that is known.
    #[inline]
    pub fn grant(&self) -> Option<&Grant> {
        self.extras.as_ref()?.grant.as_deref()
    }

    /// The prefix that the listener adds to this client's topics; empty for none.
    pub fn mountpoint(&self) -> &str {
        self.extras.as_ref().map_or("", |extras| &extras.mountpoint)
    }

    /// The name by which the client knows a topic. `None` for a topic that is not below its
    /// mountpoint: `dev` and `dev/` are not below `dev/`, although `dev/#` matches both.
    #[inline]
    pub fn unmounted<'a>(&self, topic: &'a str) -> Option<&'a str> {
        match &self.extras {
            None => Some(topic),
            Some(extras) => topic.strip_prefix(&*extras.mountpoint).filter(|own| !own.is_empty()),
        }
    }
}

/// A session's place in the store.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StoredSessionRef {
    /// 48 bits, of which keys of records have 44.
    number: [u16; 3],
    slot: [u16; 2],
}

impl StoredSessionRef {
    /// The session with that number in the store, where `slot` is that of the last message that
    /// waited for it.
    pub fn new(number: u64, slot: u32) -> StoredSessionRef {
        StoredSessionRef {
            number: [number as u16, (number >> 16) as u16, (number >> 32) as u16],
            slot: [slot as u16, (slot >> 16) as u16],
        }
    }

    /// Its number in the store; `None` while it is not stored.
    #[inline]
    pub fn number(self) -> Option<u64> {
        let [low, middle, high] = self.number.map(u64::from);
        Some(low | middle << 16 | high << 32).filter(|&number| number != 0)
    }

    /// The slot of the last message that waited for it.
    #[inline]
    pub fn slot(self) -> u32 {
        let [low, high] = self.slot.map(u32::from);
        low | high << 16
    }

    /// The slot of one more message.
    pub fn next_slot(&mut self) -> u32 {
        let slot = self.slot().checked_add(1).unwrap_or(1);
        self.slot = [slot as u16, (slot >> 16) as u16];
        slot
    }
}

/// A time in five bytes, rounded up to a multiple of four milliseconds. It reaches 139 years beyond
/// the broker's start, three more than the longest Session Expiry Interval; what is later is the
/// end of time.
#[derive(Clone, Copy)]
struct CompactInstant([u8; 5]);

impl CompactInstant {
    /// Milliseconds of one unit.
    const UNIT: u64 = 4;
    const END: u64 = (1 << 40) - 1;

    fn of(at: Instant) -> CompactInstant {
        let [a, b, c, d, e, ..] = at.0.div_ceil(Self::UNIT).min(Self::END).to_le_bytes();
        CompactInstant([a, b, c, d, e])
    }

    fn instant(self) -> Instant {
        let [a, b, c, d, e] = self.0;
        match u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]) {
            Self::END => Instant::END,
            units => Instant(units * Self::UNIT),
        }
    }
}

/// When something began, in three bytes: to within four seconds, within two years of the broker's
/// start. What began later than that, or not at all, has no time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Since([u8; 3]);

impl Since {
    /// Milliseconds of one unit.
    const UNIT: u64 = 4000;

    /// At this time.
    pub fn at(now: Instant) -> Since {
        let units = (now.0 / Since::UNIT).saturating_add(1);
        let [a, b, c, rest @ ..] = units.to_le_bytes();
        if rest == [0; 5] { Since([a, b, c]) } else { Since::default() }
    }

    /// The time, rounded down.
    pub fn instant(self) -> Option<Instant> {
        let [a, b, c] = self.0;
        let units = u64::from(u32::from_le_bytes([a, b, c, 0]));
        units.checked_sub(1).map(|units| Instant(units * Since::UNIT))
    }
}

/// What few clients have.
#[derive(Default)]
pub struct Extras {
    /// The topic prefix of the listener with its placeholders replaced; empty for none.
    pub mountpoint: Box<str>,
    /// Memberships in share groups; `None` while there are none.
    pub shares: Option<Box<Shares>>,
    /// What the client of the last connection is allowed to do; `None` when everybody may do
    /// everything.
    pub grant: Option<Box<Grant>>,
}

/// The Will Message and when it is due.
#[derive(Clone)]
pub struct SessionWill {
    /// The message, mountpoint included.
    pub message: Message,
    /// Will Delay Interval in seconds.
    pub delay: u32,
    /// Its Message Expiry Interval, which starts when the will is published.
    pub message_expiry: Option<u32>,
    /// When the will is published. Set when the connection has ended and the delay starts.
    pub due: Option<Instant>,
    /// Whether it was read back from the store: another node of a cluster may have sent it.
    pub restored: bool,
}

/// A message on its way to one client: what is sent, and how.
#[derive(Clone)]
pub struct Queued {
    /// The message.
    pub message: Message,
    /// Subscription Identifiers of the matching subscriptions [MQTT-3.3.4-3].
    pub subscription_ids: SubscriptionIds,
    /// QoS of this delivery: the lower of publication and subscription [MQTT-3.8.4-8].
    pub qos: Qos,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// The share group that picked this client for it.
    pub share: Option<ShareName>,
    /// Its number in the store, unique within the session; 0 while it is not stored.
    pub stored: u32,
}

// The overhead of each message that waits for a client or for its acknowledgement.
const _: () = assert!(size_of::<Queued>() <= 40);

/// Zero, one or several Subscription Identifiers.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub enum SubscriptionIds {
    /// None.
    #[default]
    None,
    /// One.
    One(u32),
    /// Several. This is rare, so it must not enlarge the other cases.
    Many(Box<Box<[u32]>>),
}

impl SubscriptionIds {
    /// From identifiers, 0 meaning none.
    pub fn from_slice(ids: &[u32]) -> Self {
        match ids {
            [] | [0] => SubscriptionIds::None,
            [one] => SubscriptionIds::One(*one),
            many => SubscriptionIds::Many(Box::new(many.into())),
        }
    }

    /// As a slice.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            SubscriptionIds::None => &[],
            SubscriptionIds::One(one) => std::slice::from_ref(one),
            SubscriptionIds::Many(many) => many,
        }
    }
}

/// One subscription, as its position in the shard's index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubscriptionSlot {
    /// The filter.
    pub filter: FilterId,
    /// Position in the filter's list of subscribers.
    pub position: u32,
}

/// Beyond this many, the subscriptions of a client are found by hash instead of by linear search.
const FEW: usize = 32;

/// A client's subscriptions. One is held inline: most device clients have one.
#[derive(Default)]
pub enum ClientSubscriptions {
    /// None.
    #[default]
    None,
    /// One.
    One(SubscriptionSlot),
    /// Several; the boxed vector keeps the session small.
    #[allow(clippy::box_collection)]
    Few(Box<Vec<SubscriptionSlot>>),
    /// Many.
    Many(Box<SubscriptionSlots>),
}

impl ClientSubscriptions {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            ClientSubscriptions::None => 0,
            ClientSubscriptions::One(_) => 1,
            ClientSubscriptions::Few(few) => few.len(),
            ClientSubscriptions::Many(many) => many.len(),
        }
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Position of this client's entry in the filter's list.
    pub fn position(&self, filter: FilterId) -> Option<u32> {
        match self {
            ClientSubscriptions::None => None,
            ClientSubscriptions::One(place) => (place.filter == filter).then_some(place.position),
            ClientSubscriptions::Few(few) => {
                few.iter().find(|place| place.filter == filter).map(|place| place.position)
            }
            ClientSubscriptions::Many(many) => many.position(filter),
        }
    }

    /// Calls `look` with every slot, in no particular order.
    pub fn each(&self, mut look: impl FnMut(SubscriptionSlot)) {
        match self {
            ClientSubscriptions::None => {}
            ClientSubscriptions::One(place) => look(*place),
            ClientSubscriptions::Few(few) => few.iter().for_each(|&place| look(place)),
            ClientSubscriptions::Many(many) => many.all().iter().for_each(|&place| look(place)),
        }
    }

    /// The slot at that position of the client's list, whose order changes when slots go.
    pub fn nth(&self, at: usize) -> Option<SubscriptionSlot> {
        match self {
            ClientSubscriptions::None => None,
            ClientSubscriptions::One(place) => Some(*place).filter(|_| at == 0),
            ClientSubscriptions::Few(few) => few.get(at).copied(),
            ClientSubscriptions::Many(many) => many.all().get(at).copied(),
        }
    }

    /// Adds a slot, or changes the position of an existing one.
    pub fn set(&mut self, place: SubscriptionSlot) {
        match self {
            ClientSubscriptions::None => *self = ClientSubscriptions::One(place),
            ClientSubscriptions::One(one) if one.filter == place.filter => *one = place,
            ClientSubscriptions::One(one) => {
                *self = ClientSubscriptions::Few(Box::new(vec![*one, place]));
            }
            ClientSubscriptions::Few(few) => {
                if let Some(known) = few.iter_mut().find(|known| known.filter == place.filter) {
                    *known = place;
                } else if few.len() < FEW {
                    few.push(place);
                } else {
                    few.push(place);
                    let mut many = Box::<SubscriptionSlots>::default();
                    few.iter().for_each(|&place| many.set(place));
                    *self = ClientSubscriptions::Many(many);
                }
            }
            ClientSubscriptions::Many(many) => many.set(place),
        }
    }

    /// Removes a slot and returns its position.
    pub fn remove(&mut self, filter: FilterId) -> Option<u32> {
        match self {
            ClientSubscriptions::None => None,
            ClientSubscriptions::One(place) if place.filter == filter => {
                let position = place.position;
                *self = ClientSubscriptions::None;
                Some(position)
            }
            ClientSubscriptions::One(_) => None,
            ClientSubscriptions::Few(few) => {
                let at = few.iter().position(|place| place.filter == filter)?;
                let position = few.swap_remove(at).position;
                if few.is_empty() {
                    *self = ClientSubscriptions::None;
                }
                Some(position)
            }
            ClientSubscriptions::Many(many) => {
                let position = many.remove(filter)?;
                if many.is_empty() {
                    *self = ClientSubscriptions::None;
                }
                Some(position)
            }
        }
    }

    /// All slots.
    pub fn all(&self) -> Vec<SubscriptionSlot> {
        match self {
            ClientSubscriptions::None => Vec::new(),
            ClientSubscriptions::One(place) => vec![*place],
            ClientSubscriptions::Few(few) => few.to_vec(),
            ClientSubscriptions::Many(many) => many.all().to_vec(),
        }
    }

    /// Any one slot. Used to remove all of them one by one, in one step or over several; others may
    /// change their position in between.
    pub fn any(&self) -> Option<SubscriptionSlot> {
        match self {
            ClientSubscriptions::None => None,
            ClientSubscriptions::One(place) => Some(*place),
            ClientSubscriptions::Few(few) => few.last().copied(),
            ClientSubscriptions::Many(many) => many.all().last().copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compact_time_is_never_earlier_and_hardly_later() {
        for millis in [0, 1, 4, 5, 1_000_003, u64::from(u32::MAX) * 1000 + 86_400_000] {
            let Instant(kept) = CompactInstant::of(Instant(millis)).instant();
            assert!((millis..millis + 4).contains(&kept), "{millis} became {kept}");
            assert_eq!(CompactInstant::of(Instant(kept)).instant(), Instant(kept));
        }
        assert_eq!(CompactInstant::of(Instant::END).instant(), Instant::END);
        assert_eq!(CompactInstant::of(Instant(u64::MAX - 1)).instant(), Instant::END);
    }

    #[test]
    fn a_place_in_the_store_has_its_number_and_counts_slots() {
        assert_eq!(StoredSessionRef::default().number(), None);
        for (number, slot) in [(1, 0), (0x0102_0304_0506, 0x0708_090a), ((1 << 44) - 1, u32::MAX)] {
            let mut stored = StoredSessionRef::new(number, slot);
            assert_eq!((stored.number(), stored.slot()), (Some(number), slot));
            let next = slot.checked_add(1).unwrap_or(1);
            assert_eq!((stored.next_slot(), stored.slot()), (next, next));
            assert_eq!(stored.number(), Some(number));
        }
    }
}
