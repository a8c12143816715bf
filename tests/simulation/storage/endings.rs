//! Stored sessions with many subscriptions end, in each way that there is: no step does more than
//! its share of it, the power fails in the middle of it, and nothing of them is stored for ever.

use super::broker::{GATHER, House};
use crate::net::End;
use crate::peer::{Got, Peer, hello};
use crate::world::World;
use ringmq::limits::{Budget, cost};
use ringmq::packet::{self, Disconnect, ReasonCode};

/// What one item of work may cost beyond a step's shares: see `checks.rs`.
const ITEM: u32 = 640;
/// Identifiers of QoS 2 that a step forgets at most besides.
const IDENTIFIERS: u64 = 512;

/// How the session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ends {
    /// Its client begins anew.
    Anew,
    /// Its client comes back for a last connection, and takes some subscriptions out before.
    WithItsConnection,
    /// Its client says so.
    Goodbye,
    /// Its time is over.
    Expired,
}

/// So many filters, every eighth of a share group.
fn filters(count: usize) -> Vec<String> {
    let filter = |number| match number % 8 {
        7 => format!("$share/g{number}/many/{number}"),
        _ => format!("many/{number}"),
    };
    (0..count).map(filter).collect()
}

/// Values that are stored, on each shard.
fn values(world: &mut World) -> Vec<u64> {
    let values = world.nodes.iter_mut().map(|node| {
        node.shard.measure_storage();
        node.shard.counters.storage_values
    });
    values.collect()
}

/// What was sent is taken in, and stored.
fn come_to_rest(house: &mut House) {
    house.pass(2);
    house.settle();
}

/// A client with a session that stays, its subscriptions, and messages of QoS 2 that it has sent
/// and not released.
fn arrive(house: &mut House, filters: &[String], expiry: u32) -> Peer {
    let mut peer = Peer::connect(&mut house.world, 0, &hello("many", false, expiry));
    for some in filters.chunks(1000) {
        peer.subscribe_all(&mut house.world, 1, some, 1);
    }
    for id in 100..110 {
        peer.publish(&mut house.world, "nobody/wants", b"it", 2, id);
    }
    // To come to rest takes a look at every subscription each time.
    let mut granted = 0;
    for _ in 0..100_000 {
        let granted_now = |got: &Got| matches!(got, Got::SubAck(..));
        granted += peer.hear(&mut house.world).iter().filter(|&got| granted_now(got)).count();
        if granted == filters.len().div_ceil(1000) {
            break;
        }
        house.creep();
    }
    assert_eq!(granted, filters.len().div_ceil(1000));
    come_to_rest(house);
    peer
}

/// Begins the end.
fn part(house: &mut House, mut peer: Peer, filters: &[String], ends: Ends) {
    let world = &mut house.world;
    match ends {
        Ends::Anew => peer.end(world, End::Fin),
        Ends::Goodbye => peer.write(world, |out, version| {
            let mut disconnect = Disconnect::new(ReasonCode::Success);
            disconnect.session_expiry = Some(0);
            packet::encode_disconnect(out, version, &disconnect).unwrap();
        }),
        Ends::WithItsConnection => {
            peer.end(world, End::Fin);
            let mut last = Peer::connect(world, 0, &hello("many", false, 0));
            for (number, filter) in filters.iter().enumerate().step_by(7) {
                last.unsubscribe(world, number as u16 + 1, filter);
            }
            come_to_rest(house);
            last.end(&mut house.world, End::Fin);
        }
        Ends::Expired => {
            peer.end(world, End::Fin);
            come_to_rest(house);
            house.world.advance(60_000);
        }
    }
    if ends == Ends::Anew {
        come_to_rest(house);
        let mut anew = Peer::silent(&mut house.world, 0, 1 << 20);
        anew.begin(&mut house.world, &hello("many", true, 0));
        anew.end(&mut house.world, End::Fin);
    }
}

