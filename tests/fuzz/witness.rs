//! One client's end of a connection, as somebody who only sees the bytes: what was said in both
//! directions, and whether the broker may say what it says, by version, state and what the client
//! asked for. Knows nothing of the shards.

use crate::filters::naive_matches;
use ringmq::packet::{
    self, Ack, Connect, Framing, MAX_PACKET_SIZE, Packet, Publish, Qos, ReasonCode, Version,
};
use ringmq::shard::Settings;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// What all clients have said, over all their connections.
#[derive(Default)]
pub struct Ledger {
    /// By ClientId, every filter that a SUBSCRIBE named.
    filters: HashMap<String, HashSet<String>>,
    /// Every message published or left as a will.
    published: HashSet<(String, Vec<u8>)>,
    /// ClientIds that CONNECTs have named, and how many.
    known: HashMap<String, usize>,
}

/// What the client has said so far.
#[derive(PartialEq, Eq, Debug)]
enum Said {
    /// Not yet a whole packet.
    Nothing,
    /// A CONNECT that can be decoded.
    Connect,
    /// Something no broker goes on after; it is answered in this version's form, if at all.
    Nonsense(Option<Version>),
}

/// What the broker has said so far.
#[derive(PartialEq, Eq, Debug)]
enum Heard {
    Nothing,
    Welcome,
    /// A refusal or a DISCONNECT: nothing may follow.
    Farewell,
}

/// What the client owes for a PUBLISH it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owed {
    PubAck,
    PubRec,
    PubComp,
}

/// One connection.
pub struct Witness {
    pub version: Version,
    pub name: String,
    /// What precedes its topics elsewhere; until CONNECT with placeholders.
    mountpoint: String,
    said: Said,
    heard: Heard,
    clean: bool,
    resumed: bool,
    packet_max: u32,
    window: u16,
    alias_max: u16,
    informed: bool,
    up: Vec<u8>,
    down: Vec<u8>,
    /// What the broker sent and the client has not completed.
    pub owed: BTreeMap<u16, Owed>,
    /// Identifiers acknowledged before they were seen: what becomes of them is not judged.
    early: BTreeSet<u16>,
    /// What the broker has not answered: identifiers, in order, and for the last two how many
    /// filters.
    publishes: [VecDeque<u16>; 2],
    releases: VecDeque<u16>,
    subscribes: VecDeque<(u16, usize)>,
    unsubscribes: VecDeque<(u16, usize)>,
    pings: usize,
    ours: HashMap<u16, String>,
    theirs: HashMap<u16, String>,
    /// Packets from the broker, for the tests that want to know that there were some.
    pub packets: usize,
}

impl Witness {
    /// A connection on which nothing was said. `name` stands for the ClientId if it is empty.
    pub fn new(name: String, mountpoint: &str) -> Self {
        Witness {
            version: Version::V5,
            name,
            mountpoint: mountpoint.to_owned(),
            said: Said::Nothing,
            heard: Heard::Nothing,
            clean: true,
            resumed: false,
            packet_max: u32::MAX,
            window: u16::MAX,
            alias_max: 0,
            informed: true,
            up: Vec::new(),
            down: Vec::new(),
            owed: BTreeMap::new(),
            early: BTreeSet::new(),
            publishes: Default::default(),
            releases: VecDeque::new(),
            subscribes: VecDeque::new(),
            unsubscribes: VecDeque::new(),
            pings: 0,
            ours: HashMap::new(),
            theirs: HashMap::new(),
            packets: 0,
        }
    }

