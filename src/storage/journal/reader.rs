//! Reads a journal back, to adopt what it holds.

use super::entry::{JournalEntry, JournalPart};
use crate::storage::image::Image;
use crate::storage::index::{IndexValue, RecordPosition};
use crate::storage::record::{self, StoreSecret};

/// Where the values are is of no use here, so neither are their keys' hashes.
const NO_SECRET: StoreSecret = StoreSecret([0, 0]);

/// Why a journal cannot be adopted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unadoptable {
    /// Batches are missing: this one should have come.
    Gap(u64),
    /// An entry is no entry.
    Malformed,
    /// A batch contains something that is not a record.
    Record(u64),
}

/// Reads a journal back, entry by entry.
#[derive(Default)]
pub struct JournalReader {
    /// The epoch that is read, and its image.
    reading: JournalEpoch,
    /// The last epoch that counts.
    counts: Option<JournalEpoch>,
    payload: Vec<u8>,
}

#[derive(Default)]
struct JournalEpoch {
    number: u64,
    until: u64,
    first: u64,
    next: u64,
    needed: u64,
    image: Image,
}

impl JournalReader {
    /// Takes in the next entry before the fence.
    ///
    /// # Errors
    /// When the journal is damaged.
    pub fn take(&mut self, entry: &[u8]) -> Result<(), Unadoptable> {
        match JournalEntry::read(entry).ok_or(Unadoptable::Malformed)? {
            // What is before a fence was adopted by another node, or is empty.
            JournalEntry::Fence(_) => *self = JournalReader::default(),
            JournalEntry::Part(part) => self.take_part(&part)?,
        }
        Ok(())
    }

    fn take_part(&mut self, part: &JournalPart<'_>) -> Result<(), Unadoptable> {
        if part.epoch != self.reading.number {
            let next = JournalEpoch {
                number: part.epoch,
                until: part.until,
                first: part.batch,
                next: part.batch,
                ..JournalEpoch::default()
            };
            let last = std::mem::replace(&mut self.reading, next);
            if last.number != 0 && last.next > last.until {
                self.counts = Some(last);
            }
        }
        let epoch = &mut self.reading;
        if part.offset == 0 {
            self.payload.clear();
        }
        if part.offset as usize != self.payload.len() || part.batch != epoch.next {
            return Err(Unadoptable::Gap(epoch.next));
        }
        self.payload.extend_from_slice(part.bytes);
        if part.is_last() {
            show(&self.payload, part.batch, &mut epoch.image)
                .ok_or(Unadoptable::Record(part.batch))?;
            epoch.next = part.batch + 1;
            epoch.needed = part.needed;
            self.payload.clear();
        }
        Ok(())
    }

    /// The content of the journal.
    ///
    /// # Errors
    /// When the beginning of the journal is missing.
    pub fn finish(self) -> Result<Image, Unadoptable> {
        let JournalReader { reading, counts, .. } = self;
        let whole = reading.number != 0 && reading.next > reading.until;
        let epoch = if whole { Some(reading) } else { counts };
        let Some(mut epoch) = epoch else { return Ok(Image::default()) };
        if epoch.first > epoch.needed.max(1) {
            return Err(Unadoptable::Gap(epoch.needed));
        }
        _ = epoch.image.finish(NO_SECRET);
        Ok(epoch.image)
    }

    /// Whether nothing was taken in since the last fence.
    pub fn is_empty(&self) -> bool {
        self.reading.number == 0 && self.counts.is_none()
    }

    /// Bytes of messages that are held.
    pub fn bytes(&self) -> usize {
        let held = |epoch: &JournalEpoch| epoch.image.bytes();
        held(&self.reading) + self.counts.as_ref().map_or(0, held) + self.payload.len()
    }
}

/// Puts the records of a batch into an image. `None` when the batch contains something else.
fn show(payload: &[u8], batch: u64, image: &mut Image) -> Option<()> {
    let mut at = 0;
    while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
        let (record, length) = record::decode(rest).ok()?;
        let value = IndexValue { position: RecordPosition::new(batch, at), length: length as u32 };
        image.take(&record, value, NO_SECRET);
        at += length;
    }
    Some(())
}
