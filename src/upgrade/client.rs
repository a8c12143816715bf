//! A client as it is handed over: its session, and its connection if it has one. Moments are those
//! of the clock that both processes go by.

use super::code::{Body, Bytes, Code, Secret, record};
use crate::access::rule::RuleSet;
use crate::ids::{ListenerId, Peer, ShardId};
use crate::message::Message;
use crate::packet::Qos;
use crate::session::Queued;
use crate::time::Instant;

record! {
    /// A client. One without a session has not sent its CONNECT yet.
    pub struct Client {
        /// Its session.
        pub session: Option<Session>,
        /// Its connection, whose socket comes with this.
        pub connection: Option<Connection>,
    }
}

record! {
    /// What is copied of a client, with its socket, while the old process still serves it.
    pub struct Early {
        /// The shard of the old process that has it.
        pub from: ShardId,
        /// How that shard numbers what it copies: from 0 on, one after the other.
        pub number: u32,
        /// ClientId.
        pub client_id: Box<str>,
        /// Where its connection came in, as old numbers its listeners.
        pub listener: ListenerId,
        /// Its session but for what is in flight and waits; with a store, nothing of it.
        pub session: Option<Session>,
    }
}

record! {
    /// What was not copied of a client before, when all else is still the same.
    pub struct Remainder {
        /// The shard of the old process that has it.
        pub from: ShardId,
        /// The number that it was copied under.
        pub number: u32,
        /// What is in flight and waits.
        pub flow: Option<Flow>,
        /// Its connection, whose socket was copied.
        pub connection: Connection,
    }
}

record! {
    /// A session.
    pub struct Session {
        /// ClientId.
        pub client_id: Box<str>,
        /// The prefix of its topics; empty for none.
        pub mountpoint: Box<str>,
        /// Protocol level of its last connection: 3, 4 or 5.
        pub level: u8,
        /// The client wants reasons of failures.
        pub problem_information: bool,
        /// It is a mosquitto bridge's.
        pub bridge: bool,
        /// Session Expiry Interval in seconds.
        pub expiry: u32,
        /// When it ends while there is no connection.
        pub ends: Instant,
        /// The client's Maximum Packet Size.
        pub maximum_packet_size: u32,
        /// Most messages in flight to it.
        pub window_limit: u16,
        /// When its last connection began, if that is known.
        pub connected: Option<Instant>,
        /// Its subscriptions, those in share groups included.
        pub subscriptions: Vec<Subscription>,
        /// Its will.
        pub will: Option<Will>,
        /// What the client was let in with, if that matters.
        pub grant: Option<Grant>,
        /// What is in flight and waits.
        pub flow: Option<Flow>,
        /// What it is in the store, if it is stored.
        pub stored: Option<StoredAs>,
    }
}

record! {
    /// A session that is in the store, whose files are taken over.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct StoredAs {
        /// Its number.
        pub number: u64,
        /// The number of the last message that waited for it.
        pub slot: u32,
    }
}

record! {
    /// A message that waits for a session in the store.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Kept {
        /// Its number within the session.
        pub slot: u32,
        /// The number of the message.
        pub number: u64,
        /// CRC32C of the message's record.
        pub checksum: u32,
    }
}

record! {
    /// What a client was let in with.
    pub struct Grant {
        /// Its user name.
        pub username: Option<Box<str>>,
        /// No rule of the configuration holds for it.
        pub superuser: bool,
        /// Rules of its own, which come first.
        pub rules: Option<RuleSet>,
        /// What rules may ask for.
        pub attributes: Vec<(Box<str>, Box<str>)>,
        /// The common name of its certificate.
        pub certificate: Box<str>,
        /// The method of its enhanced authentication: 1 SCRAM-SHA-256, 2 SCRAM-SHA-512, or 0.
        pub mechanism: u8,
        /// When it has to prove itself again.
        pub ends: Instant,
        /// What it showed.
        pub credential: u64,
        /// Where it came from.
        pub peer: Peer,
        /// Where it came in, as old numbers its listeners.
        pub listener: ListenerId,
    }
}

record! {
    /// A subscription.
    pub struct Subscription {
        /// The filter, mountpoint included.
        pub filter: Box<str>,
        /// Granted options, packed as in the index.
        pub options: u8,
        /// Subscription Identifier; 0 for none.
        pub id: u32,
    }
}

record! {
    /// A will.
    pub struct Will {
        /// The message.
        pub message: Message,
        /// Will Delay Interval in seconds.
        pub delay: u32,
        /// Its Message Expiry Interval in seconds.
        pub message_expiry: Option<u32>,
        /// When it is due, while its delay runs.
        pub due: Option<Instant>,
    }
}

