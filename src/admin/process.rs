//! What the kernel reports about this process, read whenever a page is made.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::telemetry::prometheus::Process;

/// Memory, CPU time and descriptors. What cannot be read is left out: `/proc` may be hidden.
pub(super) fn measure() -> Process {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Process {
        resident_bytes: kibibytes(&status, "VmRSS:"),
        virtual_bytes: kibibytes(&status, "VmSize:"),
        cpu: cpu(),
        // One of the entries is the directory that is being read.
        open_fds: std::fs::read_dir("/proc/self/fd")
            .ok()
            .map(|fds| (fds.count() as u64).saturating_sub(1)),
        max_fds: max_fds(),
        ..Process::default()
    }
}

fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let number = line.trim().strip_suffix(" kB")?;
    Some(number.trim().parse::<u64>().ok()? << 10)
}

fn cpu() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Some(Duration::from_micros(u64::try_from(micros).ok()?))
}

fn max_fds() -> Option<u64> {
    let (soft, _) = rlimit::getrlimit(rlimit::Resource::NOFILE).ok()?;
    (soft != rlimit::INFINITY).then_some(soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_time_and_descriptors() {
        let process = measure();
        let (resident, total) = (process.resident_bytes.unwrap(), process.virtual_bytes.unwrap());
        assert!((100_000..total).contains(&resident), "{resident} of {total} bytes");
        assert!(process.cpu.unwrap() < Duration::from_secs(86_400));
        assert!(process.open_fds.unwrap() >= 3);
        assert!(process.max_fds.is_none_or(|most| most >= process.open_fds.unwrap()));
    }

    #[test]
    fn sizes_are_told_in_kibibytes_and_may_be_missing() {
        let status = "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t     4 kB\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(4096));
        assert_eq!(kibibytes(status, "VmSize:"), Some(2 << 20));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        assert_eq!(kibibytes("VmRSS: many kB", "VmRSS:"), None);
    }
}
