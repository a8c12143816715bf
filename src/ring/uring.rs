//! One io_uring: queues operations without ever losing one, enters the kernel, reads completions in
//! batches, and keeps account of the room in the direct descriptor table.
#![allow(clippy::disallowed_types, reason = "the kernel writes the flags of the ring")]
#![allow(unsafe_code)]
use super::buffers::{BufferPool, BufferRing};
use super::event::SocketRingConfig;
use super::failure::{self, RingFailure};
use super::gathering::Coalesce;
use io_uring::{EnterFlags, IoUring, cqueue, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// While events gather, this many of them wake the core before the gathering time is over.
const GATHERED: u32 = 32;
/// The number of completions that are copied out at a time.
pub(super) const BATCH: usize = 64;
/// The buffer group id, the same in every ring.
pub(super) const GROUP: u16 = 0;
/// How many ring descriptors the kernel lets one thread register.
const REGISTERED_RINGS: usize = 16;
/// The number of threads that the kernel may start for shutdown(2), the one operation that it does
/// not execute inline.
const KERNEL_WORKERS: u32 = 2;

pub(super) struct Ring {
    io: IoUring,
    status: RingFlags,
    /// Operations that found the submission queue full at a time when the kernel accepted none.
    backlog: VecDeque<squeue::Entry>,
    /// The ring's descriptor, or its registered index.
    enter_fd: i32,
    enter_flags: u32,
    pub(super) buffers: BufferRing,
    /// The length of the descriptor table, and how many of its entries are in use or reserved.
    pub(super) capacity: u32,
    pub(super) used: u32,
    /// Sockets of this ring whose last completion is still to come.
    pub(super) sockets: u32,
    pub(super) accepts: u32,
    pub(super) promised: u32,
    /// Completions that the last harvest found and that have not been taken yet.
    harvested: usize,
    pub(super) enters: u64,
    pub(super) overflows: u64,
    /// The kernel has lost completions; see `lost`.
    pub(super) lost: bool,
    /// The number of enters that failed for a reason that does not go away by itself.
    refusals: u64,
}

impl Ring {
    /// Opens ring number `number` of a core. Completions write the eventfd `signal` while that is
    /// enabled.
    pub(super) fn open(
        config: &SocketRingConfig,
        number: usize,
        pool: &mut BufferPool,
        signal: RawFd,
    ) -> Result<Ring, RingFailure> {
        let io: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(config.completions.max(config.submissions))
            .build(config.submissions)
            .map_err(|error| RingFailure::new("io_uring_setup", &error))?;
        if number == 0 {
            failure::probe(&io)?;
            let gathers = matches!(config.coalesce, Coalesce::For(wait) if !wait.is_zero());
            if gathers && !io.params().is_feature_min_timeout() {
                return Err(RingFailure::without_minimum_wait());
            }
        }
        let capacity = config.sockets_per_ring.min(descriptor_limit()).max(1);
        let submitter = io.submitter();
        submitter
            .register_files_sparse(capacity)
            .map_err(|error| RingFailure::new("REGISTER_FILES2 (sparse)", &error))?;
        submitter
            .register_eventfd(signal)
            .map_err(|error| RingFailure::new("REGISTER_EVENTFD", &error))?;
        // Without this limit a burst of orderly closes would start many threads. The broker works
        // without it too.
        let _ = submitter.register_iowq_max_workers(&mut [KERNEL_WORKERS, KERNEL_WORKERS]);
        // Further rings start with fewer buffers, since there may be dozens of them and they share
        // one pool.
        let posted = if number == 0 { config.buffers_posted } else { config.buffers_posted / 4 };
        let buffers = BufferRing::new(pool, config.buffer_count, posted.max(1))
            .map_err(|error| RingFailure::new("mmap of receive buffers", &error))?;
        // SAFETY: the memory is page aligned, as long as its capacity says, and is dropped after
        // the io_uring (field order).
        unsafe {
            submitter.register_buf_ring_with_flags(buffers.start(), buffers.capacity(), GROUP, 0)
        }
        .map_err(|error| RingFailure::new("REGISTER_PBUF_RING", &error))?;
        let status =
            RingFlags::of(&io).map_err(|error| RingFailure::new("mmap of the ring", &error))?;
        let quiet_wait = io.params().is_feature_no_iowait();
        let mut ring = Ring {
            enter_fd: io.as_raw_fd(),
            enter_flags: if quiet_wait { EnterFlags::NO_IOWAIT.bits() } else { 0 },
            io,
            status,
            backlog: VecDeque::new(),
            buffers,
            capacity,
            used: 0,
            sockets: 0,
            accepts: 0,
            promised: 0,
            harvested: 0,
            enters: 0,
            overflows: 0,
            lost: false,
            refusals: 0,
        };
        ring.signal(false);
        if number < REGISTERED_RINGS {
            ring.register_itself();
        }
        Ok(ring)
    }

    /// Registers the ring's descriptor with the kernel, which saves a look-up in each enter. It is
    /// only an optimisation, so a refusal does not matter.
    fn register_itself(&mut self) {
        let mut update = RingFd { offset: u32::MAX, reserved: 0, data: self.io.as_raw_fd() as u64 };
        if update.apply(self.fd(), RingFd::REGISTER) {
            self.enter_fd = update.offset as i32;
            self.enter_flags |= EnterFlags::REGISTERED_RING.bits();
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.io.as_raw_fd()
    }

    /// Whether the kernel lets events gather.
    pub(super) fn can_gather(&self) -> bool {
        self.io.params().is_feature_min_timeout()
    }

    /// Table entries that may still be used for accepts or promised to other shards.
    pub(super) fn room(&self) -> u32 {
        self.capacity - self.used - self.accepts - self.promised
    }

    /// Queues an operation. Enters the kernel only when the submission queue is full.
    pub(super) fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        self.backlog.push_back(entry);
        if let Err(error) = self.enter(0, None) {
            self.note(&error);
        }
    }

    /// Notes a failed enter. Operations that the kernel refused stay queued and are tried again.
    /// Errors that are not known to be temporary are logged from time to time.
    fn note(&mut self, error: &io::Error) {
        if is_temporary(error) {
            return;
        }
        debug_assert!(false, "{error}");
        self.refusals += 1;
        if self.refusals.is_power_of_two() {
            tracing::error!(%error, times = self.refusals, "io_uring_enter failed");
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: whatever an entry points to lives in records that the driver keeps until the
        // completion; see the callers.
        unsafe { self.io.submission().push(entry).is_ok() }
    }

    fn drain_backlog(&mut self) {
        while let Some(entry) = self.backlog.front().cloned() {
            if !self.try_push(&entry) {
                break;
            }
            self.backlog.pop_front();
        }
    }

    /// True when a pass would find something without waiting.
    #[inline]
    pub(super) fn ready(&mut self) -> bool {
        self.lost || self.status.kernel_has_more() || !self.io.completion().is_empty()
    }

    /// True when operations wait to be submitted.
    pub(super) fn has_queued(&mut self) -> bool {
        !self.io.submission().is_empty() || !self.backlog.is_empty()
    }

    /// Enters the kernel if there is anything to submit, to run or to flush.
    #[inline]
    pub(super) fn turn(&mut self) {
        if self.status.kernel_has_more() || self.has_queued() {
            self.overflows += u64::from(self.status.overflowed());
            if let Err(error) = self.enter(0, None) {
                self.note(&error);
            }
        }
    }

    /// Submits everything, runs the kernel's deferred work, and waits for `want` completions for at
    /// most `limit`. A time-out is not an error.
    pub(super) fn enter(&mut self, want: u32, limit: Option<Duration>) -> io::Result<()> {
        loop {
            self.drain_backlog();
            let before = self.backlog.len();
            self.enter_once(if before == 0 { want } else { 0 }, limit, Duration::ZERO)?;
            self.drain_backlog();
            if before == 0 {
                return Ok(());
            }
            if self.backlog.len() == before {
                return Ok(()); // The kernel takes none now; the next pass tries again.
            }
        }
    }

    /// Waits like [`Self::enter`] for one event, but lets further events gather for `gather` after
    /// it.
    pub(super) fn enter_gathering(&mut self, limit: Duration, gather: Duration) -> io::Result<()> {
        self.drain_backlog();
        let want = if self.backlog.is_empty() { GATHERED } else { 0 };
        self.enter_once(want, Some(limit), gather)?;
        self.drain_backlog();
        Ok(())
    }

    fn enter_once(
        &mut self,
        want: u32,
        limit: Option<Duration>,
        gather: Duration,
    ) -> io::Result<()> {
        let queued = self.io.submission().len() as u32;
        let limit = limit.map(types::Timespec::from);
        let mut arguments = types::SubmitArgs::new();
        if let Some(limit) = &limit {
            arguments = arguments.timespec(limit);
        }
        if !gather.is_zero() {
            arguments = arguments.min_wait_usec(gather.as_micros() as u32);
        }
        let flags = EnterFlags::GETEVENTS.bits() | EnterFlags::EXT_ARG.bits() | self.enter_flags;
        self.enters += 1;
        self.status.clear_hint();
        // SAFETY: `arguments` and the timespec it points to outlive the call; entries in the queue
        // were checked by `push`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                queued,
                want,
                flags,
                &arguments as *const types::SubmitArgs<'_, '_>,
                size_of::<types::SubmitArgs<'_, '_>>(),
            )
        };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => Ok(()),
            // The kernel reports each loss once. The next pass handles it.
            Some(libc::EBADR) => {
                self.lost = true;
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Notes how many completions are available now. Only these can be taken until the next
    /// harvest.
    #[inline]
    pub(super) fn harvest(&mut self) -> usize {
        self.harvested = self.io.completion().len();
        self.harvested
    }

    /// Copies up to `limit` of the harvested completions out of the queue and frees their entries.
    /// The bound matters because an operation that finds the submission queue full enters the
    /// kernel, which then posts more completions.
    pub(super) fn take<'a>(
        &mut self,
        batch: &'a mut [MaybeUninit<cqueue::Entry>; BATCH],
        limit: usize,
    ) -> &'a [cqueue::Entry] {
        let length = limit.min(BATCH).min(self.harvested);
        let taken = self.io.completion().fill(&mut batch[..length]);
        self.harvested -= taken.len();
        taken
    }

    /// Switches whether completions write the eventfd, which is on only while the core is about to
    /// sleep.
    pub(super) fn signal(&mut self, on: bool) {
        let completion = self.io.completion();
        if on { completion.enable_eventfd() } else { completion.disable_eventfd() }
    }

    /// Closes everything that is in the descriptor table.
    pub(super) fn close_table(&mut self) -> io::Result<()> {
        const NONE: [RawFd; 1024] = [-1; 1024];
        let mut from = 0;
        while from < self.capacity {
            let count = (self.capacity - from).min(NONE.len() as u32);
            self.io.submitter().register_files_update(from, &NONE[..count as usize])?;
            from += count;
        }
        Ok(())
    }

    /// Registers a new buffer ring and returns the buffers of the old one to the pool, including
    /// those of completions that were lost. No operation may be in flight that could use one.
    pub(super) fn renew_buffers(
        &mut self,
        config: &SocketRingConfig,
        pool: &mut BufferPool,
    ) -> io::Result<()> {
        let posted = (config.buffers_posted / 4).max(1);
        let mut new = BufferRing::new(pool, config.buffer_count, posted)?;
        let submitter = self.io.submitter();
        if let Err(error) = submitter.unregister_buf_ring(GROUP) {
            new.dissolve(pool); // the kernel goes on with the old ones
            return Err(error);
        }
        std::mem::replace(&mut self.buffers, new).dissolve(pool);
        let (start, capacity) = (self.buffers.start(), self.buffers.capacity());
        // SAFETY: as in `open`: the memory is page aligned, as long as its capacity says, and lives
        // as long as the io_uring.
        unsafe { submitter.register_buf_ring_with_flags(start, capacity, GROUP, 0) }
    }

    /// Cancels all operations and waits for them to end. False when the kernel may still use our
    /// memory.
    pub(super) fn cancel_everything(&mut self) -> bool {
        let _ = self.enter(0, None);
        let limit = types::Timespec::from(Duration::from_secs(1));
        let cancelled =
            self.io.submitter().register_sync_cancel(Some(limit), types::CancelBuilder::any());
        match cancelled {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The registration with this thread keeps the ring open, and with it every socket in its
        // table.
        if self.enter_flags & EnterFlags::REGISTERED_RING.bits() != 0 {
            RingFd { offset: self.enter_fd as u32, reserved: 0, data: 0 }
                .apply(self.fd(), RingFd::UNREGISTER);
        }
    }
}

/// The flags word in the submission ring, which the kernel shares with us. It is mapped a second
/// time here, because one of the flags has to be cleared by us.
struct RingFlags {
    page: NonNull<u8>,
    length: usize,
    /// The offset of the flags word in bytes.
    offset: usize,
}

impl RingFlags {
    const OVERFLOW: u32 = 1 << 1;
    const TASKRUN: u32 = 1 << 2;

    fn of(io: &IoUring) -> io::Result<RingFlags> {
        // io_uring_params: ten words, then the offsets into the ring, the fifth of them for flags.
        const FLAGS_OFFSET: usize = 14;
        let parameters: *const u32 = (&raw const *io.params()).cast();
        // SAFETY: Parameters is documented to be a transparent io_uring_params, 120 bytes long,
        // which is kernel ABI.
        let offset = unsafe { parameters.add(FLAGS_OFFSET).read() } as usize;
        let length = offset + size_of::<u32>();
        // SAFETY: a shared mapping of the ring's head at an address of the kernel's choice.
        let page = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let null = std::ptr::null_mut();
            libc::mmap(null, length, protection, libc::MAP_SHARED, io.as_raw_fd(), 0)
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(RingFlags { page, length, offset })
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: inside the mapping, which lives as long as self, and aligned, since the kernel
        // uses it as an atomic, as does everybody here.
        unsafe { self.page.add(self.offset).cast().as_ref() }
    }

    /// True when the kernel has deferred work to run or completions to flush, and has to be
    /// entered.
    #[inline]
    fn kernel_has_more(&self) -> bool {
        self.flags().load(Ordering::Acquire) & (Self::OVERFLOW | Self::TASKRUN) != 0
    }

    fn overflowed(&self) -> bool {
        self.flags().load(Ordering::Relaxed) & Self::OVERFLOW != 0
    }

    /// Clears the TASKRUN flag; called before entering. The kernel first queues deferred work and
    /// then sets the flag. If we are in the kernel between these two, the work is done but the flag
    /// is set afterwards. It then stays set, because the kernel clears it only when it runs
    /// something, and the core would never sleep again. Clearing it before the enter costs at most
    /// one unneeded enter and misses no work: what was queued before is run by this enter, and what
    /// is queued later sets the flag again.
    #[inline]
    fn clear_hint(&self) {
        if self.flags().load(Ordering::Relaxed) & Self::TASKRUN != 0 {
            self.flags().fetch_and(!Self::TASKRUN, Ordering::AcqRel);
        }
    }
}

impl Drop for RingFlags {
    fn drop(&mut self) {
        // SAFETY: mapped in `of`, unmapped once.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.length) };
    }
}

/// The kernel's struct io_uring_rsrc_update, as it is used for the registered rings of a thread.
#[repr(C)]
struct RingFd {
    offset: u32,
    reserved: u32,
    data: u64,
}

impl RingFd {
    const REGISTER: libc::c_uint = 20;
    const UNREGISTER: libc::c_uint = 21;

    fn apply(&mut self, ring: RawFd, operation: libc::c_uint) -> bool {
        let update: *mut RingFd = self;
        // SAFETY: one io_uring_rsrc_update, read and written by the kernel during the call.
        let done =
            unsafe { libc::syscall(libc::SYS_io_uring_register, ring, operation, update, 1) };
        done == 1
    }
}

/// True when the kernel will accept the operation later, because it lacks memory now or has
/// completions to flush.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM))
}

/// The soft limit on descriptors, which also bounds a direct descriptor table.
fn descriptor_limit() -> u32 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => u32::try_from(limit.rlim_cur).unwrap_or(u32::MAX),
        _ => 1024,
    }
}
