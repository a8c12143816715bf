//! What systemd would read.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::Notifier;

fn receive(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

type Call = fn(&Notifier);

fn speaks(notifier: &Notifier, manager: &UnixDatagram) {
    let cases: [(Call, &str); 4] = [
        (|n| n.ready("listening\non 1883"), "READY=1\nSTATUS=listening on 1883"),
        (Notifier::alive, "WATCHDOG=1"),
        (|n| n.status("3 clients"), "STATUS=3 clients"),
        (Notifier::stopping, "STOPPING=1\nSTATUS=draining"),
    ];
    for (call, expected) in cases {
        call(notifier);
        assert_eq!(receive(manager), expected);
    }
    let before = super::monotonic_micros().unwrap();
    notifier.reloading();
    let (told, after) = (receive(manager), super::monotonic_micros().unwrap());
    let stamp = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let stamp = stamp.and_then(|rest| rest.strip_suffix("\nSTATUS=reloading"));
    let stamp: u64 = stamp.and_then(|stamp| stamp.parse().ok()).expect(&told);
    assert!((before..=after).contains(&stamp), "{before} {stamp} {after}");
}

/// As systemd reads it: /proc/uptime leaves the time of a suspension in, CLOCK_MONOTONIC does not,
/// so the stamp can only be smaller, and on a machine that was never suspended it is the same.
#[test]
fn the_time_stamp_of_a_reload_counts_microseconds_since_the_boot() {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let stamp = super::monotonic_micros().unwrap() as f64 / 1e6;
    assert!(stamp > 0.0 && stamp < seconds + 60.0, "{stamp} s, up for {seconds} s");
}

#[test]
fn states_go_to_a_socket_with_a_path() {
    let path = std::env::temp_dir().join(format!("ringmq-notify-{}", std::process::id()));
    let manager = UnixDatagram::bind(&path).unwrap();
    speaks(&Notifier::new(Some(path.as_os_str()), None).unwrap(), &manager);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn states_go_to_an_abstract_socket() {
    let name = format!("ringmq-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    let notifier = Notifier::new(Some(OsStr::new(&format!("@{name}"))), Some(3_000_000)).unwrap();
    speaks(&notifier, &manager);
    assert_eq!(notifier.watchdog_interval(), Some(Duration::from_millis(1500)));
}

#[test]
fn without_systemd_nothing_happens() {
    let notifier = Notifier::new(None, Some(1_000_000)).unwrap();
    notifier.ready("x");
    assert_eq!(notifier.watchdog_interval(), None);
}

#[test]
fn a_socket_that_went_away_is_no_failure_and_a_senseless_one_is() {
    Notifier::new(Some(OsStr::new("/nonexistent/notify")), None).unwrap().alive();
    let failure = Notifier::new(Some(OsStr::new("notify")), None).unwrap_err().to_string();
    assert!(failure.starts_with("NOTIFY_SOCKET=notify cannot be used"), "{failure}");
}
