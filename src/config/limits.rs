//! The keys of `limits`, `overload` and `bans`, and their conversion to what the shards use. The
//! sections are a part of `sections`.

use super::super::notation::{DAY, KIB, MIB, SECOND, TIB};
use super::super::quantity::{Count, Percentage, Ratio, Size, Time, Unit};
use super::super::value::{self, Get, List, Or, Section, Text};
use super::{Auto, Connections, ConnectsPerSecond, LARGEST_PACKET, Levels, ListenerConfig};
use super::{MANY, Messages, Off, Subscriptions, Unlimited};
use crate::access::pattern::Glob;
use crate::limits::{self, MAX_USER_LIMITS};
use crate::overload::accounts::{Account, AccountBook};
use crate::overload::bans::Trigger;
use crate::overload::limits::{AddressLimits, Excess, LimitSet, LimitWanted, UserEntry};
use crate::overload::{BanRules, LimitRules, Policy, Thresholds};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};
use std::sync::Arc;

markers! { Unit:
    Tries "tries" Bits "bits" Connects "connects"
    MessagesPerSecond "messages per second" BytesPerSecond "bytes per second"
}

choice! {
    /// What happens to a message beyond a rate.
    OnExceed {
        /// What the next place of limits says; park where none does.
        Auto,
        /// The client is not read until it has come down to its rate: nothing is lost.
        Park,
        /// QoS 0 is dropped. QoS 1 and 2 are answered with 0x97 (MQTT 3 cannot say that: as park).
        Drop,
        /// The client is disconnected with 0x96.
        Disconnect,
    }
}

/// A limit. `auto` stands for the value of the next place where limits are set.
type Limit<T> = Or<Auto, Or<Unlimited, T>>;

section! {
    /// What clients may use.
    Limits {
        /// Bytes that all clients together may make the broker hold (ringmq_memory_bytes); or
        /// unlimited. auto: three quarters of the memory that was free at the start, or of what the
        /// control group had left. From 14 sixteenths on nothing more is stored: pending queues get
        /// no longer (pending.on_full decides), QoS 0 goes only to clients that read, no message is
        /// retained, unfinished CONNECTs are closed. From 15 on CONNECT gets 0x89 (MQTT 3: 3),
        /// SUBSCRIBE 0x97. From 16 on PUBLISH gets 0x97 (MQTT 3 and QoS 0: dropped and counted).
        /// What is in flight is never dropped for it. A step of each core may come on top.
        memory: Or<Auto, Or<Unlimited, Size<u64, { 16 * MIB }, TIB>>> = Or::NONE,
        /// Largest CONNECT packet, its will message included, at most mqtt.max_packet_size: what a
        /// connection may make the broker hold before it is known who it is. The worst case in
        /// memory is this for every connection, and nothing while memory is short (memory).
        before_connect: Size<u32, 128, LARGEST_PACKET> = Size::of(64 * KIB),
        /// Most new connections per second of the whole broker, in a burst of as many; further ones
        /// are refused with 0x9F (MQTT 3: 3). A listener may have a max_connect_rate besides.
        max_connect_rate: Or<Unlimited, Count<u32, ConnectsPerSecond, 1, MANY>> = Or::NONE,
        /// Limits of every client, unless its listener or an entry of users says otherwise.
        client: ClientLimits = ClientLimits::default(),
        /// Limits of the clients of one address.
        address: AddressSection = AddressSection::default(),
        /// Limits of some clients: the first entry that matches counts.
        users: List<UserLimits, MAX_USER_LIMITS> = List(Vec::new()),
    }
}

section! {
    /// Limits of a client. A reload changes those of clients that connect after it.
    ClientLimits {
        /// Most PUBLISH packets per second, in a burst of one second's worth.
        messages_per_second: Limit<Count<u32, MessagesPerSecond, 1, MANY>> = Or::NONE,
        /// Most bytes of PUBLISH packets per second (topic, properties, payload), in a burst of one
        /// second's worth. A larger message goes through, and the next one waits for it.
        bytes_per_second: Limit<Size<u64, KIB, TIB>> = Or::NONE,
        /// What happens to a message beyond these.
        on_exceed: OnExceed = OnExceed::Auto,
        /// Most subscriptions, at most mqtt.max_subscriptions. SUBACK says 0x97, to MQTT 3 0x80.
        max_subscriptions: Limit<Count<u32, Subscriptions, 1, MANY>> = Or::NONE,
        /// Largest packet, at most mqtt.max_packet_size; CONNACK tells it. Past it the client is
        /// disconnected with 0x95.
        max_packet_size: Limit<Size<u32, 128, LARGEST_PACKET>> = Or::NONE,
        /// Most levels of a topic name or filter, at most mqtt.max_topic_levels. Past it a
        /// publisher is disconnected with 0x90, a filter gets 0x8F.
        max_topic_levels: Limit<Count<u32, Levels, 1, { limits::MAX_TOPIC_LEVELS as u64 }>> =
            Or::NONE,
        /// Most messages that wait for the client, at most mqtt.pending.max_messages;
        /// mqtt.pending.on_full decides.
        max_pending_messages: Limit<Count<u32, Messages, 0, MANY>> = Or::NONE,
        /// Most bytes of them, at most mqtt.pending.max_bytes.
        max_pending_bytes: Limit<Size<u64, 0, TIB>> = Or::NONE,
    }
}

