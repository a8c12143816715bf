//! Brokers with stores that are replaced by another process, which takes the files over, in the
//! middle of everything; or the other process fails, and the old one goes on with them. What
//! clients were told holds, through power cuts afterwards as well.

use super::SECRET;
use super::broker::{ASYNC, GATHER, House, STAYING, Store, read, settings};
use super::disk::Disk;
use crate::net::{End, Faults};
use crate::rng::Rng;
use crate::upgrade::{DeathOfOld, Sent, plan};
use crate::world::World;
use ringmq::shard::Storing;
use ringmq::storage::image::Image;
use ringmq::storage::index::LogIndex;
use ringmq::storage::log::{Log, LogBounds};
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
        let (bounds, early) = (self.bounds, std::cell::RefCell::new(early));
        // No store is written but by the one who serves.
        let House { world, stores, rng, .. } = self;
        let stores = std::cell::RefCell::new(stores);
        let beside = &mut |world: &mut World| go_on(&mut stores.borrow_mut(), world, rng);
        let prepare = |new: &mut World| {
            let mut early = early.borrow_mut();
            take_over(&stores.borrow(), new, bounds, |at| early[at].take());
        };
        let done = world.hand_over_to(successor, fails, beside, prepare);
        if done {
            // The answers were for old.
            self.stores.iter_mut().for_each(|store| store.forget());
        }
        done
    }

    /// The old process dies when it has sent some pieces. What it has not sent is in the store.
    fn old_dies(&mut self, sent: Sent) -> DeathOfOld {
        let shards = self.stores.len();
        let faults = Faults { receive: 4096, ..Faults::default() };
        let plan = plan(self.seed, shards, settings(self.seed), faults, Stack::default());
        let mut successor = self.world.start_successor(plan);
        if self.rng.chance(500) {
            self.world.copy_to(&mut successor, usize::MAX);
            (0..8).for_each(|_| self.live());
        }
        let House { world, stores, rng, bounds, .. } = self;
        let (bounds, stores) = (*bounds, std::cell::RefCell::new(stores));
        let beside = &mut |world: &mut World| go_on(&mut stores.borrow_mut(), world, rng);
        let prepare = |new: &mut World| take_over(&stores.borrow(), new, bounds, |_| None);
        let end = world.die_beside(successor, sent, beside, prepare);
        match end {
            DeathOfOld::Survives => {}
            DeathOfOld::NewServes { lacks } => {
                assert_eq!(lacks, 0, "retained messages that are in the store only");
                self.stores.iter_mut().for_each(|store| store.forget());
            }
            DeathOfOld::NobodyServes => self.crash(),
        }
        end
    }
}

/// The disks of a broker that comes to rest go on.
fn go_on(stores: &mut [Store], world: &mut World, rng: &mut Rng) {
    for (at, store) in stores.iter_mut().enumerate() {
        store.go_on(&mut world.nodes[at].shard, rng, 900);
        world.wake(at);
    }
}

/// Gives the shards of a new process the logs as they are, by what was read of them before.
fn take_over(
    stores: &[Store],
    new: &mut World,
    bounds: LogBounds,
    mut early: impl FnMut(usize) -> Early,
) {
    for (at, store) in stores.iter().enumerate() {
        let log = 0xb0 + at as u64;
        let (recovered, image, alive) = finished(&store.disk, log, early(at));
        assert!(recovered.torn.is_none(), "everything is written");
        let mut log = Log::new(log, SECRET, bounds, recovered.found);
        log.adopt(alive);
        log.leave(recovered.unused);
        log.hold();
        let shard = &mut new.nodes[at].shard;
        let own = (shard.id(), stores.len() as u8);
        let storing = Storing::new(log, SECRET, own, 1_000_000, image.last);
        shard.store_with(storing.expecting(&image));
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

/// A random run in which old processes die; how often new ones served, and how often nobody did.
pub fn simulate_deaths(seed: u64) -> [usize; 2] {
    let mut ends = [0; 2];
    let mut house = House::new(seed, GATHER);
    for at in 0..STAYING.len() {
        house.join(at);
    }
    house.settle();
    let mut rng = Rng::new(seed ^ 0xd1ed);
    for _ in 0..4 {
        (0..rng.range(10, 60)).for_each(|_| house.live());
        let sent = match rng.chance(500) {
            true => Sent::First(rng.range(1, 40)),
            false => Sent::AllBut(rng.below(4)),
        };
        match house.old_dies(sent) {
            DeathOfOld::Survives => {}
            DeathOfOld::NewServes { .. } => ends[0] += 1,
            DeathOfOld::NobodyServes => ends[1] += 1,
        }
    }
    house.check();
    ends
}

#[test]
fn an_old_process_that_dies_leaves_all_that_is_stored_to_the_new_one_or_to_the_next_start() {
    let mut ends = [0; 2];
    for seed in 1..=40 {
        ends.iter_mut().zip(simulate_deaths(seed)).for_each(|(sum, more)| *sum += more);
    }
    println!("{} times the new process served, {} times nobody", ends[0], ends[1]);
    assert!(ends[0] > 20 && ends[1] > 20, "{ends:?}");
}

#[test]
fn a_store_is_taken_over_and_nothing_that_clients_were_told_is_lost() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(60);
    let runs = (1..=seeds).map(simulate);
    let (done, failed) = runs.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    println!("{done} upgrades, {failed} that failed");
    assert!(done as u64 > 3 * seeds && failed as u64 > seeds, "{done} and {failed}");
}
