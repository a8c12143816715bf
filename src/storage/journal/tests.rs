//! Journals of logs whose files are in memory, and a stream that refuses and fails.

use super::*;
use crate::storage::image::Image;
use crate::storage::log::{LogBounds, RecoveredLog};
use crate::storage::record::{Record, StoreSecret, StoredMessage, StoredSession};
use crate::storage::{StorageAnswer, StorageCommand};
use std::collections::BTreeMap;

const SECRET: StoreSecret = StoreSecret([1, 2]);
const BOUNDS: LogBounds = LogBounds { segment: 64 << 10, gather: 0, ..LogBounds::BROKER };

/// A log with its files, its journal, and the stream.
struct Bed {
    log: Log,
    journal: Journal,
    files: BTreeMap<u32, Vec<u8>>,
    entries: Vec<(u64, Vec<u8>)>,
    sequence: u64,
    now: u64,
    /// Every so many requests to the stream fail, after they were carried out.
    failing: u64,
    asked: u64,
}

impl Bed {
    fn new() -> Bed {
        Bed {
            log: Log::new(7, SECRET, BOUNDS, RecoveredLog::default()),
            journal: Journal::new(WithoutStream::Wait),
            files: BTreeMap::new(),
            entries: Vec::new(),
            sequence: 0,
            now: 1,
            failing: u64::MAX,
            asked: 0,
        }
    }

    fn obey(&mut self, command: StorageCommand) -> Option<StorageAnswer> {
        let read = |bytes: &[u8], offset: u64, length: usize| {
            let from = (offset as usize).min(bytes.len());
            bytes[from..(from + length).min(bytes.len())].to_vec()
        };
        Some(match command {
            StorageCommand::Create { segment, .. } => {
                self.files.insert(segment, Vec::new());
                StorageAnswer::SegmentReady { segment }
            }
            StorageCommand::Commit { stamp, offset, payload, .. } => {
                let file = self.files.get_mut(&stamp.segment).unwrap();
                file.resize(offset as usize, 0);
                frame::write(stamp, &payload, file);
                StorageAnswer::Durable { batch: stamp.batch, payload }
            }
            StorageCommand::Clean { segment, offset, length } => {
                let bytes = read(&self.files[&segment], offset, length);
                StorageAnswer::Slice { segment, offset, bytes }
            }
            StorageCommand::Copy { segment, offset, length } => {
                let bytes = read(&self.files[&segment], offset, length);
                self.journal.copied(&self.log, Some(&bytes), self.now);
                return None;
            }
            StorageCommand::Drop { segment, .. } => {
                self.files.remove(&segment);
                StorageAnswer::Dropped { segment, outcome: Ok(()) }
            }
            other => panic!("{other:?}"),
        })
    }

    fn answer(&mut self, said: ToStream) -> Option<OfStream> {
        let answer = match said {
            ToStream::Last => OfStream::Last(self.entries.last().cloned()),
            ToStream::Store(behind, entry) => {
                if behind != self.entries.last().map_or(0, |last| last.0) {
                    OfStream::Failed
                } else {
                    self.sequence += 3;
                    self.entries.push((self.sequence, entry));
                    OfStream::Stored(self.sequence)
                }
            }
            ToStream::Trim(before) => {
                self.entries.retain(|entry| entry.0 >= before);
                return None;
            }
            ToStream::Ended => return None,
        };
        self.asked += 1;
        let fails = self.asked.is_multiple_of(self.failing);
        Some(if fails { OfStream::Failed } else { answer })
    }

