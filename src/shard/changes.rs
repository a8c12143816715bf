//! Changes of this shard's sessions, queues and retained messages, as records of the shard's log.
//! Each kind of change has one method, which does nothing while there is no store.

use super::Shard;
use super::away::EndedSessionData;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::message::{MessageRef, Retain};
use crate::mutant::Mutant;
use crate::packet::{PacketId, Qos, Version};
use crate::session::pending::Gone;
use crate::session::{Acknowledged, Queued, Session, StoredSessionRef};
use crate::storage::record::{DeliveryPhase, Record, StoredMessage, StoredSession, will_key};
use crate::topic;

impl Shard {
    /// Stores a session that outlives its connection, or what has changed of it. What is stored of
    /// a session that ends with its connection is removed.
    pub(super) fn store_session(&mut self, index: u32) {
        let Some(storing) = &mut self.storing else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        // Messages that are away are needed until the session ends, and are nowhere but in the
        // store.
        let away = session.flow.as_ref().is_some_and(|flow| flow.pending.away().0 > 0);
        if !session.is_persistent() && !away {
            self.store_end(index);
            return;
        }
        let number = storing.number_of(&mut session.stored);
        let ends = match session.socket() {
            Some(_) => 0,
            None => storing.date(session.ends()),
        };
        let record = Record::Session(StoredSession {
            session: number,
            client_id: &session.client_id,
            mountpoint: session.mountpoint(),
            expiry: session.expiry,
            ends,
            level: level(session.version),
            bridge: session.bridge,
        });
        storing.append_for(session.socket(), &record);
    }

    /// A session has ended, or will end with its connection: removes what is stored of it. The end
    /// is stored at once. Values of which there may be many are removed in later steps:
    /// subscriptions ([`super::left`]), identifiers of QoS 2 and away messages ([`super::away`]).
    pub(super) fn store_end(&mut self, index: u32) {
        let Some(storing) = &mut self.storing else { return };
        let Some(session) = self.sessions.get(index) else { return };
        let Some(number) = session.stored.number() else { return };
        let slots = stored_slots(session);
        self.meter.charge(slots.len() as u32 * cost::STORED);
        if session.subscriptions.len() + session.shared() > 0 {
            storing.left.insert(index, number);
        }
        let inbound: Vec<_> = session.flow.iter().flat_map(|flow| flow.inbound.all()).collect();
        if !inbound.is_empty() {
            storing.depart(number, EndedSessionData::Inbound(inbound));
        }
        let socket = session.socket();
        self.store_returns(index);
        let Some(storing) = &mut self.storing else { return };
        slots.into_iter().for_each(|slot| storing.release(index, Some(number), slot, false));
        storing.log.forget(will_key(number));
        if !Mutant::StorageEndForgotten.is_on() {
            storing.append_for(socket, &Record::End { session: number });
        }
        if let Some(session) = self.sessions.get_mut(index) {
            session.stored = StoredSessionRef::default();
        }
        self.leave_tail(index, number);
    }

    /// Nothing is sent to that client before all that has been stored so far is durable.
    pub(super) fn wait_for_stored(&mut self, socket: SocketId) {
        if let Some(storing) = &mut self.storing {
            storing.wait_for_all(socket);
        }
    }

    /// Stores the will message of a stored session, whether the session has a connection or the
    /// Will Delay Interval runs.
    pub(super) fn store_will(&mut self, index: u32) {
        let Some(storing) = &mut self.storing else { return };
        let Some(known) = self.sessions.get(index) else { return };
        let Some(session) = known.stored.number() else { return };
        let Some(will) = known.will.as_ref().filter(|_| !Mutant::StorageWillForgotten.is_on())
        else {
            return;
        };
        let record = Record::Will {
            session,
            delay: will.delay,
            lifetime: will.message_expiry.unwrap_or(u32::MAX),
            due: will.due.map_or(0, |due| storing.date(due)),
            body: storing.stored(&will.message.view()),
        };
        storing.append_for(known.socket(), &record);
    }

    /// The session has no will message any more: it was sent, or deleted.
    pub(super) fn store_no_will(&mut self, index: u32) {
        let Some(storing) = &mut self.storing else { return };
        let Some(session) = self.sessions.stored(index) else { return };
        if storing.log.has(will_key(session)) && !Mutant::StorageWillKept.is_on() {
            storing.append(&Record::NoWill { session });
        }
    }

    /// A subscription was granted or changed.
    pub(super) fn store_subscription(
        &mut self,
        index: u32,
        filter: &str,
        options: u8,
        subscription_id: u32,
    ) {
        let Some(storing) = &mut self.storing else { return };
        let Some(known) = self.sessions.get(index) else { return };
        let Some(session) = known.stored.number() else { return };
        if Mutant::StorageSubscriptionForgotten.is_on() {
            return;
        }
        let record = Record::Subscribed { session, filter, options, subscription_id };
        storing.append_for(known.socket(), &record);
    }

