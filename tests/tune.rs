//! `scripts/tune` below a scratch root, and on real kernel settings inside a network namespace of
//! its own: shows exactly what it would change, asks, applies, and puts everything back.

#[path = "support/root.rs"]
mod root;

use root::{Root, run, stdout};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

impl Root {
    /// A host with some settings as wanted, some too low, one higher, and one that is absent.
    fn host() -> Root {
        let root = Root::empty("ringmq-tune");
        for (path, text) in [
            ("net/core/somaxconn", "128\n"),
            ("net/ipv4/tcp_max_syn_backlog", "65535\n"),
            ("net/ipv4/tcp_syncookies", "1\n"),
            ("net/core/netdev_max_backlog", "100000\n"),
            ("net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
            ("net/ipv4/tcp_wmem", "4096\t16384\t1048576\n"),
            ("net/ipv4/tcp_max_orphans", "65536\n"),
            ("net/ipv4/tcp_slow_start_after_idle", "1\n"),
            ("fs/file-max", "9223372036854775807\n"),
            ("vm/swappiness", "1\n"),
        ] {
            root.put(&format!("proc/sys/{path}"), text);
        }
        root
    }

    fn tune(&self, words: &str, answer: &str) -> Output {
        run(tune(&self.0).args(words.split_whitespace()), answer)
    }

    /// Every file with its text, spaces of kernel settings made single as the kernel does.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut all = BTreeMap::new();
        collect(&self.0, &mut all);
        all
    }
}

fn collect(directory: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, all);
        } else {
            let text = fs::read_to_string(&path).unwrap().replace('\t', " ");
            all.insert(path, text);
        }
    }
}

fn tune(root: &Path) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/tune"));
    command.env("RINGMQ_TUNE_ROOT", root);
    command
}

/// What a host as [`Root::host`] lacks of the kernel settings.
const CHANGES: &str = "\
kernel settings, for every program of this host:
net.core.somaxconn: 128 -> 65535
net.ipv4.tcp_max_orphans: 65536 -> 262144
net.ipv4.tcp_slow_start_after_idle: 1 -> 0
";

/// What it has more of than RingMQ wants, and other programs may want.
const KEPT: &str = "net.ipv4.tcp_rmem: stays 4096 131072 6291456, above 4096 131072 1048576: \
                    --lower would lower it for every program\n";

#[test]
fn a_dry_run_shows_exactly_what_would_change_and_changes_nothing() {
    let root = Root::host();
    let before = root.files();
    let output = root.tune("--dry-run", "");
    let place = root.0.display();
    let files = format!(
        "{place}/etc/security/limits.d/90-ringmq.conf: nofile and memlock for the user ringmq\n\
         {place}/etc/systemd/system/ringmq.service: the service (not enabled, not started)\n"
    );
    assert_eq!(stdout(&output), format!("{CHANGES}{KEPT}{files}"));
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(stdout(&root.tune("--dry-run sysctl", "")), format!("{CHANGES}{KEPT}"));
    assert_eq!(root.files(), before);
}

#[test]
fn it_asks_and_takes_only_yes_for_yes() {
    let root = Root::host();
    let before = root.files();
    for answer in ["", "\n", "n\n", "no\n", "maybe\n"] {
        let output = root.tune("", answer);
        assert_eq!(output.status.code(), Some(1), "{answer:?}");
        assert!(stdout(&output).ends_with("Change this? [y/N] nothing changed\n"), "{answer:?}");
        assert_eq!(root.files(), before);
    }
    assert!(root.tune("sysctl", "y\n").status.success());
    assert_eq!(root.text("proc/sys/net/core/somaxconn"), "65535\n");
}

#[test]
fn applying_does_what_was_shown_and_reverting_undoes_all_of_it() {
    let root = Root::host();
    // Somebody's own file of the same name comes back.
    root.put("etc/sysctl.d/90-ringmq.conf", "net.core.somaxconn = 128\n");
    let before = root.files();
    let output = root.tune("--yes", "");
    assert!(output.status.success(), "{output:?}");
    for (path, text) in [
        ("net/core/somaxconn", "65535\n"),
        ("net/core/netdev_max_backlog", "100000\n"),
        ("net/ipv4/tcp_rmem", "4096\t131072\t6291456\n"),
        ("net/ipv4/tcp_max_orphans", "262144\n"),
        ("net/ipv4/tcp_slow_start_after_idle", "0\n"),
    ] {
        assert_eq!(root.text(&format!("proc/sys/{path}")), text, "{path}");
    }
    let lasting = root.text("etc/sysctl.d/90-ringmq.conf");
    let settings: Vec<_> = lasting.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(settings.len() + 1, CHANGES.lines().count(), "only what changed: {lasting}");
    assert!(settings.contains(&"net.core.somaxconn = 65535"), "{lasting}");
    assert!(root.text("etc/security/limits.d/90-ringmq.conf").contains("nofile"));
    assert!(root.text("etc/systemd/system/ringmq.service").contains("[Service]"));

    let nothing = format!("{KEPT}nothing to change\n");
    assert_eq!(stdout(&root.tune("--dry-run", "")), nothing);
    let applied = root.files();
    assert_eq!(stdout(&root.tune("--yes", "")), nothing);
    assert_eq!(root.files(), applied);

    let refused = root.tune("--revert", "n\n");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(root.files(), applied);
    assert!(root.tune("--revert", "y\n").status.success());
    assert_eq!(root.files(), before);
    assert_eq!(stdout(&root.tune("--revert", "")), "nothing to revert\n");
}