    /// The client sends these bytes.
    pub fn say(&mut self, ledger: &mut Ledger, settings: &Settings, bytes: &[u8]) {
        self.up.extend_from_slice(bytes);
        let up = std::mem::take(&mut self.up);
        let mut used = 0;
        while !matches!(self.said, Said::Nonsense(_)) {
            let total = match packet::frame(&up[used..], MAX_PACKET_SIZE) {
                Ok(Framing::Complete { total, .. }) => total,
                Ok(Framing::Incomplete { .. }) => break,
                Err(_) => {
                    self.said =
                        Said::Nonsense((self.said == Said::Connect).then_some(self.version));
                    break;
                }
            };
            let packet = &up[used..used + total];
            used += total;
            if self.said == Said::Nothing {
                self.say_hello(ledger, settings, packet);
                continue;
            }
            match packet::decode(self.version, packet) {
                Ok(packet) => self.say_packet(ledger, packet),
                Err(_) => self.said = Said::Nonsense(Some(self.version)),
            }
        }
        self.up = up[used..].to_vec();
    }

    fn say_hello(&mut self, ledger: &mut Ledger, settings: &Settings, packet: &[u8]) {
        let connect = match packet::decode_connect(packet) {
            Ok(connect) => connect,
            Err(refused) => {
                // What does not begin as a CONNECT is nobody's version.
                let version = refused.version.filter(|_| packet[0] == 0x10);
                self.said = Said::Nonsense(version);
                return;
            }
        };
        self.said = Said::Connect;
        let Connect { version, clean_start, client_id, properties, will, .. } = connect;
        self.version = version;
        self.clean = clean_start;
        if !client_id.is_empty() {
            self.name = client_id.to_owned();
        }
        self.mountpoint = self
            .mountpoint
            .replace("${client_id}", &client_id.replace(['/', '+', '#'], "_"))
            .replace("${username}", connect.username.unwrap_or(""));
        *ledger.known.entry(self.name.clone()).or_default() += 1;
        self.packet_max = properties.maximum_packet_size.unwrap_or(u32::MAX);
        if packet.len() > settings.max_packet_size.min(settings.before_connect) as usize {
            // Refused at its header, before that was read, with the shortest CONNACK.
            self.packet_max = self.packet_max.max(5);
        }
        let theirs = properties.receive_maximum.unwrap_or(u16::MAX);
        self.window = theirs.min(settings.max_inflight);
        self.alias_max = properties.topic_alias_maximum.unwrap_or(0);
        self.informed = properties.request_problem_information;
        if let Some(will) = will {
            let topic = format!("{}{}", self.mountpoint, will.topic);
            ledger.published.insert((topic, will.payload.to_vec()));
        }
    }

    fn say_packet(&mut self, ledger: &mut Ledger, packet: Packet<'_>) {
        match packet {
            Packet::Publish(publish) => {
                self.note_published(ledger, &publish);
                if let Some(id) = publish.id {
                    self.publishes[publish.qos as usize - 1].push_back(id.get());
                }
            }
            Packet::PubAck(ack) => self.acknowledge(ack, Owed::PubAck),
            Packet::PubRec(ack) => self.acknowledge(ack, Owed::PubRec),
            Packet::PubComp(ack) => self.acknowledge(ack, Owed::PubComp),
            Packet::PubRel(ack) => self.releases.push_back(ack.id.get()),
            Packet::Subscribe(subscribe) => {
                let known = ledger.filters.entry(self.name.clone()).or_default();
                for wanted in subscribe.filters.iter() {
                    // $share/{group}/{filter}
                    let shared = wanted.filter.strip_prefix("$share/");
                    let plain = shared.and_then(|rest| rest.split_once('/')).map(|parts| parts.1);
                    known.insert(plain.unwrap_or(wanted.filter).to_owned());
                }
                self.subscribes.push_back((subscribe.id.get(), subscribe.filters.len()));
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.unsubscribes.push_back((unsubscribe.id.get(), unsubscribe.filters.len()));
            }
            Packet::PingReq => self.pings += 1,
            // Nothing more is answered.
            _ => self.said = Said::Nonsense(Some(self.version)),
        }
    }

    fn note_published(&mut self, ledger: &mut Ledger, publish: &Publish<'_>) {
        let mut topic = publish.topic.to_owned();
        if let Some(alias) = publish.properties.topic_alias {
            if topic.is_empty() {
                topic = self.ours.get(&alias).cloned().unwrap_or_default();
            } else {
                self.ours.insert(alias, topic.clone());
            }
        }
        let topic = format!("{}{topic}", self.mountpoint);
        ledger.published.insert((topic, publish.payload.to_vec()));
    }