    /// The log and its journal go on until nothing is left to do.
    fn rest(&mut self) {
        for _ in 0..10_000 {
            self.now += 1000;
            self.log.turn(self.now);
            let commands: Vec<_> = self.log.commands.drain(..).collect();
            let mut idle = commands.is_empty();
            for command in commands {
                if let Some(answer) = self.obey(command) {
                    self.log.answered(answer, self.now);
                }
            }
            while let Some(said) = self.journal.turn(&mut self.log, self.now, 5) {
                idle = false;
                if let Some(answer) = self.answer(said) {
                    self.journal.heard(&self.log, answer, self.now, 5);
                }
            }
            let done = self.journal.is_level(&self.log) || self.journal.is_fenced();
            if idle && self.log.is_settled() && done {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// A message waits for a session, or does so no longer.
    fn put(&mut self, number: u64, size: usize) {
        let payload = vec![number as u8; size];
        let body = StoredMessage {
            topic: "t",
            properties: b"",
            payload: &payload,
            expires: u64::MAX,
            flags: 1,
            accounts: 0,
            stamp: 0,
        };
        self.log.append(&Record::Put { message: number, body }, self.now);
        let (slot, share) = (number as u32, "");
        let fan = Record::Fan { session: 1, slot, message: number, flags: 1, ids: b"", share };
        self.log.append(&fan, self.now);
    }

    fn take(&mut self, number: u64) {
        self.log.append(&Record::Ack { session: 1, slot: number as u32 }, self.now);
        self.log.forget(crate::storage::record::message_key(number));
    }

    fn begin(&mut self) {
        let session = StoredSession {
            session: 1,
            client_id: "client",
            mountpoint: "",
            expiry: 60,
            ends: 0,
            level: 5,
            bridge: false,
        };
        self.log.append(&Record::Session(session), self.now);
    }

    fn read(&self) -> Result<Image, Unadoptable> {
        let mut reader = JournalReader::default();
        for (_, entry) in &self.entries {
            reader.take(entry)?;
        }
        reader.finish()
    }

    fn waiting(&self) -> Vec<u64> {
        let image = self.read().expect("it is whole");
        let (_, session) = image.sessions().find(|&(number, _)| number == 1).expect("it is there");
        assert_eq!(session.head.as_ref().map(|head| &*head.client_id), Some("client"));
        session.waiting.iter().map(|(_, waiting)| waiting.message).collect()
    }
}

#[test]
fn what_is_stored_is_in_the_journal_and_acknowledged_then() {
    let mut bed = Bed::new();
    bed.begin();
    bed.put(1, 10);
    bed.put(2, 200_000 / 16); // in two entries
    let batch = bed.log.filling();
    assert_eq!(bed.journal.acknowledges(), 0);
    bed.rest();
    assert!(bed.journal.acknowledges() >= batch && bed.journal.is_known());
    assert_eq!(bed.waiting(), [1, 2]);
    bed.take(1);
    bed.put(3, 10);
    bed.rest();
    assert_eq!(bed.waiting(), [2, 3]);
}

#[test]
fn answers_that_are_lost_double_nothing() {
    for failing in [2, 3, 5] {
        let mut bed = Bed::new();
        bed.failing = failing;
        bed.begin();
        for number in 1..40 {
            bed.put(number, 3000);
            bed.rest();
        }
        assert_eq!(bed.waiting(), (1..40).collect::<Vec<_>>(), "each {failing}th is lost");
        assert!(bed.journal.figures().failures > 3);
    }
}

#[test]
fn a_restart_goes_on_where_the_stream_ends() {
    let mut bed = Bed::new();
    bed.begin();
    bed.put(1, 10);
    bed.rest();
    let entries = bed.entries.len();
    bed.put(2, 10);
    // It becomes durable, and nobody sends it.
    let mut journal = std::mem::replace(&mut bed.journal, Journal::new(WithoutStream::Wait));
    for _ in 0..20 {
        bed.now += 1000;
        bed.log.turn(bed.now);
        for command in bed.log.commands.drain(..).collect::<Vec<_>>() {
            let answer = bed.obey(command).expect("an answer");
            bed.log.answered(answer, bed.now);
        }
    }
    bed.rest();
    assert_eq!((bed.waiting(), bed.entries.len()), (vec![1, 2], entries + 1));
    assert_eq!(bed.journal.figures().epochs, 0);
    // One of before is refused, and finds out why.
    bed.put(3, 10);
    std::mem::swap(&mut journal, &mut bed.journal);
    bed.rest();
    assert_eq!(bed.waiting(), [1, 2, 3]);
}

#[test]
fn a_stream_that_was_lost_is_sent_everything_again() {
    let mut bed = Bed::new();
    bed.begin();
    bed.put(1, 10);
    bed.rest();
    bed.entries.clear();
    bed.put(2, 10);
    bed.rest();
    assert_eq!(bed.waiting(), [1, 2]);
    assert_eq!(bed.journal.figures().epochs, 2);
}

#[test]
fn what_is_not_needed_is_trimmed_and_what_is_left_suffices() {
    let mut bed = Bed::new();
    bed.begin();
    bed.put(1, 2000);
    let mut most = 0;
    for number in 2..400 {
        bed.put(number, 3000);
        bed.rest();
        bed.take(number);
        bed.rest();
        most = most.max(bed.entries.iter().map(|entry| entry.1.len()).sum::<usize>());
    }
    assert!(most < 450_000, "{most} bytes");
    assert_eq!(bed.waiting(), [1]);
    // Without its beginning it is not adopted.
    bed.entries.remove(0);
    assert!(matches!(bed.read(), Err(Unadoptable::Gap(_))));
}

#[test]
fn behind_a_fence_nothing_is_stored_before_the_sessions_have_ended() {
    let mut bed = Bed::new();
    bed.begin();
    bed.put(1, 10);
    bed.rest();
    bed.sequence += 1;
    let fence = JournalFence { incarnation: 4, by: "other" };
    bed.entries.push((bed.sequence, JournalEntry::Fence(fence).write()));
    bed.put(2, 10);
    bed.rest();
    assert!(bed.journal.is_fenced());
    assert_eq!(bed.journal.acknowledges(), 0);
    bed.log.append(&Record::End { session: 1 }, bed.now);
    bed.rest();
    bed.journal.heard(&bed.log, OfStream::GoOn, bed.now, 9);
    bed.rest();
    assert!(bed.journal.acknowledges() > 0);
    assert_eq!(bed.read().expect("it is whole").count(), 0);
}
