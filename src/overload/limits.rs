//! The limits of a client. Each limit is the first one that is set in the matching entry of
//! `limits.users`, in its listener's `limits`, or in `limits.client`.

use super::accounts::AccountBook;
use super::bucket::Bucket;
use crate::access::pattern::Glob;
use crate::mesh::quota::{Quota, Rate};
use crate::message::Accounts;
use std::sync::Arc;

/// The treatment of messages that exceed a rate.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Excess {
    /// Nothing more is read from the client until it has come down to its rate.
    #[default]
    Park,
    /// QoS 0 messages are dropped; QoS 1 and 2 messages are refused with 0x97, or wait where the
    /// protocol version has no reason codes.
    Drop,
    /// The client is disconnected with 0x96.
    Disconnect,
}

/// One limit, as one place of the configuration sets it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LimitWanted {
    /// The limit is not set here: the next place counts.
    #[default]
    Inherit,
    /// There is no limit, whatever the next place says.
    Unlimited,
    /// This limit.
    At(u64),
}

impl LimitWanted {
    fn or(self, next: LimitWanted) -> LimitWanted {
        if self == LimitWanted::Inherit { next } else { self }
    }

    fn limit(self) -> Option<u64> {
        match self {
            LimitWanted::At(limit) => Some(limit),
            LimitWanted::Inherit | LimitWanted::Unlimited => None,
        }
    }
}

/// The limits of clients that one place of the configuration sets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LimitSet {
    /// PUBLISH packets per second.
    pub messages: LimitWanted,
    /// Bytes of them per second: topic, properties and payload.
    pub bytes: LimitWanted,
    /// What happens beyond.
    pub excess: Option<Excess>,
    /// Subscriptions of one client.
    pub subscriptions: LimitWanted,
    /// Bytes of a packet.
    pub packet_size: LimitWanted,
    /// Levels of a topic name or filter.
    pub topic_levels: LimitWanted,
    /// Messages that wait for the client.
    pub pending_messages: LimitWanted,
    /// Bytes of them.
    pub pending_bytes: LimitWanted,
}

impl LimitSet {
    fn or(self, next: &LimitSet) -> LimitSet {
        LimitSet {
            messages: self.messages.or(next.messages),
            bytes: self.bytes.or(next.bytes),
            excess: self.excess.or(next.excess),
            subscriptions: self.subscriptions.or(next.subscriptions),
            packet_size: self.packet_size.or(next.packet_size),
            topic_levels: self.topic_levels.or(next.topic_levels),
            pending_messages: self.pending_messages.or(next.pending_messages),
            pending_bytes: self.pending_bytes.or(next.pending_bytes),
        }
    }
}

/// The limits of one client.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GrantedLimits {
    /// PUBLISH packets per second.
    pub messages: Option<u64>,
    /// Bytes of them per second.
    pub bytes: Option<u64>,
    /// What happens beyond.
    pub excess: Excess,
    /// Subscriptions.
    pub subscriptions: Option<u64>,
    /// Bytes of a packet.
    pub packet_size: Option<u32>,
    /// Levels of a topic name or filter.
    pub topic_levels: Option<u64>,
    /// Messages that wait.
    pub pending_messages: Option<u64>,
    /// Bytes of them.
    pub pending_bytes: Option<u64>,
}

impl GrantedLimits {
    fn of(place: &LimitSet) -> GrantedLimits {
        GrantedLimits {
            messages: place.messages.limit(),
            bytes: place.bytes.limit(),
            excess: place.excess.unwrap_or_default(),
            subscriptions: place.subscriptions.limit(),
            packet_size: place.packet_size.limit().map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            topic_levels: place.topic_levels.limit(),
            pending_messages: place.pending_messages.limit(),
            pending_bytes: place.pending_bytes.limit(),
        }
    }

    /// True when there is no limit.
    pub fn is_unlimited(&self) -> bool {
        GrantedLimits { excess: Excess::Park, ..*self } == GrantedLimits::default()
    }
}

/// What all clients of one entry of `limits.users` use together.
#[derive(Default, Debug)]
pub struct UserGroup {
    /// Connections.
    pub connections: Quota,
    /// Pace of new ones.
    pub rate: Rate,
}

