//! Syntax and matching of topic names and topic filters (MQTT 5.0 section 4.7; the same rules hold
//! for 3.1 and 3.1.1). Plain functions over text; owns nothing.

use super::scan::{common_prefix, level_length};
use crate::limits::MAX_TOPIC_LENGTH;

/// What precedes the group's name in the filter of a shared subscription.
const SHARE_PREFIX: &str = "$share/";

/// The two parts of a shared subscription's filter `$share/{group}/{filter}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedFilter<'a> {
    /// The share group's name: not empty, without `/`, `+` and `#`.
    pub group: &'a str,
    /// The topic filter that the group subscribes to: valid, and not itself checked for `$share/`.
    pub filter: &'a str,
}

/// True when `name` may be published to: 1 to 65,535 bytes, no wildcard [MQTT-3.3.2-2], no U+0000
/// [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-4.7.3-3].
pub fn valid_name(name: &str) -> bool {
    valid_length(name) && !name.bytes().any(|byte| matches!(byte, 0 | b'+' | b'#'))
}

/// True when `filter` may be subscribed to: 1 to 65,535 bytes, no U+0000, `+` only as a whole level
/// [MQTT-4.7.1-2], `#` only as the whole last level [MQTT-4.7.1-1].
///
/// For plain filters: of `$share/...` this says nothing, see [`parse_share`].
pub fn valid_filter(filter: &str) -> bool {
    if !valid_length(filter) {
        return false;
    }
    let bytes = filter.as_bytes();
    let edge = |at: Option<&u8>| at.is_none_or(|&byte| byte == b'/');
    bytes.iter().enumerate().all(|(at, byte)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        match byte {
            0 => false,
            b'+' => edge(before) && edge(bytes.get(at + 1)),
            b'#' => edge(before) && at + 1 == bytes.len(),
            _ => true,
        }
    })
}

/// True when only the server itself speaks on the topic: everything below `$SYS` (section 4.7.2)
/// but the states of bridges. A mosquitto bridge publishes its own there, and has a will there:
/// refused, it could not connect at all with its defaults.
pub fn is_servers_own(name: &str) -> bool {
    name.starts_with("$SYS/") && !matches("$SYS/broker/connection/+/state", name)
}

/// How many levels a topic name or filter has: one more than it has slashes; `#` counts as one.
pub fn levels(topic: &str) -> usize {
    1 + topic.bytes().filter(|&byte| byte == b'/').count()
}

/// Takes a shared subscription's filter apart. `None`: not a shared subscription.
///
/// # Errors
/// `Err(())`: it begins with `$share/`, but the group is empty or holds a wildcard
/// [MQTT-4.8.2-1], or no valid filter follows [MQTT-4.8.2-2].
pub fn parse_share(filter: &str) -> Option<Result<SharedFilter<'_>, ()>> {
    let rest = filter.strip_prefix(SHARE_PREFIX)?;
    let parts = rest.split_once('/').filter(|(group, filter)| {
        !group.is_empty() && !group.contains(['+', '#', '\0']) && valid_filter(filter)
    });
    Some(parts.map(|(group, filter)| SharedFilter { group, filter }).ok_or(()))
}

/// True when `filter` matches `name`; both must be valid.
///
/// `+` stands for exactly one level, also an empty one; `#` for any number of levels, also none, so
/// `a/#` matches `a`. A filter that begins with a wildcard does not match a name that begins with
/// `$` [MQTT-4.7.2-1].
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (filter, name) = (filter.as_bytes(), name.as_bytes());
    let (mut ours, mut theirs) = (0, 0);
    loop {
        let same = common_prefix(&filter[ours..], &name[theirs..]);
        (ours, theirs) = (ours + same, theirs + same);
        match filter.get(ours) {
            None => return theirs == name.len(),
            Some(b'#') => return true,
            // A whole level: what precedes it was the same.
            Some(b'+') => (ours, theirs) = (ours + 1, theirs + level_length(&name[theirs..])),
            // The name ends a level before the `#`: the parent level matches, too.
            Some(_) => return theirs == name.len() && filter[ours..] == *b"/#",
        }
    }
}

fn valid_length(topic: &str) -> bool {
    (1..=MAX_TOPIC_LENGTH).contains(&topic.len())
}

#[cfg(test)]
#[path = "name_tests.rs"]
mod tests;
