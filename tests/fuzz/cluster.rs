//! Target `cluster`: any bytes as frames of other nodes, and well-formed frames that say anything.
//! No panic; a filter is taken back only if it was told; what waits is bounded; nothing that no
//! node may say comes through.

use crate::input::Input;
use bytes::Bytes;
use ringmq::cluster::claims::Whom;
use ringmq::cluster::frame::{
    Abilities, FilterDigest, FrameContent, FrameSender, FrameState, NEWEST, NodeFrame, OLDEST,
};
use ringmq::cluster::lane::{Acknowledgement, Lane, RECEIVED};
use ringmq::cluster::node::{Engine, Node, NodePlan, To, WhenCutOff};
use ringmq::cluster::peer::LocalBroker;
use ringmq::cluster::record::PassedRef;
use ringmq::ids::ShardId;
use ringmq::limits::CLUSTER_HOPS;
use ringmq::mesh::mail::{Passed, PassedFor};
use ringmq::mesh::moves::{
    FarWill, Move, PackedParts, Retold, SessionDemand, ToCluster, ToShard, Whence, WillDue,
};
use ringmq::message::{MailPurpose, Message, MessageRef, Reserve, Retain};
use ringmq::packet::Qos;
use ringmq::session::ShareName;
use ringmq::time::Instant;
use ringmq::topic;
use std::collections::BTreeMap;

/// Bytes of wills that are kept.
const WILLS: usize = 1 << 20;

/// What the broker is told.
#[derive(Default)]
struct Wanted {
    filters: BTreeMap<(u8, String), u32>,
    room: bool,
    mail: Vec<ToShard>,
}

impl LocalBroker for Wanted {
    fn want(&mut self, node: u8, filter: &str, wanted: bool) {
        let share = topic::parse_share(filter).map(|share| share.expect("a share group"));
        assert!(topic::valid_filter(share.map_or(filter, |share| share.filter)));
        let count = self.filters.entry((node, filter.to_owned())).or_default();
        *count = if wanted { *count + 1 } else { count.checked_sub(1).expect("it was told") };
    }

    fn publish(&mut self, message: &MessageRef<'_>, purpose: MailPurpose) -> bool {
        assert!(topic::valid_name(message.topic));
        assert!(purpose.deliver || message.retain);
        self.room
    }

    fn pass(&mut self, _: u8, passed: &PassedRef<'_>) -> bool {
        assert!(matches!(topic::parse_share(passed.name), Some(Ok(_))));
        assert!(topic::valid_name(passed.message.topic) && passed.hops <= CLUSTER_HOPS + 1);
        self.room
    }

    fn tell(&mut self, _: Whom, what: ToShard) {
        self.mail.push(what);
    }

    fn ask_for_fences(&mut self) {
        self.mail.push(ToShard::Fence);
    }
}

/// Carries frames to nobody, and looks at them.
struct Nobody;

