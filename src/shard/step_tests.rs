//! How much of a flood one step takes in.

use super::*;
use crate::config::Config;
use crate::ids::{ListenerId, Peer, SocketId};
use crate::limits::STEP_WORK;
use crate::mesh::mail::{CostReport, Data};
use crate::mesh::mailbox::mailboxes;
use crate::mesh::quota::{Quota, Rate};
use crate::mesh::{ListenerState, Shared};
use crate::message::Reserve;
use crate::packet::{self, Connect, OutPublish, Qos, Version};
use crate::shard::Settings;
use crate::shard::placement::home_of;
use crate::time::Instant;
use crate::topic::{Seeds, TopicHash};
use std::sync::Arc;

/// Completions that a step visits at most.
const MOST: usize = 4096;

/// What clients have sent. `visit` hands it to the shard, and returns the number of buffers.
struct Clients<V> {
    visit: V,
    /// True when the clients have sent more each time.
    endless: bool,
    harvests: usize,
    /// How many actions were carried out for them.
    acted: usize,
}

impl<V: FnMut(&mut Shard) -> usize> Clients<V> {
    fn new(endless: bool, visit: V) -> Clients<V> {
        Clients { visit, endless, harvests: 0, acted: 0 }
    }
}

impl<V: FnMut(&mut Shard) -> usize> Surroundings for Clients<V> {
    fn submit(&mut self, _shard: &mut Shard) -> bool {
        false
    }

    fn harvest(&mut self) {
        self.harvests += 1;
    }

    fn visit(&mut self, shard: &mut Shard, _limit: usize) -> usize {
        (self.visit)(shard)
    }

    fn has_more(&mut self) -> bool {
        self.endless
    }

    fn has_heard_everyone(&mut self) -> bool {
        false
    }

    fn act(&mut self, _action: Action) {
        self.acted += 1;
    }

    fn hasten(&mut self) {}

    fn stamp(&mut self) -> u64 {
        1
    }

    fn ring(&mut self, _shard: ShardId) {}
}

fn shard_of(number: u8, shards: u8, shared: &Arc<Shared>) -> Shard {
    let settings = Arc::new(Settings::new(&Config::default()));
    let mut shard = Shard::new(ShardId(number), shards, settings, Arc::clone(shared), Instant(1));
    let listener_state = ListenerState {
        name: "test".into(),
        allow_anonymous: true,
        mountpoint: String::new(),
        max_connections: u64::MAX,
        max_connect_rate: None,
        stack: Default::default(),
        connections: Quota::default(),
        rate: Rate::default(),
        accepted: Default::default(),
        refused: Default::default(),
    };
    shard.open_listener(ListenerId(0), Arc::new(listener_state));
    shard
}

fn connect(client_id: &str) -> Vec<u8> {
    let connect = Connect {
        version: Version::V311,
        clean_start: true,
        keep_alive: 0,
        client_id,
        username: None,
        password: None,
        will: None,
        bridge: false,
        properties: Default::default(),
    };
    let mut bytes = Vec::new();
    packet::encode_connect(&mut bytes, &connect).expect("it is small");
    bytes
}

fn publish(payload: &[u8]) -> Vec<u8> {
    publish_to("a/b", payload)
}

fn publish_to(topic: &str, payload: &[u8]) -> Vec<u8> {
    let publish = OutPublish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic,
        id: None,
        message_expiry: None,
        topic_alias: None,
        subscription_ids: &[],
        forwarded: &[],
        payload,
    };
    let mut bytes = Vec::new();
    packet::encode_publish(&mut bytes, Version::V311, &publish).expect("it is small");
    bytes
}

#[test]
fn what_a_step_cannot_process_is_left_in_the_kernel() {
    let mut shard = shard_of(0, 1, &Shared::new(Seeds::fixed(1)));
    let mut ends = mailboxes(1, 1, 1).pop().expect("of one shard");
    shard.accepted(SocketId(0), ListenerId(0), Peer::Unix);
    shard.received(SocketId(0), &connect("flood"));
    // Each harvest finds one more buffer of the flood.
    let bytes = publish(&[7; 100]).repeat(19);
    let mut flood = Clients::new(true, |shard: &mut Shard| {
        shard.received(SocketId(0), &bytes);
        1
    });
    let bounds = StepBounds { completions: MOST, mail: STEP_WORK };
    for _ in 0..3 {
        shard.begin(Instant(1), 1000);
        let (before, harvests) = (shard.counters.messages_received(), flood.harvests);
        Step::new(bounds).run(&mut shard, &mut ends, &mut flood);
        let taken = (flood.harvests - harvests) as u64 * 19;
        let processed = shard.counters.messages_received() - before;
        assert!(shard.work() >= STEP_WORK, "the step's work is used up");
        assert!(processed > 1000 && taken <= processed + 100, "{processed} of {taken}");
    }
}

