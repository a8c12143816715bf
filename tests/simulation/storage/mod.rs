//! Logs on a disk that loses, tears and breaks what disks do: random changes, cleaning, failures
//! of the n-th operation, power cuts in the middle of anything. After each restart the state is
//! exactly that of some batch, and of none before the last one that was said to be durable.

mod beside;
pub mod broker;
mod crashes;
pub mod disk;
mod endings;
mod long_queues;
mod starts;
mod upgrades;

use crate::rng::Rng;
use beside::Reader;
use disk::Disk;
use ringmq::storage::index::{IndexValue, LogIndex};
use ringmq::storage::log::{Log, LogBounds};
use ringmq::storage::record::{Effect, Record, RecordKey, StoreSecret, StoredMessage};
use ringmq::storage::recovery::{self, Damage, Recovered, RecoveryTrouble};
use ringmq::storage::{StorageAnswer, StorageCommand, frame};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const SECRET: StoreSecret = StoreSecret([5, 6]);
const LOG: u64 = 0x5eed;
/// Bytes of a segment: small, so that there are many.
const SEGMENT: u64 = 96 << 10;
pub const BOUNDS: LogBounds = LogBounds {
    segment: SEGMENT,
    disk: u64::MAX,
    gather: 50,
    backlog: 64 << 10,
    age: 1_000_000,
    interval: None,
    degraded: 0,
    slice: 16 << 10,
    head: (3, 600),
    heads: 4000,
};

/// Bounds of a run: in some of them syncs come apart from writes.
fn bounds(seed: u64) -> LogBounds {
    LogBounds { interval: (seed % 3 == 1).then_some(300), ..BOUNDS }
}

type State = BTreeMap<String, Vec<u8>>;

fn stored<'a>(topic: &'a str, payload: &'a [u8]) -> StoredMessage<'a> {
    StoredMessage {
        topic,
        properties: b"",
        payload,
        expires: u64::MAX,
        flags: 1,
        accounts: 0,
        stamp: 0,
    }
}

/// A log, its disk, and what should be in it.
struct Bed {
    log: Log,
    disk: Disk,
    rng: Rng,
    now: u64,
    /// Commands that the disk has not seen, and answers that the log has not.
    commands: VecDeque<StorageCommand>,
    answers: VecDeque<StorageAnswer>,
    state: State,
    /// The state after each batch since the last restart.
    after: BTreeMap<u64, State>,
    durable: u64,
    bounds: LogBounds,
}

impl Bed {
    fn new(seed: u64) -> Bed {
        let bounds = bounds(seed);
        let log = Log::new(LOG, SECRET, bounds, Default::default());
        let after = BTreeMap::from([(0, State::new())]);
        Bed {
            log,
            disk: Disk::new(seed),
            rng: Rng::new(seed),
            now: 0,
            commands: VecDeque::new(),
            answers: VecDeque::new(),
            state: State::new(),
            after,
            durable: 0,
            bounds,
        }
    }

    /// A random change.
    fn change(&mut self) {
        let topic = format!("t{}", self.rng.below(40));
        if self.rng.chance(350) {
            self.take(&topic);
        } else if self.log.accepts(self.now) {
            let length = match self.rng.below(100) {
                0 => self.rng.range(1, 2 * SEGMENT as usize),
                1..10 => self.rng.range(1, 20_000),
                _ => self.rng.range(1, 300),
            };
            self.put(&topic, length);
        }
    }

    fn put(&mut self, topic: &str, length: usize) {
        let byte = self.rng.below(256) as u8;
        let payload: Vec<u8> = (0..length).map(|at| byte.wrapping_add((at / 64) as u8)).collect();
        let batch = self.log.append(&Record::Retain(stored(topic, &payload)), self.now);
        self.state.insert(topic.to_owned(), payload);
        self.after.insert(batch, self.state.clone());
    }

    fn take(&mut self, topic: &str) {
        if self.state.remove(topic).is_some() {
            let batch = self.log.append(&Record::Unretain { topic }, self.now);
            self.after.insert(batch, self.state.clone());
        }
    }

    /// The log has its turn, the disk maybe, and maybe the log hears of it.
    fn turn(&mut self) {
        self.now += self.rng.below(60) as u64;
        self.log.turn(self.now);
        self.commands.extend(self.log.commands.drain(..));
        if self.rng.chance(700)
            && let Some(command) = self.commands.pop_front()
        {
            self.answers.extend(self.disk.obey(command));
        }
        if self.rng.chance(300) {
            self.answers.extend(self.disk.finish_sync());
        }
        if self.rng.chance(700)
            && let Some(answer) = self.answers.pop_front()
        {
            self.log.answered(answer, self.now);
        }
        let durable = self.log.durable();
        assert!(durable >= self.durable, "what was durable stays so");
        self.durable = durable;
    }