/// One entry of `limits.users`.
#[derive(Clone, Debug)]
pub struct UserEntry {
    /// The user names that the entry is about; `None` for any user name, or none.
    pub username: Option<Glob>,
    /// The ClientIds that the entry is about; `None` for any.
    pub client_id: Option<Glob>,
    /// The limits of each of these clients.
    pub place: LimitSet,
    /// Most connections of all of them.
    pub connections: Option<u64>,
    /// New connections of all of them per second.
    pub connects_per_second: Option<u32>,
    /// The account of what is retained for all of them; 0 without a bound.
    pub account: u32,
    /// What all of these clients use together.
    pub group: Arc<UserGroup>,
}

impl UserEntry {
    fn matches(&self, client_id: &str, username: Option<&str>) -> bool {
        let client = self.client_id.as_ref().is_none_or(|glob| glob.matches(client_id));
        let named = |glob: &Glob| username.is_some_and(|name| glob.matches(name));
        client && self.username.as_ref().is_none_or(named)
    }

    /// Whether both entries are about the same clients.
    fn is_like(&self, other: &UserEntry) -> bool {
        self.username == other.username && self.client_id == other.client_id
    }
}

/// Limits of what comes from one address, or one network of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressLimits {
    /// Most connections.
    pub connections: Option<u32>,
    /// New connections per second.
    pub connects_per_second: Option<u32>,
    /// Bits of an IPv4 address that make a network.
    pub prefix_v4: u8,
    /// Bits of an IPv6 address that make a network.
    pub prefix_v6: u8,
}

impl Default for AddressLimits {
    fn default() -> Self {
        AddressLimits { connections: None, connects_per_second: None, prefix_v4: 32, prefix_v6: 64 }
    }
}

impl AddressLimits {
    /// True when there is any limit.
    pub fn any(&self) -> bool {
        self.connections.is_some() || self.connects_per_second.is_some()
    }
}

/// All limits of clients.
#[derive(Clone, Debug, Default)]
pub struct LimitRules {
    /// Limits of every client.
    pub client: LimitSet,
    /// Limits of a listener's clients, by the listener's name.
    pub listeners: Vec<(Box<str>, LimitSet)>,
    /// The accounts of retained messages of a listener's clients, by the listener's name.
    pub listener_accounts: Vec<(Box<str>, u32)>,
    /// Entries for some clients; the first that matches a client counts.
    pub users: Vec<UserEntry>,
    /// Bounds of retained messages.
    pub accounts: AccountBook,
    /// Limits of addresses.
    pub address: AddressLimits,
    /// New connections of the whole broker per second.
    pub max_connect_rate: Option<u32>,
}

impl LimitRules {
    /// False when no client can have a limit.
    pub fn any(&self) -> bool {
        self.client != LimitSet::default()
            || !self.listeners.is_empty()
            || !self.users.is_empty()
            || !self.listener_accounts.is_empty()
    }

    /// The limits of a client, and the entry that it belongs to.
    pub fn find(
        &self,
        client_id: &str,
        username: Option<&str>,
        listener: &str,
    ) -> (GrantedLimits, Option<&UserEntry>) {
        let entry = self.users.iter().find(|entry| entry.matches(client_id, username));
        let mut place = entry.map_or(LimitSet::default(), |entry| entry.place);
        if let Some((_, of)) = self.listeners.iter().find(|(name, _)| **name == *listener) {
            place = place.or(of);
        }
        (GrantedLimits::of(&place.or(&self.client)), entry)
    }

    /// The accounts that the retained messages of a client of this listener and entry count for.
    pub fn accounts_of(&self, listener: &str, entry: Option<&UserEntry>) -> Accounts {
        let known = self.listener_accounts.iter().find(|(name, _)| **name == *listener);
        Accounts::new([known.map_or(0, |known| known.1), entry.map_or(0, |entry| entry.account)])
    }

    /// Takes over what the clients of the old entries use, so that a reload does not forget their
    /// connections.
    pub fn adopt(&mut self, old: &LimitRules) {
        for entry in &mut self.users {
            if let Some(known) = old.users.iter().find(|known| known.is_like(entry)) {
                entry.group = Arc::clone(&known.group);
            }
        }
        self.accounts.adopt(&old.accounts);
    }
}

