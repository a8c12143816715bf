//! Explains what would happen to a message if it were published now. Nothing is published or
//! changed: the conditions are those of `deliver`, evaluated without acting on them. A test
//! delivers what was explained and compares.

use super::{Slice, SliceBudget};
use crate::access::{Decision, Denied};
use crate::access::{Deed, Grant, Ruled, Who, own};
use crate::config::OnFull;
use crate::ids::{Publisher, ShardId, SocketId};
use crate::limits::cost;
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::packet::{PacketId, Qos};
use crate::session::Session;
use crate::shard::Shard;
use crate::shard::deliver::{Misfit, Outbound};
use crate::shard::drops::{ClientDrops, DropReason};
use crate::shard::memory::Pressure;
use crate::shard::route::{GROUP, NO_LOCAL, packed_qos};
use crate::topic::{FilterId, Subscriber, TopicHash};

/// A message that might be published.
#[derive(Clone, Debug)]
pub struct Hypothesis {
    /// A valid topic name, mountpoint included.
    pub topic: Box<str>,
    /// The payload; only its length matters.
    pub payload: Box<[u8]>,
    /// The QoS.
    pub qos: Qos,
    /// Whether the message would be retained.
    pub retain: bool,
    /// The client that would publish it.
    pub publisher: Option<Publisher>,
}

/// What the access rules say about a publisher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExplainedAccess {
    /// There is no such client, so its rights are unknown.
    UnknownClient,
    /// The client may publish, because of this rule or setting.
    Allowed(String),
    /// The client may not publish, because of this rule or setting.
    Denied(String),
    /// A service would be asked.
    Asks,
}

/// What would become of the message for one subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Sent at once.
    Sent,
    /// Put into the session's queue.
    Queued,
    /// Put into the session's queue, where the oldest message is dropped to make room.
    QueuedForOldest,
    /// The client would be disconnected, because its queue is full.
    Disconnects,
    /// Dropped, for this `reason` of `ringmq_messages_dropped_total` or this rule of the
    /// subscription.
    Dropped(&'static str),
}

/// A subscriber that would get the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Addressee {
    /// A client.
    Client {
        /// The ClientId.
        client_id: Box<str>,
        /// Whether the client is connected.
        connected: bool,
        /// The client's filters that match.
        filters: Vec<Box<str>>,
        /// The QoS with which the client would get the message.
        qos: u8,
        /// What would become of the message for this client.
        fate: Fate,
    },
    /// A share group whose home is this shard: one of its members would get the message.
    Group {
        /// `$share/group/filter`.
        name: Box<str>,
        /// How many members the group has.
        members: usize,
    },
    /// A subscriber that is no client: a bridge, or a stream of events.
    Link,
}

/// Where an explanation goes on: the matching filter, and the subscriber in its list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ExplainCursor {
    /// The position of the filter among those that match.
    pub filter: u32,
    /// The position of the subscriber.
    pub subscriber: u32,
}

impl Shard {
    /// What the rules say if `client_id`, whose home is this shard, publishes to `topic`. The topic
    /// is the name that the client uses, without the mountpoint.
    pub fn explain_publisher(
        &mut self,
        client_id: &str,
        topic: &str,
        qos: Qos,
        retain: bool,
    ) -> ExplainedAccess {
        self.meter.charge(cost::SESSION);
        let session = self.find_session(client_id).and_then(|index| self.sessions.get(index));
        let Some(session) = session else { return ExplainedAccess::UnknownClient };
        let full = format!("{}{topic}", session.mountpoint());
        if let Decision::Deny(Denied { what, .. }) = own::publish(&full, topic) {
            return ExplainedAccess::Denied(what.to_owned());
        }
        if qos as u8 > self.settings.max_qos {
            return ExplainedAccess::Denied("the QoS is above mqtt.max_qos".to_owned());
        }
        if retain && !self.settings.retain {
            return ExplainedAccess::Denied("mqtt.retain is off".to_owned());
        }
        let unnamed = Grant::named(None);
        let grant = session.grant().unwrap_or(&unnamed);
        let listener = self.listener_name(grant.listener);
        let who = Who { client_id: &session.client_id, grant, listener };
        let access = &self.settings.access;
        let deed = Deed::Publish { qos: qos as u8, retain };
        match access.explain(&who, deed, topic, |_| None).0 {
            Ruled::By(ruling, rules) if ruling.allow => {
                ExplainedAccess::Allowed(rules.place(ruling.written))
            }
            Ruled::By(ruling, rules) => ExplainedAccess::Denied(rules.place(ruling.written)),
            Ruled::Ask(_) | Ruled::Service(..) => ExplainedAccess::Asks,
            Ruled::Nobody if access.default_for(grant) => ExplainedAccess::Allowed(
                match (grant.superuser, access.authorizes) {
                    (true, _) => "the client is a superuser",
                    (false, true) => "no rule matches, and access.no_match is allow",
                    (false, false) => "access.authorization has no rules",
                }
                .to_owned(),
            ),
            Ruled::Nobody => ExplainedAccess::Denied("no rule matches".to_owned()),
        }
    }

