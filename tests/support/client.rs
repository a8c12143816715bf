//! A raw MQTT client: one blocking socket, no background thread, nothing sent unless asked for.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::broker::other_broker;
use super::packet::{
    Ack, AckKind, ConnAck, Packet, Property, Publish, Subscribe, encode_disconnect,
    encode_unsubscribe, properties, reason,
};
use super::web::{self, Web};
use super::wire::{Version, Writer};
use super::{Broker, patience};

/// A CONNECT to be sent.
#[derive(Clone, Debug)]
pub struct Connect {
    pub version: Version,
    pub id: String,
    pub clean: bool,
    pub keep_alive: u16,
    pub username: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
    pub will: Option<Publish>,
    pub properties: Vec<Property>,
}

impl Connect {
    /// Clean, keep alive off.
    pub fn new(version: Version, id: impl Into<String>) -> Connect {
        Connect {
            version,
            id: id.into(),
            clean: true,
            keep_alive: 0,
            username: None,
            password: None,
            will: None,
            properties: Vec::new(),
        }
    }

    /// A session that outlives its connection: clean session or clean start off, no expiry soon.
    pub fn durable(version: Version, id: impl Into<String>) -> Connect {
        let connect = Connect { clean: false, ..Connect::new(version, id) };
        if version.is_v5() { connect.with(Property::SessionExpiry(3600)) } else { connect }
    }

    pub fn with(mut self, property: Property) -> Connect {
        self.properties.push(property);
        self
    }

    pub fn clean(self, clean: bool) -> Connect {
        Connect { clean, ..self }
    }

    pub fn keep_alive(self, keep_alive: u16) -> Connect {
        Connect { keep_alive, ..self }
    }

    /// A will; its properties are the will properties.
    pub fn will(self, will: Publish) -> Connect {
        Connect { will: Some(will), ..self }
    }

    pub fn login(self, username: Option<&str>, password: Option<&str>) -> Connect {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Connect { username: username.map(bytes), password: password.map(bytes), ..self }
    }

    pub fn flags(&self) -> u8 {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags | u8::from(self.password.is_some()) << 6 | u8::from(self.username.is_some()) << 7
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new()
            .str(self.version.name())
            .u8(self.version.level())
            .u8(self.flags())
            .u16(self.keep_alive);
        if self.version.is_v5() {
            out = properties(out, &self.properties);
        }
        out = out.str(&self.id);
        if let Some(will) = &self.will {
            if self.version.is_v5() {
                out = properties(out, &will.properties);
            }
            out = out.str(&will.topic).str(&will.payload);
        }
        for field in [&self.username, &self.password].into_iter().flatten() {
            out = out.str(field);
        }
        out.packet(0x10)
    }

    /// Opens a connection and expects to be accepted.
    #[track_caller]
    pub fn open(&self, broker: &Broker) -> Client {
        self.open_with(broker).0
    }

    /// The same, by WebSocket if the listener is one for them, whatever the others use.
    #[track_caller]
    pub fn open_at(&self, broker: &Broker, is_web: bool) -> Client {
        let web = is_web.then(Web::default);
        let mut client = Client { web, ..Client::at(broker.address(), self.version) };
        client.send(&self.encode());
        let answer = client.connack();
        assert_eq!(answer.code, 0, "refused {self:?}: {answer:?}");
        client
    }

    /// Opens a connection, expects to be accepted and returns the CONNACK as well.
    #[track_caller]
    pub fn open_with(&self, broker: &Broker) -> (Client, ConnAck) {
        let mut client = Client::raw(broker, self.version);
        client.send(&self.encode());
        let answer = client.connack();
        assert_eq!(answer.code, 0, "refused {self:?}: {answer:?}");
        (client, answer)
    }

    /// Opens a connection and expects to be refused with this code, and to be cut off.
    #[track_caller]
    pub fn refused(&self, broker: &Broker, code: u8) -> ConnAck {
        let mut client = Client::raw(broker, self.version);
        client.send(&self.encode());
        let answer = client.connack();
        assert_eq!(answer.code, code, "{self:?}: {answer:?}");
        client.expect_closed();
        answer
    }
}

/// What came next on a connection.
#[derive(Debug, PartialEq)]
pub enum Next {
    Packet(Packet),
    Closed,
    Nothing,
}

pub struct Client {
    pub version: Version,
    stream: TcpStream,
    web: Option<Web>,
    bytes: Vec<u8>,
    stash: VecDeque<Packet>,
    next_id: u16,
}

