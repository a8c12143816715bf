//! How much of a flood one step takes in.

use super::*;
use crate::config::Config;
use crate::ids::{ListenerId, Peer, SocketId};
use crate::limits::STEP_WORK;
use crate::mesh::mail::Data;
use crate::mesh::mailbox::mailboxes;
use crate::mesh::quota::{Quota, Rate};
use crate::mesh::{ListenerState, Shared};
use crate::packet::{self, Connect, OutPublish, Qos, Version};
use crate::shard::Settings;
use crate::shard::placement::home_of;
use crate::time::Instant;
use crate::topic::Seeds;
use std::sync::Arc;

/// Completions that a step visits at most.
const MOST: usize = 4096;

/// What clients have sent: `visit` hands it to the shard, and says how many buffers that were.
struct Clients<V> {
    visit: V,
    /// They have sent more, each time.
    endless: bool,
    harvests: usize,
}

impl<V: FnMut(&mut Shard) -> usize> Clients<V> {
    fn new(endless: bool, visit: V) -> Clients<V> {
        Clients { visit, endless, harvests: 0 }
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

    fn act(&mut self, _action: Action) {}

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
    let publish = OutPublish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: "a/b",
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
    // Each harvest finds one more buffer of it.
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

/// Otherwise a crowd that sends on and on would take what room there is each time.
#[test]
fn who_waits_for_a_mailbox_goes_before_newcomers() {
    let shared = Shared::new(Seeds::fixed(1));
    let mut shards = [0, 1].map(|number| shard_of(number, 2, &shared));
    let mut ends = mailboxes(2, 4, 64);
    let step = |shard: &mut Shard, sent: Vec<(u32, Vec<u8>)>, ends: &mut MailEnds<_, _>| {
        // All of it is found by the first harvest.
        let mut clients = Clients::new(false, |shard: &mut Shard| {
            sent.iter().for_each(|(socket, bytes)| shard.received(SocketId(*socket), bytes));
            sent.len()
        });
        shard.begin(Instant(1), 1000);
        let bounds = StepBounds { completions: MOST, mail: STEP_WORK };
        Step::new(bounds).run(shard, ends, &mut clients);
    };
    let (first, second) = shards.split_at_mut(1);
    let (first, second) = (&mut first[0], &mut second[0]);
    let name = |home: u8, from: u32| {
        let mut names = (from..).map(|number| format!("client-{number}"));
        names.find(|name| home_of(&shared.seeds, name, 2) == ShardId(home)).expect("endless")
    };
    second.accepted(SocketId(0), ListenerId(0), Peer::Unix);
    let subscribe = b"\x82\x08\x00\x01\x00\x03a/#\x00".to_vec();
    step(second, vec![(0, connect(&name(1, 0))), (0, subscribe)], &mut ends[1]);
    for (socket, from) in [(0, 0), (1, 1000)] {
        first.accepted(SocketId(socket), ListenerId(0), Peer::Unix);
        step(first, vec![(socket, connect(&name(0, from)))], &mut ends[0]);
    }
    // Each is a mail of its own; the mailbox takes four of them.
    let large = |which: u8| publish(&[which; 10_000]);
    let read = |end: &mut MailEnds<Stamped, Control>| {
        let mails = std::iter::from_fn(|| end.pop_data(ShardId(0)));
        let payload = |mail: Stamped| match mail.data {
            Data::One(message, _) => message.view().payload[0],
            Data::Batch(_) => panic!("a large message is none of a batch"),
        };
        mails.map(payload).collect::<Vec<u8>>()
    };
    let three = (0..3).flat_map(large).collect();
    step(first, vec![(0, three)], &mut ends[0]);
    let mut seen = read(&mut ends[1]);
    assert_eq!(seen, [0, 1], "the third waits");
    for newcomer in [3, 4] {
        step(first, vec![(1, large(newcomer))], &mut ends[0]);
        seen.extend(read(&mut ends[1]));
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}