/// Two shards with the mailboxes between them. Any number of clients of the first shard publish
/// what one client of the second shard subscribes to, `a/#`.
struct Two {
    shared: Arc<Shared>,
    shards: [Shard; 2],
    ends: Vec<MailEnds<Stamped, Control>>,
}

impl Two {
    fn with(publishers: u32) -> Two {
        let shared = Shared::new(Seeds::fixed(1));
        let shards = [0, 1].map(|number| shard_of(number, 2, &shared));
        let mut two = Two { shared, shards, ends: mailboxes(2, 4, 64) };
        two.connect(1, 0);
        two.step(1, &[(0, b"\x82\x08\x00\x01\x00\x03a/#\x00".to_vec())]);
        (0..publishers).for_each(|socket| two.connect(0, socket));
        two
    }

    fn connect(&mut self, home: u8, socket: u32) {
        let mut names = (1000 * socket..).map(|number| format!("client-{number}"));
        let at_home = |name: &String| home_of(&self.shared.seeds, name, 2) == ShardId(home);
        let name = names.find(at_home).expect("endless");
        let shard = &mut self.shards[usize::from(home)];
        shard.accepted(SocketId(socket), ListenerId(0), Peer::Unix);
        self.step(usize::from(home), &[(socket, connect(&name))]);
    }

    /// Runs a step of a shard whose first harvest finds all that was sent, by sockets.
    fn step(&mut self, shard: usize, sent: &[(u32, Vec<u8>)]) {
        let mut clients = Clients::new(false, |shard: &mut Shard| {
            sent.iter().for_each(|(socket, bytes)| shard.received(SocketId(*socket), bytes));
            sent.len()
        });
        self.shards[shard].begin(Instant(1), 1000);
        let bounds = StepBounds { completions: MOST, mail: STEP_WORK };
        Step::new(bounds).run(&mut self.shards[shard], &mut self.ends[shard], &mut clients);
    }

    /// Takes the messages out of the second shard's mailbox, and returns their first bytes.
    fn mailed(&mut self) -> Vec<u8> {
        let mut seen = Vec::new();
        self.ends[1].look();
        while let Some(mail) = self.ends[1].pop_data(ShardId(0)) {
            match mail.data {
                Data::One(message, _) => seen.push(message.view().payload[0]),
                Data::Passed(_) => panic!("nobody is in a share group"),
                Data::Batch(batch) => {
                    let mut at = 0;
                    while let Some((message, _, next)) = batch.read(at) {
                        seen.push(message.payload[0]);
                        at = next;
                    }
                }
            }
        }
        seen
    }

    /// Reports that a message to that topic has cost the second shard so much, with `reserve`
    /// reserved.
    fn report(&mut self, topic: &str, cost: u32, reserve: Reserve) {
        let hash = TopicHash::new(&self.shared.seeds, topic);
        let report = CostReport { topic: hash.exact(), matched: None, cost, reserve };
        let outbox = &mut self.shards[0].mail.outbox;
        outbox.to(ShardId(1)).ahead.reported(&report, cost, reserve, Instant(1));
    }
}

