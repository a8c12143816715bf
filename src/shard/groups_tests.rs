//! Tests of share groups against a plain list of members, and of what they cost with many members.

use super::*;
use crate::ids::ShardId;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const STRATEGIES: [SharedStrategy; 5] = [
    SharedStrategy::RoundRobin,
    SharedStrategy::Random,
    SharedStrategy::Sticky,
    SharedStrategy::HashTopic,
    SharedStrategy::HashClient,
];

fn session(index: u32) -> SessionRef {
    SessionRef { shard: ShardId((index % 3) as u8), index, generation: 7 }
}

fn member(index: u32) -> Member {
    Member { session: session(index), options: 1, subscription_id: index }
}

fn input(strategy: SharedStrategy, key: u64) -> PickInput {
    PickInput { strategy, key, may_wait: true, tries: 0 }
}

fn group(groups: &mut Groups, name: &str) -> u32 {
    let name = ShareName::new(name);
    groups.find(&name).unwrap_or_else(|| groups.create(name, FilterId(0)))
}

/// How early a member is chosen: a ready one first, then one that is away, busy or full.
fn kind(online: bool, full: bool) -> usize {
    match (online, full) {
        (true, false) => 0,
        (true, true) => 2,
        (false, false) => 1,
        (false, true) => 3,
    }
}

proptest! {
    #[test]
    fn groups_are_lists_of_members(
        steps in proptest::collection::vec((0u8..9, 0u32..20, 0u32..40, 0usize..5), 0..400)
    ) {
        let mut groups = Groups::default();
        // The members of each group, and the state of each member.
        let mut model: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        let mut states: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
        for (step, who, where_, strategy) in steps {
            let name = format!("$share/g/{where_}");
            let of = model.entry(name.clone()).or_default();
            match step {
                0..=2 => {
                    let group = group(&mut groups, &name);
                    groups.join(group, member(who));
                    of.insert(who);
                    states.entry(who).or_insert((true, false));
                }
                3 => {
                    let known = groups.find(&ShareName::new(&name));
                    let gone = known.and_then(|group| groups.leave(group, session(who)));
                    let was = of.remove(&who);
                    prop_assert_eq!(gone.is_some(), was && of.is_empty());
                }
                4 | 5 => {
                    groups.set_online(session(who), step == 4);
                    states.entry(who).and_modify(|state| *state = (step == 4, false));
                }
                6 => {
                    if let Some(group) = groups.find(&ShareName::new(&name))
                        && of.contains(&who)
                    {
                        groups.set_full(group, session(who));
                        states.entry(who).and_modify(|state| state.1 = true);
                    }
                }
                7 => {
                    groups.tell_on(3);
                }
                _ => {
                    while groups.is_telling() {
                        groups.tell_on(5);
                    }
                    let best = of.iter().map(|who| kind(states[who].0, states[who].1)).min();
                    let chosen = groups.find(&ShareName::new(&name)).and_then(|group| {
                        groups.choose(group, input(STRATEGIES[strategy], u64::from(who)))
                    });
                    prop_assert_eq!(chosen.is_some(), best.is_some());
                    if let (Some(chosen), Some(best)) = (chosen, best) {
                        let who = chosen.member.session.index;
                        prop_assert!(of.contains(&who));
                        prop_assert_eq!(kind(states[&who].0, states[&who].1), best);
                        prop_assert_eq!(chosen.last_resort, best > 1 || of.len() == 1);
                    }
                }
            }
            states.retain(|who, _| model.values().any(|of| of.contains(who)));
            model.retain(|_, of| !of.is_empty());
            prop_assert_eq!(groups.problems(), Vec::<String>::new());
            let count = (model.len(), model.values().map(BTreeSet::len).sum());
            // A group was only made to be joined at once, so none is empty.
            prop_assert_eq!(groups.count(), count);
        }
    }

    /// Whichever members come, go, fill up or read on: between two messages to one member, each
    /// other member that was ready all the time has had one.
    #[test]
    fn a_round_goes_to_each_ready_member_once(
        steps in proptest::collection::vec((0u8..6, 0u32..8), 0..200)
    ) {
        let mut groups = Groups::default();
        let group = group(&mut groups, "$share/g/t");
        (0..8).for_each(|who| groups.join(group, member(who)));
        let mut ready: BTreeSet<u32> = (0..8).collect();
        // For each ready member, the number of messages since its last one.
        let mut hungry: BTreeMap<u32, u32> = ready.iter().map(|&who| (who, 0)).collect();
        for (step, who) in steps {
            if step == 0 {
                let online = !ready.remove(&who);
                groups.set_online(session(who), online);
                hungry.remove(&who);
                if online {
                    ready.insert(who);
                    hungry.insert(who, 0);
                }
                continue;
            }
            let Some(choice) = groups.choose(group, input(SharedStrategy::RoundRobin, 0)) else {
                continue;
            };
            if ready.is_empty() {
                prop_assert!(!choice.only || !choice.last_resort);
                continue;
            }
            prop_assert!(ready.contains(&choice.member.session.index));
            for (&who, waited) in &mut hungry {
                *waited = if who == choice.member.session.index { 0 } else { *waited + 1 };
                // At most a whole round, and what was left of the round in which the member came.
                prop_assert!(*waited < 16, "{who} was passed over {waited} times");
            }
        }
    }
}

