//! Tests of a store on real files: made, locked, refused, continued.

use super::*;
use crate::storage::StorageAnswer;
use crate::storage::record::{DeliveryPhase, Record, StoredMessage, StoredSession};
use crate::storage::rewrite::{Placed, rewrite};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("ringmq-store-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const BOUNDS: LogBounds = LogBounds { segment: 1 << 20, gather: 0, ..LogBounds::BROKER };

fn put(part: &mut StorePart, topic: &str, payload: &[u8]) {
    let body = StoredMessage {
        topic,
        properties: b"",
        payload,
        expires: u64::MAX,
        flags: 1,
        accounts: 0,
        stamp: 0,
    };
    part.log.append(&Record::Retain(body), 0);
}

fn settle(part: &mut StorePart) {
    for now in 1..1000 {
        part.log.turn(now);
        for command in std::mem::take(&mut part.log.commands) {
            let answer = part.files.obey(command);
            assert!(!matches!(
                answer,
                StorageAnswer::Failed { .. } | StorageAnswer::NoSegment { .. }
            ));
            part.log.answered(answer, now);
        }
        if part.log.is_settled() {
            return;
        }
    }
    panic!("it does not settle");
}

#[test]
fn what_was_durable_is_there_when_the_store_is_opened_again() {
    let scratch = Scratch::new("again");
    for round in 0..4u8 {
        let store = Store::open(&scratch.0, 2, [1, 2]).expect("usable");
        let mut part = store.resume(1, BOUNDS).expect("whole");
        assert_eq!(part.image.retained.len(), usize::from(round));
        put(&mut part, &format!("topic/{round}"), &[round; 300_000]);
        settle(&mut part);
        let (recovered, image, _) = store.read(1).expect("whole");
        assert!(recovered.found.last_batch > u64::from(round));
        let last = image.retained.get(&*format!("topic/{round}")).expect("stored");
        assert_eq!(*last.stored().payload, [round; 300_000]);
    }
}

#[test]
fn what_was_never_written_is_not_read() {
    let scratch = Scratch::new("unwritten");
    let store = Store::open(&scratch.0, 1, [1, 2]).expect("usable");
    let mut part = store.resume(0, BOUNDS).expect("whole");
    put(&mut part, "topic", &[1; 300_000]);
    settle(&mut part);
    let segments = part.files.segments().expect("readable");
    assert!(segments.len() > 1, "some are in reserve: {segments:?}");
    let written: Vec<u64> = segments.into_iter().map(|(_, bytes)| bytes).collect();
    let (first, reserve) = written.split_first().expect("one");
    assert!((300_000..600_000).contains(first), "of a segment of 1 MiB: {written:?}");
    assert!(reserve.iter().all(|&bytes| bytes == 0), "{written:?}");
}

#[test]
fn a_second_process_is_refused() {
    let scratch = Scratch::new("second");
    let store = Store::open(&scratch.0, 2, [1, 2]).expect("usable");
    let second = Store::open(&scratch.0, 2, [1, 2]).err().expect("refused").to_string();
    assert!(second.contains("another process"), "{second}");
    drop(store);
    assert_eq!(Store::existing(&scratch.0).expect("usable").placement(), [1, 2]);
}

#[test]
fn a_shard_whose_directory_is_gone_is_missed() {
    let scratch = Scratch::new("gone");
    let store = Store::open(&scratch.0, 2, [1, 2]).expect("usable");
    std::fs::remove_dir(store.directory(1)).expect("it is empty");
    let why = store.resume(1, BOUNDS).err().expect("refused").to_string();
    assert!(why.contains("shard-001 is missing"), "{why}");
    assert!(store.resume(0, BOUNDS).is_ok());
}

#[test]
fn a_later_format_and_a_damaged_one_are_refused_by_name() {
    let scratch = Scratch::new("format");
    drop(Store::open(&scratch.0, 1, [1, 2]).expect("usable"));
    let format = scratch.0.join("FORMAT");
    let text = std::fs::read_to_string(&format).expect("there");
    for (from, to, says) in [
        ("storage 1", "storage 2", "version 2"),
        ("shards 1", "shards 2", "checksum"),
        ("secret 0", "secret x", "hexadecimal"),
    ] {
        std::fs::write(&format, text.replace(from, to)).expect("writable");
        let why = Store::open(&scratch.0, 1, [1, 2]).err().expect("refused").to_string();
        assert!(why.contains(says) && why.contains("FORMAT"), "{why}");
    }
}

#[test]
fn damage_is_told_with_its_file_and_nothing_is_changed() {
    let scratch = Scratch::new("damage");
    let store = Store::open(&scratch.0, 1, [1, 2]).expect("usable");
    let mut part = store.resume(0, BOUNDS).expect("whole");
    for topic in ["a", "b", "c"] {
        put(&mut part, topic, b"payload");
        settle(&mut part);
    }
    drop(part);
    let segment = store.directory(0).join("0000000001.seg");
    let mut bytes = std::fs::read(&segment).expect("there");
    bytes[4096 + 70] ^= 1;
    std::fs::write(&segment, &bytes).expect("writable");
    let why = store.resume(0, BOUNDS).err().expect("refused").to_string();
    assert!(why.contains("0000000001.seg") && why.contains("byte 4096"), "{why}");
    assert!(why.contains("batch 2"), "{why}");
    assert_eq!(std::fs::read(&segment).expect("there"), bytes);
}

/// A session with a subscription and a message that waits for it, and a retained message.
fn furnish(part: &mut StorePart, client_id: &str, topic: &str, number: u64) {
    let log = &mut part.log;
    let body = StoredMessage {
        topic,
        properties: b"",
        payload: b"p",
        expires: u64::MAX,
        flags: 1,
        accounts: 0,
        stamp: 0,
    };
    log.append(
        &Record::Session(StoredSession {
            session: number,
            client_id,
            mountpoint: "",
            expiry: 100,
            ends: 7,
            level: 5,
            bridge: false,
        }),
        0,
    );
    let filter = "a/#";
    log.append(&Record::Subscribed { session: number, filter, options: 1, subscription_id: 3 }, 0);
    log.append(&Record::Put { message: number * 10, body }, 0);
    for slot in [4, 5] {
        log.append(
            &Record::Fan {
                session: number,
                slot,
                message: number * 10,
                flags: 1,
                ids: b"",
                share: "",
            },
            0,
        );
    }
    let sent =
        Record::State { session: number, slot: 4, packet: 9, phase: DeliveryPhase::Released };
    log.append(&sent, 0);
    log.append(&Record::Inbound { session: number, packet: 8 }, 0);
    log.append(&Record::Retain(body), 0);
}

#[test]
fn a_store_is_written_anew_for_another_number_of_shards() {
    let scratch = Scratch::new("anew");
    let mut store = Store::open(&scratch.0, 2, [1, 2]).expect("usable");
    for shard in 0..2 {
        let mut part = store.resume(shard, BOUNDS).expect("whole");
        for client in 0..3 {
            let name = format!("c{shard}{client}");
            furnish(&mut part, &name, &format!("a/{name}"), client + 1);
        }
        settle(&mut part);
    }
    // Assigned by the last digit of the ClientId or topic.
    let by_digit = |placed: Placed<'_>, _| {
        let (Placed::Session(name) | Placed::Topic(name)) = placed;
        name.as_bytes().last().expect("not empty") - b'0'
    };
    let images = store.images().expect("whole");
    rewrite(&mut store, &images, 3, &by_digit, false).expect("written");
    drop(store);
    let store = Store::open(&scratch.0, 2, [9, 9]).expect("usable");
    assert_eq!((store.shards, store.placement()), (3, [1, 2]));
    for (shard, image) in store.images().expect("whole").iter().enumerate() {
        let names: Vec<&str> =
            image.sessions().map(|(_, s)| &*s.head.as_ref().expect("there").client_id).collect();
        assert_eq!(names, [format!("c0{shard}"), format!("c1{shard}")]);
        assert_eq!((image.messages.len(), image.retained.len()), (2, 2));
        for (_, stored) in image.sessions() {
            assert_eq!(stored.subscriptions.get(&"a/#".into()), Some(&(1, 3)));
            let sent: Vec<_> = stored.waiting.iter().map(|(&slot, w)| (slot, w.sent)).collect();
            assert_eq!(sent, [(4, Some((9, DeliveryPhase::Released))), (5, None)]);
            let body = |message| image.body(message).expect("all bodies are read");
            let topics = stored.waiting.iter().map(|(_, w)| body(w.message).stored().topic);
            let own = format!("a/{}", stored.head.as_ref().expect("there").client_id);
            assert!(topics.eq([&*own; 2]));
            assert_eq!(stored.inbound, [8]);
        }
    }
    assert!(!scratch.0.join("shard-000").exists() && scratch.0.join("shard-002.1").exists());
}

