//! Faults of a disk, in tests: operations on files that fail. Otherwise nothing fails here.

#[cfg(test)]
pub(crate) use in_tests::{Fault, plan};

/// Before each operation on a file.
///
/// # Errors
/// In tests, when the operation is one of those that are to fail.
#[cfg(not(test))]
#[inline]
pub fn operation() -> std::io::Result<()> {
    Ok(())
}

/// Before each write of a commit: how many of its bytes are written.
///
/// # Errors
/// The same.
#[cfg(not(test))]
#[inline]
pub fn write(_: usize) -> Result<(), (usize, std::io::Error)> {
    Ok(())
}

#[cfg(test)]
pub(crate) use in_tests::{operation, write};

#[cfg(test)]
mod in_tests {
    use std::cell::Cell;
    use std::io;

    /// Which operations of this thread fail, counted from the first; and how much of a write is
    /// done all the same.
    #[derive(Clone, Copy, Default)]
    pub(crate) struct Fault {
        pub first: u32,
        pub count: u32,
        pub written: usize,
        pub error: i32,
    }

    thread_local! {
        static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
        static DONE: Cell<u32> = const { Cell::new(0) };
    }

    /// From now on these fail; gives how many operations there were since this was last said.
    pub(crate) fn plan(fault: Option<Fault>) -> u32 {
        FAULT.set(fault);
        DONE.replace(0)
    }

    fn next() -> Option<(usize, io::Error)> {
        let number = DONE.get();
        DONE.set(number + 1);
        let fault = FAULT.get()?;
        let fails = number >= fault.first && number - fault.first < fault.count;
        fails.then(|| (fault.written, io::Error::from_raw_os_error(fault.error)))
    }

    pub(crate) fn operation() -> io::Result<()> {
        next().map_or(Ok(()), |(_, error)| Err(error))
    }

    pub(crate) fn write(length: usize) -> Result<(), (usize, io::Error)> {
        next().map_or(Ok(()), |(written, error)| Err((written.min(length), error)))
    }
}
