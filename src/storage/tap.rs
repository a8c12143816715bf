//! How a log's batches get to its journal ([`super::journal`]): the next one is kept when it
//! becomes durable, and older ones are read back from the files.

use super::StorageCommand;
use super::frame::BatchStamp;
use super::log::Log;

/// The batch that the journal wants next.
#[derive(Default)]
pub(super) struct JournalTap {
    wanted: u64,
    /// The oldest batch that is needed with it, and its records.
    kept: Option<(u64, Vec<u8>)>,
}

impl JournalTap {
    /// A batch has become durable.
    pub(super) fn see(&mut self, stamp: &BatchStamp, payload: &[u8]) {
        if stamp.batch == self.wanted && self.kept.is_none() {
            self.kept = Some((stamp.needed, payload.to_vec()));
        }
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.kept.as_ref().map_or(0, |(_, payload)| payload.capacity())
    }
}

impl Log {
    /// The log's secret number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The first batch that is on the disk, or will be. A segment that is being dropped is as good
    /// as gone: recovery does not need it, and what is asked of it now comes too late.
    pub fn first_batch(&self) -> u64 {
        let goes = self.segments.front().is_some_and(|first| self.dropping == Some(first.number));
        let first = self.segments.get(usize::from(goes));
        first.map_or(self.durable + 1, |first| first.first)
    }

    /// The last batch that has any content so far.
    pub fn last_begun(&self) -> u64 {
        if self.filling.is_empty() { self.next_batch - 1 } else { self.next_batch }
    }

    /// Whether a durable batch is the first of its segment.
    pub fn begins_segment(&self, batch: u64) -> bool {
        self.segments.binary_search_by_key(&batch, |segment| segment.first).is_ok()
    }

    /// Takes out a batch if it has become durable since it was first asked for here: the oldest
    /// batch that is needed with it, and its records.
    pub fn take_tapped(&mut self, batch: u64) -> Option<(u64, Vec<u8>)> {
        if self.tap.wanted == batch {
            return self.tap.kept.take();
        }
        self.tap = JournalTap { wanted: batch, kept: None };
        None
    }

    /// Issues the command to read a durable batch back; false when there is no such batch.
    pub fn copy(&mut self, batch: u64) -> bool {
        if batch < self.first_batch() {
            return false;
        }
        let Some(offset) = self.places.get(batch) else { return false };
        let after = self.segments.partition_point(|segment| segment.first <= batch);
        let Some(at) = after.checked_sub(1) else { return false };
        let Some(segment) = self.segments.get(at).copied() else { return false };
        let ends_here = self.segments.get(after).is_some_and(|next| next.first == batch + 1);
        let next = self.places.get(batch + 1).filter(|_| !ends_here);
        let length = next.unwrap_or(segment.end).saturating_sub(offset) as usize;
        self.commands.push(StorageCommand::Copy { segment: segment.number, offset, length });
        true
    }
}
