//! The bytes that wait to be written to one connection, combined into one send at a time, and the
//! pool that provides their buffers.

use super::connection::{INPUT_MAX, Input};
use super::spare::halve_spare;
use crate::message::Message;
use crate::outgoing::{Outgoing, Segment};
use crate::session::Backlog;
use crate::time::Instant;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::ops::Range;

/// A buffer is sealed into a segment of its own past this many bytes.
const SEAL: usize = 128 * 1024;
/// Most bytes of segments in one send, so that progress of a slow client shows.
const SEND: usize = 256 * 1024;
/// Most segments in one send.
const SEGMENTS: usize = 32;

/// Output of one connection.
#[derive(Default)]
pub struct Output {
    pub(super) sealed: VecDeque<Segment>,
    pub(super) tail: Vec<u8>,
    /// Bytes of the connection's layers, which go before all else; part of `queued`.
    wire: Vec<u8>,
    pub(super) queued: usize,
    in_flight: usize,
    /// When the last send completed or the first one began.
    pub progressed: Instant,
    /// How long too much has been unsent.
    pub(super) backlog: Backlog,
    /// Nothing was left to shed then: it is looked for again a little later.
    pub(super) nothing_to_shed: Option<Instant>,
    /// In the shard's list of connections to flush.
    pub dirty: bool,
}

impl Output {
    /// Bytes accepted and not yet written to the socket.
    pub fn unsent(&self) -> usize {
        self.queued + self.in_flight
    }

    /// The last `bytes` that were appended, when one append wrote them.
    pub(super) fn last(&self, bytes: usize) -> Option<&[u8]> {
        let last = match (self.tail.is_empty(), self.sealed.back()) {
            (true, Some(Segment::Bytes(sealed))) => sealed,
            _ => &self.tail,
        };
        last.get(last.len().checked_sub(bytes)?..)
    }

    /// True while the driver holds a send.
    pub fn is_sending(&self) -> bool {
        self.in_flight > 0
    }

    /// True when a send can be made.
    pub fn has_queued(&self) -> bool {
        self.queued > 0
    }

    /// Appends what `write` writes; returns the number of bytes.
    #[inline]
    pub fn append(&mut self, pool: &mut OutputPool, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        if self.tail.capacity() == 0 {
            self.tail = pool.take();
        }
        let (before, room) = (self.tail.len(), self.tail.capacity());
        write(&mut self.tail);
        if self.tail.capacity() != room {
            pool.grown(room, self.tail.capacity());
        }
        let added = self.tail.len() - before;
        self.queued += added;
        if self.tail.len() > SEAL {
            self.sealed.push_back(Segment::Bytes(std::mem::take(&mut self.tail)));
        }
        added
    }

    /// Appends bytes of the connection's layers: they go as they are, before what is framed later.
    pub fn append_wire(&mut self, pool: &mut OutputPool, bytes: &[u8]) {
        if self.wire.capacity() == 0 {
            self.wire = pool.take();
        }
        pool.extend(&mut self.wire, |wire| wire.extend_from_slice(bytes));
        self.queued += bytes.len();
    }

    /// Bytes of the connection's layers that wait.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Takes those out; for who makes the send with them and says [`Output::sending`].
    pub fn take_wire(&mut self) -> Vec<u8> {
        self.queued -= self.wire.len();
        std::mem::take(&mut self.wire)
    }

    /// The send that was made has so many bytes, with what its layers added.
    pub fn sending(&mut self, bytes: usize, now: Instant) {
        self.in_flight = bytes;
        self.progressed = now;
    }

    /// Appends a shared message's payload after what was appended before.
    pub fn append_shared(&mut self, pool: &mut OutputPool, message: Message, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        pool.share(&message);
        if !self.tail.is_empty() {
            self.sealed.push_back(Segment::Bytes(std::mem::take(&mut self.tail)));
        }
        self.queued += range.len();
        self.sealed.push_back(Segment::Shared(message, range));
    }

    /// Calls `each` with the capacity of every buffer that waits, and with every shared
    /// message. For checks.
    pub fn visit(&self, each: &mut impl FnMut(usize, Option<&Message>)) {
        each(self.tail.capacity(), None);
        each(self.wire.capacity(), None);
        self.sealed.iter().for_each(|segment| segment.visit(each));
    }

    /// Takes the next send, when none is in flight and something is queued.
    pub fn next_send(&mut self, now: Instant) -> Option<Outgoing> {
        if self.in_flight > 0 || self.queued == 0 {
            return None;
        }
        self.progressed = now;
        if self.sealed.is_empty() {
            let bytes = std::mem::take(&mut self.tail);
            self.begin(bytes.len());
            return Some(Outgoing::One(bytes));
        }
        let mut segments = Vec::with_capacity(self.sealed.len().min(SEGMENTS) + 1);
        let mut bytes = 0;
        while bytes < SEND && segments.len() < SEGMENTS {
            let Some(segment) = self.sealed.pop_front() else {
                if !self.tail.is_empty() {
                    bytes += self.tail.len();
                    segments.push(Segment::Bytes(std::mem::take(&mut self.tail)));
                }
                break;
            };
            bytes += segment.len();
            segments.push(segment);
        }
        self.begin(bytes);
        Some(Outgoing::Many(segments))
    }

    fn begin(&mut self, bytes: usize) {
        self.in_flight = bytes;
        self.queued -= bytes;
    }

    /// The send in flight is complete.
    pub fn sent(&mut self, now: Instant) {
        self.in_flight = 0;
        self.progressed = now;
    }

