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

/// A buffer that is larger than this many bytes is sealed into a segment of its own.
const SEAL: usize = 128 * 1024;
/// Most bytes of segments in one send, so that a slow client's progress is seen.
const SEND: usize = 256 * 1024;
/// Most segments in one send.
const SEGMENTS: usize = 32;

/// Output of one connection.
#[derive(Default)]
pub struct Output {
    pub(super) sealed: VecDeque<Segment>,
    pub(super) tail: Vec<u8>,
    /// Bytes of the connection's layers, which are sent before everything else; part of `queued`.
    wire: Vec<u8>,
    pub(super) queued: usize,
    in_flight: usize,
    /// When the last send began or completed; at first, when the output was made.
    pub progressed: Instant,
    /// How long too much output has been unsent.
    pub(super) backlog: Backlog,
    /// When QoS 0 was last looked for in this output and none could be shed. The search is repeated
    /// a little later.
    pub(super) nothing_to_shed: Option<Instant>,
    /// The position of the first queued byte that is not of the layers. Positions count bytes, and
    /// only grow, also from one output of a connection to the next.
    first: u64,
    /// Bytes before this position were shed, so what is before an earlier one is not known.
    shed: u64,
    /// Whether the connection is in the shard's list of connections to flush.
    pub dirty: bool,
}

impl Output {
    /// Bytes that were accepted and not yet written to the socket.
    pub fn unsent(&self) -> usize {
        self.queued + self.in_flight
    }

    /// The last `bytes` bytes, if a single append wrote them.
    pub(super) fn last(&self, bytes: usize) -> Option<&[u8]> {
        let last = match (self.tail.is_empty(), self.sealed.back()) {
            (true, Some(Segment::Bytes(sealed))) => sealed,
            _ => &self.tail,
        };
        last.get(last.len().checked_sub(bytes)?..)
    }

    /// The position behind everything that is queued.
    pub fn end(&self) -> u64 {
        self.first + (self.queued - self.wire.len()) as u64
    }

    /// How many of the queued bytes are before that position, which was an end. 0 if that is not
    /// known any more.
    pub fn before(&self, position: u64) -> usize {
        let known = if position < self.shed { 0 } else { position };
        known.saturating_sub(self.first) as usize
    }

    /// Notes that so many queued bytes were taken out from between the others.
    pub(super) fn note_shed(&mut self, bytes: usize) {
        self.shed = self.end();
        self.queued -= bytes;
        self.first += bytes as u64;
    }