    /// Everything becomes durable.
    fn settle(&mut self) {
        self.disk.fails_at = None;
        for _ in 0..20_000 {
            if self.log.is_settled() && self.commands.is_empty() && self.answers.is_empty() {
                return;
            }
            self.turn();
            self.now += 10_000;
        }
        panic!("what was appended does not become durable");
    }

    /// The power fails and comes back, or the process is killed and begins again.
    fn restart(&mut self) {
        let half_done = self.commands.pop_front().filter(|_| self.rng.chance(600));
        let mut least = self.durable;
        if self.rng.chance(300) {
            least = self.log.kept();
            self.disk.kill(half_done);
        } else {
            self.disk.cut(half_done);
        }
        self.commands.clear();
        self.answers.clear();
        let (found, state, values) =
            recover(&self.disk).unwrap_or_else(|trouble| panic!("a crash is no damage: {trouble}"));
        let last = found.found.last_batch;
        assert!(last >= least, "batch {least} was promised, {last} is left");
        self.expect(last, &state);
        let wanted = found.found.segments.iter().map(|segment| segment.number).collect();
        self.disk.keep_only(&wanted);
        self.log = Log::new(LOG, SECRET, self.bounds, found.found);
        let mut alive = LogIndex::default();
        values.into_iter().for_each(|(key, value)| alive.put(key, value));
        self.log.adopt(alive);
        self.state = state.clone();
        self.after = BTreeMap::from([(last, state)]);
        self.durable = last;
    }

    fn expect(&self, last: u64, state: &State) {
        let (_, right) = self.after.range(..=last).next_back().expect("the state at the start");
        let differs = |topic: &&String| right.get(*topic) != state.get(*topic);
        let wrong: BTreeSet<_> = right.keys().chain(state.keys()).filter(differs).collect();
        assert!(wrong.is_empty(), "after batch {last} these are not as they were: {wrong:?}");
    }
}

type Found = (Recovered, State, BTreeMap<RecordKey, IndexValue>);

fn recover(disk: &Disk) -> Result<Found, RecoveryTrouble> {
    let (mut state, mut values) = (State::new(), BTreeMap::new());
    let mut read = disk.reader();
    let recovered = recovery::recover(LOG, &disk.segments(), &mut read, &mut |record, value| {
        take(record, value, &mut state, &mut values);
    })?;
    Ok((recovered, state, values))
}

fn take(
    record: &Record<'_>,
    value: IndexValue,
    state: &mut State,
    values: &mut BTreeMap<RecordKey, IndexValue>,
) {
    match record.effect(SECRET) {
        Effect::Put(key) => drop(values.insert(key, value)),
        Effect::Take(key) => drop(values.remove(&key)),
        Effect::TakeSlot(..) | Effect::None => {}
    }
    match record {
        Record::Retain(body) => {
            drop(state.insert(body.topic.to_owned(), body.payload.to_owned()));
        }
        Record::Unretain { topic } => drop(state.remove(*topic)),
        _ => {}
    }
}

/// A random run of a log, and one of whole brokers.
#[cfg(feature = "mutants")]
pub fn simulate_all(seed: u64) {
    simulate(seed);
    broker::simulate(seed);
    broker::simulate_wills(seed);
    broker::simulate_failure(seed);
    broker::simulate_degraded(seed);
    crashes::simulate_fan_out(seed);
    crashes::simulate_pauseless(seed);
    crashes::simulate_returns(seed);
    long_queues::simulate_long_queues(seed);
    long_queues::simulate_short_queues(seed);
    endings::simulate_endings(seed);
    starts::simulate_starts(seed);
}

/// Those in which another process takes the store over.
#[cfg(feature = "mutants")]
pub fn simulate_upgrades(seed: u64) {
    upgrades::simulate(seed);
    upgrades::simulate_deaths(seed);
    long_queues::simulate_upgraded(seed);
}