    fn acknowledge(&mut self, ack: Ack<'_>, kind: Owed) {
        let id = ack.id.get();
        let accepted = (ack.reason as u8) < 0x80;
        match (self.owed.get(&id), kind) {
            (Some(Owed::PubRec), Owed::PubRec) if accepted => {
                self.owed.insert(id, Owed::PubComp);
            }
            (Some(owed), kind) if *owed == kind => {
                self.owed.remove(&id);
            }
            _ => {
                self.owed.remove(&id);
                self.early.insert(id);
            }
        }
    }

    /// The broker sends these bytes. Panics when it may not.
    pub fn hear(&mut self, ledger: &Ledger, settings: &Settings, bytes: &[u8]) {
        self.down.extend_from_slice(bytes);
        let down = std::mem::take(&mut self.down);
        let mut used = 0;
        loop {
            let rest = &down[used..];
            let total = match packet::frame(rest, MAX_PACKET_SIZE) {
                Ok(Framing::Complete { total, .. }) => total,
                Ok(Framing::Incomplete { .. }) => break,
                Err(violation) => panic!("the broker's framing is broken: {violation:?}"),
            };
            used += total;
            self.packets += 1;
            self.hear_packet(ledger, settings, &rest[..total]);
        }
        self.down = down[used..].to_vec();
    }

    fn hear_packet(&mut self, ledger: &Ledger, settings: &Settings, bytes: &[u8]) {
        assert!(self.heard != Heard::Farewell, "something after the last packet: {bytes:?}");
        let version = match self.said {
            Said::Nothing => panic!("an answer to nothing: {bytes:?}"),
            Said::Nonsense(None) => panic!("an answer to who does not speak MQTT: {bytes:?}"),
            // [MQTT-3.1.2-24]
            Said::Nonsense(Some(version)) if self.heard == Heard::Nothing => version,
            _ => self.version,
        };
        let size = bytes.len();
        assert!(size <= self.packet_max as usize, "{size} of {} bytes: {bytes:?}", self.packet_max);
        let packet = packet::decode(version, bytes)
            .unwrap_or_else(|violation| panic!("{violation:?} in {version:?} {bytes:?}"));
        match (&self.heard, packet) {
            (Heard::Nothing, Packet::ConnAck(connack)) => {
                if connack.reason != ReasonCode::Success {
                    assert!(!connack.session_present, "[MQTT-3.2.2-6]");
                    self.heard = Heard::Farewell;
                    return;
                }
                // [MQTT-3.2.2-2], [MQTT-3.2.2-3]
                assert!(!connack.session_present || !self.clean, "a session in spite of clean");
                // Of two that come in at a time, either may be let in first.
                let known = ledger.known.get(&self.name).is_some_and(|&hellos| hellos > 1);
                assert!(!connack.session_present || known, "the session of a stranger");
                self.resumed = connack.session_present || version == Version::V31;
                self.heard = Heard::Welcome;
            }
            (Heard::Nothing, other) => panic!("before CONNACK: {other:?}"),
            (_, packet) => self.hear_more(ledger, settings, packet),
        }
    }

