//! Judgement of hosts that do not exist: small trees of `/proc` and `/sys`, each with one flaw.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::config::Sources;

/// A host whose files are below a temporary directory, which is removed with the value.
struct Host(PathBuf);

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const GIB: u64 = 1 << 30;

impl Host {
    /// A well-tuned dedicated host: 4 CPUs, 64 GiB, everything raised.
    fn good() -> Host {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringmq-doctor-{}-{number}", std::process::id());
        let host = Host(std::env::temp_dir().join(name));
        host.limits("1048576", "unlimited");
        for (path, text) in [
            ("proc/sys/kernel/osrelease", "6.12.9-amd64\n"),
            ("proc/sys/kernel/io_uring_disabled", "0\n"),
            ("proc/sys/net/core/somaxconn", "65535\n"),
            ("proc/sys/net/core/rmem_max", "212992\n"),
            ("proc/sys/net/core/wmem_max", "212992\n"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "65535\n"),
            ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
            ("proc/sys/net/ipv4/tcp_mem", "4000000\t5000000\t6000000\n"),
            ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t1048576\n"),
            ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t1048576\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/fs/nr_open", "1048576\n"),
            ("proc/sys/fs/file-max", "9223372036854775807\n"),
            ("proc/sys/fs/file-nr", "2112\t0\t9223372036854775807\n"),
            ("proc/sys/vm/swappiness", "60\n"),
            (
                "proc/meminfo",
                "MemTotal:       67108864 kB\nMemFree:  1 kB\nMemAvailable:   62914560 kB\n\
                 SwapTotal:             0 kB\nSwapFree:              0 kB\n",
            ),
            (
                "proc/self/status",
                "Name:\tringmq\nCapEff:\t0000000000000000\nSeccomp:\t0\n\
                 Cpus_allowed_list:\t0-3\n",
            ),
            ("proc/self/cgroup", "0::/system.slice/ringmq.service\n"),
            (
                "proc/self/mountinfo",
                "26 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
            ),
            ("proc/net/sockstat", "sockets: used 448\nTCP: inuse 377 orphan 0\n"),
            ("sys/fs/cgroup/system.slice/ringmq.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/ringmq.service/cgroup.controllers", "cpu memory\n"),
            ("sys/devices/system/node/has_cpu", "0\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ] {
            host.put(path, text);
        }
        host.interface("eth0", 2, 2);
        host
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn replace(&self, path: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.0.join(path)).unwrap();
        assert!(text.contains(old), "{path}");
        self.put(path, &text.replace(old, new));
    }

    fn limits(&self, nofile: &str, memlock: &str) {
        let text = format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            1024                 {nofile}             files     \n\
             Max locked memory         {memlock}            {memlock}            bytes     \n"
        );
        self.put("proc/self/limits", &text);
    }

    fn interface(&self, name: &str, index: u32, link: u32) {
        self.put(&format!("sys/class/net/{name}/ifindex"), &index.to_string());
        self.put(&format!("sys/class/net/{name}/iflink"), &link.to_string());
    }

    /// In a Docker container with a network of its own.
    fn in_container(&self) {
        self.put(".dockerenv", "");
        fs::remove_dir_all(self.0.join("sys/class/net/eth0")).unwrap();
        self.interface("lo", 1, 1);
        self.interface("eth0", 2, 17);
    }

    fn judge_with(&self, config: &str, connections: Option<u64>, trial: RingTrial) -> Report {
        let set = config.split_whitespace().map(str::to_owned).collect();
        let config = Sources { set, ..Sources::default() }.load().unwrap();
        judge(Facts::read(&self.0), &config, connections, &trial)
    }

    fn judge(&self, connections: Option<u64>) -> Report {
        self.judge_with("", connections, RingTrial::Works)
    }
}

fn finding<'r>(report: &'r Report, check: &str) -> &'r Finding {
    report.findings.iter().find(|finding| finding.check == check).unwrap()
}

