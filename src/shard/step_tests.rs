//! How much of a flood one step takes in.

use super::*;
use crate::config::Config;
use crate::ids::{ListenerId, Peer, SocketId};
use crate::limits::STEP_WORK;
use crate::mesh::mailbox::mailboxes;
use crate::mesh::quota::{Quota, Rate};
use crate::mesh::{ListenerState, Shared};
use crate::packet::{self, Connect, OutPublish, Qos, Version};
use crate::shard::Settings;
use crate::time::Instant;
use crate::topic::Seeds;
use std::sync::Arc;

/// Completions that a step visits at most.
const MOST: usize = 4096;

/// A client that sends without end: each harvest finds one more buffer of it.
struct Flood {
    bytes: Vec<u8>,
    harvests: usize,
}

impl Surroundings for Flood {
    fn harvest(&mut self) {
        self.harvests += 1;
    }

    fn visit(&mut self, shard: &mut Shard, _limit: usize) -> usize {
        shard.received(SocketId(0), &self.bytes);
        1
    }

    fn has_more(&mut self) -> bool {
        true
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

fn shard() -> Shard {
    let settings = Arc::new(Settings::new(&Config::default()));
    let mut shard = Shard::new(ShardId(0), 1, settings, Shared::new(Seeds::fixed(1)), Instant(1));
    let listener_state = ListenerState {
        name: "test".into(),
        allow_anonymous: true,
        mountpoint: String::new(),
        max_connections: u64::MAX,
        max_connect_rate: None,
        stack: Default::default(),
        connections: Quota::default(),
        rate: Rate::default(),
    };
    shard.open_listener(ListenerId(0), Arc::new(listener_state));
    shard.accepted(SocketId(0), ListenerId(0), Peer::Unix);
    shard
}

fn connect() -> Vec<u8> {
    let connect = Connect {
        version: Version::V311,
        clean_start: true,
        keep_alive: 0,
        client_id: "flood",
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

fn publish() -> Vec<u8> {
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
        payload: &[7; 100],
    };
    let mut bytes = Vec::new();
    packet::encode_publish(&mut bytes, Version::V311, &publish).expect("it is small");
    bytes.repeat(19)
}

#[test]
fn what_a_step_cannot_process_is_left_in_the_kernel() {
    let mut shard = shard();
    let mut ends = mailboxes(1, 1, 1).pop().expect("of one shard");
    shard.received(SocketId(0), &connect());
    let mut flood = Flood { bytes: publish(), harvests: 0 };
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
