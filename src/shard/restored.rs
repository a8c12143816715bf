//! The stored messages, while sessions and their queues are restored.

use super::Shard;
use super::away::routed;
use crate::message::Message;
use crate::storage::image::{Image, MessageImage};

impl Shard {
    /// Returns one more handle of the message with that number.
    pub(super) fn restore_handle(&mut self, number: u64, image: &Image) -> Option<Message> {
        let waiting = image.messages.get(&number)?;
        let body = waiting.body.as_deref()?;
        let storing = self.storing.as_mut()?;
        if let Some(message) = storing.bodies.get(number).cloned() {
            storing.bodies.hold_again(number);
            return Some(message);
        }
        let message = self.restore_message(body);
        self.storing.as_mut()?.bodies.hold(number, message.clone(), waiting.checksum);
        Some(message)
    }

    /// Makes a message of a stored body.
    pub(super) fn restore_message(&mut self, body: &MessageImage) -> Message {
        let stored = body.stored();
        let expires = self.storing.as_ref().and_then(|storing| storing.expiry_of(&stored));
        Message::new(&routed(&stored, expires), self.delivery.scratch.bytes())
    }
}
