//! Messages of another node on their way to the shards of this one.

use super::clock::Offset;
use super::peer::LocalBroker;
use super::record::PassedRef;
use crate::mesh::mail::PassedFor;
use crate::message::{MailPurpose, MessageRef, Reserve, Retain};

/// The name of the node that a message comes from, and how far its clock is from this node's.
pub(super) type MessageOrigin<'a> = (&'a str, &'a Offset);

/// Hands on a message of that node, with its expiry on this node's clock.
pub(super) fn publish(
    broker: &mut impl LocalBroker,
    (node, offset): MessageOrigin<'_>,
    message: &MessageRef<'_>,
    deliver: bool,
    retain: Retain,
) -> bool {
    let expires = message.expires.map(|at| offset.ours(at));
    let purpose = MailPurpose { deliver, retain, reserve: Reserve::NONE };
    let taken = broker.publish(&MessageRef { expires, ..*message }, purpose);
    if taken && deliver {
        broker.arrived(node, message);
    }
    taken
}

/// The same, of a message of a share group, from the node with that number.
pub(super) fn pass(
    broker: &mut impl LocalBroker,
    (number, (node, offset)): (u8, MessageOrigin<'_>),
    passed: &PassedRef<'_>,
) -> bool {
    let expires = passed.message.expires.map(|at| offset.ours(at));
    let message = MessageRef { expires, ..passed.message };
    let taken = broker.pass(number, &PassedRef { message, ..*passed });
    if taken && passed.asks != PassedFor::Back {
        broker.arrived(node, &message);
    }
    taken
}
