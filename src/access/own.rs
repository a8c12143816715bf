//! The broker's own rules about topics, which hold whatever is configured: the server's own topics,
//! and the length of a topic below a mountpoint.

use super::{Decision, Denied};
use crate::limits::MAX_TOPIC_LENGTH;
use crate::packet::ReasonCode;
use crate::topic;

/// Only the server publishes to topics of its own (section 4.7.2).
pub const SERVERS: Denied =
    Denied { reason: ReasonCode::NotAuthorized, what: "$SYS belongs to the server" };
/// With the mountpoint in front, the topic name is too long to be sent to a subscriber.
pub const TOO_LONG: Denied = Denied {
    reason: ReasonCode::TopicNameInvalid,
    what: "the topic is too long below the mountpoint",
};

/// Whether any client may publish to `topic`, which has the mountpoint in front; `own` is the name
/// that the client uses.
#[inline]
pub fn publish(topic: &str, own: &str) -> Decision {
    if topic::is_servers_own(own) {
        return Decision::Deny(SERVERS);
    }
    if topic.len() > MAX_TOPIC_LENGTH {
        return Decision::Deny(TOO_LONG);
    }
    Decision::Allow
}

/// Whether any client may subscribe with `filter` below this mountpoint.
pub fn subscribe(mountpoint: &str, filter: &str) -> Decision {
    if mountpoint.len() + filter.len() > MAX_TOPIC_LENGTH {
        return Decision::Deny(Denied { reason: ReasonCode::TopicFilterInvalid, ..TOO_LONG });
    }
    Decision::Allow
}
