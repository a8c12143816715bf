//! One io_uring of the generator: its direct descriptors, its receive buffers and its system calls.

use super::buffers::{Buffers, GROUP};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Sizes of one ring.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Direct descriptors, at most the `nofile` limit.
    pub slots: u32,
    /// Submission queue entries.
    pub submissions: u32,
    /// Completion queue entries.
    pub completions: u32,
    /// Receive buffers, a power of two.
    pub buffers: u16,
    /// Bytes of each receive buffer.
    pub buffer_bytes: usize,
}

/// A ring and its receive buffers.
pub struct Ring {
    // Declared before the buffers, so dropped first: the kernel must not write to unmapped memory.
    ring: IoUring,
    /// Where the kernel puts received bytes.
    pub buffers: Buffers,
    /// Whether entries that close descriptors wait to be submitted.
    pub closing: bool,
}

/// An eventfd that wakes the thread in its first ring when another ring has completions. A poll of
/// a ring's own descriptor is not woken by deferred completions; an eventfd is.
pub struct Bell(OwnedFd);

impl Bell {
    /// An eventfd whose counter is zero.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers; nothing else owns the descriptor.
        #[allow(unsafe_code)]
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Sets the counter to zero.
    pub fn reset(&self) {
        let mut count = 0u64;
        // SAFETY: reads eight bytes into a live u64; reading an empty counter fails harmlessly.
        #[allow(unsafe_code)]
        unsafe {
            libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8);
        }
    }
}

impl Ring {
    /// Opens a ring.
    pub fn new(sizes: Sizes) -> Result<Self, String> {
        let ring = IoUring::builder()
            .setup_cqsize(sizes.completions)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .build(sizes.submissions)
            .map_err(|e| {
                format!("io_uring is not usable here (kernel 6.1 or later needed): {e}")
            })?;
        ring.submitter()
            .register_files_sparse(sizes.slots)
            .map_err(|e| format!("{} ring slots are over the nofile limit: {e}", sizes.slots))?;
        let buffers = Buffers::new(&ring, sizes.buffers, sizes.buffer_bytes)
            .map_err(|e| format!("receive buffers could not be registered: {e}"))?;
        Ok(Self { ring, buffers, closing: false })
    }

    /// Puts `socket` into `slot`, which must be empty.
    pub fn adopt(&mut self, slot: u32, socket: &OwnedFd) -> io::Result<()> {
        if self.closing {
            self.enter(0, 0)?;
        }
        self.ring.submitter().register_files_update(slot, &[socket.as_raw_fd()]).map(|_| ())
    }

    /// Queues `entry`. The memory that the entry points at must stay in place until its completion.
    #[inline]
    pub fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the caller's promise; see `Net::push`.
        #[allow(unsafe_code)]
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
        }
    }

    /// Queues cancellations of the requests with `requests` as user data, then the close of the
    /// direct descriptor `slot`. All their completions carry `ignored`.
    pub fn close(&mut self, slot: u32, requests: &[u64], ignored: u64) {
        for &request in requests {
            self.push(&opcode::AsyncCancel::new(request).build().user_data(ignored));
        }
        self.push(&opcode::Close::new(types::Fixed(slot)).build().user_data(ignored));
        self.closing = true;
    }

    /// Queues a multishot receive.
    pub fn receive(&mut self, slot: u32, data: u64) {
        self.buffers.publish();
        self.push(&opcode::RecvMulti::new(types::Fixed(slot), GROUP).build().user_data(data));
    }

    /// From now on a completion of this ring raises the counter of `bell`.
    pub fn ring_with(&mut self, bell: &Bell) -> Result<(), String> {
        let submitter = self.ring.submitter();
        submitter.register_eventfd(bell.0.as_raw_fd()).map_err(|e| format!("eventfd: {e}"))
    }

    /// Queues one poll, whose completion comes when the counter of `bell` is above zero.
    pub fn watch(&mut self, bell: &Bell, data: u64) {
        let fd = types::Fd(bell.0.as_raw_fd());
        self.push(&opcode::PollAdd::new(fd, libc::POLLIN as u32).build().user_data(data));
    }

    /// Whether entries wait to be submitted.
    pub fn has_entries(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether [`Self::enter`] or [`Self::collect`] would find completions.
    pub fn has_news(&mut self) -> bool {
        let waiting = {
            let queue = self.ring.submission();
            queue.taskrun() || queue.cq_overflow()
        };
        waiting || !self.ring.completion().is_empty()
    }

    /// Submits what is queued and waits up to `wait` nanoseconds for `want` completions; 0 does
    /// not wait.
    pub fn enter(&mut self, wait: u64, want: usize) -> io::Result<()> {
        self.closing = false;
        let result = if wait > 0 {
            let time = types::Timespec::new()
                .sec(wait / 1_000_000_000)
                .nsec((wait % 1_000_000_000) as u32);
            let args = types::SubmitArgs::new().timespec(&time);
            self.ring.submitter().submit_with_args(want, &args)
        } else {
            let queued = self.ring.submission().len() as u32;
            // GETEVENTS runs the deferred completions and flushes an overflow.
            // SAFETY: no argument is passed; queued entries own their memory until completed.
            #[allow(unsafe_code)]
            unsafe {
                self.ring.submitter().enter::<libc::sigset_t>(
                    queued,
                    0,
                    EnterFlags::GETEVENTS.bits(),
                    None,
                )
            }
        };
        match result.map_err(|e| (e.raw_os_error(), e)) {
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {
                Ok(())
            }
            Err((_, error)) => Err(error),
        }
    }

    /// Moves all completions to `batch`: user data, result, flags.
    pub fn collect(&mut self, batch: &mut Vec<(u64, i32, u32)>) {
        let completions = self.ring.completion();
        batch.extend(completions.map(|c: cqueue::Entry| (c.user_data(), c.result(), c.flags())));
    }
}
