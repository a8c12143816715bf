//! Judgement of what the kernel allows this process: io_uring, descriptors, locked memory, and open
//! files of the host.

use crate::limits::{GATHERING_KERNEL, MINIMUM_KERNEL, UPGRADE_KERNEL};

use super::facts::{CAP_IPC_LOCK, CAP_SYS_ADMIN, Facts};
use super::finding::{Finding, Fix, Severity};
use super::need::Need;
use super::place::ContainerEngine;
use super::report::{bytes, count, counted};

/// The result of opening a ring in the way the broker does.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum RingTrial {
    /// No ring was opened: the facts are those of another host, or the build is without the
    /// runtime.
    #[default]
    Untried,
    /// The ring has everything that the broker uses.
    Works,
    /// The kernel does not know these operations.
    Missing(Vec<&'static str>),
    /// The kernel refused a call.
    Refused {
        /// The name of the call.
        operation: &'static str,
        /// The kernel's error number.
        errno: i32,
    },
}

/// The locked memory in bytes without which the executor does not start (a constant of glommio).
const MEMLOCK_LEAST: u64 = 512 << 10;
/// The locked memory in bytes per shard for the executor's registered buffers (measured as VmPin).
const MEMLOCK_SHARD: u64 = 34 << 20;
/// With fewer places per ring than this, a million clients need so many rings that it costs
/// noticeably.
const NOFILE_GOOD: u64 = 65_536;

// Error numbers that are the same on every Linux the broker is built for. The libc crate is a
// dependency of the runtime only.
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;
const ENOSYS: i32 = 38;

pub(super) fn kernel(facts: &Facts, _: &Need) -> Finding {
    let (major, minor) = MINIMUM_KERNEL;
    let (gathering, of) = GATHERING_KERNEL;
    let needed = format!("{major}.{minor} or newer; {gathering}.{of} for runtime.coalesce");
    match &facts.kernel {
        None => Finding::new("kernel", Severity::Warning, "version unreadable", needed),
        Some((release, version)) if *version < MINIMUM_KERNEL => {
            Finding::new("kernel", Severity::Blocker, release.clone(), needed).fixed_by(Fix::host(
                "install a kernel of 6.1 or newer (Debian 12, Ubuntu 24.04, RHEL 10, Amazon Linux \
                 2023 with kernel6.1 have one) and reboot",
            ))
        }
        Some((release, _)) => Finding::new("kernel", Severity::Fine, release.clone(), needed),
    }
}

/// Whether the broker could be upgraded in place.
pub(super) fn upgrade(facts: &Facts) -> Finding {
    let (major, minor) = UPGRADE_KERNEL;
    let needed = format!("Linux {major}.{minor} or newer: `ringmq upgrade` drops no connection");
    let finding = |severity, found: String| Finding::new("upgrade", severity, found, needed);
    match &facts.kernel {
        Some((release, version)) if *version < UPGRADE_KERNEL => {
            finding(Severity::Note, format!("refused with kernel {release}"))
        }
        Some(_) => finding(Severity::Fine, "in place".to_owned()),
        None => finding(Severity::Note, "kernel version unreadable".to_owned()),
    }
}

pub(super) fn proc(facts: &Facts, need: &Need) -> Finding {
    let needed = "/proc: without it neither limits nor memory can be seen, here or by the broker";
    if facts.proc {
        return Finding::new("proc", Severity::Fine, "readable", needed);
    }
    // The broker starts without `/proc`, but then nobody can promise that it holds so many clients.
    let severity = if need.clients.is_some() { Severity::Blocker } else { Severity::Warning };
    Finding::new("proc", severity, "unreadable", needed).fixed_by(Fix::host(
        "mount -t proc proc ROOT/proc before the chroot; MountAPIVFS=yes beside RootDirectory= in \
         a systemd unit (container engines mount it)",
    ))
}

