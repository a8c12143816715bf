//! The machine, the kernel and the command line, as written into every result file.

use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// The facts that a reader needs to judge the figures.
pub fn describe() -> Value {
    json!({
        "date": command("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
        "cpu": cpu_model(),
        "cpus": cpus().len(),
        "memory": memory(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "load_average": load(),
        "nofile": nofile(),
        "generator": env!("CARGO_PKG_VERSION"),
        "commit": command("git", &["rev-parse", "--short", "HEAD"]),
        "command": without_password(std::env::args()).join(" "),
    })
}

/// The words of a command line with the password replaced by `***`.
fn without_password(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut hidden = false;
    let word = |word: String| {
        if std::mem::take(&mut hidden) {
            return "***".to_string();
        }
        hidden = word == "-P" || word == "--password";
        for option in ["--password=", "-P"] {
            if word.len() > option.len() && word.starts_with(option) {
                return format!("{option}***");
            }
        }
        word
    };
    words.map(word).collect()
}

/// The three load averages.
pub fn load() -> String {
    read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// CPUs that this process may use.
pub fn cpus() -> Vec<usize> {
    // SAFETY: the set is plain data that the kernel fills, and CPU_ISSET reads within it.
    #[allow(unsafe_code)]
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}

/// Raises the soft limit of open files to the hard limit and returns it.
pub fn nofile() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read and write one live rlimit.
    #[allow(unsafe_code)]
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    limit.rlim_cur
}

/// The first line that `program` prints with `arguments`; empty when the program does not run.
pub fn command(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_string()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn cpu_model() -> String {
    let text = read("/proc/cpuinfo");
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|l| l.split_once(':')).map(|(_, m)| m.trim().to_string()).unwrap_or_default()
}

fn memory() -> String {
    let text = read("/proc/meminfo");
    let kib = text.lines().next().and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    format!("{} MiB", kib.unwrap_or(0) / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_in_the_result() {
        let hidden = |line: &str| without_password(line.split(' ').map(String::from)).join(" ");
        for (line, want) in [
            ("pub -u a -P secret -t x", "pub -u a -P *** -t x"),
            ("pub --password secret -p 1", "pub --password *** -p 1"),
            ("pub --password=secret -Psecret", "pub --password=*** -P***"),
        ] {
            assert_eq!(hidden(line), want);
        }
    }
}
