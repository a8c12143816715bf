//! The sessions of a journal, one after the other, as their new home shards take them.

use crate::mesh::adopting::{Orphan, OrphanWill};
use crate::message::{Message, MessageRef};
use crate::packet::Qos;
use crate::session::{Queued, ShareName, SubscriptionIds};
use crate::storage::image::{Image, LastWill, MessageImage, QueuedImage, SessionImage};
use crate::storage::record::DeliveryPhase;
use crate::time::Instant;
use crate::topic;
use std::collections::{BTreeMap, VecDeque};

/// The sessions of a journal that are still to be handed out.
pub(super) struct OrphanQueue {
    image: Image,
    /// Its sessions.
    sessions: VecDeque<Box<SessionImage>>,
    /// Messages that some session was handed out with, by their numbers.
    messages: BTreeMap<u64, Message>,
}

impl OrphanQueue {
    pub(super) fn new(mut image: Image) -> OrphanQueue {
        let sessions = image.take_sessions().map(|(_, stored)| stored).collect();
        OrphanQueue { image, sessions, messages: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Bytes of messages that are held.
    pub(super) fn bytes(&self) -> usize {
        self.image.bytes()
    }

    /// The next session that outlives its connection. `wall` is the time in milliseconds since 1970
    /// at the zero of the shards' clock.
    pub(super) fn next(&mut self, wall: u64) -> Option<Orphan> {
        loop {
            let stored = self.sessions.pop_front()?;
            if let Some(orphan) = self.orphan(*stored, wall) {
                return Some(orphan);
            }
        }
    }

    /// `None` when the session is not sound, or ends with its connection.
    fn orphan(&mut self, stored: SessionImage, wall: u64) -> Option<Orphan> {
        let head = stored.head?;
        let named = !head.client_id.is_empty() && head.expiry > 0;
        let subscriptions = stored.subscriptions.into_iter();
        let subscriptions = subscriptions.filter(|(filter, _)| is_sound(filter));
        let (mut sent, mut waiting) = (Vec::new(), Vec::new());
        for (_, of_slot) in stored.waiting {
            let sent_as = of_slot.sent;
            let Some(queued) = self.queued(&of_slot, wall) else { continue };
            match sent_as {
                Some((id, phase)) => sent.push((id, phase == DeliveryPhase::Released, queued)),
                None => waiting.push(queued),
            }
        }
        let will = stored.will.and_then(|will| last_will(&will));
        named.then(|| Orphan {
            client_id: head.client_id,
            mountpoint: head.mountpoint,
            expiry: head.expiry,
            ends: head.ends,
            level: head.level,
            bridge: head.bridge,
            subscriptions: subscriptions.map(|(filter, (o, id))| (filter, o, id)).collect(),
            sent,
            waiting,
            inbound: stored.inbound,
            will,
        })
    }

    fn queued(&mut self, waiting: &QueuedImage, wall: u64) -> Option<Queued> {
        let message = match self.messages.get(&waiting.message) {
            Some(message) => message.clone(),
            None => {
                let body = self.image.body(waiting.message)?;
                let expires =
                    (body.expires != u64::MAX).then(|| Instant(body.expires.saturating_sub(wall)));
                let message = message(body, expires)?;
                self.messages.insert(waiting.message, message.clone());
                message
            }
        };
        let share = &*waiting.share;
        Some(Queued {
            message,
            subscription_ids: SubscriptionIds::from_slice(&waiting.ids),
            qos: Qos::from_u8(waiting.flags & 3).unwrap_or_default(),
            retain: waiting.flags & 4 != 0,
            share: (!share.is_empty()).then(|| ShareName::new(share)),
            stored: 0,
        })
    }
}

fn is_sound(filter: &str) -> bool {
    match topic::parse_share(filter) {
        Some(share) => share.is_ok(),
        None => topic::valid_filter(filter),
    }
}

fn message(body: &MessageImage, expires: Option<Instant>) -> Option<Message> {
    let stored = body.stored();
    let message = MessageRef {
        topic: stored.topic,
        properties: stored.properties,
        payload: stored.payload,
        qos: Qos::from_u8(stored.flags & 3).unwrap_or_default(),
        retain: stored.flags & 4 != 0,
        expires,
        publisher: None,
    };
    topic::valid_name(stored.topic).then(|| Message::new(&message, &mut Vec::new()))
}

fn last_will(will: &LastWill) -> Option<OrphanWill> {
    Some(OrphanWill {
        message: message(&will.body, None)?,
        delay: will.delay,
        message_expiry: Some(will.lifetime).filter(|&seconds| seconds != u32::MAX),
        due: will.due,
    })
}
