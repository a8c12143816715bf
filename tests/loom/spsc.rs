//! The stand-in for rtrb: its interface as far as `mesh::mailbox` uses it, its algorithm (indices
//! up to twice the capacity, each end with a cached copy of the other index) and its orderings: an
//! index is published with Release, the other end's is read with Acquire, and only when the cached
//! one does not do. Loom also sees the slots, so a read that races with a write is found.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug)]
pub enum PushError<T> {
    Full(T),
}

#[derive(Debug)]
pub struct Empty;

pub struct RingBuffer<T> {
    head: AtomicUsize,
    tail: AtomicUsize,
    slots: Box<[UnsafeCell<Option<T>>]>,
}

pub struct Producer<T> {
    ring: Arc<RingBuffer<T>>,
    head: Cell<usize>,
    tail: Cell<usize>,
}

pub struct Consumer<T> {
    ring: Arc<RingBuffer<T>>,
    head: Cell<usize>,
    tail: Cell<usize>,
}

// SAFETY: one producer and one consumer; what is between head and tail is the consumer's, the rest
// the producer's. That it holds is what loom's cells check.
unsafe impl<T: Send> Send for Producer<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Consumer<T> {}

impl<T> RingBuffer<T> {
    #[expect(clippy::new_ret_no_self, reason = "rtrb's own interface")]
    pub fn new(capacity: usize) -> (Producer<T>, Consumer<T>) {
        let slots = (0..capacity).map(|_| UnsafeCell::new(None)).collect();
        let (head, tail) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ring = Arc::new(RingBuffer { head, tail, slots });
        let (head, tail) = (Cell::new(0), Cell::new(0));
        let producer = Producer { ring: ring.clone(), head: head.clone(), tail: tail.clone() };
        (producer, Consumer { ring, head, tail })
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if from <= to { to - from } else { 2 * self.slots.len() - from + to }
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) % (2 * self.slots.len())
    }

    fn slot(&self, at: usize) -> &UnsafeCell<Option<T>> {
        &self.slots[at % self.slots.len()]
    }
}

impl<T> Producer<T> {
    pub fn push(&mut self, item: T) -> Result<(), PushError<T>> {
        let (ring, tail) = (&self.ring, self.tail.get());
        if ring.distance(self.head.get(), tail) == ring.slots.len() {
            self.head.set(ring.head.load(Ordering::Acquire));
            if ring.distance(self.head.get(), tail) == ring.slots.len() {
                return Err(PushError::Full(item));
            }
        }
        // SAFETY: the slot at the tail is the producer's.
        ring.slot(tail).with_mut(|slot| unsafe { *slot = Some(item) });
        let tail = ring.after(tail);
        ring.tail.store(tail, Ordering::Release);
        self.tail.set(tail);
        Ok(())
    }

    pub fn slots(&self) -> usize {
        self.head.set(self.ring.head.load(Ordering::Acquire));
        self.ring.slots.len() - self.ring.distance(self.head.get(), self.tail.get())
    }
}

impl<T> Consumer<T> {
    pub fn pop(&mut self) -> Result<T, Empty> {
        let head = self.next_head().ok_or(Empty)?;
        // SAFETY: the slot at the head is the consumer's when the queue is not empty.
        let item = self.ring.slot(head).with_mut(|slot| unsafe { (*slot).take() });
        let head = self.ring.after(head);
        self.ring.head.store(head, Ordering::Release);
        self.head.set(head);
        Ok(item.expect("what was pushed is there"))
    }

    pub fn is_empty(&self) -> bool {
        self.next_head().is_none()
    }

    pub fn slots(&self) -> usize {
        self.tail.set(self.ring.tail.load(Ordering::Acquire));
        self.ring.distance(self.head.get(), self.tail.get())
    }

    pub fn peek(&self) -> Result<&T, Empty> {
        let head = self.next_head().ok_or(Empty)?;
        // SAFETY: the slot at the head is the consumer's when the queue is not empty, and stays as
        // it is until this end is borrowed for a pop.
        let item = self.ring.slot(head).with(|slot| unsafe { (*slot).as_ref() });
        Ok(item.expect("what was pushed is there"))
    }

    fn next_head(&self) -> Option<usize> {
        let head = self.head.get();
        if head == self.tail.get() {
            self.tail.set(self.ring.tail.load(Ordering::Acquire));
        }
        (head != self.tail.get()).then_some(head)
    }
}