    /// Takes back bytes that were taken for a send and are to be sent before all others.
    pub fn put_back(&mut self, pool: &mut OutputPool, bytes: &[u8]) {
        let mut buffer = pool.take();
        pool.extend(&mut buffer, |buffer| buffer.extend_from_slice(bytes));
        self.queued += bytes.len();
        self.first = self.first.saturating_sub(bytes.len() as u64);
        self.sealed.push_front(Segment::Bytes(buffer));
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

    /// Appends bytes of the connection's layers. They are sent as they are, before what is framed
    /// later.
    pub fn append_wire(&mut self, pool: &mut OutputPool, bytes: &[u8]) {
        if self.wire.capacity() == 0 {
            self.wire = pool.take();
        }
        pool.extend(&mut self.wire, |wire| wire.extend_from_slice(bytes));
        self.queued += bytes.len();
    }

    /// The bytes of the connection's layers that wait.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// Takes these bytes out. The caller sends them, and then calls [`Output::sending`].
    pub fn take_wire(&mut self) -> Vec<u8> {
        self.queued -= self.wire.len();
        std::mem::take(&mut self.wire)
    }

    /// Notes that a send of so many bytes was made, including what the layers added.
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

    /// Takes the next send like [`Output::next_send`], of at most the first `most` bytes.
    #[inline]
    pub fn next_part(
        &mut self,
        pool: &mut OutputPool,
        now: Instant,
        most: usize,
    ) -> Option<Outgoing> {
        if most >= self.queued - self.wire.len() {
            return self.next_send(now);
        }
        self.next_of_first(pool, now, most)
    }

    #[inline(never)]
    fn next_of_first(
        &mut self,
        pool: &mut OutputPool,
        now: Instant,
        most: usize,
    ) -> Option<Outgoing> {
        if self.in_flight > 0 || most == 0 {
            return None;
        }
        let (mut whole, mut left) = (VecDeque::new(), most);
        while let Some(segment) = self.sealed.pop_front_if(|next| next.len() <= left) {
            left -= segment.len();
            whole.push_back(segment);
        }
        let mut later = std::mem::replace(&mut self.sealed, whole);
        let tail = match later.pop_front() {
            Some(segment) => {
                let (first, rest) = pool.split(segment, left);
                self.sealed.extend(first);
                later.push_front(rest);
                std::mem::take(&mut self.tail)
            }
            None => {
                let (first, rest) = pool.split_buffer(std::mem::take(&mut self.tail), left);
                self.tail = first;
                rest
            }
        };
        let outgoing = self.next_send(now);
        // What did not fit into the send comes before the rest.
        let unsent = std::mem::replace(&mut self.tail, tail);
        if !unsent.is_empty() {
            self.sealed.push_back(Segment::Bytes(unsent));
        }
        self.sealed.append(&mut later);
        outgoing
    }

    fn begin(&mut self, bytes: usize) {
        self.in_flight = bytes;
        self.queued -= bytes;
        self.first += bytes as u64;
    }

    /// Notes that the send in flight is complete.
    pub fn sent(&mut self, now: Instant) {
        self.in_flight = 0;
        self.progressed = now;
    }

    /// Resets the output, for reuse by another connection.
    pub fn reset(&mut self, pool: &mut OutputPool) {
        for segment in self.sealed.drain(..) {
            pool.put_segment(segment);
        }
        if self.sealed.capacity() > SEGMENTS {
            self.sealed = VecDeque::new();
        }
        pool.put(std::mem::take(&mut self.tail));
        pool.put(std::mem::take(&mut self.wire));
        (self.queued, self.in_flight, self.dirty, self.shed) = (0, 0, false, 0);
        (self.backlog, self.nothing_to_shed) = (Backlog::default(), None);
    }
}

/// The buffers and outputs that are kept for reuse, so that the steady path allocates none.
#[derive(Default)]
pub struct OutputPool {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// The fewest buffers there were since the last [`OutputPool::shrink`]: so many were not
    /// needed.
    least: usize,
    #[allow(clippy::vec_box)] // the boxes themselves are what is reused
    outputs: Vec<Box<Output>>,
    #[allow(clippy::vec_box)]
    inputs: Vec<Box<Input>>,
    /// The fewest outputs, and the fewest inputs, since then.
    least_outputs: usize,
    least_inputs: usize,
    /// Bytes of buffers that were dropped instead of being kept, since the start.
    released: u64,
    /// Bytes of all buffers, in the pool and in use. Changes only when a buffer is made, grows or
    /// is dropped.
    all: usize,
    /// No output that was given back went further than this position.
    position: u64,
    /// Bytes of the messages that outputs share.
    shared_bytes: usize,
    /// For the address of each shared message, how many outputs have it.
    shared: HashMap<usize, u32, foldhash::fast::FixedState>,
}

/// The capacity of a new buffer, bytes.
const BUFFER: usize = 1024;
/// A buffer with a larger capacity than this is not kept, bytes.
const BUFFER_MAX: usize = 256 * 1024;
/// Most bytes that are kept in all.
const POOL_MAX: usize = 8 * 1024 * 1024;
/// Most outputs that are kept, and most inputs.
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

    /// Counts a buffer in use whose capacity has changed.
    #[cold]
    fn grown(&mut self, before: usize, after: usize) {
        self.all = self.all + after - before;
    }

    /// Writes to a buffer in use, and counts its growth.
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

    /// Splits a segment of an output after `first` bytes, of which it has more; nothing is before
    /// that when these are none.
    fn split(&mut self, segment: Segment, first: usize) -> (Option<Segment>, Segment) {
        match segment {
            whole if first == 0 => (None, whole),
            Segment::Bytes(bytes) => {
                let (first, rest) = self.split_buffer(bytes, first);
                (Some(Segment::Bytes(first)), Segment::Bytes(rest))
            }
            Segment::Shared(message, range) => {
                self.share(&message);
                let middle = range.start + first;
                let before = Segment::Shared(message.clone(), range.start..middle);
                (Some(before), Segment::Shared(message, middle..range.end))
            }
        }
    }

    /// Splits a buffer in use after `first` bytes.
    fn split_buffer(&mut self, mut bytes: Vec<u8>, first: usize) -> (Vec<u8>, Vec<u8>) {
        if first == 0 {
            return (Vec::new(), bytes);
        }
        let mut rest = self.take();
        self.extend(&mut rest, |rest| rest.extend_from_slice(bytes.get(first..).unwrap_or(&[])));
        bytes.truncate(first);
        (bytes, rest)
    }

    /// Counts one more output that has the message.
    fn share(&mut self, message: &Message) {
        let holders = self.shared.entry(message.address()).or_default();
        *holders += 1;
        if *holders == 1 {
            self.shared_bytes += message.size();
        }
    }

