//! One client's state, which may outlive its connections: who it is, what it subscribed to, what
//! is in flight and what waits.
//!
//! Owns [`Session`] and its parts. Lives on the ClientId's home shard and nowhere else. It does not
//! know sockets, shards or routing: the shard moves bytes, this says what they mean.

pub mod flow;
pub mod inbound;
pub mod pending;
mod replays;
pub mod share;
mod subscription_slots;
pub mod window;

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

/// Milliseconds between two rounds of taking expired messages out of one offline session's queue.
const EXPIRY_REST: u64 = 1000;
/// Session Expiry Interval that means never [MQTT5 3.1.2.11.2].
pub const NEVER: u32 = u32::MAX;

/// A client's session.
pub struct Session {
    /// The client's name; unique on this shard and, by placement, in the broker.
    pub client_id: Box<str>,
    /// The name's hash.
    pub key: ClientKey,
    /// What it subscribed to (shared subscriptions are in `extras`).
    pub subscriptions: Subscriptions,
    /// Windows and queues; `None` while nothing is in flight.
    pub flow: Option<Box<Flow>>,
    /// The Will Message of the current connection, or the one waiting for its delay.
    pub will: Option<Box<Will>>,
    /// What few clients have.
    pub extras: Option<Box<Extras>>,
    /// While offline: when the session ends. The end of time while online or for [`NEVER`].
    pub ends: Instant,
    /// Deadline of the earliest wheel entry for it; 0 for none.
    pub armed: Instant,
    /// The connection, while there is one.
    pub socket: Option<SocketId>,
    /// Session Expiry Interval in seconds; 0 ends with the connection, [`NEVER`] never.
    pub expiry: u32,
    /// The client's Maximum Packet Size in bytes; `u32::MAX` when it set none.
    pub maximum_packet_size: u32,
    /// Most QoS 1 and 2 messages unacknowledged towards the client.
    pub window_limit: u16,
    /// Protocol of the last connection.
    pub version: Version,
    /// Whether the client wants reason strings and user properties on failures [MQTT-3.1.2-29].
    pub problem_information: bool,
    /// The last connection was that of a mosquitto bridge of version 3, whose subscriptions are No
    /// Local and Retain As Published, which it has no other way to ask for.
    pub bridge: bool,
}

// What a million clients multiply.
const _: () = assert!(size_of::<Session>() <= 136);

impl Session {
    /// When an offline session has something to do next: its will's delay, its end, or messages
    /// that expire.
    pub fn next_due(&self) -> Option<Instant> {
        let due = self.will.as_ref().and_then(|will| will.due);
        let ends = (self.ends != Instant::END).then_some(self.ends);
        [ends, due, self.expiry_due()].into_iter().flatten().min()
    }

    /// When expired messages are to be taken out of an offline session's queue. A little late, so
    /// that messages that expire one after the other do not cost a timer each.
    pub fn expiry_due(&self) -> Option<Instant> {
        let earliest = self.flow.as_ref()?.pending.next_expiry()?;
        Some(earliest.plus_millis(EXPIRY_REST)).filter(|_| !Mutant::ExpiredNotSwept.is_on())
    }

    /// True when the session has ended and its last subscriptions are being taken out: nothing is
    /// delivered to it.
    #[inline]
    pub fn is_ending(&self) -> bool {
        self.socket.is_none() && self.expiry == 0
    }

    /// True when the session outlives its connection.
    pub fn is_persistent(&self) -> bool {
        self.expiry > 0
    }

    /// The flow state, made when there is none.
    pub fn flow(&mut self) -> &mut Flow {
        self.flow.get_or_insert_with(Box::default)
    }

    /// The rare parts, made when there are none.
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

    /// What the client was let in with, if that is known.
    #[inline]
    pub fn grant(&self) -> Option<&Grant> {
        self.extras.as_ref()?.grant.as_deref()
    }

    /// The prefix that the listener puts before this client's topics; empty for none.
    pub fn mountpoint(&self) -> &str {
        self.extras.as_ref().map_or("", |extras| &extras.mountpoint)
    }

    /// What the client calls that topic; `None` for one that is not below its mountpoint: `dev` and
    /// `dev/` are not below `dev/`, though `dev/#` matches both.
    #[inline]
    pub fn unmounted<'a>(&self, topic: &'a str) -> Option<&'a str> {
        match &self.extras {
            None => Some(topic),
            Some(extras) => topic.strip_prefix(&*extras.mountpoint).filter(|own| !own.is_empty()),
        }
    }
}

/// What few clients have.
#[derive(Default)]
pub struct Extras {
    /// Topic prefix from the listener, placeholders filled in; empty for none.
    pub mountpoint: Box<str>,
    /// Memberships in share groups; `None` while there are none.
    pub shares: Option<Box<Shares>>,
    /// What the client of the last connection was let in with; `None` while everybody may do
    /// everything.
    pub grant: Option<Box<Grant>>,
}

