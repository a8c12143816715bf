//! Loom's atomics, made such that loom tries every order of the accesses to each.
//!
//! Loom goes back to try another order where an access meets an earlier one of another thread that
//! it depends on. It remembers one earlier access only, and reads do not depend on each other. So
//! when a thread reads a word and then writes it, the read of another thread before that is
//! forgotten, and the write never tried before it: of `mesh::map`, whose writers look before they
//! write, loom tried one single order. Here each access begins with a relaxed addition of nothing
//! to a word beside it: that depends on all earlier ones, and orders no memory.

use std::ops::Deref;

use loom::sync::atomic::{self, Ordering};

#[derive(Debug)]
pub struct Touched<A> {
    inner: A,
    touched: atomic::AtomicUsize,
}

impl<A> Touched<A> {
    fn of(inner: A) -> Self {
        Touched { inner, touched: atomic::AtomicUsize::new(0) }
    }
}

impl<A> Deref for Touched<A> {
    type Target = A;

    fn deref(&self) -> &A {
        self.touched.fetch_add(0, Ordering::Relaxed);
        &self.inner
    }
}

macro_rules! touched {
    ($($name:ident $value:ty,)*) => {$(
        pub type $name = Touched<atomic::$name>;

        impl $name {
            pub fn new(value: $value) -> Self {
                Touched::of(atomic::$name::new(value))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(0)
            }
        }
    )*};
}

touched! {
    AtomicI32 i32,
    AtomicU32 u32,
    AtomicU64 u64,
    AtomicUsize usize,
}

pub type AtomicPtr<T> = Touched<atomic::AtomicPtr<T>>;

impl<T> AtomicPtr<T> {
    pub fn new(to: *mut T) -> Self {
        Touched::of(atomic::AtomicPtr::new(to))
    }
}