/// Asserts that the check has this severity, and that its line in the log contains these words.
#[track_caller]
fn says(report: &Report, check: &str, severity: Severity, words: &[&str]) {
    let found = finding(report, check);
    assert_eq!(found.severity, severity, "{found:?}");
    let text = format!("{found:?}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    assert_eq!(report.ready(), severity != Severity::Blocker, "{check}");
    let warned = report.warnings().iter().any(|line| line.starts_with(&format!("{check}: ")));
    assert_eq!(warned, severity >= Severity::Warning, "{check}");
}

#[test]
fn a_tuned_host_holds_millions_and_has_nothing_to_complain_about() {
    let host = Host::good();
    let report = host.judge(Some(1_000_000));
    assert_eq!(report.warnings(), Vec::<String>::new());
    let bad = report.findings.iter().filter(|f| f.severity != Severity::Fine);
    assert_eq!(bad.collect::<Vec<_>>(), Vec::<&Finding>::new());
    assert!(report.ready());
    assert_eq!(report.bounds[0].check, "memory");
    // 60 GiB at 4.5 KiB each.
    assert!((13_000_000..14_000_000).contains(&report.clients()), "{}", report.clients());
    assert_eq!(report.need.shards, 4);
    assert!(report.seconds_to_first_limit() > 300.0);
}

#[test]
fn a_low_descriptor_limit_is_named_and_blocks_only_when_the_rings_do_not_suffice() {
    let host = Host::good();
    host.limits("20000", "unlimited");
    let words = ["20000", "50 rings", "LimitNOFILE=1048576", "--ulimit nofile=1048576"];
    says(&host.judge(Some(1_000_000)), "nofile", Severity::Warning, &words);
    says(&host.judge(Some(50_000)), "nofile", Severity::Note, &[]);
    host.limits("256", "unlimited");
    let report = host.judge(Some(1_000_000));
    says(&report, "nofile", Severity::Blocker, &["rings of 256 sockets"]);
    assert_eq!(report.bounds[0].check, "nofile");
    assert!((40_000..60_000).contains(&report.clients()), "{}", report.clients());
    host.limits("16", "unlimited");
    let report = host.judge(None);
    says(&report, "nofile", Severity::Blocker, &["to start with 4 shards"]);
    assert_eq!(report.clients(), 0);
}

#[test]
fn no_locked_memory_keeps_the_shards_from_starting() {
    let host = Host::good();
    host.limits("1048576", "0");
    let report = host.judge(None);
    says(&report, "memlock", Severity::Blocker, &["0 B", "LimitMEMLOCK", "memlock=-1"]);
    assert_eq!(report.clients(), 0);
    host.limits("1048576", "8388608");
    assert!(report.obstacle().is_some_and(|line| line.starts_with("memlock: found 0 B")));
    says(&host.judge(None), "memlock", Severity::Note, &["8 MiB"]);
    host.replace("proc/self/status", "CapEff:\t0000000000000000", "CapEff:\t0000000000004000");
    says(&host.judge(None), "memlock", Severity::Fine, &[]);
}

#[test]
fn blocked_io_uring_is_told_apart_by_its_cause() {
    let refused = |errno| RingTrial::Refused { operation: "io_uring_setup", errno };
    let host = Host::good();
    let judge = |trial| host.judge_with("", None, trial);
    let words = ["security module", "tuning/seccomp.json"];
    says(&judge(refused(1)), "io_uring", Severity::Blocker, &words);
    says(&judge(refused(38)), "io_uring", Severity::Blocker, &["built without"]);
    says(&judge(refused(12)), "io_uring", Severity::Blocker, &["memlock"]);
    says(&judge(refused(24)), "io_uring", Severity::Blocker, &["nofile"]);
    let lacks = RingTrial::Missing(vec!["MSG_RING"]);
    says(&judge(lacks), "io_uring", Severity::Blocker, &["lacks MSG_RING"]);
    host.replace("proc/self/status", "Seccomp:\t0", "Seccomp:\t2");
    let words = ["a seccomp filter", "--security-opt seccomp=tuning/seccomp.json"];
    for errno in [1, 38] {
        says(&judge(refused(errno)), "io_uring", Severity::Blocker, &words);
    }
    for level in ["1\n", "2\n"] {
        host.put("proc/sys/kernel/io_uring_disabled", level);
        let words = ["kernel.io_uring_disabled", "sysctl -w kernel.io_uring_disabled=0"];
        says(&judge(refused(1)), "io_uring", Severity::Blocker, &words);
        says(&judge(RingTrial::Untried), "io_uring", Severity::Blocker, &words);
    }
    // A privileged process may pass, and so may a member of the group.
    host.put("proc/sys/kernel/io_uring_disabled", "1\n");
    says(&judge(RingTrial::Works), "io_uring", Severity::Fine, &[]);
}

#[test]
fn where_a_container_cannot_choose_its_profile_the_fix_says_what_can() {
    let host = Host::good();
    host.in_container();
    let blocked = RingTrial::Refused { operation: "io_uring_setup", errno: 1 };
    for (variable, words) in [
        ("KUBERNETES_SERVICE_HOST=10.0.0.1", "localhostProfile: ringmq.json"),
        ("ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4", "/etc/docker/daemon.json"),
        ("HOME=/", "docker run --security-opt"),
    ] {
        host.put("proc/self/environ", &format!("PATH=/bin\0{variable}\0"));
        let report = host.judge_with("", None, blocked.clone());
        let line = report.warnings().into_iter().find(|l| l.starts_with("io_uring")).unwrap();
        assert!(line.contains(words) && line.contains("inside a container"), "{line}");
    }
}

#[test]
fn a_control_group_of_either_version_bounds_memory_and_cpu_time() {
    let two = Host::good();
    let group = "sys/fs/cgroup/system.slice";
    // The tighter of a group and the one above it counts, whichever that is.
    two.put(&format!("{group}/memory.max"), &format!("{}\n", GIB / 2));
    two.put(&format!("{group}/memory.current"), &format!("{}\n", GIB / 4));
    two.put(&format!("{group}/memory.stat"), &format!("anon 1\ninactive_file {}\n", GIB / 8));
    two.put(&format!("{group}/ringmq.service/cpu.max"), "150000 100000\n");

    let one = Host::good();
    one.put(
        "proc/self/cgroup",
        "4:memory:/docker/abc\n3:cpuset:/\n1:cpu,cpuacct:/docker/abc\n0::/\n",
    );
    one.put(
        "proc/self/mountinfo",
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
         32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
    );
    one.put("sys/fs/cgroup/memory/memory.limit_in_bytes", &format!("{}\n", GIB / 2));
    one.put("sys/fs/cgroup/memory/memory.usage_in_bytes", &format!("{}\n", GIB / 4));
    one.put("sys/fs/cgroup/memory/memory.stat", &format!("total_inactive_file {}\n", GIB / 8));
    let cpu = "sys/fs/cgroup/cpu,cpuacct";
    one.put(&format!("{cpu}/cpu.cfs_quota_us"), "-1\n");
    one.put(&format!("{cpu}/docker/abc/cpu.cfs_quota_us"), "150000\n");
    one.put(&format!("{cpu}/docker/abc/cpu.cfs_period_us"), "100000\n");

    // Version 1 does not charge the whole socket.
    for (host, unified, holds) in [(two, true, 75_000..85_000), (one, false, 170_000..190_000)] {
        let facts = Facts::read(&host.0);
        assert_eq!(facts.memory_left(), Some(GIB / 8 * 3), "{facts:?}");
        assert_eq!((facts.cgroup.unified, facts.cgroup.cpu_quota), (unified, Some(1.5)));
        let report = host.judge(Some(1_000_000));
        says(&report, "memory", Severity::Blocker, &["384 MiB left", "512 MiB", "--memory"]);
        assert_eq!(report.bounds[0].check, "memory");
        assert!(holds.contains(&report.clients()), "{}", report.clients());
        // A host with less left than the group allows is the limit.
        host.replace("proc/meminfo", "62914560", "131072");
        says(&host.judge(Some(1_000_000)), "memory", Severity::Blocker, &["128 MiB left of 64"]);
        host.replace("proc/meminfo", "131072", "62914560");
        assert_eq!(report.need.shards, 1, "a quota of 1.5 CPUs runs one shard");
        let report = host.judge_with("cores=[0,1]", Some(1000), RingTrial::Works);
        says(&report, "cpu", Severity::Warning, &["1.50", "CPUQuota=200%", "--cpuset-cpus 0-1"]);
        // The advice names CPUs of this process, and does not suggest fewer shards than one.
        host.replace("proc/self/status", "0-3", "2-3");
        host.put("sys/fs/cgroup/system.slice/cpu.max", "50000 100000\n");
        host.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n");
        host.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        let report = host.judge(Some(1000));
        let words = ["2 CPUs, a quota of 0.50", "1 for 1 shard:", "--cpuset-cpus 2 instead"];
        says(&report, "cpu", Severity::Warning, &words);
        assert!(!finding(&report, "cpu").fix.as_ref().is_some_and(|fix| {
            fix.container.as_ref().is_some_and(|text| text.contains("fewer entries"))
        }));
    }
}

#[test]
fn unlimited_groups_bound_nothing() {
    let host = Host::good();
    host.put("proc/self/cgroup", "4:memory:/\n0::/../../other\n");
    host.put(
        "proc/self/mountinfo",
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\nnonsense\n - cgroup2\n",
    );
    host.put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    let facts = Facts::read(&host.0);
    assert_eq!(facts.cgroup, Cgroup::default());
    assert_eq!(facts.memory_left(), Some(60 * GIB));
}

#[test]
fn a_small_conntrack_table_is_named_when_it_is_used() {
    let host = Host::good();
    says(&host.judge(Some(1000)), "conntrack", Severity::Fine, &["not loaded"]);
    host.put("proc/sys/net/netfilter/nf_conntrack_max", "65536\n");
    host.put("proc/sys/net/netfilter/nf_conntrack_count", "0\n");
    says(&host.judge(Some(100_000)), "conntrack", Severity::Fine, &["no rule uses it"]);
    // On a quiet host nobody can tell; that must not keep the host from being ready.
    host.replace("proc/net/sockstat", "inuse 377", "inuse 2");
    let report = host.judge(Some(100_000));
    says(&report, "conntrack", Severity::Note, &["if a firewall rule uses it"]);
    assert!(report.ready() && report.bounds.iter().all(|bound| bound.check != "conntrack"));
    host.put("proc/sys/net/netfilter/nf_conntrack_count", "536\n");
    let report = host.judge(Some(100_000));
    says(&report, "conntrack", Severity::Blocker, &["nf_conntrack_max=125670", "notrack"]);
    assert_eq!((report.bounds[0].check, report.clients()), ("conntrack", 65_000));
    says(&host.judge(None), "conntrack", Severity::Warning, &["536 of 65536"]);
    says(&host.judge(Some(65_000)), "conntrack", Severity::Fine, &[]);
}

#[test]
fn a_bridge_network_is_told_from_the_hosts() {
    let host = Host::good();
    host.put(".dockerenv", "");
    says(&host.judge(None), "network", Severity::Fine, &["Docker, host network"]);
    host.in_container();
    let words = ["Docker, bridge network", "--network host", "conntrack"];
    says(&host.judge(None), "network", Severity::Warning, &words);
    // Tunnel stubs are in every namespace.
    host.interface("tunl0", 3, 0);
    assert_eq!(Facts::read(&host.0).place.network, NetworkView::Bridge);
    host.put("sys/class/net/eth1/device/vendor", "0x1af4");
    assert_eq!(Facts::read(&host.0).place.network, NetworkView::Host);
}

#[test]
fn the_network_is_the_one_of_proc_not_of_a_foreign_sys() {
    let host = Host::good();
    let network = || Facts::read(&host.0).place.network;
    let table = "Inter-|   Receive\n face |bytes\n    lo:  96 1\n";
    // A namespace that was made by hand, where /sys still shows the host's card.
    host.put("proc/net/dev", table);
    assert_eq!(network(), NetworkView::Loopback);
    host.put("proc/net/dev", &format!("{table}  veth7: 1 2\n"));
    assert_eq!(network(), NetworkView::Unseen);
    says(&host.judge(None), "network", Severity::Note, &["unseen network", "/sys"]);
    host.put("proc/net/dev", &format!("{table}  eth0: 1 2\n"));
    assert_eq!(network(), NetworkView::Host);
    fs::remove_dir_all(host.0.join("sys")).unwrap();
    assert_eq!(network(), NetworkView::Unseen);
}

#[test]
fn a_host_without_proc_is_promised_nothing() {
    let host = Host::good();
    fs::remove_dir_all(host.0.join("proc")).unwrap();
    let report = host.judge(Some(1000));
    says(&report, "proc", Severity::Blocker, &["unreadable", "mount -t proc"]);
    assert_eq!((report.clients(), finding(&report, "cpu").found.as_str()), (0, "unreadable"));
    assert!(report.table().contains("cannot be told: its memory is unreadable"));
    assert!(report.table().ends_with("Not ready: proc.\n"));
    // The broker starts all the same.
    assert_eq!(report.obstacle(), None);
    says(&host.judge(None), "proc", Severity::Warning, &["mount -t proc"]);
}

#[test]
fn an_old_kernel_is_named() {
    let host = Host::good();
    host.put("proc/sys/kernel/osrelease", "5.15.0-91-generic\n");
    let trial = RingTrial::Refused { operation: "io_uring_setup", errno: 22 };
    let report = host.judge_with("", None, trial);
    says(&report, "kernel", Severity::Blocker, &["5.15.0", "6.1"]);
    says(&report, "io_uring", Severity::Blocker, &["kernel of 6.1"]);
    for release in ["6.1.0-18-amd64\n", "7.0\n"] {
        host.put("proc/sys/kernel/osrelease", release);
        says(&host.judge(None), "kernel", Severity::Fine, &[]);
    }
}

#[test]
fn whether_an_upgrade_in_place_is_possible_is_said() {
    let host = Host::good();
    says(&host.judge(None), "upgrade", Severity::Fine, &["in place"]);
    let node = host.judge_with("cluster.name=plant", None, RingTrial::Works);
    says(&node, "upgrade", Severity::Fine, &["in place"]);
    let durable = "cluster.name=plant cluster.durable=true storage.path=/var/lib/ringmq";
    let node = host.judge_with(durable, None, RingTrial::Works);
    says(&node, "upgrade", Severity::Fine, &["in place"]);
    host.put("proc/sys/kernel/osrelease", "6.6.0\n");
    says(&host.judge(None), "upgrade", Severity::Note, &["6.6.0", "6.8"]);
}

#[test]
fn every_other_limit_has_its_line() {
    let cases: [(&str, &str, &str, Severity, &str); 10] = [
        // The listeners' receive_buffer is 128 KiB.
        (
            "proc/sys/net/core/rmem_max",
            "65536",
            "tcp_rmem/wmem",
            Severity::Warning,
            "net.core.rmem_max=131072",
        ),
        ("proc/sys/net/core/somaxconn", "128", "somaxconn", Severity::Warning, "somaxconn=65535"),
        (
            "proc/sys/net/ipv4/tcp_mem",
            "100 50000 90000",
            "tcp_mem",
            Severity::Warning,
            "'net.ipv4.tcp_mem=100000 200000 300000'",
        ),
        (
            "proc/sys/net/ipv4/tcp_wmem",
            "4096 16384 4194304",
            "tcp_rmem/wmem",
            Severity::Note,
            "5 MiB",
        ),
        ("proc/sys/fs/nr_open", "4096", "nr_open", Severity::Note, "fs.nr_open"),
        ("proc/sys/fs/file-max", "50000", "file-max", Severity::Blocker, "file-max=127640"),
        (
            "proc/sys/net/ipv4/ip_local_port_range",
            "1024 60999",
            "ip_local_port_range",
            Severity::Warning,
            "ip_local_reserved_ports=1883",
        ),
        ("sys/devices/system/node/has_cpu", "0-1", "numa", Severity::Note, "local_cpulist"),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "[always] madvise never",
            "transparent_hugepage",
            Severity::Note,
            "echo madvise",
        ),
        (
            "proc/sys/net/ipv4/tcp_max_syn_backlog",
            "128",
            "tcp_max_syn_backlog",
            Severity::Note,
            "tcp_max_syn_backlog=65535",
        ),
    ];
    for (path, text, check, severity, words) in cases {
        let host = Host::good();
        host.put(path, text);
        says(&host.judge(Some(100_000)), check, severity, &[words]);
    }
    let host = Host::good();
    host.replace("proc/meminfo", "SwapTotal:             0", "SwapTotal:       1048576");
    says(&host.judge(None), "swap", Severity::Note, &["vm.swappiness=1", "1 GiB of 1 GiB"]);
    host.put("proc/sys/net/ipv4/tcp_syncookies", "0\n");
    host.put("proc/sys/net/ipv4/tcp_max_syn_backlog", "128\n");
    says(&host.judge(None), "tcp_max_syn_backlog", Severity::Warning, &["SYN cookies are off"]);
}

