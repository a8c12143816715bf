//! Entries of journals, as bytes. All numbers are little-endian; the last four bytes are a CRC32C
//! of those before.

use crate::storage::frame;

const MAGIC: [u8; 5] = *b"RMQJ\x01";
const PART: u8 = 1;
const FENCE: u8 = 2;

/// A part of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalPart<'a> {
    /// The log's secret number.
    pub log: u64,
    /// Distinguishes the epochs of a journal.
    pub epoch: u64,
    /// The epoch counts once the stream has this batch.
    pub until: u64,
    /// The oldest batch that is still needed when this one is durable.
    pub needed: u64,
    /// The batch.
    pub batch: u64,
    /// The first byte of the part within the batch.
    pub offset: u32,
    /// Bytes of the whole batch.
    pub total: u32,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// The end of what a run of a node has stored: another node adopts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalFence<'a> {
    /// The incarnation of the adopting node.
    pub incarnation: u64,
    /// The name of the adopting node.
    pub by: &'a str,
}

/// An entry of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalEntry<'a> {
    /// A part of a batch.
    Part(JournalPart<'a>),
    /// A fence.
    Fence(JournalFence<'a>),
}

impl<'a> JournalEntry<'a> {
    /// The entry as bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        match *self {
            JournalEntry::Part(JournalPart {
                log,
                epoch,
                until,
                needed,
                batch,
                offset,
                total,
                bytes,
            }) => {
                out.push(PART);
                for number in [log, epoch, until, needed, batch] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                out.extend_from_slice([offset, total].map(u32::to_le_bytes).as_flattened());
                out.extend_from_slice(bytes);
            }
            JournalEntry::Fence(JournalFence { incarnation, by }) => {
                out.push(FENCE);
                out.extend_from_slice(&incarnation.to_le_bytes());
                out.extend_from_slice(by.as_bytes());
            }
        }
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads an entry; `None` when the bytes are none.
    pub fn read(bytes: &'a [u8]) -> Option<JournalEntry<'a>> {
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (magic, body) = body.split_first_chunk::<5>()?;
        let (&kind, mut body) = body.split_first().filter(|_| *magic == MAGIC)?;
        let mut long = || {
            let (number, rest) = body.split_first_chunk::<8>()?;
            body = rest;
            Some(u64::from_le_bytes(*number))
        };
        match kind {
            PART => {
                let (log, epoch, until) = (long()?, long()?, long()?);
                let (needed, batch, place) = (long()?, long()?, long()?);
                let (offset, total) = (place as u32, (place >> 32) as u32);
                let fits = (offset as usize).checked_add(body.len())? <= total as usize;
                let sound = fits && !body.is_empty() && total as usize <= frame::BATCH_PAYLOAD;
                let bytes = body;
                let part = JournalPart { log, epoch, until, needed, batch, offset, total, bytes };
                (sound && batch > 0).then_some(JournalEntry::Part(part))
            }
            FENCE => {
                let incarnation = long()?;
                let by = str::from_utf8(body).ok()?;
                Some(JournalEntry::Fence(JournalFence { incarnation, by }))
            }
            _ => None,
        }
    }
}

impl JournalPart<'_> {
    /// Whether it is the last part of its batch.
    pub fn is_last(&self) -> bool {
        self.offset as usize + self.bytes.len() == self.total as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_written_and_nothing_else_is_one() {
        let bytes = [7; 90];
        let part = JournalPart {
            log: 1,
            epoch: 2,
            until: 3,
            needed: 4,
            batch: 5,
            offset: 10,
            total: 100,
            bytes: &bytes,
        };
        let fence = JournalFence { incarnation: 6, by: "node-1" };
        for entry in [JournalEntry::Part(part), JournalEntry::Fence(fence)] {
            let written = entry.write();
            assert_eq!(JournalEntry::read(&written), Some(entry));
            for bit in 0..written.len() * 8 {
                let mut damaged = written.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(JournalEntry::read(&damaged), None, "bit {bit}");
            }
            for length in 0..written.len() {
                assert_eq!(JournalEntry::read(&written[..length]), None, "{length} bytes");
            }
        }
        for wrong in [
            JournalPart { total: 99, ..part },
            JournalPart { bytes: &[], ..part },
            JournalPart { batch: 0, ..part },
            JournalPart { total: u32::MAX, ..part },
        ] {
            assert_eq!(JournalEntry::read(&JournalEntry::Part(wrong).write()), None, "{wrong:?}");
        }
        assert!(part.is_last() && !JournalPart { total: 101, ..part }.is_last());
    }
}
