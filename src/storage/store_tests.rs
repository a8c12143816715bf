//! A store on real files: made, locked, refused, gone on with.

use super::*;
use crate::storage::Answer;
use crate::storage::record::{Record, StoredMessage};

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

const BOUNDS: Bounds = Bounds { segment: 1 << 20, gather: 0, ..Bounds::BROKER };

fn put(part: &mut Part, topic: &str, payload: &[u8]) {
    let body = StoredMessage { topic, properties: b"", payload, expires: u64::MAX, flags: 1 };
    part.log.append(&Record::Retain(body), 0);
}

fn settle(part: &mut Part) {
    for now in 1..1000 {
        part.log.turn(now);
        for command in std::mem::take(&mut part.log.commands) {
            let answer = part.files.obey(command);
            assert!(!matches!(answer, Answer::Failed { .. } | Answer::NoSegment { .. }));
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
        assert_eq!(*last.payload, [round; 300_000]);
    }
}

#[test]
fn a_second_process_and_another_number_of_shards_are_refused() {
    let scratch = Scratch::new("second");
    let store = Store::open(&scratch.0, 2, [1, 2]).expect("usable");
    let second = Store::open(&scratch.0, 2, [1, 2]).err().expect("refused").to_string();
    assert!(second.contains("another process"), "{second}");
    drop(store);
    let other = Store::open(&scratch.0, 3, [1, 2]).err().expect("refused").to_string();
    assert!(other.contains("made for 2 shards"), "{other}");
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
