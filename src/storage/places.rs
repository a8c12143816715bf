//! Where a log's records are at present: in memory, on their way to the disk, or in which bytes of
//! which segment.

use super::frame;
use super::index::IndexValue;
use super::log::Log;
use super::record::RecordKey;
use std::collections::VecDeque;

/// The offset of each batch in its segment, in multiples of [`frame::ALIGNMENT`]; in the order of
/// batches, without a gap.
#[derive(Debug, Default)]
pub(super) struct Places {
    first: u64,
    blocks: VecDeque<u32>,
}

impl Places {
    /// The batches that recovery found, the first of which has the number `first`.
    pub(super) fn new(first: u64, blocks: Vec<u32>) -> Places {
        Places { first, blocks: blocks.into() }
    }

    /// Adds the next batch, written at `offset` bytes.
    pub(super) fn add(&mut self, batch: u64, offset: u64) {
        if self.blocks.is_empty() {
            self.first = batch;
        }
        debug_assert!(batch == self.first + self.blocks.len() as u64, "batches have no gaps");
        self.blocks.push_back(u32::try_from(offset / frame::ALIGNMENT as u64).unwrap_or(u32::MAX));
    }

    /// Forgets the batches from this one on, which are written again elsewhere.
    pub(super) fn cut(&mut self, batch: u64) {
        let left = batch.saturating_sub(self.first);
        self.blocks.truncate(usize::try_from(left).unwrap_or(usize::MAX));
    }

    /// Forgets the batches before this one, whose segment is dropped.
    pub(super) fn drop_before(&mut self, batch: u64) {
        let gone = batch.saturating_sub(self.first).min(self.blocks.len() as u64);
        self.blocks.drain(..gone as usize);
        self.first += gone;
    }

    pub(super) fn get(&self, batch: u64) -> Option<u64> {
        let at = usize::try_from(batch.checked_sub(self.first)?).ok()?;
        Some(u64::from(*self.blocks.get(at)?) * frame::ALIGNMENT as u64)
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.blocks.capacity() * size_of::<u32>()
    }
}

/// Bytes of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentRange {
    /// The segment.
    pub segment: u32,
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub length: usize,
}

/// The place of a record.
#[derive(PartialEq, Eq, Debug)]
pub enum RecordPlace<'a> {
    /// There is no such value.
    Nowhere,
    /// In memory: its bytes.
    Here(&'a [u8]),
    /// On its way to the disk: the place is known when the write is over.
    OnItsWay,
    /// On the disk: in this span, which begins at that byte of the batch's payload.
    There(SegmentRange, usize),
}

impl Log {
    /// The place of the newest value of a key. A read that is commanded now finds it there, because
    /// a segment is dropped only by a later command.
    pub fn locate(&self, key: RecordKey) -> RecordPlace<'_> {
        match self.index.get(key) {
            Some(value) => self.locate_at(value).unwrap_or(RecordPlace::Nowhere),
            None => RecordPlace::Nowhere,
        }
    }

    fn locate_at(&self, value: IndexValue) -> Option<RecordPlace<'_>> {
        let (batch, offset) = (value.position.batch(), value.position.offset());
        let length = value.length as usize;
        if batch == self.next_batch {
            return self.filling.get(offset..offset + length).map(RecordPlace::Here);
        }
        if let Some(waiting) = self.waiting.iter().find(|waiting| waiting.batch == batch) {
            return waiting.payload.get(offset..offset + length).map(RecordPlace::Here);
        }
        if let Some(flight) = self.in_flight.as_ref().filter(|flight| flight.stamp.batch == batch) {
            return match &flight.payload {
                Some(payload) => payload.get(offset..offset + length).map(RecordPlace::Here),
                None => Some(RecordPlace::OnItsWay),
            };
        }
        let block = self.places.get(batch)?;
        let after = self.segments.partition_point(|segment| segment.first <= batch);
        let segment = self.segments.get(after.checked_sub(1)?)?.number;
        let (first, count) = frame::span(offset, length);
        let span = SegmentRange { segment, offset: block + first as u64, length: count };
        Some(RecordPlace::There(span, offset))
    }

    /// The CRC32C of the record that was appended last.
    pub fn last_checksum(&self) -> u32 {
        crc32c::crc32c(self.filling.get(self.last..).unwrap_or(&[]))
    }
}