    /// The key and home with which `client_id`, whose home is this shard, would publish.
    pub fn publisher_of(&self, client_id: &str) -> Option<Publisher> {
        self.publisher(self.find_session(client_id)?)
    }

    /// What was dropped for a client whose home is this shard; `None` when it has no session.
    pub fn dropped_for(&mut self, client_id: &str) -> Option<ClientDrops> {
        self.meter.charge(cost::SESSION);
        let index = self.find_session(client_id)?;
        let session = (index, self.sessions.generation(index));
        Some(self.work.observers.drops.told(session, self.now))
    }

    /// The subscribers on this shard that would get a message, and what would become of it for
    /// each; at most `most`.
    pub fn explain(
        &mut self,
        what: &Hypothesis,
        from: ExplainCursor,
        most: usize,
    ) -> Slice<Addressee, ExplainCursor> {
        let hash = TopicHash::new(&self.topology.shared.seeds, &what.topic);
        let mut matching = Vec::new();
        let visits = self.subscriptions.index.matching(&hash, &mut |filter, _: &[Subscriber]| {
            matching.push(filter);
        });
        self.meter.charge(cost::VISIT * (visits + matching.len()) as u32);
        let mut patience = SliceBudget::for_rows(most);
        let mut slice = Slice::new();
        if from == ExplainCursor::default() && self.topology.id == ShardId(0) {
            // Each shard has the same links, and only the publisher's shard gives a message to its
            // links. So one shard lists them.
            let links = self.subscriptions.links.matching(&hash);
            slice.rows.extend((0..links).map(|_| Addressee::Link));
        }
        let mut first = from.subscriber as usize;
        for (at, &filter) in matching.iter().enumerate().skip(from.filter as usize) {
            let list = self.subscriptions.index.subscribers(filter);
            for (position, &subscriber) in list.iter().enumerate().skip(first) {
                if !patience.lasts(slice.rows.len()) {
                    slice.next =
                        Some(ExplainCursor { filter: at as u32, subscriber: position as u32 });
                    break;
                }
                slice.rows.extend(self.addressee(what, &matching, filter, subscriber));
            }
            if slice.next.is_some() {
                break;
            }
            first = 0;
        }
        self.meter.charge(cost::VISIT * patience.used());
        self.meter.charge(cost::FILTER * (slice.rows.len() * matching.len().max(1)) as u32);
        slice
    }

