//! Faults of a disk, in tests: file operations that fail. Outside of tests nothing fails here.

#[cfg(test)]
pub(crate) use in_tests::{Fault, plan, plan_reads};

/// Called before each operation on a file.
///
/// # Errors
/// In tests, when the operation is one that is to fail.
#[cfg(not(test))]
#[inline]
pub fn operation() -> std::io::Result<()> {
    Ok(())
}

/// Called before each read of a file; reads are counted apart from other operations.
///
/// # Errors
/// As for [`operation`].
#[cfg(not(test))]
#[inline]
pub fn read() -> std::io::Result<()> {
    Ok(())
}

/// Called before each write of a commit. The error has the number of bytes that are written all the
/// same.
///
/// # Errors
/// As for [`operation`].
#[cfg(not(test))]
#[inline]
pub fn write(_: usize) -> Result<(), (usize, std::io::Error)> {
    Ok(())
}

#[cfg(test)]
pub(crate) use in_tests::{operation, read, write};

#[cfg(test)]
mod in_tests {
    use std::cell::Cell;
    use std::io;

    /// The operations of this thread that fail, counted from 0, and how many bytes of a write are
    /// written all the same.
    #[derive(Clone, Copy, Default, Debug)]
    pub(crate) struct Fault {
        pub first: u32,
        pub count: u32,
        pub written: usize,
        pub error: i32,
    }

    thread_local! {
        static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
        static DONE: Cell<u32> = const { Cell::new(0) };
        static READ_FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
        static READ: Cell<u32> = const { Cell::new(0) };
    }

    /// Sets the operations that fail from now on; returns how many there were since the last call.
    pub(crate) fn plan(fault: Option<Fault>) -> u32 {
        FAULT.set(fault);
        DONE.replace(0)
    }

    /// As [`plan`], for reads.
    pub(crate) fn plan_reads(fault: Option<Fault>) -> u32 {
        READ_FAULT.set(fault);
        READ.replace(0)
    }

    fn next(number: u32, fault: Option<Fault>) -> Option<(usize, io::Error)> {
        let fault = fault?;
        let fails = number >= fault.first && number - fault.first < fault.count;
        fails.then(|| (fault.written, io::Error::from_raw_os_error(fault.error)))
    }

    fn next_operation() -> Option<(usize, io::Error)> {
        next(DONE.replace(DONE.get() + 1), FAULT.get())
    }

    pub(crate) fn operation() -> io::Result<()> {
        next_operation().map_or(Ok(()), |(_, error)| Err(error))
    }

    pub(crate) fn read() -> io::Result<()> {
        let failed = next(READ.replace(READ.get() + 1), READ_FAULT.get());
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    pub(crate) fn write(length: usize) -> Result<(), (usize, io::Error)> {
        next_operation().map_or(Ok(()), |(written, error)| Err((written.min(length), error)))
    }
}
