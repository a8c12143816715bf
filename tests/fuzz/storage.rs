//! Target `storage`: recovery of a log, and what `--repair` salvages of it, from any bytes: frames
//! with right checksums around any records and stamps, pieces of them, and bytes that are neither.
//! Neither panics nor reads more than there is, and what recovery finds is salvaged, too.

use crate::input::Input;
use ringmq::storage::frame::{self, BatchStamp};
use ringmq::storage::image::Image;
use ringmq::storage::journal::{JournalEntry, JournalPart, JournalReader};
use ringmq::storage::record::{DeliveryPhase, Record, StoreSecret, StoredMessage, StoredSession};
use ringmq::storage::{recovery, salvage};
use std::collections::BTreeSet;

const LOG: u64 = 7;
const SECRET: StoreSecret = StoreSecret([1, 2]);
/// Most bytes of a file.
const MOST: usize = 1 << 20;

/// A record that the input chooses.
fn record(choices: &mut Input<'_>, out: &mut Vec<u8>) {
    let kind = choices.byte();
    let (session, slot) = (u64::from(choices.byte() % 4), u32::from(choices.byte() % 8));
    let text = ["", "a", "a/b", "$share/g/a"][usize::from(choices.byte() % 4)];
    let length = usize::from(choices.byte()) * 40;
    let payload = vec![choices.byte(); length];
    let body = StoredMessage {
        topic: text,
        properties: b"",
        payload: &payload,
        expires: 9,
        flags: 1,
        accounts: u64::from(slot),
        stamp: session,
    };
    let record = match kind % 15 {
        0 => Record::Session(StoredSession {
            session,
            client_id: text,
            mountpoint: "",
            expiry: slot,
            ends: 0,
            level: 5,
            bridge: false,
        }),
        1 => Record::End { session },
        2 => Record::Subscribed { session, filter: text, options: 1, subscription_id: 0 },
        3 => Record::Unsubscribed { session, filter: text },
        4 => Record::Put { message: session, body },
        5 => Record::Fan { session, slot, message: session, flags: 1, ids: &payload, share: text },
        6 => Record::State { session, slot, packet: 3, phase: DeliveryPhase::Sent },
        7 => Record::Ack { session, slot },
        8 => Record::Inbound { session, packet: slot as u16 },
        9 => Record::Outbound { session, packet: slot as u16 },
        10 => Record::Retain(body),
        11 => Record::Unretain { topic: text },
        12 => Record::Will { session, delay: slot, lifetime: 1, due: 0, body },
        13 => Record::NoWill { session },
        _ => Record::Nothing,
    };
    record.encode(out);
}

/// A batch that the input chooses, mostly the next one.
fn batch(choices: &mut Input<'_>, segment: u32, next: &mut u64, file: &mut Vec<u8>) {
    let odd = choices.byte();
    let batch = if odd & 7 == 0 { u64::from(choices.byte()) } else { *next };
    let needed = if odd & 8 == 0 { 1 } else { u64::from(choices.byte()) };
    let segment = if odd & 0x70 == 0x70 { u32::from(choices.byte()) } else { segment };
    let unsynced = if odd & 0x80 == 0 { 0 } else { u32::from(choices.byte()) };
    *next = batch + 1;
    let mut payload = Vec::new();
    for _ in 0..=choices.byte() % 4 {
        record(choices, &mut payload);
    }
    if choices.byte() == 1 {
        payload.extend_from_slice(choices.bytes(16));
    }
    frame::write(BatchStamp { log: LOG, segment, batch, needed, unsynced }, &payload, file);
}

fn files(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut choices, mut files, mut next) = (Input::new(bytes), vec![Vec::new()], 1);
    while !choices.is_empty() {
        let number = files.len() as u32;
        let choice = choices.byte() % 16;
        if choice == 4 && files.len() < 5 {
            files.push(Vec::new());
            continue;
        }
        let Some(file) = files.last_mut() else { break };
        match choice {
            0 => {
                let length = usize::from(choices.byte());
                file.extend_from_slice(choices.bytes(length));
            }
            1 => file.resize(file.len().next_multiple_of(frame::ALIGNMENT), 0),
            2 => {
                let at = usize::from(choices.byte()) * 64;
                let bits = choices.byte();
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= bits;
                }
            }
            3 => file.truncate(file.len().saturating_sub(usize::from(choices.byte()) * 16)),
            _ if file.len() < MOST => batch(&mut choices, number, &mut next, file),
            _ => {}
        }
    }
    files
}

/// Reads the batches of the files as the journal of a lost node, some in two parts.
fn adopt(files: &[Vec<u8>]) {
    let (mut reader, mut payload) = (JournalReader::default(), Vec::new());
    for file in files {
        let mut at = 0;
        while let Ok((header, size)) =
            frame::read_batch(file.get(at..).unwrap_or(&[]), &mut payload)
        {
            at += size;
            let half = if header.batch % 2 == 0 { payload.len() / 2 } else { 0 };
            for (offset, bytes) in [(0, &payload[..half]), (half, &payload[half..])] {
                let part = JournalPart {
                    log: LOG,
                    epoch: u64::from(header.segment),
                    until: header.needed,
                    needed: header.needed,
                    batch: header.batch,
                    offset: offset as u32,
                    total: payload.len() as u32,
                    bytes,
                };
                let taken = reader.take(&JournalEntry::Part(part).write());
                if taken.is_err() && !bytes.is_empty() {
                    return;
                }
            }
        }
        // Whatever is there is an entry only by its checksum.
        assert!(JournalEntry::read(file).is_none());
    }
    assert!(reader.bytes() <= files.iter().map(Vec::len).sum::<usize>());
    let _ = reader.finish().map(|image| image.count());
}

/// Recovers and salvages what the bytes describe.
pub fn run(bytes: &[u8]) {
    let files = files(bytes);
    adopt(&files);
    let segments: Vec<(u32, u64)> =
        files.iter().zip(1..).map(|(file, number)| (number, file.len() as u64)).collect();
    let longest = files.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let longest = longest.next_multiple_of(frame::ALIGNMENT);
    let mut read = |segment: u32, offset: u64, length: usize, bytes: &mut Vec<u8>| {
        assert!(length <= longest, "{length} bytes are asked for and a file has {longest}");
        let file = &files[segment as usize - 1];
        let from = (offset as usize).min(file.len());
        *bytes = file[from..(from + length).min(file.len())].to_vec();
        Ok(())
    };
    let (mut image, mut found, mut batches) = (Image::default(), 0, BTreeSet::new());
    let recovered = recovery::recover(LOG, &segments, &mut read, &mut |record, value| {
        found += 1;
        batches.insert(value.position.batch());
        image.take(record, value, SECRET);
    });
    let alive = image.finish(SECRET);
    assert!(alive.len() <= found, "values that nobody stored");
    let (mut left, mut saved) = (Image::default(), BTreeSet::new());
    let lost = salvage::salvage(LOG, &segments, &mut read, &mut |record, value| {
        saved.insert(value.position.batch());
        left.take(record, value, SECRET);
    });
    let _ = left.incomplete().len();
    left.finish(SECRET);
    if recovered.is_ok() {
        let missed: Vec<_> = batches.difference(&saved).collect();
        assert!(missed.is_empty(), "batches {missed:?} are recovered and not salvaged: {lost:?}");
    }
}
