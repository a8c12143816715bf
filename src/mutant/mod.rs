//! Deliberate mistakes, which are made one at a time to show that the simulation catches mistakes
//! of their kind.
//!
//! They exist under the feature `mutants`, which only `tests/simulation` asks for. Without it
//! [`Mutant::is_on`] is a constant, and nothing of this reaches a binary. With it, one number for
//! the whole process says which mistake is made: all threads of a simulation make the same one. For
//! each mistake, `tests/simulation/mutants.tsv` says what catches it, and how soon.
//!
//! There is a file for each subject. It has a macro that hands the mistakes on to the macro of the
//! next file.
#![allow(clippy::disallowed_types, reason = "one mistake for all threads of a simulation")]

#[macro_use]
mod access;
#[macro_use]
mod cluster;
#[macro_use]
mod connections;
#[macro_use]
mod observers;
#[macro_use]
mod routing;
#[macro_use]
mod session;
#[macro_use]
mod storage;
#[macro_use]
mod upgrade;
#[macro_use]
mod work;

macro_rules! mutants {
    ([$room:ident $($rest:ident)*] $($before:tt)*) => {
        $room! { [$($rest)*] $($before)* }
    };
    ([] $(#[doc = $what:literal] $name:ident,)*) => {
        /// A mistake that the pure core can be told to make.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Mutant {
            $(#[doc = $what] $name,)*
        }

        #[cfg(feature = "mutants")]
        impl Mutant {
            /// Every mutant with its name and what it breaks.
            pub const ALL: &'static [(Mutant, &'static str, &'static str)] =
                &[$((Mutant::$name, stringify!($name), $what.trim_ascii()),)*];
        }
    };
}

mutants! { [cluster session routing connections work access storage observers upgrade] }

#[cfg(not(feature = "mutants"))]
impl Mutant {
    /// Whether this mistake is being made.
    #[inline(always)]
    pub const fn is_on(self) -> bool {
        false
    }
}

// The compiler knows the constant, so it removes the branches.
#[cfg(not(feature = "mutants"))]
const _: () = assert!(!Mutant::WheelEarly.is_on());

#[cfg(feature = "mutants")]
mod active {
    use super::Mutant;
    use std::sync::atomic::{AtomicU16, Ordering};

    /// The mutant's number and one; 0 for none.
    static ACTIVE: AtomicU16 = AtomicU16::new(0);

    impl Mutant {
        /// Whether this mistake is being made.
        #[inline]
        pub fn is_on(self) -> bool {
            ACTIVE.load(Ordering::Relaxed) == self as u16 + 1
        }

        /// Makes the whole process make this mistake, or none, from now on.
        pub fn activate(mutant: Option<Mutant>) {
            ACTIVE.store(mutant.map_or(0, |mutant| mutant as u16 + 1), Ordering::SeqCst);
        }
    }
}
