//! The provided-buffer ring of one io_uring, where the kernel puts received bytes.
//!
//! One allocation holds all buffers; an idle client occupies none of them.
#![allow(unsafe_code)]

use io_uring::{IoUring, types::BufRingEntry};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// The buffer group that every receive uses.
pub const GROUP: u16 = 0;

/// A registered ring of `count` buffers of `size` bytes.
pub struct Buffers {
    entries: *mut BufRingEntry,
    entries_bytes: usize,
    memory: *mut u8,
    memory_bytes: usize,
    size: usize,
    mask: u16,
    tail: u16,
}

impl Buffers {
    /// Maps and registers the buffers. `count` must be a power of two up to 32,768.
    pub fn new(ring: &IoUring, count: u16, size: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two());
        let entries_bytes = usize::from(count) * size_of::<BufRingEntry>();
        let memory_bytes = usize::from(count) * size;
        let entries = map(entries_bytes)?.cast::<BufRingEntry>();
        let memory = map(memory_bytes)?;
        let mask = count - 1;
        let mut this = Self { entries, entries_bytes, memory, memory_bytes, size, mask, tail: 0 };
        // SAFETY: the mapping is page-aligned, large enough, and outlives the ring: the owner
        // drops the ring first.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries as u64, count, GROUP, 0)?;
        }
        for id in 0..count {
            this.put(id);
        }
        this.publish();
        Ok(this)
    }

    /// The first `length` bytes of buffer `id`, valid until it is given back with [`Self::put`].
    ///
    /// The lifetime is unbound because the memory is not borrowed from `self`; the caller gives
    /// the buffer back only after its last use.
    pub fn bytes<'a>(&self, id: u16, length: usize) -> &'a [u8] {
        assert!(id <= self.mask && length <= self.size);
        // SAFETY: in bounds by the assertion; the kernel filled it and does not touch it again
        // before it is given back.
        unsafe { std::slice::from_raw_parts(self.memory.add(usize::from(id) * self.size), length) }
    }

    /// Queues buffer `id` for the kernel; visible after [`Self::publish`].
    pub fn put(&mut self, id: u16) {
        let index = usize::from(self.tail & self.mask);
        // SAFETY: `index` is inside the entry ring and the kernel reads it only once published.
        unsafe {
            let entry = &mut *self.entries.add(index);
            entry.set_addr(self.memory.add(usize::from(id) * self.size) as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes all queued buffers visible to the kernel.
    pub fn publish(&self) {
        // SAFETY: the tail lies in the first entry of a live, aligned ring.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with these lengths, unmapped once.
        unsafe {
            libc::munmap(self.entries.cast(), self.entries_bytes);
            libc::munmap(self.memory.cast(), self.memory_bytes);
        }
    }
}

fn map(bytes: usize) -> io::Result<*mut u8> {
    // SAFETY: a fresh anonymous mapping.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(address.cast())
}
