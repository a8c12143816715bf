//! `ringmq upgrade`: asks a running broker of this user to hand its clients over to a new process.

use clap::Args;
use ringmq::broker::upgrade::requests::{self, NAME};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Asks a running broker to start a new process and to hand its clients over to it: no connection
/// is dropped. Also with the same program, for settings that need a restart.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// The program to start; by default the file of the running one, which may have been replaced.
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Only say whether it could be, what would move, and how long clients would wait: does all
    /// that an upgrade does while the running broker serves, and ends the new process then.
    #[arg(long)]
    pub dry_run: bool,
    /// The running broker; by default the only one there is.
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
}

/// Asks the broker, waits until the upgrade has ended, and returns what is to be printed.
///
/// # Errors
/// Why there was no upgrade.
pub fn run(wanted: &Upgraded) -> Result<String, String> {
    let pid = match wanted.pid {
        Some(pid) => pid,
        None => only_one()?,
    };
    let mut words = String::from(if wanted.dry_run { "try" } else { "upgrade" });
    if let Some(binary) = &wanted.binary {
        let path = fs::canonicalize(binary).map_err(|e| format!("{}: {e}", binary.display()))?;
        let path = path.to_str().filter(|path| !path.contains('\n'));
        words.push(' ');
        words.push_str(path.ok_or("the path of the program is no text of one line")?);
    }
    words.push('\n');
    let unreachable = |error| format!("process {pid} cannot be asked: {error}");
    let address = requests::address(pid).map_err(unreachable)?;
    let mut broker = UnixStream::connect_addr(&address).map_err(unreachable)?;
    if !requests::is_ours(&broker).map_err(unreachable)? {
        return Err(format!("process {pid} is another user's"));
    }
    broker.write_all(words.as_bytes()).map_err(unreachable)?;
    let mut answer = String::new();
    BufReader::new(broker).read_line(&mut answer).map_err(unreachable)?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", said)) => Ok(format!("{said}\n")),
        Some(("no", why)) => Err(format!("no upgrade: {why}")),
        _ => Err(format!("process {pid} has ended without an answer: see its log")),
    }
}

/// The process id of the broker, if exactly one on this host can be asked. Brokers of other users
/// would refuse.
fn only_one() -> Result<u32, String> {
    let sockets = fs::read_to_string("/proc/net/unix")
        .map_err(|error| format!("/proc/net/unix: {error}; write --pid"))?;
    let number = |line: &str| line.rsplit_once('@')?.1.strip_prefix(NAME)?.parse().ok();
    let mut found: Vec<u32> = sockets.lines().filter_map(number).collect();
    found.sort_unstable();
    found.dedup();
    let user = rustix::process::geteuid().as_raw();
    // A process that cannot be seen may be one of another container that shares the network.
    found.retain(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.map_or(true, |status| user_of(&status).is_none_or(|theirs| theirs == user))
    });
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err("no broker is running here".to_owned()),
        many => Err(format!("several brokers are running: write --pid with one of {many:?}")),
    }
}

/// The effective user of a process, from the text of its `/proc/PID/status`.
fn user_of(status: &str) -> Option<u32> {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_of_a_process_is_read() {
        assert_eq!(user_of("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t5\t5\t5\n"), Some(2));
        assert_eq!(user_of("Name:\tx\n"), None);
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(user_of(&own), Some(rustix::process::geteuid().as_raw()));
    }
}