record! {
    /// What is in flight and waits.
    #[derive(Default)]
    pub struct Flow {
        /// The first packet identifier of the window; not 0.
        pub first: u16,
        /// What was sent under it and the following ones.
        pub sent: Vec<Sent>,
        /// Messages that wait, in their order.
        pub pending: Vec<Waiting>,
        /// Those that wait behind them, and whose bodies are in the store only.
        pub away: Vec<Away>,
        /// Identifiers of QoS 2 messages from this connection that await PUBREL.
        pub inbound: Vec<u16>,
        /// The same of earlier connections.
        pub inbound_earlier: Vec<u16>,
        /// When what is unacknowledged is sent again.
        pub retry: Option<Instant>,
    }
}

record! {
    /// A message that waits.
    pub struct Waiting {
        /// The message.
        pub queued: Queued,
        /// What it is in the store.
        pub kept: Option<Kept>,
    }
}

record! {
    /// A message that waits in the store.
    pub struct Away {
        /// What it is there.
        pub kept: Kept,
        /// Bytes of topic, properties and payload.
        pub size: u32,
        /// QoS of the delivery.
        pub qos: Qos,
        /// RETAIN flag of the delivery.
        pub retain: bool,
        /// Subscription Identifiers.
        pub subscription_ids: Vec<u32>,
        /// When it expires.
        pub expires: Option<Instant>,
    }
}

record! {
    /// A place of the window.
    pub struct Sent {
        /// What is awaited: 0 nothing, 1 PUBACK, 2 PUBREC, 3 PUBCOMP.
        pub awaits: u8,
        /// It is to be sent again and was not yet.
        pub again: bool,
        /// The message, if it was kept.
        pub queued: Option<Queued>,
        /// What it is in the store.
        pub kept: Option<Kept>,
        /// The stored message, where it is not kept for the session any more.
        pub body: Option<Message>,
    }
}

record! {
    /// A connection.
    pub struct Connection {
        /// Where it came in, as old numbers its listeners.
        pub listener: ListenerId,
        /// Who is at the other end.
        pub peer: Peer,
        /// When it was last heard.
        pub last_seen: Instant,
        /// Milliseconds of silence allowed; 0 for any.
        pub patience: u32,
        /// Bytes that were received and not processed.
        pub input: Bytes,
        /// Bytes of MQTT that were not sent.
        pub output: Bytes,
        /// Bytes that go before those, as they are.
        pub wire: Bytes,
        /// What is below MQTT, if anything is.
        pub layers: Option<Secret>,
        /// Topic aliases that the client set: names by alias minus one.
        pub aliases_in: Vec<Option<Box<str>>>,
        /// Those that the broker set.
        pub aliases_out: Vec<(Box<str>, u16)>,
        /// Most that the broker may set.
        pub alias_limit: u16,
    }
}

impl Session {
    /// Whether all numbers of it are possible.
    fn is_sound(&self) -> bool {
        (3..=5).contains(&self.level)
            && self.client_id.len() <= usize::from(u16::MAX)
            && self.flow.as_ref().is_none_or(Flow::is_sound)
    }
}

impl Flow {
    fn is_sound(&self) -> bool {
        let awaits = |sent: &Sent| sent.awaits <= 3;
        self.first != 0 && self.sent.len() < usize::from(u16::MAX) && self.sent.iter().all(awaits)
    }
}

impl Early {
    /// Reads a whole one; `None` when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Option<Early> {
        let mut body = Body::new(bytes);
        let early = Early::get(&mut body).filter(|_| body.is_empty())?;
        let named = |session: &Session| session.client_id == early.client_id && session.is_sound();
        early.session.as_ref().is_none_or(named).then_some(early)
    }
}

impl Remainder {
    /// Reads a whole one; `None` when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Option<Remainder> {
        let mut body = Body::new(bytes);
        let rest = Remainder::get(&mut body).filter(|_| body.is_empty())?;
        rest.flow.as_ref().is_none_or(Flow::is_sound).then_some(rest)
    }
}

impl Client {
    /// Reads a whole client; `None` when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Option<Client> {
        let mut body = Body::new(bytes);
        let client = Client::get(&mut body).filter(|_| body.is_empty())?;
        let sound = client.session.as_ref().is_none_or(Session::is_sound);
        (sound && (client.session.is_some() || client.connection.is_some())).then_some(client)
    }
}