section! {
    /// Whose limits these are: both have to match.
    Matched {
        /// User name; * stands for any text. Empty: with any or none.
        username: Text<0, 256> = Text::of(""),
        /// ClientId; * stands for any text. Empty: any.
        client_id: Text<0, 256> = Text::of(""),
    }
}

section! {
    /// Limits of the clients that match.
    UserLimits {
        /// Whose.
        #[serde(rename = "match")]
        who: Matched = Matched::default(),
        /// Most connections of all of them together; further ones are refused with 0x97 (MQTT 3:
        /// 3).
        connections: Or<Unlimited, Count<u32, Connections, 1, MANY>> = Or::NONE,
        /// Most new connections per second of all of them; further ones get 0x9F (MQTT 3: 3).
        connects_per_second: Or<Unlimited, Count<u32, ConnectsPerSecond, 1, MANY>> = Or::NONE,
        /// Most retained messages of all of them together: what they published while there was such
        /// a bound and is still kept, whoever is connected. Further ones are delivered, not kept.
        retained_messages: Or<Unlimited, Count<u32, Messages, 0, MANY>> = Or::NONE,
        /// Most bytes of them, topics included.
        retained_bytes: Or<Unlimited, Size<u64, 0, TIB>> = Or::NONE,
        /// Most PUBLISH packets per second of each.
        messages_per_second: Limit<Count<u32, MessagesPerSecond, 1, MANY>> = Or::NONE,
        /// Most bytes of PUBLISH packets per second of each.
        bytes_per_second: Limit<Size<u64, KIB, TIB>> = Or::NONE,
        /// What happens to a message beyond these.
        on_exceed: OnExceed = OnExceed::Auto,
        /// Most subscriptions of each.
        max_subscriptions: Limit<Count<u32, Subscriptions, 1, MANY>> = Or::NONE,
        /// Largest packet.
        max_packet_size: Limit<Size<u32, 128, LARGEST_PACKET>> = Or::NONE,
        /// Most levels of a topic name or filter.
        max_topic_levels: Limit<Count<u32, Levels, 1, { limits::MAX_TOPIC_LEVELS as u64 }>> =
            Or::NONE,
        /// Most messages that wait for each.
        max_pending_messages: Limit<Count<u32, Messages, 0, MANY>> = Or::NONE,
        /// Most bytes of them.
        max_pending_bytes: Limit<Size<u64, 0, TIB>> = Or::NONE,
    }
}

section! {
    /// Limits of what comes from one address, or one network of addresses. The address is the one
    /// that a PROXY header tells, if there is one. Addresses of trusted_proxies, and unix sockets,
    /// have none. Of 1,048,576 networks at a time; one more has no limits, and is counted.
    AddressSection {
        /// Most connections; further ones are refused with 0x97 (MQTT 3: 3).
        connections: Or<Unlimited, Count<u32, Connections, 1, MANY>> = Or::NONE,
        /// Most new connections per second, in a burst of one second's worth; further ones are
        /// refused with 0x9F (MQTT 3: 3).
        connects_per_second: Or<Unlimited, Count<u32, ConnectsPerSecond, 1, MANY>> = Or::NONE,
        /// Bits of an IPv4 address that make a network.
        prefix_v4: Count<u8, Bits, 1, 32> = Count::of(32),
        /// Bits of an IPv6 address that make a network.
        prefix_v6: Count<u8, Bits, 1, 128> = Count::of(64),
    }
}