    fn hear_more(&mut self, ledger: &Ledger, settings: &Settings, packet: Packet<'_>) {
        match packet {
            Packet::Publish(publish) => self.hear_publish(ledger, settings, &publish),
            Packet::PubAck(ack) => answers(&mut self.publishes[0], ack, self.informed),
            Packet::PubRec(ack) => answers(&mut self.publishes[1], ack, self.informed),
            Packet::PubComp(ack) => answers(&mut self.releases, ack, self.informed),
            Packet::PubRel(ack) => {
                let id = ack.id.get();
                let ours = self.owed.get(&id) == Some(&Owed::PubComp);
                let earlier = self.resumed && !self.owed.contains_key(&id);
                assert!(ours || earlier || self.early.contains(&id), "PUBREL of {id}");
            }
            Packet::SubAck(suback) => {
                let asked = self.subscribes.pop_front().expect("a SUBACK for a SUBSCRIBE");
                assert_eq!(asked, (suback.id.get(), suback.codes.len()));
                let silent = suback.reason_string.is_none() && suback.user.is_empty();
                assert!(self.informed || silent, "[MQTT-3.1.2-29]");
                for &code in suback.codes {
                    assert!(code >= 0x80 || code <= settings.max_qos, "granted {code}");
                    assert!(code <= 0x80 || self.version.is_v5());
                }
            }
            Packet::UnsubAck(unsuback) => {
                let asked = self.unsubscribes.pop_front().expect("an UNSUBACK for an UNSUBSCRIBE");
                assert_eq!(asked.0, unsuback.id.get());
                assert!(unsuback.codes.len() == asked.1 || !self.version.is_v5());
            }
            Packet::PingResp => {
                self.pings = self.pings.checked_sub(1).expect("a PINGRESP for a PINGREQ");
            }
            Packet::Disconnect(disconnect) => {
                assert!(self.version.is_v5(), "DISCONNECT to a version 3 client");
                assert_eq!(disconnect.session_expiry, None, "[MQTT-3.14.2-2]");
                assert!(disconnect.reason != ReasonCode::DisconnectWithWill);
                self.heard = Heard::Farewell;
            }
            other => panic!("not for a client of {:?}: {other:?}", self.version),
        }
    }

    fn hear_publish(&mut self, ledger: &Ledger, settings: &Settings, publish: &Publish<'_>) {
        assert!(publish.qos as u8 <= settings.max_qos && (settings.retain || !publish.retain));
        let topic = self.resolve(settings, publish);
        let wanted = ledger.filters.get(&self.name);
        let asked = wanted.is_some_and(|all| all.iter().any(|f| naive_matches(f, &topic)));
        assert!(asked, "{} never asked for {topic:?}", self.name);
        let message = (format!("{}{topic}", self.mountpoint), publish.payload.to_vec());
        assert!(ledger.published.contains(&message), "nobody published {message:?}");
        let ids: Vec<u32> = publish.properties.subscription_ids.iter().collect();
        assert!(ids.is_empty() || settings.subscription_identifiers);
        let Some(id) = publish.id.map(|id| id.get()) else { return };
        if self.early.contains(&id) {
            return;
        }
        let owed = if publish.qos == Qos::AtLeastOnce { Owed::PubAck } else { Owed::PubRec };
        let before = self.owed.insert(id, owed);
        // Only version 3 may be sent something twice on one connection.
        let repeated = publish.dup && settings.retry_interval > 0 && !self.version.is_v5();
        assert!(before.is_none() || repeated, "identifier {id} is in flight already");
        let open = self.owed.len();
        assert!(open <= usize::from(self.window), "{open} in flight, allowed {}", self.window);
    }

    fn resolve(&mut self, settings: &Settings, publish: &Publish<'_>) -> String {
        let Some(alias) = publish.properties.topic_alias else {
            assert!(!publish.topic.is_empty(), "a PUBLISH without topic or alias");
            return publish.topic.to_owned();
        };
        // [MQTT-3.1.2-26]
        assert!(alias <= self.alias_max && alias <= settings.topic_alias_outbound);
        if publish.topic.is_empty() {
            return self.theirs.get(&alias).expect("an alias that was set").clone();
        }
        self.theirs.insert(alias, publish.topic.to_owned());
        publish.topic.to_owned()
    }
}

/// An answer must be to the oldest question of its kind [MQTT-4.6.0-2], [MQTT-4.6.0-3].
#[track_caller]
fn answers(asked: &mut VecDeque<u16>, ack: Ack<'_>, informed: bool) {
    assert_eq!(asked.pop_front(), Some(ack.id.get()), "an answer out of order: {ack:?}");
    assert!(informed || (ack.reason_string.is_none() && ack.user.is_empty()), "[MQTT-3.1.2-29]");
}
