//! Retained messages count for the bounds of their publishers' listener and entry of
//! `limits.users`, wherever they are kept and for as long as they are, also in the process that
//! takes over.

use crate::net::{End, Faults};
use crate::peer::{Got, Peer, hello, will};
use crate::rng::Rng;
use crate::scripted::fine;
use crate::settings::roomy;
use crate::upgrade::plan;
use crate::world::World;
use ringmq::config::Sources;
use ringmq::overload::Policy;
use ringmq::packet::Connect;
use ringmq::shard::Settings;
use ringmq::transport::Stack;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Messages of all clients of the listener, and of those whose names begin with x.
const ALL: usize = 5;
const SOME: usize = 3;
const TOPICS: usize = 9;

/// What should be kept: topics, and whether a client published it whose name begins with x.
#[derive(Default)]
struct Model(BTreeMap<String, bool>);

impl Model {
    fn publish(&mut self, bounded: bool, topic: &str, clears: bool) {
        self.0.remove(topic);
        let some = self.0.values().filter(|bounded| **bounded).count();
        if !clears && self.0.len() < ALL && !(bounded && some >= SOME) {
            self.0.insert(topic.to_owned(), bounded);
        }
    }
}

fn settings(listener: &str) -> Settings {
    let set = vec![
        format!("listeners=[{{name: '{listener}', max_retained_messages: {ALL}}}]"),
        format!("limits.users=[{{match: {{client_id: 'x*'}}, retained_messages: {SOME}}}]"),
    ];
    let config = Sources { set, ..Sources::default() }.load().unwrap();
    Settings { policy: Arc::new(config.policy()), ..roomy() }
}

/// What each account is said to have is what is kept on it.
fn check(world: &World, policy: &Policy, model: &Model) {
    assert_eq!(world.counters().retained_messages, model.0.len() as u64);
    for account in policy.limits.accounts.all() {
        let kept = world.nodes.iter().map(|node| node.shard.kept_on_account(account.number));
        let (messages, bytes) = kept.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let used = (account.used.messages.used(), account.used.bytes.used());
        assert_eq!(used, (messages, bytes), "{}", account.name);
        let expected = model.0.values().filter(|x| **x || account.most_messages == ALL as u64);
        assert_eq!(messages, expected.count() as u64, "{}", account.name);
    }
}

/// One run.
pub fn simulate(seed: u64) {
    let mut rng = Rng::new(seed);
    let plan = |shards| {
        let mut plan = plan(seed, shards, roomy(), Faults::default(), Stack::default());
        plan.settings = settings(&plan.listener_states[0].name);
        plan
    };
    let first = plan(rng.range(1, 3));
    let mut policy = Arc::clone(&first.settings.policy);
    let mut world = World::new(first);
    let names = ["x1", "x2", "y"];
    let mut peers = names.map(|name| Peer::connect(&mut world, 0, &hello(name, true, 0)));
    peers.iter_mut().for_each(|peer| drop(peer.take(&mut world)));
    let mut model = Model::default();
    for turn in 0..60u16 {
        let topic = format!("t/{}", rng.below(TOPICS));
        let clears = rng.chance(250);
        let payload: &[u8] = if clears { b"" } else { b"kept" };
        if rng.chance(150) {
            let gone = Connect { will: Some(kept_will(&topic)), ..hello("x-will", true, 0) };
            let mut peer = Peer::connect(&mut world, 0, &gone);
            peer.take(&mut world);
            peer.end(&mut world, End::Reset);
            model.publish(true, &topic, false);
        } else {
            let who = rng.below(names.len());
            peers[who].publish_as(&mut world, &topic, payload, 1, turn + 1, true);
            let got = peers[who].take(&mut world);
            assert!(matches!(got[..], [Got::Ack(..)]), "{got:?}");
            model.publish(who < 2, &topic, clears);
        }
        world.settle();
        check(&world, &policy, &model);
        if rng.chance(50) {
            let fails = rng.chance(500);
            let next = plan(rng.range(1, 3));
            let known = Arc::clone(&next.settings.policy);
            let done = world.upgrade(next, fails);
            assert_eq!(done, !fails, "nothing is under way");
            policy = if done { known } else { policy };
            check(&world, &policy, &model);
        }
    }
    let mut late = Peer::connect(&mut world, 0, &hello("late", true, 0));
    late.subscribe(&mut world, 1, "t/#", 1);
    let topic = |got| match got {
        Got::Publish { topic, .. } => Some(topic),
        _ => None,
    };
    let mut got: Vec<String> = late.read_all(&mut world).into_iter().filter_map(topic).collect();
    got.sort_unstable();
    assert_eq!(got, model.0.into_keys().collect::<Vec<_>>());
    fine(&world);
}

fn kept_will(topic: &str) -> ringmq::packet::Will<'_> {
    ringmq::packet::Will { retain: true, ..will(topic, 0) }
}

#[test]
fn what_is_retained_counts_for_who_published_it_and_no_longer_than_it_is_kept() {
    (1..=40).for_each(simulate);
}