/// Most that a step may do, and most values that it may forget.
fn bounds(budget: &Budget) -> (u32, u64) {
    let filters = budget.filters_at_once as u32 * (cost::FILTER + cost::STORED);
    let work = 2 * budget.step + 6 * budget.share() + filters + 2 * ITEM;
    (work, u64::from(work / (cost::FILTER + cost::STORED)) + IDENTIFIERS)
}

/// Goes on for a step and checks it; false when nobody had anything to do.
fn step(house: &mut House, budget: &Budget) -> bool {
    let before = values(&mut house.world);
    let Some(at) = house.world.pick_awake() else { return false };
    house.world.step(at);
    house.world.finish(at);
    let (most_work, most_values) = bounds(budget);
    let work = house.world.nodes[at].work;
    assert!(work <= most_work, "a step of {work} units of work, {most_work} at most");
    let forgotten = before[at].saturating_sub(values(&mut house.world)[at]);
    assert!(forgotten <= most_values, "{forgotten} values in a step, {most_values} at most");
    true
}

/// Nothing is left of the session, here or after a restart.
fn check_nothing_left(house: &mut House, when: &str) {
    let left = values(&mut house.world);
    assert!(left.iter().all(|&left| left == 0), "{when}: values that are stored: {left:?}");
}

pub fn simulate_endings(seed: u64) {
    let mut house = House::new(seed, GATHER);
    let budget = super::broker::settings(seed).budget;
    let filters = filters([3, 60, 400][house.rng.below(3)]);
    let ways = [Ends::Anew, Ends::WithItsConnection, Ends::Goodbye, Ends::Expired];
    let ends = ways[house.rng.below(4)];
    let peer = arrive(&mut house, &filters, if ends == Ends::Expired { 50 } else { 5000 });
    part(&mut house, peer, &filters, ends);
    let cut = house.rng.chance(500).then(|| house.rng.below(60));
    for steps in 0..2000 {
        if Some(steps) == cut {
            house.crash();
            // It may be there again, if nobody was told of its end; not for long.
            let mut again = Peer::connect(&mut house.world, 0, &hello("many", true, 0));
            again.end(&mut house.world, End::Fin);
            come_to_rest(&mut house);
        }
        if !step(&mut house, &budget) {
            house.disks(900);
            house.world.advance(1);
        }
    }
    come_to_rest(&mut house);
    check_nothing_left(&mut house, "at the end");
    house.crash();
    come_to_rest(&mut house);
    check_nothing_left(&mut house, "after a restart");
}

#[test]
fn what_an_ended_session_had_stored_is_forgotten_over_several_steps() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(40);
    (1..=seeds).for_each(simulate_endings);
}

#[test]
fn a_stored_session_with_100_000_subscriptions_ends_within_the_bounds_of_each_step() {
    const MANY: usize = 100_000;
    // A seed with the budget of every broker.
    let mut house = House::new(1, GATHER);
    let budget = super::broker::settings(1).budget;
    assert_eq!(budget.step, Budget::BROKER.step);
    let filters = filters(MANY);
    let peer = arrive(&mut house, &filters, 5000);
    let stored: u64 = values(&mut house.world).iter().sum();
    assert!(stored > MANY as u64, "{stored} values are stored");
    part(&mut house, peer, &filters, Ends::Anew);
    let (mut steps, mut longest) = (0, std::time::Duration::ZERO);
    for _ in 0..100_000 {
        let began = std::time::Instant::now();
        let any = step(&mut house, &budget);
        longest = longest.max(began.elapsed());
        steps += u64::from(any);
        if !any {
            if values(&mut house.world).iter().all(|&left| left == 0) {
                break;
            }
            house.disks(900);
            house.world.advance(1);
        }
    }
    check_nothing_left(&mut house, "at the end");
    println!("{stored} values are forgotten in {steps} steps, of which one took {longest:?}");
    assert!(steps > 30, "{steps} steps");
}