#[test]
fn what_an_interrupted_rewriting_left_is_removed() {
    let scratch = Scratch::new("interrupted");
    let store = Store::open(&scratch.0, 1, [1, 2]).expect("usable");
    drop(store.begin_anew(0).expect("made"));
    assert!(scratch.0.join("shard-000.1").exists());
    drop(store);
    let store = Store::open(&scratch.0, 1, [1, 2]).expect("usable");
    assert!(!scratch.0.join("shard-000.1").exists());
    assert!(store.resume(0, BOUNDS).is_ok());
}

#[test]
fn with_async_what_is_written_is_there_and_synced_later() {
    let scratch = Scratch::new("async");
    let store = Store::open(&scratch.0, 1, [1, 2]).expect("usable");
    let bounds = LogBounds { interval: Some(50), ..BOUNDS };
    let mut part = store.resume(0, bounds).expect("whole");
    for now in 1..=30 {
        put(&mut part, &format!("t/{now}"), b"payload");
        part.log.turn(now);
        for command in std::mem::take(&mut part.log.commands) {
            let answer = part.files.obey(command);
            part.log.answered(answer, now);
        }
    }
    assert!(part.log.kept() > part.log.durable(), "it is told before it is synced");
    let (recovered, image, _) = store.read(0).expect("whole");
    assert_eq!(recovered.found.last_batch, part.log.kept());
    assert!(image.retained.len() > 20);
    settle(&mut part);
    // All batches but the mark are durable.
    assert_eq!(part.log.kept(), part.log.durable() + 1);
}
