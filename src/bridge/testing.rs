//! Helpers for tests of bridges: batches of numbered messages, and directories that are removed
//! with the test.

use crate::ids::ShardId;
use crate::link_record::{LinkBatch, LinkRecord, Waiter};
use crate::packet::Qos;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A batch with one message for each number, which is its payload.
pub(crate) fn batch(numbers: std::ops::Range<u64>) -> LinkBatch {
    let mut batch = LinkBatch::default();
    for number in numbers {
        batch.push(&LinkRecord {
            topic: "t",
            payload: &number.to_le_bytes(),
            qos: Qos::AtLeastOnce,
            ..LinkRecord::default()
        });
    }
    batch
}

/// Such a batch, for whose messages publishers wait under the same numbers.
pub(crate) fn waited(numbers: std::ops::Range<u64>) -> LinkBatch {
    let mut waited = LinkBatch::default();
    for number in numbers {
        waited.push(&LinkRecord {
            topic: "t",
            payload: &number.to_le_bytes(),
            waiter: Some(Waiter { shard: ShardId(0), number }),
            ..LinkRecord::default()
        });
    }
    waited
}

/// The number in the payload.
pub(crate) fn number(record: &LinkRecord<'_>) -> u64 {
    u64::from_le_bytes(record.payload.try_into().unwrap())
}

/// The numbers in the payloads of a batch.
pub(crate) fn numbers(batch: &LinkBatch) -> Vec<u64> {
    let (mut numbers, mut at) = (Vec::new(), 0);
    while let Some((record, next)) = batch.read(at) {
        numbers.push(number(&record));
        at = next;
    }
    numbers
}

/// A directory of one test.
pub(crate) struct Scratch(pub PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringmq-bridge-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