#[test]
fn the_configuration_is_part_of_the_question() {
    let host = Host::good();
    let judge = |config, connections| host.judge_with(config, connections, RingTrial::Works);
    let report = judge("runtime.max_connections=5000", Some(6000));
    says(&report, "max_connections", Severity::Blocker, &["5,000", "6,000"]);
    let report = judge("listeners.0.max_connections=5000", None);
    assert_eq!((report.need.clients, report.clients()), (Some(5000), 5000));
    assert!(report.ready());
    says(&judge("cores=[0,9]", None), "cpuset", Severity::Blocker, &["core 9", "CPUs 0-3"]);
    let report = judge("listeners.0.max_connect_rate=100", Some(1000));
    assert_eq!(report.connect_rate, (100, true));
    // Unix sockets need neither backlog sysctls nor ports.
    let unix = "listeners.0.type=unix listeners.0.bind=/tmp/ringmq-doctor.sock";
    host.put("proc/sys/net/core/somaxconn", "128\n");
    says(&judge(unix, None), "somaxconn", Severity::Fine, &[]);
}

#[test]
fn a_tree_without_anything_is_judged_without_a_panic() {
    let host = Host(std::env::temp_dir().join("ringmq-doctor-nothing-is-here"));
    for connections in [None, Some(u64::MAX / 2)] {
        let report = host.judge_with("", connections, RingTrial::Untried);
        assert!(!report.table().is_empty() && !report.json().is_empty());
    }
    let host = Host::good();
    for connections in [1, u64::MAX] {
        let _ = host.judge(Some(connections)).json();
    }
}

