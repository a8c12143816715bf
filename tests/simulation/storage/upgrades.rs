//! Brokers with stores that are replaced by another process, which takes the files over, in the
//! middle of everything; or the other process fails, and the old one goes on with them. What
//! clients were told holds, through power cuts afterwards as well.

use super::SECRET;
use super::broker::{ASYNC, GATHER, House, STAYING, read, settings};
use super::disk::Disk;
use crate::net::{End, Faults};
use crate::upgrade::plan;
use crate::world::World;
use ringmq::shard::Storing;
use ringmq::storage::image::Image;
use ringmq::storage::index::LogIndex;
use ringmq::storage::log::Log;
use ringmq::storage::record::Record;
use ringmq::storage::recovery::{LogActivity, LogReading, Recovered};
use ringmq::transport::Stack;

impl House {
    /// Another process takes over while clients go on. True when it serves now.
    fn upgrade(&mut self, fails: bool) -> bool {
        self.upgrade_while(fails, House::live)
    }

    /// The same, and what happens meanwhile.
    pub(super) fn upgrade_while(&mut self, fails: bool, goes_on: fn(&mut House)) -> bool {
        let shards = self.stores.len();
        let faults = Faults { receive: 4096, ..Faults::default() };
        let plan = plan(self.seed, shards, settings(self.seed), faults, Stack::default());
        // Every second time or so, clients are copied meanwhile.
        let mut successor = self.world.start_successor(plan);
        let mut early: Vec<Early> = (0..shards).map(|_| None).collect();
        for _ in 0..self.rng.below(3) {
            self.read_early(&mut early);
            let most = self.rng.range(1, 8);
            self.world.copy_to(&mut successor, most);
            (0..self.rng.below(12)).for_each(|_| goes_on(self));
        }
        let early = std::cell::RefCell::new(early);
        // No store is written but by the one who serves.
        let House { world, stores, rng, bounds, .. } = self;
        let stores = std::cell::RefCell::new(stores);
        let beside = &mut |world: &mut World| {
            for (at, store) in stores.borrow_mut().iter_mut().enumerate() {
                store.go_on(&mut world.nodes[at].shard, rng, 900);
                world.wake(at);
            }
        };
        let prepare = |new: &mut World| {
            for (at, store) in stores.borrow().iter().enumerate() {
                let log = 0xb0 + at as u64;
                let known = early.borrow_mut()[at].take();
                let (recovered, image, alive) = finished(&store.disk, log, known);
                assert!(recovered.torn.is_none(), "everything is written");
                let mut log = Log::new(log, SECRET, *bounds, recovered.found);
                log.adopt(alive);
                log.leave(recovered.unused);
                log.hold();
                let shard = &mut new.nodes[at].shard;
                let sessions = image.session_sum();
                let own = (shard.id(), shards as u8);
                let storing = Storing::new(log, SECRET, own, 1_000_000, image.last);
                shard.store_with(storing.expecting(sessions));
            }
        };
        let done = world.hand_over_to(successor, fails, beside, prepare);
        if done {
            // The answers were for old.
            self.stores.iter_mut().for_each(|store| store.forget());
        }
        done
    }
}

/// What was read of a log while it was written to.
type Early = Option<(LogReading, Image)>;

fn read_on(disk: &Disk, log: u64, known: Early, activity: LogActivity) -> Early {
    let known = known.unwrap_or_else(|| (LogReading::new(log), Image::within(Some(0))));
    let (mut reading, mut image) = known;
    let segments = disk.segments();
    let mut read = disk.reader();
    let valid = reading.is_valid(&segments, &mut read).is_ok_and(|valid| valid);
    let mut take = |record: &Record<'_>, value| image.take(record, value, SECRET);
    (valid && reading.read_on(activity, &segments, &mut read, &mut take).is_ok())
        .then_some((reading, image))
}

/// The log, which rests, with the values that are alive: by what was read of it before, if that can
/// be read on.
fn finished(disk: &Disk, log: u64, known: Early) -> (Recovered, Image, LogIndex) {
    let (recovered, mut image) = read(disk, log);
    let alive = image.finish(SECRET);
    let known = known.and_then(|known| read_on(disk, log, Some(known), LogActivity::Rests));
    let Some((reading, mut early)) = known else { return (recovered, image, alive) };
    let early_alive = early.finish(SECRET);
    assert_eq!(reading.end(), recovered, "what was read on is the log");
    assert_eq!((early_alive.len(), early_alive.live()), (alive.len(), alive.live()));
    assert!(early.session_sum() == image.session_sum() && early.retained == image.retained);
    (recovered, early, early_alive)
}

impl House {
    fn read_early(&self, early: &mut [Early]) {
        for (at, (store, known)) in self.stores.iter().zip(early).enumerate() {
            *known = read_on(&store.disk, 0xb0 + at as u64, known.take(), LogActivity::Written);
        }
    }

    /// Clients come, go, publish and answer.
    fn live(&mut self) {
        let at = self.rng.below(STAYING.len());
        if self.staying[at].peer.is_none() && self.rng.chance(60) {
            self.join(at);
        } else if self.rng.chance(60)
            && let Some(mut peer) = self.staying[at].peer.take()
        {
            peer.end(&mut self.world, End::Fin);
        }
        if self.rng.chance(800) {
            self.publish();
        }
        self.turn();
        if self.rng.chance(700) {
            self.listen();
        }
    }
}

/// A random run; how many upgrades there were, and how many that failed.
pub fn simulate(seed: u64) -> (usize, usize) {
    let (mut done, mut failed) = (0, 0);
    let mut house = House::new(seed, if seed % 4 == 1 { ASYNC } else { GATHER });
    for at in 0..STAYING.len() {
        house.join(at);
    }
    house.settle();
    for _ in 0..house.rng.range(2, 4) {
        for _ in 0..house.rng.range(40, 120) {
            house.live();
            if house.rng.chance(40) {
                let fails = house.rng.chance(300);
                match house.upgrade(fails) {
                    true => done += 1,
                    false => failed += 1,
                }
            }
        }
        house.crash();
    }
    house.check();
    (done, failed)
}

#[test]
fn a_store_is_taken_over_and_nothing_that_clients_were_told_is_lost() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(60);
    let runs = (1..=seeds).map(simulate);
    let (done, failed) = runs.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    println!("{done} upgrades, {failed} that failed");
    assert!(done as u64 > 3 * seeds && failed as u64 > seeds, "{done} and {failed}");
}
