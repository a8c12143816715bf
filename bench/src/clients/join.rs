//! Bringing clients in: the TCP connection, then CONNECT and CONNACK, then SUBSCRIBE and SUBACK.
//! The number of clients under way is bounded so that the broker's listen queue does not overflow.

use super::Net;
use super::scram::Scram;
use crate::clock::{self, SECOND};
use crate::mqtt::{self, Connect, Filter, Malformed, Packet, Session, Version, first};
use crate::pattern::{Pattern, Random, Scope};
use crate::stats::Latency;
use std::collections::{BTreeMap, HashMap};

/// How ClientIds and user names are made.
#[derive(Clone, Debug)]
pub enum Names {
    /// This prefix and the client's number.
    Numbered(String),
    /// One ClientId for each client.
    Listed(Vec<String>),
    /// By patterns.
    Made(ClientNames),
}

/// ClientIds and user names by patterns.
#[derive(Clone, Debug)]
pub struct ClientNames {
    /// The pattern of the ClientId.
    pub client_id: Pattern,
    /// The pattern of the user name; `None` when clients send none.
    pub username: Option<Pattern>,
    /// The number of client 0.
    pub first: u64,
    /// The seed of the patterns' random numbers.
    pub seed: u64,
}

impl ClientNames {
    fn number(&self, client: u32) -> u64 {
        self.first + u64::from(client)
    }

    fn text(&self, pattern: &Pattern, client: u32) -> String {
        let scope = Scope { number: self.number(client), ..Scope::default() };
        // The seed is fixed, so every connection of this client gets the same text.
        pattern.text(&scope, &mut Random::new(self.seed, scope.number))
    }
}

impl Names {
    /// The ClientId of `client`.
    pub fn of(&self, client: u32) -> String {
        match self {
            Names::Numbered(prefix) => format!("{prefix}{client}"),
            Names::Listed(names) => names[client as usize].clone(),
            Names::Made(made) => made.text(&made.client_id, client),
        }
    }

    /// The number of `client`, which is `%i` in patterns.
    pub fn number(&self, client: u32) -> u64 {
        match self {
            Names::Numbered(_) | Names::Listed(_) => u64::from(client),
            Names::Made(made) => made.number(client),
        }
    }

    /// The user name of `client`.
    pub fn username(&self, client: u32) -> Option<String> {
        match self {
            Names::Numbered(_) | Names::Listed(_) => None,
            Names::Made(made) => made.username.as_ref().map(|pattern| made.text(pattern, client)),
        }
    }
}

/// What is known of a client when its CONNACK has come.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When its connection was begun or, with a rate, was due, in nanoseconds.
    pub begun: u64,
    /// The broker's receive maximum for QoS 1 and 2 messages.
    pub receive_maximum: u16,
}

/// How far one client has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Outside,
    Connecting,
    Subscribing,
    Ready,
}

/// Brings in clients 0 to `total` - 1 and knows how far each has come.
pub struct Join {
    /// Protocol version of every client.
    pub version: Version,
    /// How ClientIds and user names are made.
    pub names: Names,
    /// The most clients that are under way at once.
    pub limit: u32,
    /// Nanoseconds from one connection to the next; 0 begins as many as `limit` allows.
    pub interval: u64,
    /// The password of all clients that have a user name.
    pub password: Option<String>,
    /// Clients prove that they know a password instead of sending one.
    pub scram: Option<Scram>,
    /// Keep Alive of CONNECT in seconds; 0 switches it off.
    pub keep_alive: u16,
    /// Whether the broker keeps the sessions.
    pub session: Session,
    /// Clients that have completed every step.
    pub ready: u32,
    /// Clients with Session Present in CONNACK.
    pub resumed: u32,
    /// Connections or subscriptions that were refused.
    pub refused: u32,
    /// CONNACK codes of the refused ones, and how many had each.
    pub refusals: BTreeMap<u8, u64>,
    /// Nanoseconds to CONNACK from the first system call, or, with a rate, from the due time.
    pub connack: Latency,
    next: u32,
    again: Vec<u32>,
    under_way: u32,
    began: u64,
    begun: u64,
    starts: HashMap<u32, u64>,
    steps: Vec<Step>,
}

impl Join {
    /// Clients 0 to `total` - 1, none of which is in yet; at most `limit` are under way at once.
    pub fn new(version: Version, names: Names, total: u32, limit: u32) -> Self {
        Self {
            version,
            names,
            limit,
            interval: 0,
            password: None,
            scram: None,
            keep_alive: 0,
            session: Session::Clean,
            ready: 0,
            resumed: 0,
            refused: 0,
            refusals: BTreeMap::new(),
            connack: Latency::new(),
            next: 0,
            again: Vec::new(),
            under_way: 0,
            began: 0,
            begun: 0,
            starts: HashMap::new(),
            steps: vec![Step::Outside; total as usize],
        }
    }

    /// Begins `rate` connections per second; 0 begins as many as `limit` allows.
    pub fn at_rate(&mut self, rate: u32) {
        self.interval = SECOND.checked_div(u64::from(rate)).unwrap_or(0);
    }

    /// Whether all clients are in.
    pub fn complete(&self) -> bool {
        self.ready as usize == self.steps.len()
    }