section! {
    /// What is not done any more when a core cannot keep up. Levels, each with those below it: 1
    /// connections are accepted at the pace that the core bears; 2 CONNECT is refused with 0x89
    /// (MQTT 3: 3), before a TLS handshake; 3 QoS 0 goes only to clients that read; 4 QoS 0 of
    /// clients is dropped; 5 no new subscriptions and retained messages (0x97). QoS 1 and 2 are
    /// never dropped for it. A level begins at once and ends after a calm second.
    OverloadConfig {
        /// off: only limits.memory and the other bounds hold.
        enabled: bool = true,
        /// Two steps in a row in which the core's thread runs so long begin level 1; 10, 20, 40 and
        /// 80 times as long the levels above. Time in which other processes have the CPU does not
        /// count. While many connect, their pace is adjusted so that steps take a quarter of it,
        /// whoever has the CPU.
        lag: Time<{ SECOND / 100_000 }, { 60 * SECOND }> = Time::of(SECOND / 20),
        /// Share of the control group's memory in use that begins level 1; the levels above begin
        /// at fifths of what is left. Without a control group's limit it is of the host's memory,
        /// and only for levels 1 and 2. auto: 85% of a control group's, 95% of the host's.
        memory: Or<Auto, Percentage> = Or::NONE,
        /// A level ends when every signal is below this part of what begins it.
        recover: Ratio<0, 1> = Ratio::of(0.8),
        /// Where MQTT 5 clients are sent that are refused at level 2, as host:port: with 0x9C in
        /// place of 0x89; and those of a node that leaves its cluster, or that stops while other
        /// nodes are there. Empty: nowhere.
        server_reference: Text<0, 256> = Text::of(""),
    }
}

section! {
    /// ClientIds that connect too often.
    Flapping {
        /// So many connects within the window lead to a ban of the ClientId.
        connects: Or<Off, Count<u32, Connects, 2, MANY>> = Or::NONE,
        /// The window.
        window: Time<SECOND, DAY> = Time::of(60 * SECOND),
        /// How long the ban lasts.
        ban: Time<SECOND, { 365 * DAY }> = Time::of(300 * SECOND),
    }
}

section! {
    /// Addresses that show wrong credentials too often.
    BadCredentials {
        /// So many refused CONNECTs within the window lead to a ban of the address, or of its
        /// network as limits.address has it.
        tries: Or<Off, Count<u32, Tries, 2, MANY>> = Or::NONE,
        /// The window.
        window: Time<SECOND, DAY> = Time::of(60 * SECOND),
        /// How long the ban lasts.
        ban: Time<SECOND, { 365 * DAY }> = Time::of(300 * SECOND),
    }
}

section! {
    /// Who may not connect: CONNECT gets 0x8A (MQTT 3: 5). Of the addresses of trusted_proxies none
    /// is ever banned. A restart ends the bans that the broker made.
    Bans {
        /// A file of bans, read at the start and again on SIGHUP: lines such as
        /// `address 192.0.2.0/24`, `client_id meter-*`, `user NAME`; # begins a comment. Clients
        /// that are connected stay. Empty: none.
        file: Text<0, 4096> = Text::of(""),
        /// ClientIds that connect too often.
        flapping: Flapping = Flapping::default(),
        /// Addresses that show wrong credentials too often.
        bad_credentials: BadCredentials = BadCredentials::default(),
    }
}

/// How much clients may make the broker hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryBudget {
    /// A share of the memory that was free when the broker started.
    Auto,
    /// No bound.
    Unlimited,
    /// This many bytes.
    Bytes(u64),
}

impl MemoryBudget {
    /// The budget in bytes; `u64::MAX` stands for no bound. `auto` is the value of
    /// [`MemoryBudget::Auto`], if it is known.
    pub fn bytes(self, auto: Option<u64>) -> u64 {
        match self {
            MemoryBudget::Auto => auto.unwrap_or(u64::MAX),
            MemoryBudget::Unlimited => u64::MAX,
            MemoryBudget::Bytes(bytes) => bytes,
        }
    }
}

impl Limits {
    /// The value of the key `memory`.
    pub fn budget(&self) -> MemoryBudget {
        match self.memory.get() {
            None => MemoryBudget::Auto,
            Some(None) => MemoryBudget::Unlimited,
            Some(Some(bytes)) => MemoryBudget::Bytes(bytes),
        }
    }

    /// The limits in the form that the shards use.
    fn rules(&self, listeners: &[ListenerConfig]) -> LimitRules {
        let of = |listener: &ListenerConfig| ((*listener.name).into(), listener.limits.set());
        let mut accounts = AccountBook::default();
        let mut listener_accounts = Vec::new();
        for listener in listeners {
            if let Some(account) = listener.account() {
                listener_accounts.push(((*listener.name).into(), account.number));
                accounts.add(account);
            }
        }
        self.users.iter().filter_map(UserLimits::account).for_each(|one| accounts.add(one));
        let listeners = listeners.iter().map(of).filter(|(_, set)| *set != LimitSet::default());
        LimitRules {
            client: self.client.set(),
            listeners: listeners.collect(),
            listener_accounts,
            users: self.users.iter().map(UserLimits::entry).collect(),
            accounts,
            address: AddressLimits {
                connections: self.address.connections.get(),
                connects_per_second: self.address.connects_per_second.get(),
                prefix_v4: self.address.prefix_v4.get(),
                prefix_v6: self.address.prefix_v6.get(),
            },
            max_connect_rate: self.max_connect_rate.get(),
        }
    }
}

