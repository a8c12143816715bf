//! The queue of messages that wait for the other end of a bridge, in memory: batches of records in
//! the order in which links gave them, bounded in bytes. Pure.
//!
//! Messages are read in order ([`Queue::read`]), each with a number, and leave when they are done
//! ([`Queue::done`]): delivered, or dropped for a reason. Messages that were read and are not done
//! are read again after [`Queue::rewind`]. A batch leaves as a whole, when its messages and all
//! earlier ones are done; so the bound counts whole batches.

use crate::link_record::{LinkBatch, LinkRecord, Waiter};
use crate::shard::WhenFull;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

/// A batch, and the number of its first message.
#[derive(Debug)]
struct QueuedBatch {
    first: u64,
    batch: LinkBatch,
    /// Whether the batch is on disk as well.
    stored: bool,
}

impl QueuedBatch {
    fn end(&self) -> u64 {
        self.first + u64::from(self.batch.count())
    }

    /// Where the message with this number begins in the batch.
    fn position(&self, number: u64) -> usize {
        let mut at = 0;
        for _ in self.first..number {
            let Some((_, next)) = self.batch.read(at) else { break };
            at = next;
        }
        at
    }
}

/// A message that was read.
#[derive(Clone, Copy, Debug)]
struct ReadMessage {
    number: u64,
    done: bool,
    waiter: Option<Waiter>,
}

/// The next message to be read.
#[derive(Clone, Copy, Default, Debug)]
struct QueueCursor {
    /// The index of its batch.
    held: usize,
    /// Where in the batch the message that was read last begins.
    before: usize,
    /// Where in the batch the next message begins.
    at: usize,
    number: u64,
}

/// A random number that no other queue has.
fn fresh_identity() -> u128 {
    let half = |name: &str| u128::from(RandomState::new().hash_one(name));
    half("first") << 64 | half("second")
}

/// A queue of messages.
#[derive(Debug)]
pub struct Queue {
    batches: VecDeque<QueuedBatch>,
    bytes: usize,
    most: usize,
    when_full: WhenFull,
    /// The number of the next message that is pushed.
    next: u64,
    /// Tells the numbers of this queue from those of all others.
    identity: u128,
    cursor: QueueCursor,
    /// Messages that were read, in order.
    sent: VecDeque<ReadMessage>,
    /// Messages that were done before the queue was rewound to an earlier message.
    settled: VecDeque<u64>,
    /// Messages with numbers below this are done.
    finished: u64,
    dropped: u64,
    stored_gone: usize,
    /// The number of messages that are not done.
    waiting: u64,
    /// Publishers that wait for dropped messages.
    lost: Vec<Waiter>,
}

impl Queue {
    /// An empty queue of at most `most` bytes; a single batch may be larger.
    pub fn new(most: usize, when_full: WhenFull) -> Queue {
        Queue {
            batches: VecDeque::new(),
            bytes: 0,
            most,
            when_full,
            next: 0,
            identity: fresh_identity(),
            cursor: QueueCursor::default(),
            sent: VecDeque::new(),
            settled: VecDeque::new(),
            finished: 0,
            dropped: 0,
            stored_gone: 0,
            waiting: 0,
            lost: Vec::new(),
        }
    }

    /// Tells the numbers of this queue from those of every other queue, also of other runs of the
    /// broker: with it, a number names one message.
    pub fn identity(&self) -> u128 {
        self.identity
    }

    /// Bytes of all batches.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of messages that are not done.
    pub fn len(&self) -> usize {
        self.waiting as usize
    }