    /// Starts as many connections as the limit and the rate allow.
    pub fn pump(&mut self, net: &mut Net) -> Result<(), String> {
        let now = clock::now();
        if self.began == 0 {
            self.began = now;
        }
        let allowed = (now - self.began).checked_div(self.interval);
        let allowed = allowed.map_or(u64::MAX, |intervals| intervals + 1);
        while self.under_way < self.limit && self.begun < allowed {
            let client = match self.again.pop() {
                Some(client) => client,
                None if (self.next as usize) < self.steps.len() => {
                    self.next += 1;
                    self.next - 1
                }
                None => break,
            };
            // With a rate, the time counts from when the connection was due: the delay of a stall
            // is then part of the measurement (no coordinated omission).
            let due = match self.interval {
                0 => clock::now(),
                interval => self.began + self.begun * interval,
            };
            match net.connect(client) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                    self.again.push(client);
                    break;
                }
                Err(e) => {
                    let why = "could not be opened (socket or slot limit)";
                    return Err(format!("client {client} {why}: {e}"));
                }
            }
            self.starts.insert(client, due);
            self.under_way += 1;
            self.begun += 1;
        }
        Ok(())
    }

    /// Sends CONNECT when the TCP connection is established.
    pub fn connected(&mut self, net: &mut Net, client: u32) {
        self.steps[client as usize] = Step::Connecting;
        let (id, username) = (self.names.of(client), self.names.username(client));
        let begin =
            |scram: &mut Scram| scram.begin(client, username.as_deref().unwrap_or_default());
        let auth = self.scram.as_mut().map(begin);
        let connect = Connect {
            version: self.version,
            client_id: &id,
            keep_alive: self.keep_alive,
            session: self.session,
            username: username.as_deref(),
            password: self.password.as_deref(),
            auth: auth.as_ref(),
        };
        mqtt::put_connect(net.out(client), &connect);
    }

    /// Whether `client` has completed every step.
    pub fn is_ready(&self, client: u32) -> bool {
        self.steps[client as usize] == Step::Ready
    }

    /// Whether it is a message, or belongs to one, that waited in the session of `client`: a broker
    /// may send these before it has seen the SUBSCRIBE.
    pub fn takes_early(&self, client: u32, packet: &Packet<'_>) -> bool {
        let waited = packet.first & 0xf0 == first::PUBLISH || packet.first == first::PUBREL;
        waited && self.steps[client as usize] == Step::Subscribing
    }

    /// Whether a client waits for SUBACK; messages may have come to it before.
    pub fn anyone_subscribes(&self) -> bool {
        self.steps.contains(&Step::Subscribing)
    }

    /// Handles a packet for a client that is not ready; `filters` gives the client's subscriptions.
    /// Returns an `Arrival` at CONNACK, and fails when the broker refuses the client or sends an
    /// unexpected packet.
    pub fn packet(
        &mut self,
        net: &mut Net,
        client: u32,
        packet: &Packet<'_>,
        filters: impl FnOnce(u32) -> Vec<Filter>,
    ) -> Result<Option<Arrival>, Malformed> {
        match (self.steps[client as usize], packet.first) {
            (Step::Connecting, first::CONNACK) => {
                let connack = mqtt::connack_of(self.version, packet)?;
                if connack.code != 0 {
                    self.refused += 1;
                    *self.refusals.entry(connack.code).or_default() += 1;
                    return Err(Malformed);
                }
                if let Some(scram) = &mut self.scram
                    && !scram.is_answered(client, mqtt::auth_data_of(packet)?)
                {
                    return Err(Malformed);
                }
                self.resumed += u32::from(connack.session_present);
                let begun = self.starts.remove(&client);
                if let Some(begun) = begun {
                    self.connack.record(clock::now().saturating_sub(begun));
                }
                let filters = filters(client);
                if filters.is_empty() {
                    self.arrived(client);
                } else {
                    self.steps[client as usize] = Step::Subscribing;
                    mqtt::put_subscribe(net.out(client), self.version, 1, &filters);
                }
                let receive_maximum = connack.receive_maximum;
                Ok(begun.map(|begun| Arrival { begun, receive_maximum }))
            }
            (Step::Connecting, first::AUTH) => {
                let scram = self.scram.as_mut().ok_or(Malformed)?;
                let proof = scram.prove(client, mqtt::auth_data_of(packet)?)?;
                mqtt::put_auth(net.out(client), &proof);
                Ok(None)
            }
            (Step::Subscribing, first::SUBACK) => {
                if mqtt::ack_of(self.version, packet)? != (1, false) {
                    self.refused += 1;
                    return Err(Malformed);
                }
                self.arrived(client);
                Ok(None)
            }
            _ => Err(Malformed),
        }
    }

    fn arrived(&mut self, client: u32) {
        self.steps[client as usize] = Step::Ready;
        self.ready += 1;
        self.under_way -= 1;
    }

    /// The connection of `client` has ended. Returns whether the client was ready before.
    pub fn left(&mut self, client: u32) -> bool {
        let was_ready =
            std::mem::replace(&mut self.steps[client as usize], Step::Outside) == Step::Ready;
        if was_ready {
            self.ready -= 1;
        } else {
            self.under_way = self.under_way.saturating_sub(1);
            self.starts.remove(&client);
            if let Some(scram) = &mut self.scram {
                scram.forget(client);
            }
        }
        was_ready
    }

    /// Connects `client`, which has left, again with the next [`Self::pump`].
    pub fn return_of(&mut self, client: u32) {
        self.again.push(client);
    }

    /// Begins no further connections.
    pub fn stop(&mut self) {
        self.next = self.steps.len() as u32;
        self.again.clear();
    }

    /// Forgets the CONNACK times and the pace so far: a new wave of connections begins.
    pub fn restart_clock(&mut self) {
        (self.began, self.begun) = (0, 0);
        self.connack = Latency::new();
    }
}
