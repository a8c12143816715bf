//! Ctrl-C and SIGTERM. Every loop notices the first signal and ends the run and its children in
//! good order; a second signal ends the program and its children at once.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Children that a second signal kills, each the leader of its own process group; 0 is a free
/// place.
static CHILDREN: [AtomicI32; 64] = [const { AtomicI32::new(0) }; 64];

/// Exit code after a second signal: what shells report for an end by SIGINT.
const KILLED: i32 = 130;

extern "C" fn request(_signal: i32) {
    if !REQUESTED.swap(true, Ordering::Relaxed) {
        return;
    }
    for child in &CHILDREN {
        let group = child.load(Ordering::Relaxed);
        if group > 0 {
            // SAFETY: kill is async-signal-safe, and the process group is that of a child.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
    // SAFETY: _exit is async-signal-safe and runs no other code of this process.
    unsafe { libc::_exit(KILLED) };
}

/// Installs the handlers.
pub fn install() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler calls async-signal-safe functions only. Without SA_RESTART a signal
        // interrupts system calls that wait.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = request as extern "C" fn(i32) as usize;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Whether a signal has asked this program to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// From now on a second signal kills the process group that `child` leads. When no place is free,
/// only the kernel's parent-death signal ends the child.
pub fn with(child: i32) {
    let free = |place: &&AtomicI32| {
        place.compare_exchange(0, child, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    let _ = CHILDREN.iter().find(free);
}

/// Removes `child`, which has been reaped: its process identifier may become another process's.
pub fn without(child: i32) {
    for place in &CHILDREN {
        let _ = place.compare_exchange(child, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}
