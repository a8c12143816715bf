//! Ctrl-C and SIGTERM. The first is noticed by every loop, which ends the run in good order and
//! with it the children; the second ends the program and its children at once.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Children to be killed by a second signal, each the leader of its own process group; 0 is a free
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
            // SAFETY: kill and _exit are async-signal-safe; the group is a child's.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
    // SAFETY: ends the process without running anything else of it.
    unsafe { libc::_exit(KILLED) };
}

/// Installs the handlers.
pub fn install() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does what is async-signal-safe; no SA_RESTART, so waits are
        // interrupted.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = request as extern "C" fn(i32) as usize;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Somebody asked us to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// From now on a second signal kills the process group that `child` leads. More children than
/// there are places end by the kernel's parent-death signal alone.
pub fn with(child: i32) {
    let free = |place: &&AtomicI32| {
        place.compare_exchange(0, child, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    let _ = CHILDREN.iter().find(free);
}

/// `child` has been reaped: its number may become another's.
pub fn without(child: i32) {
    for place in &CHILDREN {
        let _ = place.compare_exchange(child, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}