/// What one client with limits has used.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    messages: Bucket,
    bytes: Bucket,
}

impl Usage {
    /// Whether one more message may pass at `now` nanoseconds.
    ///
    /// # Errors
    /// When the message would exceed a rate: after how many nanoseconds it may pass.
    pub fn ready(&self, now: u64, granted: &GrantedLimits) -> Result<(), u64> {
        let messages = granted.messages.map_or(Ok(()), |_| self.messages.ready(now));
        let amount = granted.bytes.map_or(Ok(()), |_| self.bytes.ready(now));
        if let (Err(one), Err(other)) = (messages, amount) {
            return Err(one.max(other));
        }
        messages.and(amount)
    }

    /// Counts a message of this many bytes that passes.
    pub fn charge(&mut self, now: u64, bytes: u64, granted: &GrantedLimits) {
        if let Some(rate) = granted.messages {
            self.messages.charge(now, 1, rate);
        }
        if let Some(rate) = granted.bytes {
            self.bytes.charge(now, bytes, rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(username: Option<&str>, client_id: Option<&str>, place: LimitSet) -> UserEntry {
        UserEntry {
            username: username.map(Glob::new),
            client_id: client_id.map(Glob::new),
            place,
            connections: None,
            connects_per_second: None,
            account: 0,
            group: Arc::default(),
        }
    }

    #[test]
    fn the_first_place_that_says_something_counts() {
        let at = |messages| LimitSet { messages, ..LimitSet::default() };
        let rules = LimitRules {
            client: LimitSet { bytes: LimitWanted::At(7), ..at(LimitWanted::At(10)) },
            listeners: vec![("lab".into(), at(LimitWanted::At(20)))],
            users: vec![
                entry(Some("x*"), None, at(LimitWanted::Unlimited)),
                entry(None, Some("slow-*"), at(LimitWanted::At(1))),
            ],
            ..LimitRules::default()
        };
        let messages = |client, user, listener| rules.find(client, user, listener).0.messages;
        assert_eq!(messages("c", None, "default"), Some(10));
        assert_eq!(messages("c", None, "lab"), Some(20));
        assert_eq!(messages("c", Some("xy"), "lab"), None);
        assert_eq!(messages("slow-1", Some("y"), "lab"), Some(1));
        assert_eq!(messages("slow-1", Some("xy"), "lab"), None, "the first entry that matches");
        assert_eq!(rules.find("c", Some("xy"), "lab").0.bytes, Some(7), "each limit for itself");
        assert!(!rules.find("c", None, "default").0.is_unlimited());
        assert!(LimitRules::default().find("c", None, "default").0.is_unlimited());
    }

    #[test]
    fn a_message_takes_from_both_buckets_or_from_none() {
        let terms =
            GrantedLimits { messages: Some(2), bytes: Some(1000), ..GrantedLimits::default() };
        let mut usage = Usage::default();
        let mut take = |now, bytes| {
            usage.ready(now, &terms)?;
            usage.charge(now, bytes, &terms);
            Ok::<(), u64>(())
        };
        assert_eq!(take(0, 1500), Ok(()));
        assert_eq!(take(0, 1), Err(500_000_001), "of bytes");
        assert_eq!(take(600_000_000, 1), Ok(()), "the first was paid for by half");
        assert_eq!(take(600_000_000, 1), Ok(()), "two are a second's worth");
        assert_eq!(take(600_000_000, 1), Err(1), "of messages");
    }

    #[test]
    fn a_reload_goes_on_with_what_is_used() {
        let mut old = LimitRules {
            users: vec![entry(Some("a"), None, LimitSet::default())],
            ..LimitRules::default()
        };
        old.users[0].group.connections.take(3, 10);
        let mut new = LimitRules::default();
        new.users.push(entry(Some("b"), None, LimitSet::default()));
        new.users.push(entry(Some("a"), None, LimitSet::default()));
        new.adopt(&old);
        assert_eq!(new.users[1].group.connections.used(), 3);
        assert_eq!(new.users[0].group.connections.used(), 0);
        old.users.clear();
    }
}