pub(super) fn io_uring(facts: &Facts, trial: &RingTrial) -> Finding {
    let blocked = |found: String, needed: &str, fix: Fix| {
        Finding::new("io_uring", Severity::Blocker, found, needed).fixed_by(fix)
    };
    let disabled = facts.sysctl.io_uring_disabled.unwrap_or(0);
    let old = facts.kernel.as_ref().is_some_and(|(_, version)| *version < MINIMUM_KERNEL);
    let forbidden = match trial {
        RingTrial::Works => false,
        RingTrial::Untried => disabled == 2 || disabled == 1 && !facts.capable(CAP_SYS_ADMIN),
        RingTrial::Refused { errno, .. } => disabled > 0 && *errno == EPERM,
        RingTrial::Missing(_) => false,
    };
    if forbidden {
        let group = "or, for the value 1, put the broker's user into the group that \
                     kernel.io_uring_group names";
        return blocked(
            format!("forbidden: kernel.io_uring_disabled is {disabled}"),
            "kernel.io_uring_disabled = 0",
            Fix::host(format!("sysctl -w kernel.io_uring_disabled=0 ({group})")),
        );
    }
    match trial {
        RingTrial::Works => {
            Finding::new("io_uring", Severity::Fine, "works", "every operation is there")
        }
        RingTrial::Untried => {
            Finding::new("io_uring", Severity::Fine, "not forbidden", "not tried here")
        }
        RingTrial::Missing(operations) => blocked(
            format!("this kernel lacks {}", operations.join(", ")),
            "every operation of the broker",
            Fix::host("install a stable kernel of 6.1 or newer and reboot"),
        ),
        RingTrial::Refused { operation, errno } => match *errno {
            EMFILE => blocked(
                format!("{operation}: no descriptor left"),
                "a higher nofile limit",
                nofile_fix(facts),
            ),
            ENOMEM => blocked(
                format!("{operation}: no memory (errno {errno})"),
                "more locked memory, or a larger container",
                memlock_fix(facts),
            ),
            EPERM | EACCES | ENOSYS if !old => {
                let by = match facts.seccomp {
                    Some(2) => "a seccomp filter blocks it",
                    _ if *errno == ENOSYS => "this kernel was built without it",
                    _ => "a security module or sandbox blocks it",
                };
                blocked(
                    format!("{operation} refused (errno {errno}): {by}"),
                    "io_uring_setup, io_uring_enter and io_uring_register allowed",
                    seccomp_fix(facts),
                )
            }
            _ => blocked(
                format!("{operation} failed (errno {errno})"),
                "a stable kernel of 6.1 or newer",
                Fix::host("install a stable kernel of 6.1 or newer and reboot"),
            ),
        },
    }
}

fn seccomp_fix(facts: &Facts) -> Fix {
    let docker = "docker run --security-opt seccomp=tuning/seccomp.json";
    let container = match facts.place.container {
        Some(ContainerEngine::Kubernetes) => {
            "copy tuning/seccomp.json to /var/lib/kubelet/seccomp/ringmq.json on the node and set \
             securityContext.seccompProfile to {type: Localhost, localhostProfile: ringmq.json} \
             (tuning/kubernetes.yaml)"
        }
        Some(ContainerEngine::Ecs) => {
            "a task cannot choose a profile: on the container instance set \"seccomp-profile\" in \
             /etc/docker/daemon.json to tuning/seccomp.json and restart docker; Fargate cannot"
        }
        Some(ContainerEngine::Podman) => "podman run --security-opt seccomp=tuning/seccomp.json",
        _ => docker,
    };
    Fix::either(
        "remove the filter of the service that starts the broker (SystemCallFilter= in a systemd \
         unit; tuning/ringmq.service has a fitting one)",
        container,
    )
}

pub(super) fn nofile(facts: &Facts, need: &Need) -> Finding {
    let Some((soft, hard)) = facts.nofile else {
        return Finding::new("nofile", Severity::Note, "unreadable", "65536 or more");
    };
    let found =
        if soft == hard { limit(hard) } else { format!("{} of {}", limit(soft), limit(hard)) };
    let start = need.files_at_start();
    if hard < start {
        let needed = format!("{start} to start with {}", counted(need.shards, "shard"));
        return Finding::new("nofile", Severity::Blocker, found, needed)
            .fixed_by(nofile_fix(facts));
    }
    let (table, rings) = need.rings(hard);
    let most = need.clients_in_rings(hard);
    if let Some(clients) = need.clients.filter(|clients| *clients > most) {
        let needed = format!("{} clients, but {rings} rings of {table} sockets", count(clients));
        return Finding::new("nofile", Severity::Blocker, found, needed)
            .fixed_by(nofile_fix(facts));
    }
    if hard < NOFILE_GOOD {
        let wanted = need.clients.unwrap_or(1_000_000);
        let opened = wanted.div_ceil(table.max(1)).max(need.shards);
        let needed = format!(
            "{NOFILE_GOOD} or more; rings hold {table} sockets, so {} clients take {opened} rings",
            count(wanted)
        );
        // When few clients are asked for, one ring per shard holds them all.
        let severity = if opened > need.shards { Severity::Warning } else { Severity::Note };
        return Finding::new("nofile", severity, found, needed).fixed_by(nofile_fix(facts));
    }
    Finding::new("nofile", Severity::Fine, found, "65536 or more (sockets per ring)")
}

