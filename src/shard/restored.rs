//! The stored messages, while sessions and their queues are restored.

use super::Shard;
use super::away::routed;
use crate::message::Message;
use crate::storage::image::{Brief, MessageImage};
use std::collections::BTreeMap;

/// The stored messages, by number.
pub(super) struct RestoredMessages {
    /// The messages whose bodies are in memory.
    pub(super) bodies: BTreeMap<u64, MessageImage>,
    /// What is known of the other messages.
    pub(super) briefs: BTreeMap<u64, Brief>,
}

impl Shard {
    /// Returns one more handle of the message with that number.
    pub(super) fn restore_handle(
        &mut self,
        number: u64,
        messages: &RestoredMessages,
    ) -> Option<Message> {
        let body = messages.bodies.get(&number)?;
        let storing = self.storing.as_mut()?;
        if let Some(message) = storing.bodies.get(number).cloned() {
            storing.bodies.hold_again(number);
            return Some(message);
        }
        let checksum = Brief::of(number, &body.stored()).checksum;
        let message = self.restore_message(body);
        self.storing.as_mut()?.bodies.hold(number, message.clone(), checksum);
        Some(message)
    }

    /// Makes a message of a stored body.
    pub(super) fn restore_message(&mut self, body: &MessageImage) -> Message {
        let stored = body.stored();
        let expires = self.storing.as_ref().and_then(|storing| storing.expiry_of(&stored));
        Message::new(&routed(&stored, expires), self.delivery.scratch.bytes())
    }
}