    /// True when nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The number of messages that were dropped for lack of room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether a batch of `bytes` bytes finds room.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.batches.is_empty() || bytes <= self.most.saturating_sub(self.bytes)
    }

    /// Lifts the bound.
    pub fn unbind(&mut self) {
        self.most = usize::MAX;
    }

    /// Sets another bound and another policy. Batches beyond the new bound stay.
    pub fn rebind(&mut self, most: usize, when_full: WhenFull) {
        (self.most, self.when_full) = (most, when_full);
    }

    /// Takes out all messages that are not done, in new batches.
    pub fn take_all(&mut self) -> Vec<LinkBatch> {
        self.rewind();
        let (mut all, mut batch) = (Vec::new(), LinkBatch::default());
        while let Some((_, record)) = self.read() {
            if !batch.has_room(record.size()) {
                all.push(std::mem::take(&mut batch));
            }
            batch.push(&record);
        }
        if batch.count() > 0 {
            all.push(batch);
        }
        let (dropped, lost) = (self.dropped, std::mem::take(&mut self.lost));
        *self = Queue { dropped, lost, ..Queue::new(self.most, self.when_full) };
        all
    }

    /// The publishers that wait for messages in the queue.
    pub fn waiters(&self) -> Vec<Waiter> {
        self.batches.iter().flat_map(|held| held.batch.waiters()).collect()
    }

    /// Takes a batch in, or drops by the policy. With a policy that drops nothing, the caller has
    /// checked [`Queue::has_room`].
    pub fn push(&mut self, batch: LinkBatch) {
        let size = batch.bytes().len();
        while !self.has_room(size) && self.when_full == WhenFull::DropOldest {
            // Messages under way are not dropped, as they may have arrived.
            let unread = self.cursor.held + usize::from(self.cursor.at > 0);
            let Some(oldest) = self.batches.remove(unread) else { break };
            self.bytes -= oldest.batch.bytes().len();
            let gone = oldest.first..oldest.end();
            let settled = self.settled.iter().filter(|number| gone.contains(number)).count();
            let lost = u64::from(oldest.batch.count()) - settled as u64;
            self.dropped += lost;
            self.waiting -= lost;
            self.lost.extend(oldest.batch.waiters());
        }
        if !self.has_room(size) && self.when_full != WhenFull::Pause {
            self.dropped += u64::from(batch.count());
            self.lost.extend(batch.waiters());
            return;
        }
        self.bytes += size;
        let first = self.next;
        self.next += u64::from(batch.count());
        self.waiting += u64::from(batch.count());
        self.batches.push_back(QueuedBatch { first, batch, stored: false });
    }

    /// Takes in a batch that is on disk as well, whatever room there is; its first `done` messages
    /// are done.
    pub fn push_stored(&mut self, batch: LinkBatch, done: u32) {
        self.bytes += batch.bytes().len();
        let first = self.next;
        self.next += u64::from(batch.count());
        let done = done.min(batch.count());
        self.settled.extend(first..first + u64::from(done));
        self.waiting += u64::from(batch.count() - done);
        self.batches.push_back(QueuedBatch { first, batch, stored: true });
    }

    /// Calls `store` for every batch that is not on disk, in order, and marks it as stored.
    ///
    /// # Errors
    /// The first error of `store`.
    pub fn store_all<E>(
        &mut self,
        mut store: impl FnMut(&LinkBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        for held in self.batches.iter_mut().filter(|held| !held.stored) {
            store(&held.batch)?;
            held.stored = true;
        }
        Ok(())
    }

    /// The number of batches on disk that have left the queue since the last call.
    pub fn take_stored(&mut self) -> usize {
        std::mem::take(&mut self.stored_gone)
    }

    /// Takes the publishers that wait for messages which were dropped since the last call.
    pub fn take_lost(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.lost)
    }

    /// The number of messages of the oldest batch that are done.
    pub fn done_of_first(&self) -> u32 {
        self.batches.front().map_or(0, |held| self.finished.saturating_sub(held.first) as u32)
    }

    /// The next message that is not done, and its number.
    pub fn read(&mut self) -> Option<(u64, LinkRecord<'_>)> {
        loop {
            let number = self.advance()?;
            while self.settled.front().is_some_and(|&settled| settled < number) {
                self.settled.pop_front();
            }
            if self.settled.front() == Some(&number) {
                self.settled.pop_front();
                self.sent.push_back(ReadMessage { number, done: true, waiter: None });
                self.settle();
                continue;
            }
            let held = self.batches.get(self.cursor.held)?;
            let (record, _) = held.batch.read(self.cursor.before)?;
            self.sent.push_back(ReadMessage { number, done: false, waiter: record.waiter });
            return Some((number, record));
        }
    }

    /// Moves the cursor one message on. Returns the message's number.
    fn advance(&mut self) -> Option<u64> {
        while let Some(held) = self.batches.get(self.cursor.held)
            && self.cursor.at >= held.batch.bytes().len()
        {
            self.cursor = QueueCursor { held: self.cursor.held + 1, ..QueueCursor::default() };
        }
        let held = self.batches.get(self.cursor.held)?;
        let at = self.cursor.at;
        let (_, next) = held.batch.read(at)?;
        let number = if at == 0 { held.first } else { self.cursor.number };
        self.cursor = QueueCursor { before: at, at: next, number: number + 1, ..self.cursor };
        Some(number)
    }

    /// Whether [`Queue::read`] would find a message.
    pub fn has_unread(&self) -> bool {
        let held = self.batches.get(self.cursor.held);
        let rest = held.is_some_and(|held| self.cursor.at < held.batch.bytes().len());
        rest || self.batches.len() > self.cursor.held + 1
    }

    /// Notes that the message with this number, which was read, is done. Returns the publisher that
    /// waits for it.
    pub fn done(&mut self, number: u64) -> Option<Waiter> {
        let at = self.sent.binary_search_by_key(&number, |sent| sent.number).ok()?;
        let mut waiter = None;
        if let Some(sent) = self.sent.get_mut(at).filter(|sent| !sent.done) {
            sent.done = true;
            waiter = sent.waiter;
            self.waiting -= 1;
        }
        self.settle();
        waiter
    }

    /// Removes batches whose messages are all done.
    fn settle(&mut self) {
        while let Some(&ReadMessage { number, done: true, .. }) = self.sent.front() {
            self.sent.pop_front();
            self.finished = number + 1;
        }
        while self.batches.front().is_some_and(|held| held.end() <= self.finished)
            && self.pop_front()
        {}
    }

    fn pop_front(&mut self) -> bool {
        let Some(front) = self.batches.pop_front() else { return false };
        self.bytes -= front.batch.bytes().len();
        self.stored_gone += usize::from(front.stored);
        if self.cursor.held == 0 {
            self.cursor = QueueCursor::default();
        } else {
            self.cursor.held -= 1;
        }
        true
    }

    /// Messages that were read and are not done are read again, in order.
    pub fn rewind(&mut self) {
        let done = self.sent.drain(..).filter(|sent| sent.done).map(|sent| sent.number);
        let mut settled: VecDeque<u64> = done.collect();
        settled.append(&mut self.settled);
        self.settled = settled;
        self.cursor = QueueCursor::default();
        let Some(front) = self.batches.front() else { return };
        let number = self.finished.max(front.first);
        self.cursor = QueueCursor { at: front.position(number), number, ..QueueCursor::default() };
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
