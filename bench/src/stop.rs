//! Ctrl-C and SIGTERM: noticed by every loop, so that children are ended before we leave.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn request(_signal: i32) {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Installs the handlers. A second signal finds the same flag; loops look at it often.
pub fn install() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic; no SA_RESTART, so waits are interrupted.
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
