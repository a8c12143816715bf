//! Explains why a ring could not be opened and what to change, and checks at start that the kernel
//! has all that is needed.
use crate::limits::MINIMUM_KERNEL;
use io_uring::{IoUring, Probe, opcode};
use std::fmt;
use std::io;

/// The machine does not allow this process to open a ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingFailure {
    /// Which operation failed or is missing.
    pub operation: &'static str,
    /// The kernel's error number, or 0 when this kernel does not know the operation at all.
    pub errno: i32,
    /// What to change, in one or two sentences.
    pub advice: String,
}

impl fmt::Display for RingFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring: {} failed", self.operation)?;
        if self.errno != 0 {
            write!(f, " ({})", io::Error::from_raw_os_error(self.errno))?;
        }
        write!(f, ". {}", self.advice)
    }
}

impl std::error::Error for RingFailure {}

impl RingFailure {
    pub(super) fn new(operation: &'static str, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
        let advice = advise(errno, disabled.as_deref().map(str::trim), kernel_version());
        RingFailure { operation, errno, advice }
    }
}

/// The advice for an error number. `disabled` is the value of the sysctl `kernel.io_uring_disabled`
/// (`None` where there is no such sysctl), and `kernel` is the kernel's version.
fn advise(errno: i32, disabled: Option<&str>, kernel: Option<(u32, u32)>) -> String {
    const SECCOMP: &str = "A seccomp filter blocks it: Docker since version 25 and containerd 2 \
        do so by default. Run the container with the profile in tuning/ \
        (--security-opt seccomp=..., or seccompProfile in Kubernetes).";
    if let Some((major, minor)) = kernel.filter(|version| *version < MINIMUM_KERNEL) {
        return format!(
            "This kernel is {major}.{minor}; {}.{} is the oldest supported. Run a newer kernel.",
            MINIMUM_KERNEL.0, MINIMUM_KERNEL.1
        );
    }
    match (errno, disabled) {
        (libc::EPERM, Some(level @ ("1" | "2"))) => format!(
            "The host forbids io_uring: kernel.io_uring_disabled is {level}. Set it with \
             'sysctl kernel.io_uring_disabled=0', or put this process into the group named by \
             kernel.io_uring_group when the value is 1."
        ),
        (libc::EPERM | libc::EACCES, _) => SECCOMP.into(),
        (libc::ENOSYS, None) => {
            format!("This kernel was built without io_uring, or: {SECCOMP}")
        }
        (libc::ENOSYS, Some(_)) => SECCOMP.into(),
        (libc::ENOMEM, _) => "The kernel refused the memory: raise the locked-memory limit \
            (ulimit -l, LimitMEMLOCK) or the container's memory limit."
            .into(),
        (libc::EMFILE | libc::ENFILE, _) => "The descriptor limit is reached: raise nofile \
            (ulimit -n, LimitNOFILE)."
            .into(),
        _ => "The kernel's io_uring lacks something this broker needs; a stable kernel of 6.1 or \
            newer has it."
            .into(),
    }
}

fn kernel_version() -> Option<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The operations that the driver uses, each with the name that its failure is reported with.
const NEEDED: [(&str, u8); 10] = [
    ("ACCEPT", opcode::Accept::CODE),
    ("RECV", opcode::Recv::CODE),
    ("SEND", opcode::Send::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel2::CODE),
    ("SHUTDOWN", opcode::Shutdown::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("MSG_RING", opcode::MsgRingSendFd::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
];

/// Each operation that the driver needs, and whether this kernel has it. Opens a ring to find out.
///
/// # Errors
/// When no ring can be opened, or the ring cannot be asked.
pub fn operations() -> Result<Vec<(&'static str, bool)>, RingFailure> {
    let ring = IoUring::new(2).map_err(|error| RingFailure::new("io_uring_setup", &error))?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| RingFailure::new("REGISTER_PROBE", &error))?;
    Ok(NEEDED.iter().map(|(name, code)| (*name, probe.is_supported(*code))).collect())
}

/// Whether sockets can leave for another process, which needs [`crate::limits::UPGRADE_KERNEL`].
/// Opens a ring to find out.
///
/// # Errors
/// As [`operations`].
pub fn can_export() -> Result<bool, RingFailure> {
    let ring = IoUring::new(2).map_err(|error| RingFailure::new("io_uring_setup", &error))?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| RingFailure::new("REGISTER_PROBE", &error))?;
    Ok(probe.is_supported(opcode::FixedFdInstall::CODE))
}

impl RingFailure {
    /// The failure for `runtime.coalesce` on a kernel without the minimum wait of Linux 6.12.
    pub(super) fn without_minimum_wait() -> RingFailure {
        RingFailure {
            operation: "io_uring_enter with a minimum wait",
            errno: 0,
            advice:
                "runtime.coalesce needs Linux 6.12 or newer: set it to auto or off, or upgrade."
                    .into(),
        }
    }
}

/// Checks that the kernel supports each needed operation. The error names the first one missing.
pub(super) fn probe(ring: &IoUring) -> Result<(), RingFailure> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| RingFailure::new("REGISTER_PROBE", &error))?;
    match NEEDED.iter().find(|(_, code)| !probe.is_supported(*code)) {
        None => Ok(()),
        Some((operation, _)) => {
            Err(RingFailure { operation, errno: 0, advice: advise(0, None, kernel_version()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_refusal_names_its_fix() {
        let kernel = Some((6, 8));
        let cases = [
            (libc::EPERM, Some("2"), kernel, "kernel.io_uring_disabled is 2"),
            (libc::EPERM, Some("1"), kernel, "kernel.io_uring_group"),
            (libc::EPERM, Some("0"), kernel, "seccomp"),
            (libc::EPERM, None, kernel, "seccomp"),
            (libc::ENOSYS, None, kernel, "built without io_uring"),
            (libc::ENOSYS, Some("0"), kernel, "tuning/"),
            (libc::ENOMEM, None, kernel, "LimitMEMLOCK"),
            (libc::EMFILE, None, kernel, "nofile"),
            (libc::EINVAL, None, Some((5, 15)), "This kernel is 5.15"),
            (libc::EINVAL, None, kernel, "6.1"),
        ];
        for (errno, disabled, kernel, expected) in cases {
            let advice = advise(errno, disabled, kernel);
            assert!(advice.contains(expected), "{errno} {disabled:?}: {advice}");
        }
    }

    #[test]
    fn the_running_kernel_has_a_version() {
        assert!(kernel_version().is_some_and(|version| version >= (3, 0)));
    }
}
