//! The monotonic clock, in nanoseconds: one clock for stamps, pacing and intervals, shared by all
//! processes of one host.

use std::mem::MaybeUninit;

/// One second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// One millisecond in nanoseconds.
pub const MILLISECOND: u64 = 1_000_000;

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline]
pub fn now() -> u64 {
    read(libc::CLOCK_MONOTONIC).unwrap_or(0)
}

/// Nanoseconds by which `CLOCK_REALTIME` is ahead of [`now`]. The kernel stamps packets in real
/// time; this difference converts its stamps.
pub fn wall_ahead() -> u64 {
    let wall = read(libc::CLOCK_REALTIME).unwrap_or(0);
    wall.saturating_sub(now())
}

/// CPU time of this process so far, in nanoseconds.
pub fn own_cpu() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of this thread so far, in nanoseconds.
pub fn cpu_of_thread() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
}

/// CPU time of all threads that process `pid` has or had, in nanoseconds; `None` when it has ended.
///
/// The value is the scheduler's own sum, not the 10 ms ticks of `/proc/PID/stat`.
pub fn cpu_of(pid: i32) -> Option<u64> {
    let mut id: libc::clockid_t = 0;
    // SAFETY: the call writes one clockid_t through a valid pointer.
    #[allow(unsafe_code)]
    let error = unsafe { libc::clock_getcpuclockid(pid, &mut id) };
    if error != 0 {
        return None;
    }
    read(id)
}

#[inline]
fn read(id: libc::clockid_t) -> Option<u64> {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the kernel has filled `time` when it returns 0.
    #[allow(unsafe_code)]
    let time = unsafe {
        if libc::clock_gettime(id, time.as_mut_ptr()) != 0 {
            return None;
        }
        time.assume_init()
    };
    Some(time.tv_sec as u64 * SECOND + time.tv_nsec as u64)
}

/// Seconds as nanoseconds, saturating; negative and NaN give 0.
pub fn nanos(seconds: f64) -> u64 {
    (seconds * SECOND as f64) as u64
}