#[test]
fn the_table_shows_every_check_limit_and_fix() {
    let host = Host::good();
    host.in_container();
    host.limits("256", "unlimited");
    let report = host.judge(Some(1_000_000));
    let table = report.table();
    for finding in &report.findings {
        assert!(table.contains(finding.check), "{}\n{table}", finding.check);
    }
    for words in [
        "BLOCKER  nofile",
        "fix:    docker run --ulimit nofile=1048576:1048576 [cannot be changed from inside",
        "clients that each limit allows",
        "the first limit is nofile, met after",
        "(assumed)",
        "Not ready: nofile.",
    ] {
        assert!(table.contains(words), "{words}\n{table}");
    }
    assert!(Host::good().judge(None).table().ends_with("Ready.\n"));
}

#[test]
fn the_json_has_its_promised_shape() {
    let host = Host::good();
    host.put("proc/sys/kernel/osrelease", "6.12-\"quoted\\\"\n");
    host.limits("256", "unlimited");
    let json = host.judge(Some(1_000_000)).json();
    for words in [
        r#"{"ready":false,"asked":1000000,"clients":"#,
        r#""first_limit":"nofile","connect_rate":40000,"connect_rate_configured":false,"#,
        r#""kernel":"6.12-\"quoted\\\"","shards":4,"memory_left":64424509440,"container":null,"#,
        r#""network":"host","cgroup":2},"limits":[{"check":"nofile","clients":"#,
        r#""findings":[{"check":"kernel","severity":"ok","found":"#,
        r#""severity":"blocker","found":"1024 of 256""#,
        r#""container":"docker run --ulimit nofile=1048576:1048576","inside_container":false}"#,
    ] {
        assert!(json.contains(words), "{words}\n{json}");
    }
    assert!(json.ends_with("}\n") && json.matches('\n').count() == 1);
    let count = |c| json.matches(c).count();
    assert_eq!((count('{'), count('[')), (count('}'), count(']')));
}
