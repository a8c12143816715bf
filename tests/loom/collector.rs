//! The stand-in for seize: its interface as far as `mesh::map` uses it. Nothing is given back before
//! the collector is dropped, and entering orders nothing: so loom sees only what the map itself
//! does. That a guard keeps what it has read is seize's own to prove.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};

use loom::sync::atomic::{AtomicPtr, Ordering};

thread_local! {
    /// Loom runs all threads of a model on one: pointers are then read without order.
    pub static CARELESS: Cell<bool> = const { Cell::new(false) };
}

#[derive(Default)]
pub struct Collector {
    retired: RefCell<Vec<Box<dyn FnOnce()>>>,
}

// SAFETY: `retire` is called only under a lock of the map's; loom runs one thread at a time.
unsafe impl Send for Collector {}
// SAFETY: as above.
unsafe impl Sync for Collector {}

pub struct LocalGuard<'a>(#[allow(dead_code)] &'a Collector);

pub trait Guard {
    fn protect<T>(&self, pointer: &AtomicPtr<T>, order: Ordering) -> *mut T;
}

impl Guard for LocalGuard<'_> {
    fn protect<T>(&self, pointer: &AtomicPtr<T>, order: Ordering) -> *mut T {
        pointer.load(if CARELESS.get() { Ordering::Relaxed } else { order })
    }
}

impl Collector {
    pub fn new() -> Collector {
        Collector::default()
    }

    pub fn batch_size(self, _: usize) -> Collector {
        self
    }

    pub fn enter(&self) -> LocalGuard<'_> {
        LocalGuard(self)
    }

    /// # Safety
    ///
    /// The pointer is retired once and nobody who enters from now on finds it.
    pub unsafe fn retire<T: 'static>(
        &self,
        pointer: *mut T,
        reclaim: unsafe fn(*mut T, &Collector),
    ) {
        let collector: *const Collector = self;
        // SAFETY: called once, when the collector is dropped and with it whoever could look.
        let give_back = move || unsafe { reclaim(pointer, &*collector) };
        self.retired.borrow_mut().push(Box::new(give_back));
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        for give_back in self.retired.take() {
            give_back();
        }
    }
}

pub mod reclaim {
    use super::Collector;

    /// # Safety
    ///
    /// Made by `Box::into_raw` and nobody else's.
    pub unsafe fn boxed<T>(pointer: *mut T, _: &Collector) {
        // SAFETY: as the caller says.
        drop(unsafe { Box::from_raw(pointer) });
    }
}
