//! What holds about topics whatever is configured: the server's own, and room for the mountpoint.

use super::{Decision, Denied};
use crate::limits::MAX_TOPIC_LENGTH;
use crate::packet::ReasonCode;
use crate::topic;

/// Only the server speaks there (section 4.7.2).
pub const SERVERS: Denied =
    Denied { reason: ReasonCode::NotAuthorized, what: "$SYS belongs to the server" };
/// With the mountpoint before it no subscriber could be sent it.
pub const TOO_LONG: Denied = Denied {
    reason: ReasonCode::TopicNameInvalid,
    what: "the topic is too long below the mountpoint",
};

/// Whether anybody may publish to `topic`, whose last part is what the client calls it.
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

/// Whether anybody may subscribe with `filter` below this mountpoint.
pub fn subscribe(mountpoint: &str, filter: &str) -> Decision {
    if mountpoint.len() + filter.len() > MAX_TOPIC_LENGTH {
        return Decision::Deny(Denied { reason: ReasonCode::TopicFilterInvalid, ..TOO_LONG });
    }
    Decision::Allow
}