/// A random run; returns how many batches it came to.
fn simulate(seed: u64) -> u64 {
    let mut bed = Bed::new(seed);
    let restarts = bed.rng.range(2, 6);
    for restart in 0..restarts {
        bed.disk.room = if bed.rng.chance(300) { bed.rng.range(8, 16) } else { usize::MAX };
        if bed.rng.chance(500) {
            bed.disk.fails_at = Some((bed.rng.below(80), bed.rng.below(5)));
        }
        let mut reader = Reader::new(seed << 8 | restart as u64);
        for _ in 0..bed.rng.range(50, 1500) {
            if bed.rng.chance(600) {
                bed.change();
            }
            bed.turn();
            reader.maybe_read(&bed.disk);
        }
        if bed.rng.chance(300) {
            bed.disk.room = usize::MAX;
            bed.settle();
            reader.check(&bed.disk);
        }
        bed.restart();
    }
    bed.disk.room = usize::MAX;
    bed.settle();
    bed.restart();
    reclaims(&mut bed);
    breaks(&mut bed);
    bed.durable
}

/// What is dead goes: changes to few values do not let the log grow.
fn reclaims(bed: &mut Bed) {
    bed.put("large", 150 << 10);
    for _ in 0..4000 {
        if bed.log.accepts(bed.now) {
            let topic = format!("t{}", bed.rng.below(10));
            bed.put(&topic, 700);
        }
        bed.turn();
    }
    bed.settle();
    for _ in 0..4000 {
        bed.turn();
        bed.now += 1000;
    }
    bed.settle();
    let (live, used) = bed.log.sizes();
    // A copy takes room of its own before what it replaces is dropped.
    let most = 2 * live + 4 * SEGMENT;
    assert!(used <= most, "{used} bytes are used for {live}, more than {most}");
    let alive: u64 = bed
        .state
        .iter()
        .map(|(topic, payload)| Record::Retain(stored(topic, payload)).encode(&mut Vec::new()))
        .sum::<usize>() as u64;
    assert_eq!(live, alive, "bytes alive");
    bed.restart();
}

/// A flipped bit or a lost segment is told, or at most costs the last batch; nothing is made up.
fn breaks(bed: &mut Bed) {
    // With async, several batches before each sync.
    for _ in 0..6 {
        let topic = format!("t{}", bed.rng.below(10));
        bed.put(&topic, 700);
        if bed.rng.chance(500) {
            bed.settle();
        } else {
            (0..bed.rng.below(6)).for_each(|_| bed.turn());
        }
    }
    bed.settle();
    bed.after.insert(bed.durable, bed.state.clone());
    bed.restart_checks_only();
    let Ok((found, ..)) = recover(&bed.disk) else { panic!("it is whole") };
    let written = found.found.last_batch;
    let segments = found.found.segments;
    for _ in 0..6 {
        let segment = segments[bed.rng.below(segments.len())];
        let bit = bed.rng.below(segment.end as usize * 8);
        bed.disk.flip(segment.number, bit);
        let bytes = bed.disk.read(segment.number, 0, segment.end as usize);
        // Padding means nothing.
        let harmless = all_good(&bytes);
        match recover(&bed.disk) {
            Ok((again, state, _)) => {
                let last = again.found.last_batch;
                assert!(last + 1 >= written, "batch {last} is taken for the last one");
                // With async, the last one is a mark at rest.
                let marked = bed.bounds.interval.is_some();
                assert!(!marked || state == bed.state, "batch {last} is lost");
                assert!(!harmless || last == written, "nothing is wrong");
                if last >= bed.durable {
                    bed.expect(last, &state);
                }
            }
            Err(RecoveryTrouble::Damaged { .. }) => assert!(!harmless, "nothing is wrong"),
            Err(other) => panic!("{other}"),
        }
        bed.disk.flip(segment.number, bit);
    }
    if segments.len() > 2 {
        let lost = segments[bed.rng.below(segments.len() - 1)].number;
        bed.disk.lose(lost);
        match recover(&bed.disk) {
            // The oldest may have been about to be dropped.
            Ok((again, state, _)) => {
                let oldest = segments[0].number;
                assert!(lost == oldest, "segment {lost} is not missed");
                assert_eq!(again.found.last_batch, written);
                bed.expect(bed.durable, &state);
            }
            Err(trouble) => assert!(
                matches!(
                    trouble,
                    RecoveryTrouble::Damaged { what: Damage::Missing(_) | Damage::Batch(_), .. }
                ),
                "{trouble}"
            ),
        }
    }
}

impl Bed {
    fn restart_checks_only(&mut self) {
        let (found, state, _) = recover(&self.disk).expect("it is whole");
        assert_eq!(found.found.last_batch, self.log.kept());
        self.expect(self.durable, &state);
    }
}

/// Whether the bytes are whole batches to their end.
fn all_good(bytes: &[u8]) -> bool {
    let (mut at, mut payload) = (0, Vec::new());
    while at < bytes.len() {
        match frame::read_batch(&bytes[at..], &mut payload) {
            Ok((_, size)) => at += size,
            Err(_) => return false,
        }
    }
    true
}

