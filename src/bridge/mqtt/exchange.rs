//! What a session with another MQTT broker is told, and what it tells. Pure; no behaviour but the
//! words for a log.

use super::topics::Topics;
use crate::packet::{Qos, ReasonCode, Version, Violation};

/// What a session needs to know of its bridge.
#[derive(Clone, Debug)]
pub struct RemotePlan {
    /// Which messages, and under which names.
    pub topics: Topics,
    /// The version to speak.
    pub version: Version,
    /// ClientId at the other broker.
    pub client_id: String,
    /// User name; empty for none.
    pub username: String,
    /// Password; empty for none.
    pub password: String,
    /// Begin a new session with each connection.
    pub clean_start: bool,
    /// Seconds; for version 5.
    pub session_expiry: u32,
    /// Seconds.
    pub keep_alive: u16,
    /// Messages of QoS 1 and 2 under way to the other broker.
    pub max_inflight: u16,
    /// Messages under way from the other broker.
    pub receive_maximum: u16,
    /// Where the state of the bridge is published at the other broker; `None`: nowhere.
    pub state_topic: Option<String>,
    /// Most brokers on a message's path.
    pub max_hops: u8,
    /// This broker's name on paths.
    pub instance: String,
    /// Largest packet that is taken, in bytes.
    pub max_packet_size: u32,
}

/// A message from the other broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// The topic here.
    pub topic: String,
    /// Properties to forward, encoded.
    pub properties: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The QoS here.
    pub qos: Qos,
    /// To be retained.
    pub retain: bool,
    /// Seconds.
    pub expiry: Option<u32>,
    /// What [`RemoteSession::accepted`] is told.
    pub ticket: u64,
}

/// What a packet has led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The other broker has accepted the connection.
    Connected,
    /// Everything is subscribed to: messages may be sent.
    Ready,
    /// A message to be published here.
    Incoming(Incoming),
    /// The message of that number has arrived.
    Delivered(u64),
    /// The other broker does not want the message of that number.
    Rejected(u64, ReasonCode),
    /// A message was dropped that had come over this broker before.
    Loop,
    /// A message has come that no entry is for, or that is against the rules.
    Stray,
}

/// Why a connection has to end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// CONNACK said no.
    Refused(ReasonCode),
    /// A subscription was refused.
    NotSubscribed(ReasonCode),
    /// The other broker broke a rule.
    Violation(Violation),
    /// It has disconnected.
    Disconnected(ReasonCode),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Refused(reason) => write!(f, "it refuses the connection: {}", reason.name()),
            Trouble::NotSubscribed(reason) => {
                write!(f, "it refuses a subscription: {}", reason.name())
            }
            Trouble::Violation(violation) => write!(f, "it breaks a rule: {}", violation.what),
            Trouble::Disconnected(reason) => write!(f, "it has disconnected: {}", reason.name()),
        }
    }
}

/// What became of a message that was to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is on its way; of QoS 0 nothing more is heard.
    Sent(Qos),
    /// The entry that it was taken for is there no more.
    Unwanted,
    /// It has come over this broker before, or over too many.
    Loop,
    /// The other broker takes no packet as large as that.
    TooLarge,
    /// Its time is over.
    Expired,
}