    /// A subscription was taken out.
    pub(super) fn store_unsubscribed(&mut self, index: u32, filter: &str) {
        let Some(storing) = &mut self.storing else { return };
        let Some(session) = self.sessions.stored(index) else {
            // The session ends with its connection, and was stored before.
            self.meter.charge(storing.forget_left(index, filter));
            return;
        };
        let socket = self.sessions.get(index).and_then(|session| session.socket());
        storing.append_for(socket, &Record::Unsubscribed { session, filter });
    }

    /// Stores a topic's retained message; `retain` has its accounts, and its stamp on a node of a
    /// cluster.
    pub(super) fn store_retained(&mut self, message: &MessageRef<'_>, retain: Retain) {
        let Some(storing) = &mut self.storing else { return };
        if !topic::is_servers_own(message.topic) {
            let stored = storing.stored(message);
            let (accounts, stamp) = (retain.accounts.packed(), retain.stamp().unwrap_or(0));
            let record = Record::Retain(StoredMessage { accounts, stamp, ..stored });
            storing.append_for_speaker(&record);
        }
    }

    /// A topic has no retained message any more.
    pub(super) fn store_unretained(&mut self, topic: &str) {
        let Some(storing) = &mut self.storing else { return };
        if !topic::is_servers_own(topic) {
            storing.append_for_speaker(&Record::Unretain { topic });
        }
    }

    /// Stores a message that waits for the session or is sent to it, if both are of a kind that is
    /// stored; returns the message's number in the session, or 0.
    pub(super) fn store_queued(&mut self, index: u32, queued: &Queued) -> u32 {
        let Some(storing) = &mut self.storing else { return 0 };
        if queued.qos == Qos::AtMostOnce || Mutant::StorageQueueForgotten.is_on() {
            return 0;
        }
        let Some(session) = self.sessions.get_mut(index) else { return 0 };
        storing.fan(index, &mut session.stored, queued)
    }

    /// A stored message was sent under that packet identifier, or its PUBREC came.
    pub(super) fn store_phase(
        &mut self,
        index: u32,
        slot: u32,
        id: PacketId,
        qos: Qos,
        phase: DeliveryPhase,
    ) {
        let Some(storing) = &mut self.storing else { return };
        let Some(known) = self.sessions.get(index) else { return };
        let Some(session) = known.stored.number().filter(|_| slot != 0) else { return };
        let record = Record::State { session, slot, packet: id.get(), phase };
        // Before a QoS 2 message is sent, its identifier must be durable: sent again under another
        // one, the message would be another message to the client.
        let waits = qos == Qos::ExactlyOnce;
        storing.append_for(known.socket().filter(|_| waits), &record);
    }

    /// A PUBREC came; `meant` is what it meant to the session's window.
    pub(super) fn store_pubrec(&mut self, index: u32, id: PacketId, meant: Acknowledged) {
        if meant == Acknowledged::Release {
            if Mutant::StorageReleaseForgotten.is_on() {
                return;
            }
            let flow = self.sessions.get(index).and_then(|session| session.flow.as_ref());
            let slot = flow.map_or(0, |flow| flow.window.stored(id));
            self.store_phase(index, slot, id, Qos::ExactlyOnce, DeliveryPhase::Released);
        } else {
            self.store_all_gone(index);
        }
    }

    /// A stored message was completed or dropped: it does not wait for the session any more.
    pub(super) fn store_gone(&mut self, index: u32, slot: u32) {
        if let Some(storing) = &mut self.storing
            && slot != 0
        {
            storing.release(index, self.sessions.stored(index), slot, true);
        }
    }

    /// The same as `store_gone` for all messages that the session's queue and window have let go.
    pub(super) fn store_all_gone(&mut self, index: u32) {
        let Some(storing) = &mut self.storing else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let number = session.stored.number();
        let Some(flow) = &mut session.flow else { return };
        for Gone { slot, number: message } in flow.pending.take_gone() {
            match message {
                0 => storing.release(index, number, slot, true),
                message => storing.release_away(number, slot, message),
            }
        }
        for slot in flow.window.take_gone() {
            storing.release(index, number, slot, true);
        }
    }

    /// A message of QoS 2 came under that packet identifier (`open`), or the identifier is free
    /// again.
    pub(super) fn store_inbound(&mut self, index: u32, id: PacketId, open: bool) {
        let Some(storing) = &mut self.storing else { return };
        let Some(session) = self.sessions.stored(index) else { return };
        let packet = id.get();
        let record = match open {
            true => Record::Inbound { session, packet },
            false => Record::Outbound { session, packet },
        };
        storing.append_for_speaker(&record);
    }
}

/// The numbers of all stored messages of a session, except those that are away.
fn stored_slots(session: &Session) -> Vec<u32> {
    let mut slots = Vec::new();
    if let Some(flow) = &session.flow {
        flow.window.each_stored(|slot| slots.push(slot));
        flow.pending.each(|queued| slots.push(queued.stored));
    }
    slots
}

/// The protocol level of a protocol version.
pub(super) fn level(version: Version) -> u8 {
    match version {
        Version::V31 => 3,
        Version::V311 => 4,
        Version::V5 => 5,
    }
}

/// The protocol version of a protocol level.
pub(super) fn version(level: u8) -> Version {
    match level {
        3 => Version::V31,
        4 => Version::V311,
        _ => Version::V5,
    }
}