#[test]
fn logs_survive_whatever_a_disk_does() {
    let seeds = crate::runner::number("SIM_STORAGE_SEEDS").unwrap_or(60);
    let batches: u64 = (1..=seeds).map(simulate).sum();
    assert!(batches > 20 * seeds, "{batches} batches in {seeds} runs");
    let [read_on, could_not] = beside::counts();
    println!("{read_on} logs were read on, {could_not} could not be");
    assert!(read_on as u64 > seeds / 2 && could_not > 0, "{read_on} and {could_not}");
}

#[test]
fn any_operation_may_fail() {
    // As many operations as this script takes without a failure.
    let script = |fails_at| {
        let mut bed = Bed::new(77);
        bed.disk.fails_at = fails_at;
        for _ in 0..700 {
            bed.change();
            bed.turn();
        }
        let operations = bed.disk.operations;
        bed.settle();
        bed.restart_checks_only();
        bed.restart();
        operations
    };
    let operations = script(None);
    assert!(operations > 150, "{operations} operations");
    for at in 0..operations {
        for more in [0, 1, 4] {
            script(Some((at, more)));
        }
    }
}

#[test]
fn a_full_disk_takes_what_makes_room_and_then_values_again() {
    let mut bed = Bed::new(5);
    bed.disk.room = 10;
    let mut refused = false;
    for at in 0..5000 {
        if bed.log.accepts(bed.now) {
            bed.put(&format!("full{at}"), 2000);
        } else if bed.log.is_full() && bed.log.counts().1 >= 10 {
            refused = true;
            break;
        }
        bed.turn();
    }
    assert!(refused, "the disk never was full");
    let topics: Vec<String> = bed.state.keys().cloned().collect();
    topics.iter().skip(5).for_each(|topic| bed.take(topic));
    for _ in 0..3000 {
        bed.turn();
        bed.now += 1000;
    }
    assert!(bed.log.accepts(bed.now), "{:?} of {:?}", bed.log.sizes(), bed.log.counts());
    bed.settle();
    bed.restart();
    assert_eq!(bed.state.len(), 5);
}

#[test]
fn storage_that_is_down_comes_back_without_a_restart() {
    let mut bed = Bed::new(9);
    (0..200).for_each(|_| bed.turn());
    bed.put("before", 100);
    (0..200).for_each(|_| bed.turn());
    bed.disk.fails_at = Some((0, 60));
    bed.put("during", 100);
    for _ in 0..2000 {
        bed.turn();
        bed.now += 1000;
    }
    assert!(bed.log.is_down() && !bed.log.accepts(bed.now));
    bed.disk.fails_at = None;
    bed.settle();
    assert!(!bed.log.is_down());
    bed.restart();
    assert_eq!(bed.state.len(), 2);
}

#[test]
fn any_bytes_are_recovered_or_refused() {
    let mut rng = Rng::new(3);
    for _ in 0..400 {
        let count = rng.range(1, 3);
        let mut files: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for number in 1..=count as u32 {
            let mut bytes = Vec::new();
            for _ in 0..rng.below(5) {
                let payload: Vec<u8> =
                    (0..rng.range(1, 6000)).map(|_| rng.below(16) as u8).collect();
                let segment = rng.range(1, 3) as u32;
                let batch = rng.below(5) as u64;
                let needed = rng.next() >> rng.below(64);
                let unsynced = rng.below(3) as u32;
                let stamp = frame::BatchStamp { log: LOG, segment, batch, needed, unsynced };
                frame::write(stamp, &payload, &mut bytes);
            }
            for _ in 0..rng.below(4) {
                let at = rng.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.below(256) as u8;
                }
            }
            bytes.truncate(bytes.len() - rng.below(bytes.len() / 3 + 1));
            files.insert(number, bytes);
        }
        let segments: Vec<(u32, u64)> =
            files.iter().map(|(&number, bytes)| (number, bytes.len() as u64)).collect();
        let mut most = 0;
        let mut read = |segment, offset: u64, length: usize, out: &mut Vec<u8>| {
            let bytes: &Vec<u8> = &files[&segment];
            let end = (offset as usize + length).min(bytes.len());
            most = most.max(length);
            *out = bytes[(offset as usize).min(end)..end].to_vec();
            Ok(())
        };
        let _ = recovery::recover(LOG, &segments, &mut read, &mut |_, _| {});
        assert!(most <= 40 << 10, "reads no more than a segment has: {most}");
    }
}
