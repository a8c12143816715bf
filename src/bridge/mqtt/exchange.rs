//! The data that a session with another MQTT broker takes and gives. Pure; the only behaviour here
//! is the text for logs.

use super::topics::Topics;
use crate::packet::{Qos, ReasonCode, Version, Violation};

/// What a session has to know about its bridge.
#[derive(Clone, Debug)]
pub struct RemotePlan {
    /// Which messages cross the bridge, under which names.
    pub topics: Topics,
    /// The protocol version.
    pub version: Version,
    /// The ClientId at the other broker.
    pub client_id: String,
    /// The user name; empty for none.
    pub username: String,
    /// The password; empty for none.
    pub password: String,
    /// Whether each connection begins a new session.
    pub clean_start: bool,
    /// Session Expiry Interval in seconds, with version 5.
    pub session_expiry: u32,
    /// Keep Alive in seconds.
    pub keep_alive: u16,
    /// The most unacknowledged messages of QoS 1 and 2 to the other broker.
    pub max_inflight: u16,
    /// The most unacknowledged messages from the other broker.
    pub receive_maximum: u16,
    /// The topic name of the bridge's state at the other broker; `None` when it is not published
    /// there.
    pub state_topic: Option<String>,
    /// The most brokers on a message's path.
    pub max_hops: u8,
    /// This broker's name on the paths of messages.
    pub instance: String,
    /// The largest packet that is accepted, in bytes.
    pub max_packet_size: u32,
}

/// A message from the other broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// The topic name at this broker.
    pub topic: String,
    /// The encoded properties to forward.
    pub properties: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The QoS at this broker.
    pub qos: Qos,
    /// The RETAIN flag.
    pub retain: bool,
    /// The remaining Message Expiry Interval in seconds.
    pub expiry: Option<u32>,
    /// The number for [`RemoteSession::accepted`].
    pub ticket: u64,
}

/// An effect of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BridgeEvent {
    /// The other broker has accepted the connection.
    Connected,
    /// All subscriptions are acknowledged: messages may be sent.
    Ready,
    /// A message that is to be published here.
    Incoming(Incoming),
    /// The other broker has taken the message with this number.
    Delivered(u64),
    /// The other broker refuses the message with this number.
    Rejected(u64, ReasonCode),
    /// A message that had passed this broker before was dropped.
    Loop,
    /// A message was dropped for which there is no entry, or which violates a rule.
    Stray,
}

/// Why a connection has to end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExchangeTrouble {
    /// CONNACK refuses the connection.
    Refused(ReasonCode),
    /// A subscription was refused.
    NotSubscribed(ReasonCode),
    /// The other broker broke a rule.
    Violation(Violation),
    /// The other broker has disconnected.
    Disconnected(ReasonCode),
}

impl std::fmt::Display for ExchangeTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ExchangeTrouble::Refused(reason) => {
                write!(f, "it refuses the connection: {}", reason.name())
            }
            ExchangeTrouble::NotSubscribed(reason) => {
                write!(f, "it refuses a subscription: {}", reason.name())
            }
            ExchangeTrouble::Violation(violation) => {
                write!(f, "it breaks a rule: {}", violation.what)
            }
            ExchangeTrouble::Disconnected(reason) => {
                write!(f, "it has disconnected: {}", reason.name())
            }
        }
    }
}

/// The result of sending a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendOutcome {
    /// It is under way with this QoS; with QoS 0 no answer follows.
    Sent(Qos),
    /// The entry for which it was taken has been removed.
    Unwanted,
    /// It has passed this broker before, or too many brokers.
    Loop,
    /// It is larger than the other broker accepts.
    TooLarge,
    /// Its expiry interval is over.
    Expired,
}