    /// The subscriber of one entry of a list; `None` for a client that was listed with an earlier
    /// filter.
    fn addressee(
        &self,
        what: &Hypothesis,
        matching: &[FilterId],
        filter: FilterId,
        subscriber: Subscriber,
    ) -> Option<Addressee> {
        let index = &self.subscriptions.index;
        if subscriber.options & GROUP != 0 {
            let group = subscriber.target;
            let name = self.subscriptions.groups.name(group)?;
            let members = self.subscriptions.groups.len(group);
            return Some(Addressee::Group { name: name.as_str().into(), members });
        }
        let session = self.sessions.get(subscriber.target).filter(|s| !s.is_ending())?;
        let own = |&other: &FilterId| {
            let position = session.subscriptions.position(other)?;
            Some((other, *index.subscribers(other).get(position as usize)?))
        };
        let all: Vec<(FilterId, Subscriber)> = matching.iter().filter_map(own).collect();
        if all.first().is_none_or(|&(first, _)| first != filter) {
            return None;
        }
        let itself = !Mutant::ExplainForgetsNoLocal.is_on()
            && what.publisher.is_some()
            && what.publisher == self.publisher(subscriber.target);
        let kept = all.iter().filter(|(_, entry)| !itself || entry.options & NO_LOCAL == 0);
        let granted = kept.map(|(_, entry)| packed_qos(entry.options)).max();
        let qos = what.qos.min(granted.unwrap_or(Qos::AtMostOnce));
        let fate = match granted {
            None => Fate::Dropped("no_local"),
            Some(_) => self.fate(subscriber.target, session, what, qos),
        };
        Some(Addressee::Client {
            client_id: session.client_id.boxed(),
            connected: session.socket().is_some(),
            filters: all.iter().map(|&(filter, _)| index.filter(filter).into()).collect(),
            qos: qos as u8,
            fate,
        })
    }

    fn fate(&self, index: u32, session: &Session, what: &Hypothesis, qos: Qos) -> Fate {
        if session.unmounted(&what.topic).is_none() {
            return Fate::Dropped("outside_mountpoint");
        }
        if !self.could_be_sent(session, &what.topic) {
            return Fate::Dropped(DropReason::ReadDenied.word());
        }
        let Some(socket) = session.socket() else {
            return match qos {
                Qos::AtMostOnce if !self.settings.queue_qos0 => Fate::Dropped("offline_qos0"),
                _ => self.fate_in_queue(index, session, what),
            };
        };
        let flow = session.flow.as_deref();
        let waits = match qos {
            Qos::AtMostOnce => flow.is_some_and(|flow| flow.pending.has_qos0()),
            _ => {
                let full = |flow: &crate::session::Flow| {
                    !flow.pending.is_empty() || !flow.window.has_room(session.window_limit)
                };
                self.is_clogged(socket) || flow.is_some_and(full)
            }
        };
        if waits {
            return self.fate_in_queue(index, session, what);
        }
        if qos == Qos::AtMostOnce && self.must_shed(socket) {
            return Fate::Dropped(self.why_shed(socket));
        }
        match self.fits(index, &message_of(what), &outbound_of(qos)) {
            Ok(()) => Fate::Sent,
            Err(Misfit::TooLarge) => Fate::Dropped("packet_too_large"),
            Err(Misfit::NotEncodable) => Fate::Dropped("not_encodable"),
        }
    }

    fn why_shed(&self, socket: SocketId) -> &'static str {
        if self.is_clogged(socket) { "outgoing_full" } else { "memory" }
    }

    fn fate_in_queue(&self, index: u32, session: &Session, what: &Hypothesis) -> Fate {
        let bounds = self.pending_bounds_of(index);
        let size = message_of(what).size();
        let Some(flow) = session.flow.as_deref() else {
            return if size <= bounds.bytes { Fate::Queued } else { Fate::Dropped("queue_full") };
        };
        let short = self.memory.is_short(Pressure::Tight);
        let clipped = short.then(|| self.clipped(index)).flatten().unwrap_or(bounds);
        if flow.pending.has_room(size, &clipped) {
            return Fate::Queued;
        }
        match bounds.on_full {
            OnFull::DropOldest if size <= clipped.bytes => Fate::QueuedForOldest,
            OnFull::Disconnect => Fate::Disconnects,
            _ if flow.pending.has_room(size, &bounds) => Fate::Dropped("memory"),
            _ => Fate::Dropped("queue_full"),
        }
    }
}

fn message_of(what: &Hypothesis) -> MessageRef<'_> {
    MessageRef {
        topic: &what.topic,
        properties: &[],
        payload: &what.payload,
        qos: what.qos,
        retain: what.retain,
        expires: None,
        publisher: what.publisher,
    }
}

fn outbound_of(qos: Qos) -> Outbound<'static> {
    Outbound {
        dup: false,
        qos,
        retain: false,
        id: PacketId::new(1).filter(|_| qos > Qos::AtMostOnce),
        subscription_ids: &[],
        message_expiry: None,
    }
}