/// Otherwise a crowd of clients that keep sending would take whatever room there is each time.
#[test]
fn who_waits_for_a_mailbox_goes_before_newcomers() {
    let mut two = Two::with(2);
    // Each message is a mail of its own; the mailbox takes four of them.
    let large = |which: u8| publish(&[which; 10_000]);
    two.step(0, &[(0, (0..3).flat_map(large).collect())]);
    let mut seen = two.mailed();
    assert_eq!(seen, [0, 1], "the third waits");
    for newcomer in [3, 4] {
        two.step(0, &[(1, large(newcomer))]);
        seen.extend(two.mailed());
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

/// Otherwise a publisher that needs much would wait as long as others come that need little, and a
/// publisher that has tried in vain would wait behind those that have come since.
#[test]
fn who_waits_to_have_something_reserved_keeps_its_place() {
    let mut two = Two::with(8);
    let much = STEP_WORK * 3 / 4; // two of these are too much
    let little = super::super::ahead::costly(&two.shards[0].settings.budget);
    two.report("a/much", much, Reserve::NONE);
    two.report("a/little", little, Reserve::NONE);
    // A message of unknown cost is taken to need much. The message that needs little would have
    // room.
    let sent = ["a/much", "a/x", "a/y", "a/little", "a/z", "a/much", "a/much"];
    let cost = |topic: &str| if topic == "a/little" { little } else { much };
    let (mut order, mut unreported) = (String::new(), Vec::new());
    for round in 0..11 {
        if round > 4 {
            for topic in unreported.drain(..) {
                two.report(topic, cost(topic), Reserve::of(cost(topic)));
            }
        }
        let packet = sent.get(round).map(|topic| publish_to(topic, &[b'0' + round as u8]));
        let packet: Vec<_> = packet.into_iter().map(|packet| (round as u32, packet)).collect();
        two.step(0, &packet);
        let mailed = two.mailed();
        unreported.extend(mailed.iter().map(|which| sent[usize::from(which - b'0')]));
        order += &format!("{}.", String::from_utf8_lossy(&mailed));
    }
    assert_eq!(order, "0.....13.2.5.4.6..");
}

/// One message may then visit very many filters, and nobody knows that before the first report.
#[test]
fn few_messages_go_at_once_to_a_shard_with_wildcards_everywhere() {
    let mut two = Two::with(1);
    let burst = publish_to("a/b/a/a/a/a/a", &[1]).repeat(300);
    two.step(0, &[(0, burst.clone())]);
    assert_eq!(two.mailed().len(), 300);
    for places in 1..128 {
        let level = |at: u32| if places >> at & 1 == 1 { "+" } else { "a" };
        let filter = (0..7).map(level).collect::<Vec<_>>().join("/");
        let mut packet = vec![0x82, filter.len() as u8 + 5, 0, 2, 0, filter.len() as u8];
        packet.extend(filter.as_bytes().iter().chain(&[0]));
        two.step(1, &[(0, packet)]);
    }
    two.step(0, &[(0, burst)]);
    assert_eq!(two.mailed().len(), 39); // 20,000 / 512
}

/// Work that goes on over several steps has a part of each step. The answers that clients get
/// meanwhile do not wait for that work.
#[test]
fn answers_go_before_long_work() {
    let mut shard = shard_of(0, 1, &Shared::new(Seeds::fixed(1)));
    let mut ends = mailboxes(1, 1, 1).pop().expect("of one shard");
    for socket in 0..2 {
        shard.accepted(SocketId(socket), ListenerId(0), Peer::Unix);
        shard.received(SocketId(socket), &connect(&format!("client-{socket}")));
    }
    let filters: Vec<u8> = (0..20_000_u16).flat_map(subscription).collect();
    let mut subscribe = vec![0x82];
    let mut left = filters.len() + 2;
    while left > 0 {
        subscribe.push((left % 128) as u8 | if left > 127 { 128 } else { 0 });
        left /= 128;
    }
    subscribe.extend([0, 1]);
    subscribe.extend(filters);
    let mut sent = vec![(SocketId(0), subscribe)];
    let bounds = StepBounds { completions: MOST, mail: STEP_WORK };
    let mut answered_at = Vec::new();
    for _ in 0..4 {
        shard.begin(Instant(1), 1000);
        let mut clients = Clients::new(false, |shard: &mut Shard| {
            sent.iter().for_each(|(socket, bytes)| shard.received(*socket, bytes));
            sent.len()
        });
        let mut step = Step::new(bounds);
        let before = shard.counters.subscriptions;
        loop {
            let over = step.advance(&mut shard, &mut ends, &mut clients);
            if clients.acted > 0 {
                answered_at.push(shard.counters.subscriptions - before);
                clients.acted = 0;
            }
            if over {
                break;
            }
        }
        sent = vec![(SocketId(1), vec![0xc0, 0])];
    }
    assert!(answered_at[1..].iter().all(|&done| done == 0), "{answered_at:?}");
    assert!(shard.counters.subscriptions > 1000, "{}", shard.counters.subscriptions);
}

/// One filter of a SUBSCRIBE.
fn subscription(number: u16) -> Vec<u8> {
    let name = format!("{number:05}");
    [&[0, 5], name.as_bytes(), &[0]].concat()
}
