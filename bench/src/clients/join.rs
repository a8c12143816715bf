//! Bringing clients in: connect, CONNECT, SUBSCRIBE, each step acknowledged, with a bounded number
//! under way so that a listen queue does not overflow.

use super::Net;
use crate::clock;
use crate::mqtt::{self, Malformed, Packet, Session, Version, first};
use crate::stats::Latency;
use std::collections::HashMap;

/// What the clients call themselves.
#[derive(Clone, Debug)]
pub enum Names {
    /// This and the client's number.
    Numbered(String),
    /// One for each client.
    Listed(Vec<String>),
}

impl Names {
    fn of(&self, client: u32) -> String {
        match self {
            Names::Numbered(prefix) => format!("{prefix}{client}"),
            Names::Listed(names) => names[client as usize].clone(),
        }
    }
}

/// Where one client is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Outside,
    Connecting,
    Subscribing,
    Ready,
}

/// Clients 0 to `total`, coming in.
pub struct Join {
    /// Protocol version of every client.
    pub version: Version,
    /// ClientIds.
    pub names: Names,
    /// Most clients under way at once.
    pub limit: u32,
    /// Connections begun per second; 0: as fast as `limit` allows.
    pub rate: u32,
    /// Seconds of keep-alive that clients announce; 0: none.
    pub keep_alive: u16,
    /// What becomes of the sessions.
    pub session: Session,
    /// Clients that have everything they need.
    pub ready: u32,
    /// Clients whose session the broker had kept.
    pub resumed: u32,
    /// Connections or subscriptions that were refused.
    pub refused: u32,
    /// Nanoseconds from the first system call, or with a rate from when it was due, to CONNACK.
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
    /// Nobody is in yet.
    pub fn new(version: Version, names: Names, total: u32, limit: u32) -> Self {
        Self {
            version,
            names,
            limit,
            rate: 0,
            keep_alive: 0,
            session: Session::Clean,
            ready: 0,
            resumed: 0,
            refused: 0,
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

    /// Everyone is in.
    pub fn complete(&self) -> bool {
        self.ready as usize == self.steps.len()
    }

    /// Starts as many connections as the limit and the rate allow.
    pub fn pump(&mut self, net: &mut Net) -> Result<(), String> {
        let now = clock::now();
        if self.began == 0 {
            self.began = now;
        }
        let allowed = match self.rate {
            0 => u64::MAX,
            rate => (now - self.began) / 1_000 * u64::from(rate) / 1_000_000,
        };
        while self.under_way < self.limit && self.begun < allowed {
            let client = match self.again.pop() {
                Some(client) => client,
                None if (self.next as usize) < self.steps.len() => {
                    self.next += 1;
                    self.next - 1
                }
                None => break,
            };
            // With a rate from when it was due: what a stall holds up counts (no coordinated
            // omission).
            let due = match self.rate {
                0 => clock::now(),
                rate => self.began + self.begun * clock::SECOND / u64::from(rate),
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

    /// The TCP connection stands: says CONNECT.
    pub fn connected(&mut self, net: &mut Net, client: u32) {
        self.steps[client as usize] = Step::Connecting;
        let id = self.names.of(client);
        mqtt::put_connect(net.out(client), self.version, &id, self.keep_alive, self.session);
    }

    /// Whether `client` takes part in the traffic.
    pub fn is_ready(&self, client: u32) -> bool {
        self.steps[client as usize] == Step::Ready
    }

    /// A packet for a client that is not ready. `filter` gives its subscription, if it has one. At
    /// CONNACK returns when the connection was begun.
    pub fn packet(
        &mut self,
        net: &mut Net,
        client: u32,
        packet: &Packet<'_>,
        filter: impl FnOnce(u32) -> Option<(String, u8)>,
    ) -> Result<Option<u64>, Malformed> {
        match (self.steps[client as usize], packet.first) {
            (Step::Connecting, first::CONNACK) => {
                let connack = mqtt::connack_of(packet)?;
                if connack.code != 0 {
                    self.refused += 1;
                    return Err(Malformed);
                }
                self.resumed += u32::from(connack.session_present);
                let start = self.starts.remove(&client);
                if let Some(start) = start {
                    self.connack.record(clock::now().saturating_sub(start));
                }
                match filter(client) {
                    Some((filter, qos)) => {
                        self.steps[client as usize] = Step::Subscribing;
                        mqtt::put_subscribe(net.out(client), self.version, 1, &filter, qos);
                    }
                    None => self.arrived(client),
                }
                Ok(start)
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

    /// The connection of `client` is gone, wherever it was. Returns whether it was in.
    pub fn left(&mut self, client: u32) -> bool {
        let was_ready =
            std::mem::replace(&mut self.steps[client as usize], Step::Outside) == Step::Ready;
        if was_ready {
            self.ready -= 1;
        } else {
            self.under_way = self.under_way.saturating_sub(1);
            self.starts.remove(&client);
        }
        was_ready
    }

    /// Brings `client`, who has left, in again with the next [`Self::pump`].
    pub fn return_of(&mut self, client: u32) {
        self.again.push(client);
    }

    /// Nobody else comes in.
    pub fn stop(&mut self) {
        self.next = self.steps.len() as u32;
        self.again.clear();
    }

    /// Forgets connect times and the pace so far: a new wave begins.
    pub fn restart_clock(&mut self) {
        (self.began, self.begun) = (0, 0);
        self.connack = Latency::new();
    }
}
