//! Will messages [MQTT-3.1.2-8]: created at CONNECT, kept in the session, and sent from here only.
//!
//! A will is taken out of its session and put into the queue of [`Wills`] when the connection ends
//! ([`Shard::leave_will`]), when its delay is over ([`Shard::delayed_will_due`]), when the session
//! ends, or when the broker stops ([`Shard::run_last_wills`]). [`Shard::publish_wills`] routes the
//! messages of the queue, as far as mailboxes have room. On a node of a cluster, the other nodes
//! are told each will, and send it if this node dies (`cluster::wills`).

use super::Shard;
use super::close::Cause;
use super::connection::Stage;
use super::observe::{TracedFate, Via};
use super::spare::halve_queue;
use crate::limits::cost;
use crate::mesh::moves::{FarWill, ToCluster, WillDue};
use crate::message::{Accounts, Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet;
use crate::session::{Session, SessionWill};
use crate::topic;
use std::collections::VecDeque;

/// Messages that are to be routed and have no publisher that could be made to wait.
#[derive(Default)]
pub(super) struct Wills {
    /// In the order in which they became due, each with the accounts that it counts for if it is
    /// retained. Messages of `$SYS` that found no room wait here, too.
    queue: VecDeque<(Message, Accounts)>,
    /// While the broker stops: the next connection whose client's will is to be sent.
    last: Option<u32>,
}

impl Wills {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of the messages that wait.
    pub(super) fn bytes(&self) -> usize {
        self.queue.iter().map(|(message, _)| message.size()).sum()
    }

    /// Orders the wills of all connected clients to be sent: see [`Shard::run_last_wills`].
    pub(super) fn begin_last(&mut self) {
        self.last = Some(0);
    }

    /// True while wills of connected clients may still have to be sent.
    pub(super) fn has_last(&self) -> bool {
        self.last.is_some()
    }

    /// Gives back half of the queue's capacity, as far as it is unused.
    pub(super) fn shrink(&mut self) {
        halve_queue(&mut self.queue);
    }
}

impl Shard {
    /// Makes the will that a CONNECT carries, for the session at `index`.
    pub(super) fn make_will(
        &mut self,
        index: u32,
        will: &packet::Will<'_>,
        mountpoint: &str,
    ) -> Box<SessionWill> {
        let mut properties = Vec::new();
        will.properties.write_forwardable(&mut properties);
        let topic = format!("{mountpoint}{}", will.topic);
        let message = MessageRef {
            topic: &topic,
            properties: &properties,
            payload: will.payload,
            qos: will.qos,
            retain: will.retain,
            expires: None,
            publisher: self.publisher(index),
        };
        Box::new(SessionWill {
            message: Message::new(&message, self.delivery.scratch.bytes()),
            delay: will.delay,
            message_expiry: will.properties.message_expiry,
            due: None,
            restored: false,
        })
    }

    /// Handles the will of a client whose connection ended for `cause`: the will is sent, waits for
    /// its delay, or is deleted.
    pub(super) fn leave_will(&mut self, index: u32, cause: Cause) {
        let now = self.now;
        let Some(mut will) = self.lift_will(index, |_, _| true) else { return };
        let Some(session) = self.sessions.get_mut(index) else { return };
        if cause.deletes_will() {
            self.store_no_will(index);
            self.tell_will(index);
            return;
        }
        if will.delay > 0 && session.expiry > 0 && !Mutant::WillDelayIgnored.is_on() {
            // [MQTT-3.1.3-9] and section 3.1.3.2.2: after the delay, unless the client is back.
            will.due = Some(now.plus_seconds(will.delay));
            self.memory.tally.names += will.message.size();
            session.will = Some(will);
            self.store_will(index);
            self.tell_will(index);
            return;
        }
        if Mutant::WillTwice.is_on() {
            self.memory.tally.names += will.message.size();
            session.will = Some(will.clone());
        }
        self.store_no_will(index);
        self.tell_will(index);
        self.send_will(*will, self.accounts_of(index));
    }

    /// Stores and announces the will of a client that has connected, if it has one. `had`: the
    /// session had a will before.
    pub(super) fn note_new_will(&mut self, index: u32, had: bool) {
        self.store_no_will(index);
        self.store_will(index);
        if had || self.sessions.get(index).is_some_and(|session| session.will.is_some()) {
            self.tell_will(index);
        }
    }

    /// Tells the other nodes of a cluster the will of a session, or that it has none any longer.
    pub(super) fn tell_will(&mut self, index: u32) {
        if self.topology.cluster().is_some() {
            self.tell_will_now(index);
        }
    }

    /// Tells the other nodes the wills of all sessions: they know those that the process had told
    /// which had this one's place.
    pub(super) fn tell_wills(&mut self) {
        if self.topology.cluster().is_none() {
            return;
        }
        for index in 0..self.sessions.bound() {
            if self.sessions.get(index).is_some_and(|session| session.will.is_some()) {
                self.tell_will_now(index);
            }
        }
    }

    #[cold]
    fn tell_will_now(&mut self, index: u32) {
        let Some(session) = self.sessions.get(index) else { return };
        let stored = self.storing.is_some() && session.expiry > 0;
        let will = session.will.as_ref().map(|will| FarWill {
            message: will.message.clone(),
            due: match will.due {
                Some(at) => WillDue::At(at),
                // The will's delay is over at the latest when the session ends.
                None => WillDue::After(will.delay.min(session.expiry)),
            },
            message_expiry: will.message_expiry,
            stored,
        });
        let client = session.client_id.boxed();
        self.answer_cluster(ToCluster::Will(client, will));
    }

    /// Publishes the will of a client whose node is gone.
    pub(super) fn send_far_will(&mut self, will: FarWill) {
        let FarWill { message, message_expiry, .. } = will;
        let will = SessionWill { message, delay: 0, message_expiry, due: None, restored: false };
        // The bounds for what clients retain apply only at the node of the client.
        self.send_will(will, Accounts::NONE);
    }

    /// Sends the will of an offline session, if its delay is over.
    pub(super) fn delayed_will_due(&mut self, index: u32) {
        let now = self.now;
        if let Some(will) = self.take_will(index, |_, will| will.due.is_some_and(|due| due <= now))
        {
            self.send_will(*will, self.accounts_of(index));
        }
    }

    /// Takes the will out of a session and out of the store, if the session has one that is
    /// `wanted`.
    pub(super) fn take_will(
        &mut self,
        index: u32,
        wanted: impl FnOnce(&Session, &SessionWill) -> bool,
    ) -> Option<Box<SessionWill>> {
        let will = self.lift_will(index, wanted)?;
        self.store_no_will(index);
        self.tell_will(index);
        Some(will)
    }

    /// The same as [`Shard::take_will`], but leaves the will in the store.
    fn lift_will(
        &mut self,
        index: u32,
        wanted: impl FnOnce(&Session, &SessionWill) -> bool,
    ) -> Option<Box<SessionWill>> {
        let session = self.sessions.get_mut(index)?;
        let will = session.will.as_ref()?;
        if !wanted(session, will) {
            return None;
        }
        let will = session.will.take()?;
        self.memory.tally.names -= will.message.size();
        Some(will)
    }

    /// Queues a will that is due, to be routed when there is room.
    pub(super) fn send_will(&mut self, will: SessionWill, accounts: Accounts) {
        let message = match self.expires(will.message_expiry) {
            None => will.message,
            expires => {
                let view = MessageRef { expires, ..will.message.view() };
                Message::new(&view, self.delivery.scratch.bytes())
            }
        };
        self.queue_will(message, accounts);
    }

    /// Queues a will, or a message of the broker itself, to be routed when there is room.
    pub(super) fn queue_will(&mut self, message: Message, mut accounts: Accounts) {
        if Mutant::AccountOfWillLost.is_on() {
            accounts = Accounts::NONE;
        }
        self.memory.tally.names += message.size();
        self.work.wills.queue.push_back((message, accounts));
    }

    /// Routes the queued messages, as far as mailboxes have room, until the step's work comes to
    /// `limit`; true when more can be routed at once.
    pub(super) fn publish_wills(&mut self, limit: u32) -> bool {
        if self.waits_for_whole() {
            // Wills of stored sessions can be due at the start, before other shards have taken over
            // their subscriptions.
            return false;
        }
        while !self.is_spent(limit) {
            if self.delivery.fanouts.is_full() {
                return false; // fan-outs go on by themselves, and the wills then
            }
            let Some((message, accounts)) = self.work.wills.queue.front().cloned() else {
                return false;
            };
            self.meter.charge(cost::PACKET + cost::bytes(message.size()));
            if !self.try_will(&message, accounts) {
                return false;
            }
            // What the broker says under `$SYS` waits here, too, while a mailbox is full.
            self.counters.wills_sent += u64::from(!message.view().topic.starts_with("$SYS/"));
            if let Some((message, _)) = self.work.wills.queue.pop_front() {
                self.memory.tally.names -= message.size();
            }
        }
        !self.work.wills.is_empty()
    }

    /// Routes a will, or a message of the broker itself; false when a mailbox is full now.
    fn try_will(&mut self, message: &Message, accounts: Accounts) -> bool {
        let view = message.view();
        if !self.is_recording() || topic::is_servers_own(view.topic) {
            return self.try_publish(&view, accounts, Some(message));
        }
        self.publish_within_trace(Via::Will, &view, |shard, view| {
            let done = shard.try_publish(view, accounts, None);
            (done, if done { TracedFate::Done } else { TracedFate::Again })
        })
    }

    /// Sends the wills of connected clients while the broker stops, until the step's work comes to
    /// `limit`: [MQTT-3.1.2-8] demands that wills are sent when the connection closes without a
    /// DISCONNECT. Wills with a delay end with the process, as section 3.1.2.5 allows for a
    /// server's shutdown. If their sessions are stored, their delay goes on when the broker comes
    /// back.
    pub(super) fn run_last_wills(&mut self, limit: u32) {
        let Some(mut at) = self.work.wills.last.take() else { return };
        while at < self.connections.bound() {
            if self.is_spent(limit) {
                self.work.wills.last = Some(at);
                return;
            }
            self.meter.charge(cost::VISIT);
            let undelayed =
                |session: &Session, will: &SessionWill| will.delay == 0 || session.expiry == 0;
            if let Some(Stage::Open(index)) = self.connections.get(at).map(|c| c.stage)
                && let Some(will) = self.take_will(index, undelayed)
            {
                self.meter.charge(cost::DELIVERY);
                self.send_will(*will, self.accounts_of(index));
            }
            at += 1;
        }
    }
}