#[test]
fn a_second_run_still_goes_back_to_the_first_state() {
    let root = Root::host();
    let before = root.files();
    assert!(root.tune("--yes sysctl", "").status.success());
    root.put("proc/sys/net/core/somaxconn", "256\n");
    root.put("proc/sys/vm/swappiness", "60\n");
    assert!(root.tune("--yes", "").status.success());
    assert_eq!(root.text("proc/sys/net/core/somaxconn"), "65535\n");
    assert_eq!(root.text("proc/sys/vm/swappiness"), "1\n");
    assert!(root.tune("--revert --yes", "").status.success());
    // The setting that was changed by hand between the runs goes back to what the run found.
    root.put("proc/sys/vm/swappiness", "1\n");
    assert_eq!(root.files(), before);
}

/// Buffers of sockets are limits of every program: raised where they are too small, lowered only
/// on demand, and then it is said.
#[test]
fn a_limit_of_other_programs_is_lowered_only_on_demand() {
    let root = Root::host();
    root.put("proc/sys/net/ipv4/tcp_wmem", "2048\t8192\t4194304\n");
    let before = root.files();
    let raised = "net.ipv4.tcp_wmem: 2048 8192 4194304 -> 4096 16384 4194304\n";
    let lowered = "\
net.ipv4.tcp_rmem: 4096 131072 6291456 -> 4096 131072 1048576 (lowers a limit of every program)
net.ipv4.tcp_wmem: 2048 8192 4194304 -> 4096 16384 1048576 (lowers a limit of every program)
";
    let shown = stdout(&root.tune("--dry-run sysctl", ""));
    assert!(shown.contains(raised) && !shown.contains("(lowers"), "{shown}");
    let shown = stdout(&root.tune("--dry-run --lower sysctl", ""));
    assert!(shown.contains(lowered) && !shown.contains("stays"), "{shown}");
    assert_eq!(root.files(), before);

    assert!(root.tune("--yes sysctl", "").status.success());
    assert_eq!(root.text("proc/sys/net/ipv4/tcp_wmem"), "4096 16384 4194304\n");
    let lasting = root.text("etc/sysctl.d/90-ringmq.conf");
    assert!(lasting.contains("net.ipv4.tcp_wmem = 4096 16384 4194304\n"), "{lasting}");
    assert!(!lasting.contains("tcp_rmem"), "{lasting}");
    assert!(root.tune("--yes --lower sysctl", "").status.success());
    assert_eq!(root.text("proc/sys/net/ipv4/tcp_rmem"), "4096 131072 1048576\n");
    let lasting = root.text("etc/sysctl.d/90-ringmq.conf");
    assert!(lasting.contains("net.ipv4.tcp_wmem = 4096 16384 1048576\n"), "{lasting}");
    assert!(lasting.contains("net.ipv4.tcp_rmem = 4096 131072 1048576\n"), "{lasting}");
    assert!(root.tune("--revert --yes", "").status.success());
    assert_eq!(root.files(), before);
}

#[test]
fn wrong_arguments_are_named() {
    let output = Root::host().tune("--aply", "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("'--aply'"));
}

/// Real settings of a real kernel, in a network namespace that nobody else is in. Needs root.
#[test]
fn settings_of_a_network_namespace_are_changed_and_put_back() {
    let possible = Command::new("unshare").args(["-n", "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a network namespace cannot be made here");
        return;
    }
    let root = Root::empty("ringmq-tune");
    fs::create_dir_all(root.0.join("proc/sys/net")).unwrap();
    std::os::unix::fs::symlink("/proc/sys/net/ipv4", root.0.join("proc/sys/net/ipv4")).unwrap();
    let script = "file=/proc/sys/net/ipv4/tcp_max_syn_backlog
        echo 777 >$file || exit 9
        scripts/tune --yes sysctl >/dev/null || exit 8
        cat $file
        scripts/tune --yes --revert sysctl >/dev/null || exit 7
        cat $file";
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", script]).env("RINGMQ_TUNE_ROOT", &root.0);
    let output = run(command.current_dir(env!("CARGO_MANIFEST_DIR")), "");
    if output.status.code() == Some(9) {
        eprintln!("skipped: kernel settings are read-only here");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout(&output), "65535\n777\n");
}
