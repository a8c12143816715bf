//! What a service manager is told from start to stop, with reloads that are taken and refused:
//! `Type=notify-reload` of systemd waits for RELOADING=1 with a time stamp that is not older than
//! its SIGHUP, and then for READY=1.

use crate::support::broker::Launch;
use crate::support::{eventually, unique};
use nix::time::{ClockId, clock_gettime};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new() -> Manager {
        let path = std::env::temp_dir().join(unique("ringmq-manager"));
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        Manager { socket, path }
    }

    /// The next message, line by line.
    #[track_caller]
    fn told(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).expect("it is told something in time");
        String::from_utf8_lossy(&bytes[..count]).lines().map(str::to_owned).collect()
    }

    /// A reload that began after `since` is announced, and its end.
    #[track_caller]
    fn sees_reload(&self, since: u64) {
        let told = self.told();
        assert_eq!(told[0], "RELOADING=1", "{told:?}");
        let stamp = told[1].strip_prefix("MONOTONIC_USEC=").expect("the stamp in the same message");
        assert!(stamp.parse::<u64>().expect("a number") >= since, "{told:?}, asked at {since}");
        let told = self.told();
        assert_eq!(told[0], "READY=1", "{told:?}");
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it");
    Duration::from(now).as_micros() as u64
}

#[test]
fn a_service_manager_is_told_of_start_reloads_and_stop() {
    let manager = Manager::new();
    let environment = vec![("NOTIFY_SOCKET", manager.path.display().to_string())];
    let broker = Launch { environment, ..Launch::new(&[]) }.start();
    assert_eq!(manager.told()[0], "READY=1");

    let since = now();
    broker.signal("-HUP");
    manager.sees_reload(since);

    let config = fs::read_to_string(broker.config_file()).expect("the harness wrote it");
    fs::write(broker.config_file(), format!("{config}nonsense: 1\n")).expect("it can be written");
    let since = now();
    broker.signal("-HUP");
    manager.sees_reload(since);
    eventually("the file is refused", || broker.log().contains("reload refused"));
    assert!(broker.alive());

    broker.signal("-TERM");
    assert_eq!(manager.told()[0], "STOPPING=1");
    assert_eq!(broker.wait(Duration::from_secs(20)), Some(0));
}
