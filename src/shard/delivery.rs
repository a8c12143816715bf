//! What deliveries have in common: the message that is being delivered, those that go on over
//! several steps, and the room in which messages are put together.

use super::encode::DeliveryScratch;
use super::fanout::Fanouts;
use super::scratch::Scratch;
use crate::message::{Message, MessageRef};

/// The deliveries of a shard.
#[derive(Default)]
pub(super) struct Delivery {
    /// The one that is going on.
    pub(super) current: DeliveryScratch,
    /// Those that go on over several steps.
    pub(super) fanouts: Fanouts,
    pub(super) scratch: Scratch,
    /// What is being delivered came from another node, for sessions: its share groups have had it.
    pub(super) only_sessions: bool,
}

impl Delivery {
    /// The message that is being delivered, to be kept: made once, whoever keeps it.
    #[inline]
    pub(super) fn store(&mut self, message: &MessageRef<'_>) -> Message {
        self.current.store(message, self.scratch.bytes())
    }

    /// Gives half of the spare room back.
    pub(super) fn shrink(&mut self) {
        self.current.shrink();
        self.scratch.shrink();
    }
}
