//! The end of every random run: dialogues with the same shards and settings of which every packet
//! is known beforehand. The random clients cannot know what came of each message; these do, and
//! check what the specification says to the second, the byte and the count.

mod access;
mod connecting;
mod delivery;
mod fairness;
mod fanouts;
mod inquiries;
mod links;
mod memory;
mod observing;
mod overload;
mod queues;
mod sessions;
mod shards;
mod shares;
mod spanning;
mod submissions;

use crate::net::End;
use crate::peer::{Got, Peer, hello, id};
use crate::world::World;
use ringmq::config::OnFull;
use ringmq::packet::{
    self, AckKind, Connect, OutPublish, Qos, ReasonCode, RetainHandling, Subscribe,
    SubscribeFilter, SubscribeFilters, SubscribeOptions, Unsubscribe, UnsubscribeFilters,
    UserProperties, Version,
};
use ringmq::session::pending::PendingBounds;
use ringmq::shard::{Settings, home_of};
use std::sync::Arc;

/// Holds every dialogue; panics on the first packet that is not the expected one.
pub fn hold(world: &mut World, settings: &Settings) {
    sessions::silence(world, settings);
    sessions::unfinished(world, settings);
    sessions::unheard(world);
    sessions::exactly_once(world);
    sessions::session_end(world);
    sessions::takeover(world);
    sessions::narrow_window(world, settings);
    sessions::late_answer(world, settings);
    delivery::expiry(world);
    delivery::too_large(world);
    delivery::aliases(world);
    delivery::overlap(world);
    delivery::as_published(world);
    delivery::handling(world);
    delivery::bridge(world);
    delivery::replay_resumed(world);
    queues::full_queues(world, settings);
    queues::harsh_queue(world, settings);
    queues::own_queue(world, settings);
    queues::offline_qos_0(world, settings);
    queues::qos_0_in_line(world, settings);
    shares::hold(world, settings);
    connecting::oversized(world);
    queues::expired_places(world, settings);
    fairness::bystanders(world, settings);
    fairness::slow_main_reader(world, settings);
    fairness::turns(world, settings);
    fanouts::in_order(world, settings);
    access::hold(world, settings);
    memory::hold(world, settings);
    inquiries::hold(world, settings);
    links::hold(world);
    overload::hold(world, settings);
    reload(world, settings.clone());
    if world.nodes.len() > 1 {
        connecting::unreachable_home(world, settings);
        connecting::left_while_waiting(world);
        connecting::lost_on_its_way(world, settings);
        sessions::held(world, settings);
        shards::group_from_its_suback(world);
        shards::group_with_a_leaver(world);
        shards::replay_after_puback(world);
        shards::replay_and_live(world);
        shards::replay_of_its_own(world);
        shards::full_mailbox(world);
        shards::next_on_its_socket(world);
        shards::crowd(world, settings);
        fanouts::before_a_replay(world, settings);
        fairness::mail(world);
        submissions::after_what_was_acknowledged(world);
    }
    if world.nodes.len() > 2 {
        shards::suback_of_its_own(world);
    }
    observing::hold(world, settings);
    spanning::hold(world, settings);
    sessions::malformed_rest(world);
    fairness::answers_first(world, settings);
    assert_eq!(world.problems(), Vec::<String>::new());
}

/// The number of the shard that a client is at home on.
fn home(world: &World, name: &str) -> usize {
    usize::from(home_of(&world.shared.seeds, name, world.nodes.len() as u8).0)
}

/// A connection to some shard, CONNACK taken.
fn join(world: &mut World, connect: &Connect<'_>) -> Peer {
    let shard = world.rng.below(world.nodes.len());
    join_at(world, shard, connect)
}

fn join_at(world: &mut World, shard: usize, connect: &Connect<'_>) -> Peer {
    let mut peer = Peer::connect(world, shard, connect);
    let got = peer.take(world);
    assert!(matches!(got[..], [Got::ConnAck { reason: ReasonCode::Success, .. }]), "{got:?}");
    peer
}

/// A client that leaves nothing behind.
fn guest(world: &mut World, name: &str) -> Peer {
    join(world, &hello(name, true, 0))
}

fn part(world: &mut World, peers: impl IntoIterator<Item = Peer>) {
    for mut peer in peers {
        peer.goodbye(world);
    }
}