fn nofile_fix(facts: &Facts) -> Fix {
    let container = match facts.place.container {
        Some(ContainerEngine::Kubernetes) => {
            "pods inherit the runtime's limit: LimitNOFILE=1048576 in a drop-in of \
             containerd.service (or crio.service) on the node"
        }
        Some(ContainerEngine::Ecs) => {
            "ulimits nofile in the task definition (tuning/ecs-task.json)"
        }
        Some(ContainerEngine::Podman) => "podman run --ulimit nofile=1048576:1048576",
        _ => "docker run --ulimit nofile=1048576:1048576",
    };
    Fix::either(
        "LimitNOFILE=1048576 in the unit (tuning/ringmq.service); for shells \
         tuning/limits.conf as /etc/security/limits.d/90-ringmq.conf",
        container,
    )
}

pub(super) fn nr_open(facts: &Facts, _: &Need) -> Finding {
    let Some(found) = facts.sysctl.nr_open else {
        return Finding::new("nr_open", Severity::Note, "unreadable", "65536 or more");
    };
    let needed = "65536 or more: nofile cannot be higher than this";
    if found >= NOFILE_GOOD {
        return Finding::new("nr_open", Severity::Fine, found.to_string(), needed);
    }
    Finding::new("nr_open", Severity::Note, found.to_string(), needed)
        .fixed_by(Fix::host("sysctl -w fs.nr_open=1048576 (lasting: a file in /etc/sysctl.d)"))
}

pub(super) fn file_max(facts: &Facts, need: &Need) -> Finding {
    let Some((max, open)) = facts.sysctl.file_max.zip(facts.files_open) else {
        return Finding::new("file-max", Severity::Note, "unreadable", "one per client");
    };
    let found = format!("{open} of {}", limit(max));
    let left = max.saturating_sub(open);
    let target = need.clients.map_or(4_000_000, |clients| open.saturating_add(clients) / 4 * 5);
    let fix = Fix::host(format!("sysctl -w fs.file-max={target} (lasting: tuning/sysctl.conf)"));
    match need.clients {
        Some(clients) if clients > left => {
            let needed = format!("{} more open files: one per socket", count(clients));
            // The kernel does not apply this limit to a privileged process.
            let severity = match facts.capable(CAP_SYS_ADMIN) {
                true => Severity::Warning,
                false => Severity::Blocker,
            };
            Finding::new("file-max", severity, found, needed).fixed_by(fix)
        }
        _ => {
            Finding::new("file-max", Severity::Fine, found, "one open file of the host per socket")
        }
    }
}

pub(super) fn memlock(facts: &Facts, need: &Need) -> Finding {
    let Some((soft, _)) = facts.memlock else {
        return Finding::new("memlock", Severity::Note, "unreadable", "512 KiB or more");
    };
    let found = if soft == u64::MAX { "unlimited".to_owned() } else { bytes(soft) };
    let comfortable = need.shards * MEMLOCK_SHARD;
    if soft < MEMLOCK_LEAST {
        let needed = format!("{}, or no shard starts", bytes(MEMLOCK_LEAST));
        Finding::new("memlock", Severity::Blocker, found, needed).fixed_by(memlock_fix(facts))
    } else if soft < comfortable && !facts.capable(CAP_IPC_LOCK) {
        let needed = format!(
            "{} for the registered buffers of {}; with less the executor says so \
             at start and goes on without",
            bytes(comfortable),
            counted(need.shards, "shard")
        );
        Finding::new("memlock", Severity::Note, found, needed).fixed_by(memlock_fix(facts))
    } else {
        Finding::new("memlock", Severity::Fine, found, "512 KiB or more")
    }
}

fn memlock_fix(facts: &Facts) -> Fix {
    let container = match facts.place.container {
        Some(ContainerEngine::Kubernetes) => {
            "pods inherit the runtime's limit: LimitMEMLOCK=infinity in a drop-in of \
             containerd.service (or crio.service) on the node"
        }
        Some(ContainerEngine::Ecs) => {
            "ulimits memlock in the task definition (tuning/ecs-task.json)"
        }
        Some(ContainerEngine::Podman) => "podman run --ulimit memlock=-1:-1",
        _ => "docker run --ulimit memlock=-1:-1",
    };
    Fix::either(
        "LimitMEMLOCK=infinity in the unit (tuning/ringmq.service); for shells \
         tuning/limits.conf as /etc/security/limits.d/90-ringmq.conf",
        container,
    )
}

fn limit(value: u64) -> String {
    // fs.file-max is the largest signed number where the limit was lifted at boot.
    if value >= i64::MAX as u64 { "unlimited".to_owned() } else { value.to_string() }
}