impl Engine for Nobody {
    fn send(&mut self, _: To<'_>, frame: Bytes) {
        NodeFrame::read(&frame).expect("a node's own frame");
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let plan = NodePlan {
        durable: false,
        abilities: Abilities::OWN,
        name: "me".to_owned(),
        incarnation: 1,
        shards: 2,
        window: 4096,
        give_up: 5000,
        when_cut_off: if input.flag() { WhenCutOff::Park } else { WhenCutOff::Drop },
        wills: WILLS,
    };
    let mut node = Node::new(plan, Instant(0));
    let (mut broker, mut now) = (Wanted { room: true, ..Wanted::default() }, Instant(0));
    let mut told = [0u32; 3];
    while !input.is_empty() {
        match input.below(8) {
            0 => {
                let length = usize::from(input.byte());
                node.received(input.bytes(length), now);
            }
            6 => said_by_a_shard(&mut node, &mut input, now),
            7 => {
                // Shards answer, some of what they are asked.
                for what in std::mem::take(&mut broker.mail) {
                    answer(&mut node, &mut input, what, now);
                }
            }
            1 | 2 => node.received(&frame(&mut input), now),
            3 => now = now.plus_millis(u64::from(input.byte()) * 40),
            4 => {
                // Shards take back what they have told, and nothing else.
                let (number, more) = (input.below(3), input.flag());
                if more || told[number] > 0 {
                    told[number] = if more { told[number] + 1 } else { told[number] - 1 };
                    node.want(["t/0", "t/1", "$share/g/t/+"][number], more);
                }
            }
            _ => {
                broker.room = input.flag();
                let number = input.below(3) as u8;
                let message = MessageRef {
                    topic: "t/1",
                    properties: &[],
                    payload: &[7; 600],
                    qos: if input.flag() { Qos::AtLeastOnce } else { Qos::AtMostOnce },
                    retain: true,
                    expires: Some(now.plus_millis(9)),
                    publisher: None,
                };
                let retain = if input.flag() { Retain::NONE } else { Retain::stamped(now.0) };
                let purpose = MailPurpose { deliver: true, retain, reserve: Reserve::NONE };
                node.send(number, &message, purpose, now);
                if input.flag() {
                    let name = ShareName::new("$share/g/t/+");
                    let message = Message::new(&message, &mut Vec::new());
                    let asks = PassedFor::ALL[input.below(3)];
                    let passed = Passed { name, node: number, asks, hops: 1, message };
                    node.pass(&passed, now);
                }
            }
        }
        for _ in 0..8 {
            if !node.run(now, &mut broker, &mut Nobody) {
                break;
            }
        }
        for peer in node.status(now).1 {
            assert!(peer.window <= 4096 + 1024, "a window of {}", peer.window);
            assert!(peer.waiting <= 2 * RECEIVED, "{} bytes wait", peer.waiting);
        }
        assert!(node.held() <= WILLS + 1024, "{} bytes of wills", node.held());
    }
}

/// Something that a shard may say at any time.
fn said_by_a_shard(node: &mut Node, input: &mut Input<'_>, now: Instant) {
    let claim = input.below(4) as u64;
    let to = Move { node: input.below(3) as u8, claim };
    let told = match input.below(4) {
        0 => ToCluster::Placed(claim),
        1 => ToCluster::Fenced,
        2 => ToCluster::Settled(claim),
        _ => ToCluster::Surrendered(to, input.flag().then(|| vec![1; 40])),
    };
    node.told(ShardId(0), told, now);
    let claim = u64::from(input.byte());
    node.told(ShardId(0), ToCluster::Claim(claim, "client".into(), SessionDemand::Moved), now);
    let message = MessageRef {
        topic: "t/1",
        properties: &[],
        payload: &[7; 90],
        qos: Qos::AtLeastOnce,
        retain: true,
        expires: None,
        publisher: None,
    };
    let message = Message::new(&message, &mut Vec::new());
    let (due, stored) = (WillDue::After(claim as u32), claim & 2 == 2);
    let will = FarWill { message, due, message_expiry: None, stored };
    let will = Some(will).filter(|_| claim & 1 == 1);
    node.told(ShardId(0), ToCluster::Will("client".into(), will), now);
}

fn answer(node: &mut Node, input: &mut Input<'_>, what: ToShard, now: Instant) {
    let told = match what {
        ToShard::Surrender(to, ..) => {
            ToCluster::Surrendered(to, input.flag().then(|| vec![2; 100]))
        }
        ToShard::Pack(to) => {
            let owed = vec![vec![4; 9]; input.below(2)];
            let parts = vec![vec![3; 50]; input.below(3)];
            ToCluster::Packed(to, PackedParts { owed, parts })
        }
        ToShard::Adopt(claim, _) => ToCluster::Placed(claim),
        ToShard::Continue(claim, _, true) => ToCluster::Settled(claim),
        ToShard::Fence => ToCluster::Fenced,
        ToShard::Retell(asked) => {
            let message = MessageRef {
                topic: "t/1",
                properties: &[],
                payload: &[7; 600],
                qos: Qos::AtLeastOnce,
                retain: true,
                expires: None,
                publisher: None,
            };
            let message = Message::new(&message, &mut Vec::new());
            ToCluster::Retold(Box::new(Retold {
                node: asked.node,
                ticket: asked.ticket - input.below(2) as u32,
                messages: vec![(Retain::OLDEST, message); input.below(3)],
                next: input.flag().then_some(Whence::Cleared(None)),
            }))
        }
        _ => return,
    };
    node.told(ShardId(1), told, now);
}

/// A frame of one of two nodes, in which anything may stand.
fn frame(input: &mut Input<'_>) -> Vec<u8> {
    let name = input.pick(&["a", "b", "me"]);
    let incarnation = 1 + input.below(3) as u64;
    let clock = u64::from(input.byte());
    let sender = FrameSender { name, incarnation, clock, time: clock.wrapping_mul(u64::MAX / 200) };
    let kind = input.below(4);
    let mut acknowledged = || {
        let (next, until) = (u64::from(input.byte()), u64::from(input.byte()));
        Acknowledgement { next, until, gap: until & 1 == 1 }
    };
    let acknowledged = [acknowledged(), acknowledged(), acknowledged()];
    let told = FilterDigest {
        at: u64::from(input.byte()),
        filters: u32::from(input.byte()),
        digest: u64::from(input.byte()),
    };
    let state = FrameState {
        to: 1,
        stream: u32::from(input.byte()),
        back: u32::from(input.byte()),
        acknowledged,
        snapshot: u32::from(input.byte()),
        told: Some(told).filter(|told| told.at > 0),
        retained: u64::from(input.byte()),
    };
    let said = match kind {
        0 => FrameContent::Hello(Abilities { newest: input.byte(), level: input.byte() }),
        1 => FrameContent::State(state),
        2 => FrameContent::Goodbye,
        _ => {
            let lane = input.pick(&Lane::ALL);
            let number = u64::from(input.byte());
            let length = 1 + usize::from(input.byte());
            let segment = input.bytes(length);
            if segment.is_empty() {
                FrameContent::Hello(Abilities::LEAST)
            } else {
                FrameContent::Data(state, lane, number, segment)
            }
        }
    };
    let format = input.pick(&[OLDEST, NEWEST]);
    NodeFrame { format, sender, said }.write()
}
