//! The stand-in for seize: its interface as far as `mesh::map` uses it, and what it promises. A
//! reader is inside from `enter` until his guard is dropped; what is retired is given back when
//! every other thread that was inside by then has left.
//!
//! Who is inside is written down without loom's knowledge, so that it orders nothing by itself: the
//! order comes from the two sequentially consistent fences, one on each side, that seize's barriers
//! amount to. Nothing is freed before the end: memory that would be is only remembered as given
//! back, and whoever still reaches it is found.
//!
//! And the pointer to a table with a lock's worth less of ordering, for tests that must fail.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use loom::sync::atomic::{Ordering, fence};
use loom::thread::{self, ThreadId};

use crate::touched;

/// One part that is taken away.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// The new table's pointer is put in its place without Release.
    RelaxedSwap,
    /// It is read without Acquire.
    RelaxedLoad,
    NoFenceEntering,
    NoFenceRetiring,
    /// Nobody is waited for.
    GivenBackAtOnce,
}

// All threads of a model are run by the thread that asked for it.
thread_local! {
    static FAULT: Cell<Fault> = const { Cell::new(Fault::None) };
}

/// Runs a model, or a part of one, with the fault.
pub fn with_fault(fault: Fault, model: impl Fn()) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            FAULT.set(Fault::None);
        }
    }
    let _reset = Reset;
    FAULT.set(fault);
    model();
}

fn has(fault: Fault) -> bool {
    FAULT.get() == fault
}

/// Loom's, with the faults.
pub struct AtomicPtr<T>(touched::AtomicPtr<T>);

impl<T> AtomicPtr<T> {
    pub fn new(to: *mut T) -> Self {
        AtomicPtr(touched::AtomicPtr::new(to))
    }

    pub fn load(&self, order: Ordering) -> *mut T {
        self.0.load(if has(Fault::RelaxedLoad) { Ordering::Relaxed } else { order })
    }

    pub fn swap(&self, to: *mut T, order: Ordering) -> *mut T {
        self.0.swap(to, if has(Fault::RelaxedSwap) { Ordering::Relaxed } else { order })
    }
}

#[derive(Default)]
struct Book {
    next: u64,
    inside: Vec<Inside>,
    retired: Vec<Retired>,
    /// What would have been freed, by address.
    gone: Vec<Gone>,
}

/// A guard.
struct Inside {
    number: u64,
    thread: ThreadId,
    /// Addresses that it protects.
    holds: Vec<usize>,
}

struct Retired {
    gone: Gone,
    /// Guards that are waited for.
    waits_for: Vec<u64>,
}

struct Gone {
    address: usize,
    free: Box<dyn FnOnce() + Send>,
}

impl Book {
    fn give_back(&mut self) {
        for one in self.retired.extract_if(.., |one| one.waits_for.is_empty()) {
            let address = one.gone.address;
            let held = self.inside.iter().any(|inside| inside.holds.contains(&address));
            assert!(!held, "a table was given back under a reader");
            self.gone.push(one.gone);
        }
    }
}

#[derive(Default)]
pub struct Collector(Mutex<Book>);

impl Collector {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn batch_size(self, _: usize) -> Self {
        self
    }

    pub fn enter(&self) -> LocalGuard<'_> {
        let thread = thread::current().id();
        let number = self.book(|book| {
            book.next += 1;
            book.inside.push(Inside { number: book.next, thread, holds: Vec::new() });
            book.next
        });
        if !has(Fault::NoFenceEntering) {
            fence(Ordering::SeqCst);
        }
        LocalGuard { collector: self, number }
    }

    /// # Safety
    /// As seize's: nobody who enters from now on reaches `pointer`, and it is retired once.
    pub unsafe fn retire<T: 'static>(&self, pointer: *mut T, reclaim: unsafe fn(*mut T)) {
        if !has(Fault::NoFenceRetiring) {
            fence(Ordering::SeqCst);
        }
        let (thread, address) = (thread::current().id(), pointer as usize);
        // SAFETY: called once, when nobody has the pointer any more: the caller's promise.
        let free = Box::new(move || unsafe { reclaim(address as *mut T) });
        self.book(|book| {
            let others = |inside: &&mut Inside| inside.thread != thread;
            let (mut waits_for, at_once) = (Vec::new(), has(Fault::GivenBackAtOnce));
            for inside in &mut book.inside {
                match others(&inside) {
                    true if at_once => {}
                    true => waits_for.push(inside.number),
                    // Who retires it does not use it any more.
                    false => inside.holds.retain(|&held| held != address),
                }
            }
            book.retired.push(Retired { gone: Gone { address, free }, waits_for });
            book.give_back();
        });
    }

    fn book<R>(&self, with: impl FnOnce(&mut Book) -> R) -> R {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let book = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !std::thread::panicking() {
            assert!(book.inside.is_empty() && book.retired.is_empty(), "all is given back");
            book.gone.drain(..).for_each(|gone| (gone.free)());
        }
    }
}

pub struct LocalGuard<'a> {
    collector: &'a Collector,
    number: u64,
}

pub trait Guard {
    fn protect<T>(&self, pointer: &AtomicPtr<T>, order: Ordering) -> *mut T;
}

impl Guard for LocalGuard<'_> {
    fn protect<T>(&self, pointer: &AtomicPtr<T>, order: Ordering) -> *mut T {
        let to = pointer.load(order);
        let address = to as usize;
        self.collector.book(|book| {
            let gone = book.gone.iter().any(|gone| gone.address == address);
            assert!(!gone, "a table that was given back is looked at");
            let own = book.inside.iter_mut().find(|inside| inside.number == self.number);
            own.expect("a guard is inside").holds.push(address);
        });
        to
    }
}

impl Drop for LocalGuard<'_> {
    fn drop(&mut self) {
        // A point at which others may go on: the reader is inside until here.
        fence(Ordering::Release);
        self.collector.book(|book| {
            book.inside.retain(|inside| inside.number != self.number);
            for retired in &mut book.retired {
                retired.waits_for.retain(|&number| number != self.number);
            }
            if !std::thread::panicking() {
                book.give_back();
            }
        });
    }
}

pub mod reclaim {
    /// # Safety
    /// The pointer comes from `Box::into_raw` and is not used any more.
    pub unsafe fn boxed<T>(pointer: *mut T) {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(pointer) });
    }
}