fn wait(world: &mut World, millis: u64) {
    let mut left = millis;
    while left > 0 {
        // A shard that sleeps longer counts as held up, and forgives silence.
        let some = left.min(100);
        world.advance(some);
        world.settle();
        left -= some;
    }
}

/// A ClientId or share name that lives on `shard`.
fn on(world: &World, shard: u8, make: impl Fn(u32) -> String) -> String {
    let (seeds, shards) = (&world.shared.seeds, world.nodes.len() as u8);
    (0..).map(make).find(|name| home_of(seeds, name, shards).0 == shard).unwrap()
}

struct Wish<'a> {
    filter: &'a str,
    qos: u8,
    id: Option<u32>,
    options: SubscribeOptions,
}

impl<'a> Wish<'a> {
    fn new(filter: &'a str, qos: u8) -> Self {
        Wish { filter, qos, id: None, options: SubscribeOptions::default() }
    }
}

/// SUBSCRIBE and its SUBACK; returns what came after it.
fn subscribe(world: &mut World, peer: &mut Peer, wish: Wish<'_>) -> Vec<Got> {
    peer.write(world, |out, version| {
        let Wish { filter, qos, id: subscription_id, options } = wish;
        let options = SubscribeOptions { qos: Qos::from_u8(qos).unwrap(), ..options };
        let mut raw = Vec::new();
        SubscribeFilter { filter, options }.write(version, &mut raw).unwrap();
        let filters = SubscribeFilters::parse(version, &raw).unwrap();
        let user = UserProperties::default();
        let subscribe = Subscribe { id: id(900), subscription_id, user, filters };
        packet::encode_subscribe(out, version, &subscribe).unwrap();
    });
    let mut got = peer.take(world);
    assert_eq!(got.remove(0), Got::SubAck(900, vec![wish.qos]), "{}", wish.filter);
    got
}

/// What a PUBLISH says, besides its payload.
#[derive(Default)]
struct Said {
    qos: u8,
    retain: bool,
    expiry: Option<u32>,
    alias: Option<u16>,
}

/// Publishes and waits for the acknowledgement.
fn publish(world: &mut World, peer: &mut Peer, topic: &str, payload: &[u8], said: Said) {
    peer.write(world, |out, version| {
        let publish = OutPublish {
            dup: false,
            qos: Qos::from_u8(said.qos).unwrap(),
            retain: said.retain,
            topic,
            id: Some(id(901)).filter(|_| said.qos > 0),
            message_expiry: said.expiry,
            topic_alias: said.alias,
            subscription_ids: &[],
            forwarded: &[],
            payload,
        };
        packet::encode_publish(out, version, &publish).unwrap();
    });
    let acks = match peer.take(world)[..] {
        [] => 0,
        [Got::Ack(AckKind::PubAck, 901, reason)] if (reason as u8) < 0x80 => 1,
        [Got::Ack(AckKind::PubRec, 901, reason)] if (reason as u8) < 0x80 => 2,
        ref other => panic!("{topic}: {other:?}"),
    };
    assert_eq!(acks, said.qos, "{topic}: the acknowledgement");
    if said.qos == 2 {
        peer.ack(world, AckKind::PubRel, 901);
        let got = peer.take(world);
        assert_eq!(got, [Got::Ack(AckKind::PubComp, 901, ReasonCode::Success)]);
    }
}

fn payloads(got: &[Got]) -> Vec<Vec<u8>> {
    let payload = |got: &Got| match got {
        Got::Publish { payload, .. } => payload.clone(),
        other => panic!("{other:?}"),
    };
    got.iter().map(payload).collect()
}

fn reload(world: &mut World, settings: Settings) {
    let settings = Arc::new(settings);
    for node in &mut world.nodes {
        node.shard.reload(Arc::clone(&settings));
    }
}

/// DISCONNECT that ends the session as well.
fn part_for_good(world: &mut World, mut peer: Peer) {
    peer.write(world, |out, version| {
        let mut packet = packet::Disconnect::new(ReasonCode::Success);
        packet.session_expiry = Some(0);
        packet::encode_disconnect(out, version, &packet).unwrap();
    });
    world.settle();
    peer.end(world, End::Fin);
    world.settle();
}
