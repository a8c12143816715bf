//! Bringing clients in: connect, CONNECT, SUBSCRIBE, each step acknowledged, with a bounded number
//! under way so that a listen queue does not overflow.

use super::Net;
use crate::mqtt::{self, Malformed, Packet, Version, first};

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
    /// ClientIds are this and the client's number.
    pub prefix: String,
    /// Most clients under way at once.
    pub limit: u32,
    /// Clients that have everything they need.
    pub ready: u32,
    /// Connections or subscriptions that were refused.
    pub refused: u32,
    next: u32,
    under_way: u32,
    steps: Vec<Step>,
}

impl Join {
    /// Nobody is in yet.
    pub fn new(version: Version, prefix: String, total: u32, limit: u32) -> Self {
        let steps = vec![Step::Outside; total as usize];
        Self { version, prefix, limit, ready: 0, refused: 0, next: 0, under_way: 0, steps }
    }

    /// Everyone is in.
    pub fn complete(&self) -> bool {
        self.ready as usize == self.steps.len()
    }

    /// Starts as many connections as the limit allows.
    pub fn pump(&mut self, net: &mut Net) -> Result<(), String> {
        while self.under_way < self.limit && (self.next as usize) < self.steps.len() {
            net.connect(self.next).map_err(|e| {
                format!("client {} could not be opened (socket or slot limit): {e}", self.next)
            })?;
            self.next += 1;
            self.under_way += 1;
        }
        Ok(())
    }

    /// The TCP connection stands: says CONNECT.
    pub fn connected(&mut self, net: &mut Net, client: u32) {
        self.steps[client as usize] = Step::Connecting;
        let id = format!("{}{client}", self.prefix);
        mqtt::put_connect(net.out(client), self.version, &id);
    }

    /// Whether `client` takes part in the traffic.
    pub fn is_ready(&self, client: u32) -> bool {
        self.steps[client as usize] == Step::Ready
    }

    /// A packet for a client that is not ready. `filter` gives its subscription, if it has one.
    pub fn packet(
        &mut self,
        net: &mut Net,
        client: u32,
        packet: &Packet<'_>,
        filter: impl FnOnce(u32) -> Option<(String, u8)>,
    ) -> Result<(), Malformed> {
        match (self.steps[client as usize], packet.first) {
            (Step::Connecting, first::CONNACK) => {
                if mqtt::connack_of(packet)? != 0 {
                    self.refused += 1;
                    return Err(Malformed);
                }
                match filter(client) {
                    Some((filter, qos)) => {
                        self.steps[client as usize] = Step::Subscribing;
                        mqtt::put_subscribe(net.out(client), self.version, 1, &filter, qos);
                    }
                    None => self.arrived(client),
                }
                Ok(())
            }
            (Step::Subscribing, first::SUBACK) => {
                if mqtt::ack_of(self.version, packet)? != (1, false) {
                    self.refused += 1;
                    return Err(Malformed);
                }
                self.arrived(client);
                Ok(())
            }
            _ => Err(Malformed),
        }
    }

    fn arrived(&mut self, client: u32) {
        self.steps[client as usize] = Step::Ready;
        self.ready += 1;
        self.under_way -= 1;
    }
}