fn wanted<T: Into<u64>>(limit: Option<Option<T>>) -> LimitWanted {
    match limit {
        None => LimitWanted::Inherit,
        Some(None) => LimitWanted::Unlimited,
        Some(Some(limit)) => LimitWanted::At(limit.into()),
    }
}

macro_rules! limit_set {
    ($from:ident) => {
        LimitSet {
            messages: wanted($from.messages_per_second.get()),
            bytes: wanted($from.bytes_per_second.get()),
            excess: match $from.on_exceed {
                OnExceed::Auto => None,
                OnExceed::Park => Some(Excess::Park),
                OnExceed::Drop => Some(Excess::Drop),
                OnExceed::Disconnect => Some(Excess::Disconnect),
            },
            subscriptions: wanted($from.max_subscriptions.get()),
            packet_size: wanted($from.max_packet_size.get()),
            topic_levels: wanted($from.max_topic_levels.get()),
            pending_messages: wanted($from.max_pending_messages.get()),
            pending_bytes: wanted($from.max_pending_bytes.get()),
        }
    };
}

impl ClientLimits {
    fn set(&self) -> LimitSet {
        limit_set!(self)
    }
}

impl UserLimits {
    fn entry(&self) -> UserEntry {
        let glob = |text: &str| (!text.is_empty()).then(|| Glob::new(text));
        UserEntry {
            username: glob(&self.who.username),
            client_id: glob(&self.who.client_id),
            place: limit_set!(self),
            connections: self.connections.get().map(u64::from),
            connects_per_second: self.connects_per_second.get(),
            account: self.account().map_or(0, |account| account.number),
            group: Arc::default(),
        }
    }

    /// The account that bounds what these clients may retain, if there is one. Entries for the same
    /// clients share an account.
    fn account(&self) -> Option<Account> {
        let who = [("username", &*self.who.username), ("client_id", &*self.who.client_id)];
        let said = who.iter().filter(|(_, text)| !text.is_empty());
        let said: Vec<String> = said.map(|(key, text)| format!("{key} {text}")).collect();
        let name = if said.is_empty() { "everybody".to_owned() } else { said.join(" ") };
        bounded(&name, self.retained_messages.get(), self.retained_bytes.get())
    }
}

impl ListenerConfig {
    /// The account that bounds what the listener's clients may retain, if there is one.
    fn account(&self) -> Option<Account> {
        let name = format!("listener {}", &*self.name);
        bounded(&name, self.max_retained_messages.get(), self.max_retained_bytes.get())
    }
}

fn bounded(name: &str, messages: Option<u32>, bytes: Option<u64>) -> Option<Account> {
    let any = messages.is_some() || bytes.is_some();
    any.then(|| Account::new(name, messages.map(u64::from), bytes))
}

impl super::Config {
    /// The values of `limits`, `overload` and `bans` in the form that the shards use. The ban file
    /// is read elsewhere.
    pub fn policy(&self) -> Policy {
        let millis = |time: std::time::Duration| time.as_millis() as u64;
        let (flapping, wrong) = (&self.bans.flapping, &self.bans.bad_credentials);
        let share = |share: f64| (share * 1000.0).round() as u64;
        let (memory, default) = (self.overload.memory.get(), Thresholds::default());
        Policy {
            limits: self.limits.rules(&self.listeners),
            overload: Thresholds {
                enabled: self.overload.enabled,
                lag: self.overload.lag.get().as_micros() as u64,
                memory: memory.map_or(default.memory, share),
                host_memory: memory.map_or(default.host_memory, share),
                recover: share(self.overload.recover.get()),
                ..default
            },
            server_reference: (*self.overload.server_reference).into(),
            bans: BanRules {
                flapping: Trigger {
                    count: flapping.connects.get().unwrap_or(0),
                    window: millis(flapping.window.get()),
                    ban: millis(flapping.ban.get()),
                },
                bad_credentials: Trigger {
                    count: wrong.tries.get().unwrap_or(0),
                    window: millis(wrong.window.get()),
                    ban: millis(wrong.ban.get()),
                },
            },
            banned: Arc::default(),
        }
    }
}
