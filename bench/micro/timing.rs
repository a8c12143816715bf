//! How the measurements read time and memory.

use std::time::{Duration, Instant};

/// Prints the time per call of `call` in nanoseconds, and what the calls returned on average. The
/// time is that of the best of many passes over the inputs, as other work disturbs the machine.
pub fn nanoseconds<T>(what: &str, inputs: &[T], mut call: impl FnMut(&T) -> usize) {
    let passes = (8_000_000 / inputs.len()).max(5);
    let mut best = f64::MAX;
    let mut found = 0;
    for _ in 0..passes {
        let started = Instant::now();
        found = inputs.iter().map(&mut call).sum::<usize>();
        best = best.min(started.elapsed().as_nanos() as f64 / inputs.len() as f64);
    }
    println!("  {what}: {best:.1} ns, {:.2} found", found as f64 / inputs.len() as f64);
}

/// Resident bytes of this process, without shared pages.
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    let fields: Vec<usize> = statm.split(' ').filter_map(|field| field.parse().ok()).collect();
    (fields[1] - fields[2]) * 4096
}

/// Makes the allocator return unused memory, so that [`resident_bytes`] does not count it.
#[allow(unsafe_code)]
pub fn give_back() {
    // SAFETY: the call takes no pointer; it works on the calling thread's heap and on abandoned
    // memory.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// CPU time of this thread.
#[allow(unsafe_code)]
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec that lives on this stack.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