    /// Counts one output less that has the message.
    fn unshare(&mut self, message: &Message) {
        let Some(holders) = self.shared.get_mut(&message.address()) else { return };
        *holders -= 1;
        if *holders == 0 {
            self.shared.remove(&message.address());
            self.shared_bytes -= message.size();
        }
    }

    /// Bytes of the buffers that outputs and sends have in use, and of the messages that they
    /// share. Each message counts once, however many clients it goes to.
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
        let mut output = output.unwrap_or_default();
        output.first = self.position;
        output
    }

    /// Gives an output back.
    pub fn put_output(&mut self, mut output: Box<Output>) {
        self.position = self.position.max(output.end());
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

    /// Gives the buffer of an unfinished packet back.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageRef;
    use crate::packet::Qos;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        /// So many bytes are appended, or shared.
        Append(usize, bool),
        /// The end is one up to which bytes may be sent later.
        Mark,
        /// Bytes may be sent up to the next mark.
        Clear,
        /// A send is made, if one can be.
        Send,
    }

    fn op() -> impl Strategy<Value = Op> {
        let size = prop_oneof![1..50usize, 1..3000usize, 100_000..300_000usize];
        prop_oneof![
            (size, any::<bool>()).prop_map(|(size, shared)| Op::Append(size, shared)),
            Just(Op::Mark),
            Just(Op::Clear),
            Just(Op::Send),
        ]
    }

    fn append(output: &mut Output, pool: &mut OutputPool, bytes: &[u8], shared: bool) {
        if !shared {
            output.append(pool, |out| out.extend_from_slice(bytes));
            return;
        }
        let message = MessageRef {
            topic: "t",
            properties: &[],
            payload: bytes,
            qos: Qos::AtMostOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        let message = Message::new(&message, &mut Vec::new());
        let range = message.payload_range();
        output.append_shared(pool, message, range);
    }

    proptest! {
        #[test]
        fn what_may_be_sent_is_sent_in_order_and_nothing_else(
            ops in prop::collection::vec(op(), 0..60),
        ) {
            let mut pool = OutputPool::default();
            // Positions do not begin at 0.
            let mut output = pool.take_output();
            output.append(&mut pool, |out| out.extend_from_slice(b"before"));
            pool.put_output(output);
            let mut output = pool.take_output();
            let start = output.end();
            let (mut all, mut sent) = (Vec::new(), Vec::new());
            let (mut marks, mut cleared) = (VecDeque::new(), start);
            for op in ops {
                match op {
                    Op::Append(size, shared) => {
                        let bytes: Vec<u8> = (0..size).map(|at| (all.len() + at) as u8).collect();
                        append(&mut output, &mut pool, &bytes, shared);
                        all.extend(bytes);
                    }
                    Op::Mark => marks.push_back(output.end()),
                    Op::Clear => cleared = marks.pop_front().unwrap_or(cleared),
                    Op::Send => {
                        let most = output.before(cleared);
                        prop_assert_eq!((cleared - start) as usize, sent.len() + most);
                        let outgoing = output.next_part(&mut pool, Instant(1), most);
                        prop_assert_eq!(outgoing.is_some(), most > 0);
                        let Some(outgoing) = outgoing else { continue };
                        prop_assert!(outgoing.len() <= most);
                        prop_assert!(output.next_part(&mut pool, Instant(1), 1).is_none());
                        outgoing.pieces(|piece| sent.extend_from_slice(piece));
                        pool.recycle(outgoing);
                        output.sent(Instant(1));
                    }
                }
                prop_assert_eq!((output.end() - start) as usize, all.len());
                prop_assert_eq!(output.unsent(), all.len() - sent.len());
            }
            while let Some(outgoing) = output.next_part(&mut pool, Instant(1), usize::MAX) {
                outgoing.pieces(|piece| sent.extend_from_slice(piece));
                pool.recycle(outgoing);
                output.sent(Instant(1));
            }
            prop_assert!(sent == all, "{} of {} bytes, or others", sent.len(), all.len());
            pool.put_output(output);
            prop_assert_eq!(pool.held(), 0);
        }
    }

    #[test]
    fn after_something_was_shed_no_part_goes_that_ends_before_that() {
        let (mut output, mut pool) = (Output::default(), OutputPool::default());
        output.append(&mut pool, |out| out.extend_from_slice(&[0x30, 2, 0, 0, 0xD0, 0]));
        let mark = output.end();
        output.append(&mut pool, |out| out.extend_from_slice(&[0xD0, 0]));
        assert_eq!(output.before(mark), 6);
        assert_eq!(output.shed_oldest(&mut pool, 1).bytes, 4);
        assert_eq!(output.before(mark), 0);
        let all = output.end();
        assert_eq!(output.before(all), 4);
    }
}
