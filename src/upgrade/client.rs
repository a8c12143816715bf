//! A client as it is handed over: its session, and its connection if it has one. All moments are on
//! the clock that both processes share.

use super::code::{BodyReader, ByteString, Code, SecretBytes, record};
use crate::access::rule::RuleSet;
use crate::ids::{ListenerId, Peer, ShardId};
use crate::message::Message;
use crate::packet::Qos;
use crate::session::Queued;
use crate::time::Instant;

record! {
    /// A client. A client without a session has not sent its CONNECT yet.
    pub struct MovedClient {
        /// Its session.
        pub session: Option<MovedSession>,
        /// Its connection, whose socket travels beside this record.
        pub connection: Option<MovedConnection>,
    }
}

record! {
    /// A client that is copied, with its socket, while the old process still serves it.
    pub struct Early {
        /// The shard of the old process that has the client.
        pub from: ShardId,
        /// The number of this copy at that shard: from 0 on, in order.
        pub number: u32,
        /// ClientId.
        pub client_id: Box<str>,
        /// The listener of its connection, by old's number, if it has a connection.
        pub listener: Option<ListenerId>,
        /// Its session; `None` when only the socket is copied, as messages of the session wait in
        /// the store.
        pub session: Option<MovedSession>,
        /// Its connection, if it has one and a session is copied with it.
        pub connection: Option<MovedConnection>,
    }
}

record! {
    /// What has changed of a copied client: [`MovedSession::flow`], [`MovedSession::stored`], the
    /// connection, or several of these. All else is what it was at the time of the copy.
    pub struct Remainder {
        /// The shard of the old process that has the client.
        pub from: ShardId,
        /// The number of the copy at that shard.
        pub number: u32,
        /// Messages in flight and messages that wait.
        pub flow: Option<MovedFlow>,
        /// Its numbers in the store, if it is stored.
        pub stored: Option<StoredAs>,
        /// Its connection, whose socket was copied.
        pub connection: MovedConnection,
    }
}

record! {
    /// A session.
    pub struct MovedSession {
        /// ClientId.
        pub client_id: Box<str>,
        /// The prefix of its topics; empty for none.
        pub mountpoint: Box<str>,
        /// Protocol level of its last connection: 3, 4 or 5.
        pub level: u8,
        /// Whether the client wants reason strings and user properties about failures.
        pub problem_information: bool,
        /// Whether the client is a bridge of Mosquitto.
        pub bridge: bool,
        /// Session Expiry Interval in seconds.
        pub expiry: u32,
        /// When the session ends if no connection comes before.
        pub ends: Instant,
        /// The client's Maximum Packet Size.
        pub maximum_packet_size: u32,
        /// The most unacknowledged messages to the client.
        pub window_limit: u16,
        /// When its last connection began, if that is known.
        pub connected: Option<Instant>,
        /// Its subscriptions, including those in share groups.
        pub subscriptions: Vec<MovedSubscription>,
        /// The will message.
        pub will: Option<MovedWill>,
        /// The result of the client's authentication, if it matters for later decisions.
        pub grant: Option<MovedGrant>,
        /// Messages in flight and messages that wait.
        pub flow: Option<MovedFlow>,
        /// Its numbers in the store, if it is stored.
        pub stored: Option<StoredAs>,
    }
}

record! {
    /// The numbers of a session in the store, whose files the new process takes over.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct StoredAs {
        /// The session's number.
        pub number: u64,
        /// The number of the last message that was queued for the session.
        pub slot: u32,
    }
}

record! {
    /// A message in the store that waits for a session.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct StoredMessageRef {
        /// The message's number within the session.
        pub slot: u32,
        /// The message's number in the store.
        pub number: u64,
        /// CRC32C of the message's record.
        pub checksum: u32,
    }
}

record! {
    /// The result of a client's authentication.
    pub struct MovedGrant {
        /// Its user name.
        pub username: Option<Box<str>>,
        /// Whether no access rule of the configuration applies to the client.
        pub superuser: bool,
        /// The client's own rules, which precede those of the configuration.
        pub rules: Option<RuleSet>,
        /// Attributes that rules may refer to.
        pub attributes: Vec<(Box<str>, Box<str>)>,
        /// The common name in its certificate.
        pub certificate: Box<str>,
        /// The method of its enhanced authentication: 1 SCRAM-SHA-256, 2 SCRAM-SHA-512, or 0.
        pub mechanism: u8,
        /// When the client has to authenticate again.
        pub ends: Instant,
        /// Identifies the credential that the client showed: after a reload it tells whether that
        /// is still right. 0 when that is not checked.
        pub credential: u64,
        /// The other end of its connection.
        pub peer: Peer,
        /// The listener of its connection, by old's number.
        pub listener: ListenerId,
    }
}

record! {
    /// A subscription.
    pub struct MovedSubscription {
        /// The filter, mountpoint included.
        pub filter: Box<str>,
        /// Granted options, packed as in the subscription index.
        pub options: u8,
        /// Subscription Identifier; 0 for none.
        pub id: u32,
    }
}

