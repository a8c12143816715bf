//! The world of the scripted tests, those that show one behaviour each: a fixed seed, small
//! mailboxes, no faults; and names that live on a chosen shard.

use crate::net::Faults;
use crate::world::{Plan, World, listener_state};
use ringmq::shard::{Settings, home_of};
use ringmq::topic::Seeds;

/// The seed of every scripted world, which decides where clients live.
pub const SEED: u64 = 1;

pub fn world(shards: usize, settings: Settings) -> World {
    mounted_world(shards, settings, "")
}

pub fn mounted_world(shards: usize, settings: Settings, mountpoint: &str) -> World {
    World::new(Plan {
        seed: SEED,
        shards,
        data: 8,
        control: 8,
        settings,
        faults: Faults { receive: 65_536, ..Faults::default() },
        listener_states: vec![listener_state(mountpoint)],
    })
}

/// A ClientId that lives on `shard`.
pub fn name_on(shard: u8, shards: u8, tag: &str) -> String {
    find_on(shard, shards, |n| format!("{tag}-{n}"))
}

/// A share group's filter that lives on `shard`.
pub fn group_on(shard: u8, shards: u8, filter: &str) -> String {
    find_on(shard, shards, |n| format!("$share/g{n}/{filter}"))
}

fn find_on(shard: u8, shards: u8, make: impl Fn(u32) -> String) -> String {
    let seeds = Seeds::fixed(SEED);
    (0..).map(make).find(|name| home_of(&seeds, name, shards).0 == shard).unwrap()
}

/// Nothing is wrong in this world: its checks have found no problem.
pub fn fine(world: &World) {
    assert_eq!(world.problems(), Vec::<String>::new());
}
