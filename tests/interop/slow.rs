//! A thousand subscribers of which a hundred stop reading, under load: the others lose nothing,
//! what the hundred lose is the oldest, and who never reads again is disconnected; all is counted.

use std::fs;
use std::time::{Duration, Instant};

use super::limits::{figure, labelled, start};
use crate::support::*;

const QUICK: usize = 900;
const SLOW: usize = 100;
/// Of the slow ones so many read again.
const CATCH_UP: usize = 50;
const ROUNDS: usize = 60;
/// In each round a message of this size for the slow ones, and one of a few bytes for everybody.
const LARGE: usize = 100_000;
const READERS: usize = 4;
/// MiB. Each slow one may have what is being sent to it (256 KiB) and 64 KiB besides, eight times
/// that until it is known to be slow; payloads are shared.
const GROWTH: u64 = 96;

fn resident(broker: &Broker) -> u64 {
    let path = format!("/proc/{}/status", broker.pid());
    let status = fs::read_to_string(path).expect("the broker runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let text = line.trim().trim_end_matches(" kB");
    text.parse::<u64>().expect("a number") >> 10
}

fn subscribers(broker: &Broker, count: usize, filter: &str) -> Vec<Client> {
    (0..count).map(|_| Client::subscriber(broker, Version::V311, &unique("s"), filter, 0)).collect()
}

/// Reads what comes in each round, in order and without a gap; how long each message took.
fn read_all(clients: &mut [Client], began: Instant) -> Vec<Duration> {
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        for client in &mut *clients {
            let text = client.delivery().text();
            let mut words = text.split(' ').map(|word| word.parse::<u64>().expect("a number"));
            assert_eq!(words.next(), Some(round as u64), "a message is missing");
            let sent = Duration::from_micros(words.next().expect("when it was sent"));
            took.push(began.elapsed().saturating_sub(sent));
        }
    }
    took
}

#[test]
fn a_hundred_of_a_thousand_stop_reading() {
    let _alone = machine();
    rlimit::increase_nofile_limit(4096).expect("the limit of open files");
    let broker = start(&["mqtt.outgoing_max_bytes=64KiB"]);
    let topic = unique("slow");
    let small = format!("{topic}/small");
    let mut quick = subscribers(&broker, QUICK, &small);
    let mut slow = subscribers(&broker, SLOW, &format!("{topic}/#"));
    let mut publisher = Client::connect(&broker, Version::V5, &unique("p"));
    let before = resident(&broker);
    let began = Instant::now();
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let readers = quick.chunks_mut(QUICK / READERS);
        let readers: Vec<_> =
            readers.map(|clients| scope.spawn(move || read_all(clients, began))).collect();
        for round in 0..ROUNDS {
            publisher.send_publish(&Publish::new(format!("{topic}/large"), 0, vec![b'l'; LARGE]));
            let text = format!("{round} {}", began.elapsed().as_micros());
            publisher.send_publish(&Publish::new(&small, 0, text));
            publisher.ping();
        }
        readers.into_iter().flat_map(|reader| reader.join().expect("nothing is lost")).collect()
    });
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    let grown = resident(&broker).saturating_sub(before);
    println!(
        "figure: {} messages to {QUICK} that read, in {:?}: p50 {:?}, p99 {p99:?}; memory {before} \
         + {grown} MiB",
        took.len(),
        began.elapsed(),
        took[took.len() / 2],
    );
    assert!(grown <= GROWTH, "memory grew by {grown} MiB");
    assert!(p99 < Duration::from_secs(3), "who reads waited: {p99:?}");
    let full = "reason=\"outgoing_full\"";
    let shed = labelled(&broker, "ringmq_messages_dropped_total{", full);
    assert!(shed > 0, "nothing was shed");
    assert_eq!(figure(&broker, "ringmq_send_timeouts_total{"), 0);
    catch_up(&mut slow[..CATCH_UP], shed);
    // What is left of them never reads.
    let file = broker.config_file();
    let text = fs::read_to_string(&file).expect("the configuration");
    let later = format!("{text}\nmqtt: {{send_timeout: 1s}}\n");
    fs::write(&file, later).expect("the configuration");
    broker.signal("-HUP");
    let gone = (SLOW - CATCH_UP) as u64;
    eventually("they are disconnected", || figure(&broker, "ringmq_send_timeouts_total{") == gone);
    assert!(broker.log().contains("mqtt.send_timeout"), "{}", broker.log());
    quick.iter_mut().for_each(Client::ping);
}

/// Who reads again gets what was kept, in order: the last of each kind is among it.
fn catch_up(slow: &mut [Client], shed: u64) {
    let mut lost = 0;
    for client in slow {
        client.ping();
        let (mut large, mut rounds) = (0, Vec::new());
        while let Some(publish) = client.stashed() {
            match publish.payload.len() {
                LARGE => large += 1,
                _ => {
                    let text = publish.text();
                    let (round, _) = text.split_once(' ').expect("round and time");
                    rounds.push(round.parse::<usize>().expect("a number"));
                }
            }
        }
        assert!(rounds.is_sorted(), "out of order: {rounds:?}");
        assert_eq!(rounds.last(), Some(&(ROUNDS - 1)), "the newest is kept: {rounds:?}");
        lost += 2 * ROUNDS - large - rounds.len();
    }
    assert!(lost > 0 && lost as u64 <= shed, "{lost} lost by some, {shed} shed");
}