impl Client {
    /// A connection on which nothing has been sent.
    #[track_caller]
    pub fn raw(broker: &Broker, version: Version) -> Client {
        if !broker.alive() {
            panic!("the broker has ended:\n{}", broker.complaints());
        }
        let web = web::is_on().then(Web::default);
        Client { web, ..Client::at(broker.address(), version) }
    }

    #[track_caller]
    pub fn at(address: SocketAddr, version: Version) -> Client {
        Client::try_at(address, version).expect("the broker accepts connections")
    }

    /// A connection, if somebody listens there.
    pub fn try_at(address: SocketAddr, version: Version) -> Option<Client> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_write_timeout(Some(patience())).expect("a write timeout");
        let (bytes, stash) = (Vec::new(), VecDeque::new());
        Some(Client { version, stream, web: None, bytes, stash, next_id: 0 })
    }

    /// A clean session.
    #[track_caller]
    pub fn connect(broker: &Broker, version: Version, id: &str) -> Client {
        Connect::new(version, id).open(broker)
    }

    /// A clean session with one subscription, which must be granted as asked.
    #[track_caller]
    pub fn subscriber(
        broker: &Broker,
        version: Version,
        id: &str,
        filter: &str,
        qos: u8,
    ) -> Client {
        let mut client = Client::connect(broker, version, id);
        client.granted(filter, qos);
        client
    }

    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// Sends bytes as they are. That the broker hung up is for the test to notice when it reads.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        let wrapped = self.web.as_mut().map(|web| web.wrap(bytes));
        if let Err(error) = self.stream.write_all(wrapped.as_deref().unwrap_or(bytes)) {
            let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind());
            assert!(gone, "cannot send {} bytes: {error}", bytes.len());
        }
    }

    /// The next packet from the socket, not from the stash.
    pub fn read(&mut self, patience: Duration) -> Next {
        let end = Instant::now() + patience;
        let mut chunk = [0; 64 * 1024];
        loop {
            if let Some((packet, length)) = Packet::take(self.version, &self.bytes) {
                self.bytes.drain(..length);
                return Next::Packet(packet);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Nothing;
            }
            self.stream.set_read_timeout(Some(left)).expect("a read timeout");
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.closed(),
                Ok(length) => match &mut self.web {
                    Some(web) => self.bytes.extend(web.unwrap(&chunk[..length])),
                    None => self.bytes.extend(&chunk[..length]),
                },
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Next::Nothing,
                    ErrorKind::Interrupted => {}
                    _ => return self.closed(),
                },
            }
        }
    }

    fn closed(&self) -> Next {
        assert!(self.bytes.is_empty(), "closed inside a packet: {:x?}", self.bytes);
        Next::Closed
    }

    /// The next packet, stashed or read.
    #[track_caller]
    pub fn next(&mut self) -> Packet {
        self.stash.pop_front().unwrap_or_else(|| self.fresh("a packet"))
    }

    #[track_caller]
    fn fresh(&mut self, what: &str) -> Packet {
        match self.read(patience()) {
            Next::Packet(packet) => packet,
            Next::Closed => panic!("waited for {what}: closed; before that: {:?}", self.stash),
            Next::Nothing => panic!("waited for {what}: nothing; before that: {:?}", self.stash),
        }
    }

    /// The next packet that `pick` accepts; what comes before it is kept for later.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, pick: impl Fn(&Packet) -> Option<T>) -> T {
        if let Some(at) = self.stash.iter().position(|packet| pick(packet).is_some()) {
            let packet = self.stash.remove(at).expect("its position was just found");
            return pick(&packet).expect("it was just accepted");
        }
        loop {
            let packet = self.fresh(what);
            if let Some(found) = pick(&packet) {
                return found;
            }
            self.stash.push_back(packet);
        }
    }

    #[track_caller]
    pub fn connack(&mut self) -> ConnAck {
        match self.next() {
            Packet::ConnAck(answer) => answer,
            other => panic!("instead of CONNACK: {other:?}"),
        }
    }

    pub fn new_id(&mut self) -> u16 {
        self.next_id = self.next_id % u16::MAX + 1;
        self.next_id
    }

    /// Subscribes and returns the codes of the SUBACK.
    #[track_caller]
    pub fn subscribe(&mut self, mut subscribe: Subscribe) -> Vec<u8> {
        subscribe.id = self.new_id();
        self.send(&subscribe.encode(self.version));
        let (want, filters) = (subscribe.id, subscribe.filters.len());
        let codes = self.wait_for("SUBACK", |packet| match packet {
            Packet::SubAck { id, codes, .. } if *id == want => Some(codes.clone()),
            _ => None,
        });
        assert_eq!(codes.len(), filters, "[MQTT-3.8.4-6] one code for each filter");
        codes
    }

    /// Subscribes to one filter; `options` are the option bits, and the QoS must be granted.
    #[track_caller]
    pub fn granted(&mut self, filter: &str, options: u8) {
        let codes = self.subscribe(Subscribe::to(filter, options));
        assert_eq!(codes, [options & 3], "subscribing to {filter}");
    }

    /// Unsubscribes and returns the codes of the UNSUBACK (none for MQTT 3).
    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let want = self.new_id();
        self.send(&encode_unsubscribe(self.version, want, filters));
        let codes = self.wait_for("UNSUBACK", |packet| match packet {
            Packet::UnsubAck { id, codes, .. } if *id == want => Some(codes.clone()),
            _ => None,
        });
        assert_eq!(codes.len(), if self.version.is_v5() { filters.len() } else { 0 });
        codes
    }

    /// Sends a PUBLISH and nothing else; returns its packet identifier.
    #[track_caller]
    pub fn send_publish(&mut self, publish: &Publish) -> u16 {
        let mut publish = publish.clone();
        if publish.qos > 0 && publish.id == 0 {
            publish.id = self.new_id();
        }
        self.send(&publish.encode(self.version));
        publish.id
    }

    /// Publishes and goes through the whole flow, to a success.
    #[track_caller]
    pub fn publish(&mut self, publish: &Publish) {
        let code = self.publish_code(publish);
        assert!(code < 0x80, "refused with {code:#x}: {publish:?}");
    }

    /// Publishes and goes through the whole flow; returns the reason code of the answer.
    #[track_caller]
    pub fn publish_code(&mut self, publish: &Publish) -> u8 {
        let id = self.send_publish(publish);
        match publish.qos {
            0 => 0,
            1 => self.ack(AckKind::PubAck, id).reason,
            _ => {
                let received = self.ack(AckKind::PubRec, id).reason;
                if received < 0x80 {
                    self.send(&Ack::new(AckKind::PubRel, id).encode());
                    assert_eq!(self.ack(AckKind::PubComp, id).reason, 0);
                }
                received
            }
        }
    }

    /// Waits for an acknowledgement.
    #[track_caller]
    pub fn ack(&mut self, kind: AckKind, id: u16) -> Ack {
        self.wait_for(&format!("{kind:?} of {id}"), |packet| match packet {
            Packet::Ack(ack) if ack.kind == kind && ack.id == id => Some(ack.clone()),
            _ => None,
        })
    }

    /// The next PUBLISH, left unacknowledged.
    #[track_caller]
    pub fn delivery(&mut self) -> Publish {
        self.wait_for("PUBLISH", |packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        })
    }

    /// The next PUBLISH, acknowledged to the end.
    #[track_caller]
    pub fn message(&mut self) -> Publish {
        let publish = self.delivery();
        self.acknowledge(&publish);
        publish
    }

    /// The next PUBLISH, acknowledged, which must have this payload.
    #[track_caller]
    pub fn expect(&mut self, payload: &str) -> Publish {
        let publish = self.message();
        assert_eq!(publish.text(), payload, "{publish:?}");
        publish
    }

    #[track_caller]
    pub fn acknowledge(&mut self, publish: &Publish) {
        match publish.qos {
            0 => {}
            1 => self.send(&Ack::new(AckKind::PubAck, publish.id).encode()),
            _ => {
                self.send(&Ack::new(AckKind::PubRec, publish.id).encode());
                self.ack(AckKind::PubRel, publish.id);
                self.send(&Ack::new(AckKind::PubComp, publish.id).encode());
            }
        }
    }

    /// A PUBLISH that has arrived already, unacknowledged; what else has arrived stays.
    pub fn stashed(&mut self) -> Option<Publish> {
        let at = self.stash.iter().position(|packet| matches!(packet, Packet::Publish(_)))?;
        match self.stash.remove(at) {
            Some(Packet::Publish(publish)) => Some(publish),
            _ => None,
        }
    }

    /// A round trip through the broker; everything it sent before is stashed.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(&[0xc0, 0]);
        self.wait_for("PINGRESP", |packet| (*packet == Packet::PingResp).then_some(()));
    }

    /// A round trip, after which nothing else may have arrived.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.ping();
        assert!(self.stash.is_empty(), "expected nothing: {:?}", self.stash);
    }

    /// Something has arrived that no test has looked at.
    pub fn has_unread(&self) -> bool {
        !self.stash.is_empty()
    }

    /// Nothing arrives for this long. Only for what no barrier can show.
    #[track_caller]
    pub fn expect_silence(&mut self, patience: Duration) {
        assert!(self.stash.is_empty(), "expected silence: {:?}", self.stash);
        let next = self.read(patience);
        assert_eq!(next, Next::Nothing, "expected silence");
    }

    /// Everything until the broker hangs up, undecoded.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        self.stream.set_read_timeout(Some(patience())).expect("a read timeout");
        let mut all = std::mem::take(&mut self.bytes);
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return all,
                Ok(length) => match &mut self.web {
                    Some(web) => all.extend(web.unwrap(&chunk[..length])),
                    None => all.extend(&chunk[..length]),
                },
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
                Err(error) => panic!("the broker did not hang up: {error}, after {all:x?}"),
            }
        }
    }

    /// The broker refuses the CONNECT just sent: without a word to MQTT 3 clients
    /// [MQTT-3.1.4-1], with one of these codes in CONNACK to MQTT 5 clients.
    #[track_caller]
    pub fn expect_connect_violation(&mut self, codes: &[u8]) {
        if !self.version.is_v5() {
            return self.expect_closed();
        }
        if other_broker() && self.closes_silently() {
            return;
        }
        let answer = self.connack();
        assert!(codes.contains(&answer.code), "{:#x}, expected {codes:x?}", answer.code);
        self.expect_closed();
    }

    /// The broker hangs up and sends nothing before that.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        assert!(self.stash.is_empty(), "expected the end: {:?}", self.stash);
        match self.read(patience()) {
            Next::Closed => {}
            other => panic!("expected the end of the connection: {other:?}"),
        }
    }

    /// The broker hangs up; what it sends before that does not matter.
    #[track_caller]
    pub fn expect_closed_after_anything(&mut self) {
        let end = Instant::now() + patience();
        while self.read(end.saturating_duration_since(Instant::now())) != Next::Closed {
            assert!(Instant::now() < end, "the broker did not hang up");
        }
    }

    /// The broker hangs up on a rule broken: MQTT 5 clients are told why, others are not.
    #[track_caller]
    pub fn expect_violation(&mut self, codes: &[u8]) {
        if self.version.is_v5() && !(other_broker() && self.closes_silently()) {
            self.expect_disconnect(codes);
        } else if !self.version.is_v5() {
            self.expect_closed();
        }
    }

    /// Mosquitto 2.0 often hangs up on an MQTT 5 client without the reason code that it may, but
    /// need not, send. When it is under test, that is let pass.
    fn closes_silently(&mut self) -> bool {
        match self.stash.is_empty().then(|| self.read(patience())) {
            Some(Next::Closed) => true,
            Some(Next::Packet(packet)) => {
                self.stash.push_back(packet);
                false
            }
            _ => false,
        }
    }

    /// DISCONNECT with one of these codes is the next packet, and the last.
    #[track_caller]
    pub fn expect_disconnect(&mut self, codes: &[u8]) -> u8 {
        match self.next() {
            Packet::Disconnect { reason, .. } => {
                assert!(codes.contains(&reason), "code {reason:#x}, expected {codes:x?}");
                self.expect_closed();
                reason
            }
            other => panic!("instead of DISCONNECT: {other:?}"),
        }
    }

    /// Says goodbye and waits until the broker has taken note.
    #[track_caller]
    pub fn disconnect(mut self) {
        self.send(&[0xe0, 0]);
        self.expect_closed_after_anything();
    }

    /// DISCONNECT of MQTT 5 with a reason and properties; waits until the broker has taken note.
    #[track_caller]
    pub fn disconnect_with(mut self, reason: u8, list: &[Property]) {
        self.send(&encode_disconnect(reason, list));
        self.expect_closed_after_anything();
    }

    /// Cuts the connection without a DISCONNECT.
    pub fn cut(self) {
        // The broker may have gone first, which is the same to the test.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// A DISCONNECT with 0x8E for MQTT 5, just the end for MQTT 3.
    #[track_caller]
    pub fn expect_taken_over(&mut self) {
        self.expect_violation(&[reason::TAKEN_OVER]);
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
