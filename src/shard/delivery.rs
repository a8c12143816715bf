//! What the deliveries of a shard have in common: the message that is being delivered, the fan-outs
//! that go on over several steps, and the buffers in which packets and messages are put together.

use super::encode::DeliveryScratch;
use super::fanout::Fanouts;
use super::scratch::Scratch;
use crate::message::{Message, MessageRef};

/// The deliveries of a shard.
#[derive(Default)]
pub(super) struct Delivery {
    /// The message that is being delivered now.
    pub(super) current: DeliveryScratch,
    /// Fan-outs that go on over several steps.
    pub(super) fanouts: Fanouts,
    pub(super) scratch: Scratch,
    /// The message that is being delivered came from another node and is for sessions only: its
    /// share groups have had it.
    pub(super) only_sessions: bool,
}

impl Delivery {
    /// The message that is being delivered, in the form in which it can be kept. It is made once,
    /// for all sessions that keep it.
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