record! {
    /// A will message with its times.
    pub struct MovedWill {
        /// The message.
        pub message: Message,
        /// Will Delay Interval in seconds.
        pub delay: u32,
        /// Message Expiry Interval of the will message in seconds.
        pub message_expiry: Option<u32>,
        /// When the will message is due, while its delay runs.
        pub due: Option<Instant>,
    }
}

record! {
    /// Messages in flight and messages that wait.
    #[derive(Default)]
    pub struct MovedFlow {
        /// The first packet identifier of the in-flight window; not 0.
        pub first: u16,
        /// The places of the window, for that packet identifier and the following ones.
        pub sent: Vec<MovedInFlight>,
        /// Messages that wait, in the order of their delivery.
        pub pending: Vec<MovedPending>,
        /// Messages that wait behind those, and whose bodies are in the store only.
        pub away: Vec<MovedAway>,
        /// Packet identifiers of QoS 2 messages of this connection that await PUBREL.
        pub inbound: Vec<u16>,
        /// Packet identifiers of QoS 2 messages of earlier connections that await PUBREL.
        pub inbound_earlier: Vec<u16>,
        /// When unacknowledged messages are sent again.
        pub retry: Option<Instant>,
    }
}

record! {
    /// A message that waits.
    pub struct MovedPending {
        /// The message.
        pub queued: Queued,
        /// Its entry in the store, if it has one.
        pub kept: Option<StoredMessageRef>,
    }
}

record! {
    /// A message that waits in the store only.
    pub struct MovedAway {
        /// Its entry in the store.
        pub kept: StoredMessageRef,
        /// Bytes of its topic name, properties and payload.
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
    /// A place of the in-flight window.
    pub struct MovedInFlight {
        /// The awaited packet: 0 none, 1 PUBACK, 2 PUBREC, 3 PUBCOMP.
        pub awaits: u8,
        /// Whether it is still to be sent again.
        pub again: bool,
        /// The message, if it is kept in memory.
        pub queued: Option<Queued>,
        /// Its entry in the store, if it has one.
        pub kept: Option<StoredMessageRef>,
        /// The stored message's body, when the store does not keep it for the session any more.
        pub body: Option<Message>,
    }
}

record! {
    /// A connection.
    pub struct MovedConnection {
        /// The listener, by old's number.
        pub listener: ListenerId,
        /// The other end.
        pub peer: Peer,
        /// When the broker last heard from the client.
        pub last_seen: Instant,
        /// Milliseconds of silence after which the connection is closed; 0 for no limit.
        pub patience: u32,
        /// Bytes that were received but not processed.
        pub input: ByteString,
        /// Bytes of MQTT that were not sent.
        pub output: ByteString,
        /// Bytes that go out before `output`, as they are: the layers do not process them again.
        pub wire: ByteString,
        /// The state of the layers below MQTT (TLS, WebSockets), if there are any.
        pub layers: Option<SecretBytes>,
        /// Topic aliases that the client set: topic names, by the alias minus one.
        pub aliases_in: Vec<Option<Box<str>>>,
        /// Topic aliases that the broker set.
        pub aliases_out: Vec<(Box<str>, u16)>,
        /// The most topic aliases that the broker may set.
        pub alias_limit: u16,
    }
}

impl MovedSession {
    /// Whether the session's numbers are possible.
    fn is_sound(&self) -> bool {
        (3..=5).contains(&self.level)
            && self.client_id.len() <= usize::from(u16::MAX)
            && self.flow.as_ref().is_none_or(MovedFlow::is_sound)
    }
}

impl MovedFlow {
    fn is_sound(&self) -> bool {
        let awaits = |sent: &MovedInFlight| sent.awaits <= 3;
        self.first != 0 && self.sent.len() < usize::from(u16::MAX) && self.sent.iter().all(awaits)
    }
}

impl Early {
    /// Reads a record that takes all of `bytes`; `None` when `bytes` are not one.
    pub fn decode(bytes: &[u8]) -> Option<Early> {
        let mut body = BodyReader::new(bytes);
        let early = Early::get(&mut body).filter(|_| body.is_empty())?;
        let named =
            |session: &MovedSession| session.client_id == early.client_id && session.is_sound();
        let whole = match (&early.session, &early.connection) {
            (Some(_), connection) => connection.is_some() == early.listener.is_some(),
            (None, connection) => connection.is_none() && early.listener.is_some(),
        };
        (whole && early.session.as_ref().is_none_or(named)).then_some(early)
    }
}

impl Remainder {
    /// Reads a record that takes all of `bytes`; `None` when `bytes` are not one.
    pub fn decode(bytes: &[u8]) -> Option<Remainder> {
        let mut body = BodyReader::new(bytes);
        let rest = Remainder::get(&mut body).filter(|_| body.is_empty())?;
        rest.flow.as_ref().is_none_or(MovedFlow::is_sound).then_some(rest)
    }
}

impl MovedClient {
    /// Reads a client that takes all of `bytes`; `None` when `bytes` are not one.
    pub fn decode(bytes: &[u8]) -> Option<MovedClient> {
        let mut body = BodyReader::new(bytes);
        let client = MovedClient::get(&mut body).filter(|_| body.is_empty())?;
        let sound = client.session.as_ref().is_none_or(MovedSession::is_sound);
        (sound && (client.session.is_some() || client.connection.is_some())).then_some(client)
    }
}