/// The Will Message and when it is due.
#[derive(Clone)]
pub struct Will {
    /// The message, mountpoint included.
    pub message: Message,
    /// Will Delay Interval in seconds.
    pub delay: u32,
    /// Its Message Expiry Interval, which starts when the will is published.
    pub message_expiry: Option<u32>,
    /// Set when the connection has gone and the delay runs.
    pub due: Option<Instant>,
}

/// A message on its way to one client: what to send, and how.
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
    /// Its number in the store, within the session; 0 while it is not stored.
    pub stored: u32,
}

// What each message that waits for a client, or for its acknowledgement, has besides the message.
const _: () = assert!(size_of::<Queued>() <= 40);

/// Zero, one or several Subscription Identifiers.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub enum SubscriptionIds {
    /// None.
    #[default]
    None,
    /// One.
    One(u32),
    /// Several: rare, and so not at the expense of the others' size.
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

/// One subscription: where it stands in the shard's index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubscriptionSlot {
    /// The filter.
    pub filter: FilterId,
    /// Position in the filter's list of subscribers.
    pub position: u32,
}

/// Past this many subscriptions a client's are found by hash instead of by search.
const FEW: usize = 32;

/// A client's subscriptions. One is held inline: most device clients have one.
#[derive(Default)]
pub enum Subscriptions {
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

impl Subscriptions {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Subscriptions::None => 0,
            Subscriptions::One(_) => 1,
            Subscriptions::Few(few) => few.len(),
            Subscriptions::Many(many) => many.len(),
        }
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Position of this client's entry in the filter's list.
    pub fn position(&self, filter: FilterId) -> Option<u32> {
        match self {
            Subscriptions::None => None,
            Subscriptions::One(place) => (place.filter == filter).then_some(place.position),
            Subscriptions::Few(few) => {
                few.iter().find(|place| place.filter == filter).map(|place| place.position)
            }
            Subscriptions::Many(many) => many.position(filter),
        }
    }

    /// Shows every place to `look`, in no order that means anything.
    pub fn each(&self, mut look: impl FnMut(SubscriptionSlot)) {
        match self {
            Subscriptions::None => {}
            Subscriptions::One(place) => look(*place),
            Subscriptions::Few(few) => few.iter().for_each(|&place| look(place)),
            Subscriptions::Many(many) => many.all().iter().for_each(|&place| look(place)),
        }
    }

    /// Adds or moves a place.
    pub fn set(&mut self, place: SubscriptionSlot) {
        match self {
            Subscriptions::None => *self = Subscriptions::One(place),
            Subscriptions::One(one) if one.filter == place.filter => *one = place,
            Subscriptions::One(one) => {
                *self = Subscriptions::Few(Box::new(vec![*one, place]));
            }
            Subscriptions::Few(few) => {
                if let Some(known) = few.iter_mut().find(|known| known.filter == place.filter) {
                    *known = place;
                } else if few.len() < FEW {
                    few.push(place);
                } else {
                    few.push(place);
                    let mut many = Box::<SubscriptionSlots>::default();
                    few.iter().for_each(|&place| many.set(place));
                    *self = Subscriptions::Many(many);
                }
            }
            Subscriptions::Many(many) => many.set(place),
        }
    }

    /// Takes a place out.
    pub fn remove(&mut self, filter: FilterId) -> Option<u32> {
        match self {
            Subscriptions::None => None,
            Subscriptions::One(place) if place.filter == filter => {
                let position = place.position;
                *self = Subscriptions::None;
                Some(position)
            }
            Subscriptions::One(_) => None,
            Subscriptions::Few(few) => {
                let at = few.iter().position(|place| place.filter == filter)?;
                let position = few.swap_remove(at).position;
                if few.is_empty() {
                    *self = Subscriptions::None;
                }
                Some(position)
            }
            Subscriptions::Many(many) => {
                let position = many.remove(filter)?;
                if many.is_empty() {
                    *self = Subscriptions::None;
                }
                Some(position)
            }
        }
    }

    /// Every place.
    pub fn all(&self) -> Vec<SubscriptionSlot> {
        match self {
            Subscriptions::None => Vec::new(),
            Subscriptions::One(place) => vec![*place],
            Subscriptions::Few(few) => few.to_vec(),
            Subscriptions::Many(many) => many.all().to_vec(),
        }
    }

    /// Some place, for taking all out one by one, in one step or over several: others may be moved
    /// in between.
    pub fn any(&self) -> Option<SubscriptionSlot> {
        match self {
            Subscriptions::None => None,
            Subscriptions::One(place) => Some(*place),
            Subscriptions::Few(few) => few.last().copied(),
            Subscriptions::Many(many) => many.all().last().copied(),
        }
    }
}