    /// Makes it as new, for reuse by another connection.
    pub fn reset(&mut self, pool: &mut OutputPool) {
        for segment in self.sealed.drain(..) {
            pool.put_segment(segment);
        }
        if self.sealed.capacity() > SEGMENTS {
            self.sealed = VecDeque::new();
        }
        pool.put(std::mem::take(&mut self.tail));
        pool.put(std::mem::take(&mut self.wire));
        (self.queued, self.in_flight, self.dirty) = (0, 0, false);
        (self.backlog, self.nothing_to_shed) = (Backlog::default(), None);
    }
}

/// Buffers and outputs between uses: the steady path allocates none.
#[derive(Default)]
pub struct OutputPool {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// Fewest buffers there were since the last [`OutputPool::shrink`]: so many were not needed.
    least: usize,
    #[allow(clippy::vec_box)] // the boxes themselves are what is reused
    outputs: Vec<Box<Output>>,
    #[allow(clippy::vec_box)]
    inputs: Vec<Box<Input>>,
    /// The same as `least` for outputs and inputs.
    least_outputs: usize,
    least_inputs: usize,
    /// Bytes of buffers that were dropped instead of being kept.
    released: u64,
    /// Bytes of all buffers, here and in use. Changes only when one is made, grows or goes.
    all: usize,
    /// Bytes of messages that outputs share.
    shared_bytes: usize,
    /// How many outputs have each shared message, by its address.
    shared: HashMap<usize, u32, foldhash::fast::FixedState>,
}

/// A new buffer's capacity, bytes.
const BUFFER: usize = 1024;
/// A larger buffer is not kept.
const BUFFER_MAX: usize = 256 * 1024;
/// Bytes kept in all.
const POOL_MAX: usize = 8 * 1024 * 1024;
/// Outputs kept.
const OUTPUTS_MAX: usize = 2048;

impl OutputPool {
    /// A buffer, empty.
    pub fn take(&mut self) -> Vec<u8> {
        match self.buffers.pop() {
            Some(buffer) => {
                self.bytes -= buffer.capacity();
                self.least = self.least.min(self.buffers.len());
                buffer
            }
            None => {
                let buffer = Vec::with_capacity(BUFFER);
                self.all += buffer.capacity();
                buffer
            }
        }
    }

    /// A buffer in use has another capacity.
    #[cold]
    fn grown(&mut self, before: usize, after: usize) {
        self.all = self.all + after - before;
    }

    /// Writes to a buffer in use.
    pub fn extend(&mut self, buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        let room = buffer.capacity();
        write(buffer);
        if buffer.capacity() != room {
            self.grown(room, buffer.capacity());
        }
    }

    /// Gives a buffer back.
    pub fn put(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        if capacity == 0 {
            return;
        }
        if capacity > BUFFER_MAX || self.bytes + capacity > POOL_MAX {
            self.released += capacity as u64;
            self.all -= capacity;
            return;
        }
        buffer.clear();
        self.bytes += capacity;
        self.buffers.push(buffer);
    }

    pub(super) fn put_segment(&mut self, segment: Segment) {
        match segment {
            Segment::Bytes(bytes) => self.put(bytes),
            Segment::Shared(message, _) => self.unshare(&message),
        }
    }

    /// One more output has the message.
    fn share(&mut self, message: &Message) {
        let holders = self.shared.entry(message.address()).or_default();
        *holders += 1;
        if *holders == 1 {
            self.shared_bytes += message.size();
        }
    }

    /// One output fewer has it.
    fn unshare(&mut self, message: &Message) {
        let Some(holders) = self.shared.get_mut(&message.address()) else { return };
        *holders -= 1;
        if *holders == 0 {
            self.shared.remove(&message.address());
            self.shared_bytes -= message.size();
        }
    }

    /// Bytes of buffers that outputs and sends have in use, and of the messages that they share:
    /// each once, however many clients it goes to.
    pub fn held(&self) -> usize {
        self.all - self.bytes + self.shared_bytes
    }

    /// Gives a finished send's buffers back.
    pub fn recycle(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::One(bytes) => self.put(bytes),
            Outgoing::Many(segments) => {
                for segment in segments {
                    self.put_segment(segment);
                }
            }
        }
    }

    /// An output for a connection that has something to send.
    pub fn take_output(&mut self) -> Box<Output> {
        let output = self.outputs.pop();
        self.least_outputs = self.least_outputs.min(self.outputs.len());
        output.unwrap_or_default()
    }

    /// Gives an output back.
    pub fn put_output(&mut self, mut output: Box<Output>) {
        output.reset(self);
        if self.outputs.len() < OUTPUTS_MAX {
            self.outputs.push(output);
        }
    }

    /// A buffer for a packet that has not wholly arrived.
    pub fn take_input(&mut self) -> Box<Input> {
        let input = self.inputs.pop();
        self.least_inputs = self.least_inputs.min(self.inputs.len());
        input.unwrap_or_default()
    }

    /// Gives such a buffer back.
    pub fn put_input(&mut self, mut input: Box<Input>) {
        if input.capacity() <= INPUT_MAX && self.inputs.len() < OUTPUTS_MAX {
            input.clear();
            self.inputs.push(input);
        } else {
            self.released += input.capacity() as u64;
        }
    }

    /// Bytes of buffers that were too large or too many to be kept, since the start.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// Drops half of the buffers that were not needed since the last call.
    pub fn shrink(&mut self) {
        let keep = self.buffers.len() - self.least.div_ceil(2).min(self.buffers.len());
        for buffer in self.buffers.drain(keep..) {
            self.bytes -= buffer.capacity();
            self.all -= buffer.capacity();
        }
        crate::slab::trim(&mut self.buffers);
        self.shared.shrink_to((self.shared.capacity() / 2).max(self.shared.len()));
        self.least = self.buffers.len();
        halve_spare(&mut self.outputs, &mut self.least_outputs);
        halve_spare(&mut self.inputs, &mut self.least_inputs);
    }
}
