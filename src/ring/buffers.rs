//! Receive buffers. Each core owns one pool of buffer memory, and each of its io_urings has a
//! registered ring of buffers that the kernel may fill.
//!
//! The kernel keeps one consumer position per registered buffer ring, so several io_urings cannot
//! share one. Instead they all draw buffers from the core's pool: a few at the start, and more each
//! time the kernel reports that it had none left.
#![allow(clippy::disallowed_types, reason = "the kernel reads the tail of the ring")]
#![allow(unsafe_code)]
use io_uring::types::BufRingEntry;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The smallest page size of the supported machines. On machines with larger pages the kernel
/// refuses some of the requests to release memory, which is harmless.
const PAGE: usize = 4096;
/// Every ring owns at least this many buffers, even when other rings have taken the whole pool.
const LEAST_PER_RING: u32 = 16;

/// Anonymous memory: page aligned, and zero until it is first touched.
pub(super) struct MappedMemory {
    start: NonNull<u8>,
    length: usize,
}

impl MappedMemory {
    fn new(length: usize) -> io::Result<MappedMemory> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing
        // that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(MappedMemory { start, length })
    }

    /// Gives the pages that lie completely within `range` (in bytes) back to the kernel. When they
    /// are touched again they read as zero, so the caller must not need their content any more.
    fn forget(&self, range: std::ops::Range<usize>) {
        let (from, to) = (range.start.next_multiple_of(PAGE), range.end.min(self.length));
        let length = to.saturating_sub(from) / PAGE * PAGE;
        if length > 0 {
            // SAFETY: page aligned and inside this mapping.
            unsafe {
                let start = self.start.as_ptr().add(from);
                libc::madvise(start.cast(), length, libc::MADV_DONTNEED)
            };
        }
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` and is unmapped once; the driver drops it after the
        // rings that had it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// The buffers that currently belong to no ring.
pub(super) struct BufferPool {
    memory: Rc<MappedMemory>,
    size: u32,
    free: Vec<u16>,
    /// How many buffers exist. Higher ids are reserved for rings that are opened while the pool is
    /// empty.
    exist: u32,
    limit: u32,
    /// How many rings draw from this pool, and how many buffers each of them may hold. That is the
    /// whole pool until a ring has found it empty.
    rings: u32,
    share: u32,
}

impl BufferPool {
    pub(super) fn new(count: u32, size: u32, max_rings: u32) -> io::Result<BufferPool> {
        let limit = (count + max_rings * LEAST_PER_RING).min(1 << 16);
        let memory = Rc::new(MappedMemory::new(limit as usize * size as usize)?);
        // The lowest ids are handed out first, so that a core with little traffic touches few
        // pages.
        let free = (0..count).rev().map(|id| id as u16).collect();
        let share = u32::MAX;
        Ok(BufferPool { memory, size, free, exist: count, limit, rings: 0, share })
    }

    pub(super) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Buffers that have been created, wherever they are now.
    pub(super) fn exist(&self) -> u32 {
        self.exist
    }

    /// Creates spare buffers when the pool has fewer than `wanted`, so that a new ring starts with
    /// some.
    fn reserve(&mut self, wanted: u32) {
        while self.free() < wanted.min(LEAST_PER_RING) && self.exist < self.limit {
            self.free.push(self.exist as u16);
            self.exist += 1;
        }
    }

    fn address(&self, id: u16) -> *mut u8 {
        debug_assert!(u32::from(id) < self.exist);
        // SAFETY: id < exist <= limit, and the mapping is limit * size long.
        unsafe { self.memory.start.as_ptr().add(id as usize * self.size as usize) }
    }

    /// How many bytes of the mapping are resident in memory.
    #[cfg(test)]
    pub(super) fn resident(&self) -> usize {
        let mut pages = vec![0u8; self.memory.length.div_ceil(PAGE)];
        let start = self.memory.start.as_ptr().cast();
        // SAFETY: the mapping, and one byte for each of its pages.
        let result = unsafe { libc::mincore(start, self.memory.length, pages.as_mut_ptr()) };
        assert_eq!(result, 0);
        pages.iter().filter(|&&page| page & 1 != 0).count() * PAGE
    }

    /// A handle that keeps the mapping alive for as long as the slices from `filled` may be read.
    pub(super) fn memory(&self) -> Rc<MappedMemory> {
        self.memory.clone()
    }

    /// The first `length` bytes of a buffer.
    ///
    /// # Safety
    /// A completion must have handed this buffer to us, the buffer must not be returned to the
    /// kernel while the slice lives, and the caller must hold `memory()` for as long.
    pub(super) unsafe fn filled<'a>(&self, id: u16, length: usize) -> &'a [u8] {
        assert!(length <= self.size as usize && u32::from(id) < self.exist);
        // SAFETY: in bounds by the assertion; nobody writes by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.address(id), length) }
    }

    /// Called when a ring has run out of buffers and the pool is empty: from now on each ring that
    /// holds more than its equal share returns the buffers it gets back.
    fn ration(&mut self) {
        self.share = (self.exist / self.rings.max(1)).max(LEAST_PER_RING);
    }

    /// Gives all pages back to the kernel. Only allowed while no unvisited completion carries a
    /// buffer.
    pub(super) fn forget(&mut self) {
        self.share = u32::MAX;
        self.memory.forget(0..self.memory.length);
    }

    /// Gives the pages of free buffers back to the kernel, and sorts the list so that the lowest
    /// ids are used first again.
    pub(super) fn give_pages_back(&mut self) {
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        let size = self.size as usize;
        for run in self.free.chunk_by(|above, below| *above == below + 1) {
            if let [highest, .., lowest] | [highest @ lowest] = *run {
                self.memory.forget(lowest as usize * size..(highest as usize + 1) * size);
            }
        }
    }
}

/// The registered buffer ring of one io_uring: the buffers that it may fill.
pub(super) struct BufferRing {
    entries: MappedMemory,
    capacity: u32,
    tail: u16,
    published: u16,
    /// Buffers that the kernel currently owns.
    pub(super) posted: u32,
    /// How many buffers to keep posted. A buffer that comes back beyond this number goes to the
    /// pool.
    target: u32,
    initial: u32,
    /// The kernel has reported a lack of buffers since the last `settle`.
    pub(super) ran_out: bool,
}

impl BufferRing {
    pub(super) fn new(pool: &mut BufferPool, count: u32, initial: u32) -> io::Result<BufferRing> {
        let capacity = count.next_power_of_two().clamp(1, 1 << 15);
        let entries = MappedMemory::new(capacity as usize * size_of::<BufRingEntry>())?;
        pool.reserve(initial);
        pool.rings += 1;
        let (tail, published) = (0, 0);
        let target = initial.clamp(1, capacity);
        let ran_out = false;
        let mut ring =
            BufferRing { entries, capacity, tail, published, posted: 0, target, initial, ran_out };
        ring.fill(pool);
        ring.publish();
        Ok(ring)
    }

    pub(super) fn start(&self) -> u64 {
        self.entries.start.as_ptr() as u64
    }

    pub(super) fn capacity(&self) -> u16 {
        self.capacity as u16
    }

    /// Records that a completion carried one of the buffers, which the kernel therefore no longer
    /// owns.
    pub(super) fn taken(&mut self) {
        self.posted -= 1;
    }

    /// Returns a buffer whose bytes have been processed.
    pub(super) fn give(&mut self, pool: &mut BufferPool, id: u16) {
        match self.posted < self.target.min(pool.share) {
            true => self.post(pool, id),
            false => pool.free.push(id),
        }
    }

    /// Called after a batch of completions. Publishes the returned buffers to the kernel, and posts
    /// more of them if the kernel ran out during the batch.
    pub(super) fn settle(&mut self, pool: &mut BufferPool) {
        if self.ran_out {
            self.ran_out = false;
            self.target = (self.target * 2).min(self.capacity);
            self.fill(pool);
        }
        if self.tail != self.published {
            self.publish();
        }
    }

    /// Halves the number of posted buffers after a time with little traffic. Fewer buffers in
    /// rotation touch fewer pages and stay in the caches.
    pub(super) fn shrink(&mut self) {
        self.target = (self.target / 2).max(self.initial).clamp(1, self.capacity);
    }

    /// Returns all buffers to the pool. The io_uring is about to be closed and has nothing in
    /// flight.
    pub(super) fn dissolve(&mut self, pool: &mut BufferPool) {
        for back in 1..=self.posted {
            let index = u32::from(self.tail).wrapping_sub(back) & (self.capacity - 1);
            // SAFETY: index < capacity, the length of the array. The kernel takes buffers in the
            // order of posting, so the last `posted` entries are those that it never took.
            let entry =
                unsafe { self.entries.start.cast::<BufRingEntry>().add(index as usize).as_ref() };
            pool.free.push(entry.bid());
        }
        self.posted = 0;
        pool.rings -= 1;
    }

    fn fill(&mut self, pool: &mut BufferPool) {
        while self.posted < self.target {
            match pool.free.pop() {
                Some(id) => self.post(pool, id),
                None => return pool.ration(),
            }
        }
    }

    fn post(&mut self, pool: &BufferPool, id: u16) {
        let index = u32::from(self.tail) & (self.capacity - 1);
        // SAFETY: index < capacity, which is the length of the array; the kernel reads an entry
        // only after the tail has passed it. Entry 0 overlaps the tail in its last two bytes, which
        // the setters below do not write.
        let entry =
            unsafe { &mut *self.entries.start.cast::<BufRingEntry>().add(index as usize).as_ptr() };
        entry.set_addr(pool.address(id) as u64);
        entry.set_len(pool.size);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.posted += 1;
    }

    fn publish(&mut self) {
        // SAFETY: the first entry is valid memory of this ring; its tail is only written here.
        let tail = unsafe { BufRingEntry::tail(self.entries.start.as_ptr().cast()) };
        // SAFETY: the field is two-byte aligned and lives as long as `entries`; the kernel reads it
        // concurrently, which is why the store is atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates that the kernel takes one posted buffer. Which one does not matter to the
    /// counting.
    fn use_one(ring: &mut BufferRing, pool: &mut BufferPool, id: u16) {
        ring.taken();
        ring.give(pool, id);
        ring.settle(pool);
    }

    #[test]
    fn a_ring_that_holds_more_than_its_part_gives_way_to_one_that_ran_out() {
        let mut pool = BufferPool::new(64, 128, 4).unwrap();
        let mut greedy = BufferRing::new(&mut pool, 64, 16).unwrap();
        for _ in 0..3 {
            greedy.ran_out = true;
            greedy.settle(&mut pool);
        }
        assert_eq!((greedy.posted, pool.free()), (64, 0));
        let mut late = BufferRing::new(&mut pool, 64, 16).unwrap();
        assert_eq!(late.posted, LEAST_PER_RING, "a few come from the reserve");
        late.ran_out = true;
        late.settle(&mut pool);
        (0..64).for_each(|id| use_one(&mut greedy, &mut pool, id));
        assert_eq!((greedy.posted, pool.free()), (40, 24));
        late.ran_out = true;
        late.settle(&mut pool);
        assert_eq!(late.posted, 40);
        greedy.shrink();
        greedy.shrink();
        greedy.shrink();
        (0..64).for_each(|id| use_one(&mut greedy, &mut pool, id));
        assert_eq!((greedy.posted, pool.free()), (16, 24));
    }
}
