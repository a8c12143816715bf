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
    pub client_id: Box<str>,
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
    /// While the client is offline: when the session ends. `Instant::END` while it is online, and
    /// for [`NEVER`].
    pub ends: Instant,
    /// The deadline of the earliest entry that the timing wheel has for this session; 0 for none.
    pub armed: Instant,
    /// The socket of the connection, while there is one.
    pub socket: Option<SocketId>,
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
const _: () = assert!(size_of::<Session>() <= 136);

impl Session {
    /// When an offline session next has something to do: its will is due, the session ends, or
    /// messages expire.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self.will.as_ref().and_then(|will| will.due);
        let ends = (self.ends != Instant::END).then_some(self.ends);
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
        self.socket.is_none() && self.expiry == 0
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