#[test]
fn a_steady_round_keeps_its_order() {
    let mut groups = Groups::default();
    let group = group(&mut groups, "$share/g/t");
    (0..5).for_each(|who| groups.join(group, member(who)));
    let round = |groups: &mut Groups| -> Vec<u32> {
        let one = |_| groups.choose(group, input(SharedStrategy::RoundRobin, 0)).unwrap();
        (0..5).map(one).map(|choice| choice.member.session.index).collect()
    };
    let first = round(&mut groups);
    assert_eq!(BTreeSet::from_iter(first.clone()).len(), 5);
    assert_eq!(round(&mut groups), first);
}

#[test]
fn a_topic_stays_with_its_member_while_others_come_and_go() {
    let mut groups = Groups::default();
    let group = group(&mut groups, "$share/g/t");
    (0..10).for_each(|who| groups.join(group, member(who)));
    let owners = |groups: &mut Groups| -> Vec<u32> {
        let one = |key| groups.choose(group, input(SharedStrategy::HashTopic, key)).unwrap();
        (0..1000).map(one).map(|choice| choice.member.session.index).collect()
    };
    let before = owners(&mut groups);
    let moved = |a: &[u32], b: &[u32]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    // When one member is away or full, only its own topics go to others, and they come back.
    let own = before.iter().filter(|&&who| who == 3).count();
    for full in [false, true] {
        match full {
            false => groups.set_online(session(3), false),
            true => groups.set_full(group, session(3)),
        }
        let during = owners(&mut groups);
        assert!(!during.contains(&3));
        assert_eq!(moved(&before, &during), own);
        groups.set_online(session(3), true);
        assert_eq!(owners(&mut groups), before);
    }
    // When one member leaves for good, or comes, a tenth or two of the topics change.
    groups.leave(group, session(4));
    let less = owners(&mut groups);
    assert!(moved(&before, &less) < 300, "{}", moved(&before, &less));
    groups.join(group, member(11));
    assert!(moved(&less, &owners(&mut groups)) < 200);
    assert!((0..10).filter(|&who| who != 4).all(|who| less.contains(&who)));
}

#[test]
fn a_sticky_group_stays_with_its_member_until_that_cannot() {
    let mut groups = Groups::default();
    let group = group(&mut groups, "$share/g/t");
    (0..4).for_each(|who| groups.join(group, member(who)));
    let pick = |groups: &mut Groups| {
        groups.choose(group, input(SharedStrategy::Sticky, 0)).unwrap().member.session
    };
    let first = pick(&mut groups);
    assert!((0..9).all(|_| pick(&mut groups) == first));
    groups.set_full(group, first);
    let second = pick(&mut groups);
    assert_ne!(second, first);
    groups.set_online(first, true);
    assert!((0..9).all(|_| pick(&mut groups) == second), "it does not go back");
}

#[test]
fn who_cannot_take_a_message_is_not_asked_before_the_others() {
    let mut groups = Groups::default();
    let group = group(&mut groups, "$share/g/t");
    (0..3).for_each(|who| groups.join(group, member(who)));
    let chosen = |groups: &mut Groups, may_wait| {
        let input = PickInput { may_wait, ..input(SharedStrategy::RoundRobin, 0) };
        groups.choose(group, input).map(|c| (c.member.session.index, c.only, c.last_resort))
    };
    groups.set_online(session(1), false);
    groups.set_full(group, session(0));
    assert_eq!(chosen(&mut groups, true), Some((2, true, false)));
    groups.set_full(group, session(2));
    assert_eq!(chosen(&mut groups, false), Some((2, true, true)), "the one that refused last");
    assert_eq!(chosen(&mut groups, true), Some((1, true, false)), "away, and with room");
    let (who, _, last) = chosen(&mut groups, false).unwrap();
    assert!(who != 1 && last, "QoS 0 goes to who is connected");
    groups.set_full(group, session(1));
    assert!(chosen(&mut groups, true).is_some_and(|(who, _, last)| who != 1 && last));
    (0..3).for_each(|who| groups.set_online(session(who), false));
    assert_eq!(chosen(&mut groups, false), None);
    assert!(chosen(&mut groups, true).is_some_and(|(_, _, last)| !last));
}

/// 100,000 members in one group and 60,000 groups of one member: anything that looked at all of
/// them would not come to an end here.
#[test]
fn no_cost_grows_with_members_or_groups() {
    let mut groups = Groups::default();
    let large = group(&mut groups, "$share/g/large");
    (0..100_000).for_each(|who| groups.join(large, member(who)));
    (1..100_000).for_each(|who| groups.set_online(session(who), false));
    for strategy in STRATEGIES {
        for key in 0..10_000 {
            let choice = groups.choose(large, input(strategy, key)).unwrap();
            assert_eq!(choice.member, member(0), "{strategy:?}");
        }
    }
    for number in 0..60_000 {
        let name = format!("$share/g/{number}");
        let one = group(&mut groups, &name);
        groups.join(one, member(0));
    }
    for online in [false, true].repeat(1000) {
        groups.set_online(session(0), online);
        assert!(groups.tell_on(10) <= 10);
    }
    while groups.is_telling() {
        assert!(groups.tell_on(1000) <= 1000);
    }
    assert_eq!(groups.problems(), Vec::<String>::new());
    (0..100_000)
        .rev()
        .for_each(|who| assert!(groups.leave(large, session(who)).is_none() || who == 0));
    for number in 0..60_000 {
        let one = groups.find(&ShareName::new(&format!("$share/g/{number}"))).unwrap();
        assert!(groups.leave(one, session(0)).is_some());
    }
    assert_eq!(groups.count(), (0, 0));
    assert_eq!(groups.presences().count(), 0);
}
