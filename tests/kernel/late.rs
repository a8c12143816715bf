//! A shard that does not go on: its thread alone is held by `ptrace`, as a debugger would, while
//! all others run. The broker says so and goes on; it never ends itself because of it.
#![allow(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::lasting;
use crate::probe::figure;
use crate::support::broker::Launch;
use crate::support::reason::SHUTTING_DOWN;
use crate::support::*;

/// How often a thread is looked at until it is found asleep.
const TRIES: usize = 1000;
/// What a core sleeps in, as `/proc` writes it.
const IO_URING_ENTER: &str = "426 ";

/// A thread that is held until this is dropped, by the thread that holds it.
struct Held(libc::pid_t);

impl Held {
    #[track_caller]
    fn hold(pid: u32, name: &str) -> Held {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads are listed");
        let paths: Vec<_> = tasks.map(|task| task.expect("it can be read").path()).collect();
        let named = |path: &&std::path::PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let path = paths.iter().find(named).unwrap_or_else(|| panic!("no thread {name}"));
        let thread: libc::pid_t = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        for _ in 0..TRIES {
            let held = Held::stop(thread);
            // In the middle of something it may hold a lock that is not the broker's: the
            // allocator's, for one. A debugger's user would not blame the broker for that.
            let call = fs::read_to_string(path.join("syscall")).unwrap_or_default();
            if call.starts_with(IO_URING_ENTER) {
                return held;
            }
            drop(held);
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{name} does not rest");
    }

    #[track_caller]
    fn stop(thread: libc::pid_t) -> Held {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: no pointer is read or written for these requests; the thread is our child's.
        let stopped = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, thread, none, none) == 0
                && libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none) == 0
                && libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) == thread
        };
        let error = std::io::Error::last_os_error();
        assert!(stopped, "cannot hold a thread ({error}); allow ptrace (CAP_SYS_PTRACE, seccomp)");
        Held(thread)
    }
}

impl Held {
    /// Waits for the end of the process. Its parent cannot see that before the tracer of a thread
    /// has seen the end of that thread.
    #[track_caller]
    fn outlive(self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut status = 0;
        // SAFETY: `status` lives for the call.
        while unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL | libc::WNOHANG) } == 0 {
            assert!(Instant::now() < end, "still running after {patience:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as above. It fails only when the thread is gone.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, none, none) };
    }
}

/// Status and body of a page of the admin server.
fn page(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the admin server listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a status").parse().expect("a number"), body.to_owned())
}

fn admin_of(broker: &Broker) -> SocketAddr {
    let log = broker.log();
    let (_, rest) = log.split_once("admin=127.0.0.1:").expect("`ready` names the admin server");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    SocketAddr::from(([127, 0, 0, 1], digits.parse().expect("a port")))
}

/// Whether a PINGREQ is answered within a second.
fn answers(c: &mut Client) -> bool {
    c.send(&[0xc0, 0]);
    matches!(c.read(Duration::from_secs(1)), Next::Packet(Packet::PingResp))
}

/// Two shards, a service manager's socket with a watchdog of 2 s, and clients on both.
struct Scene {
    broker: Broker,
    manager: UnixDatagram,
    path: std::path::PathBuf,
    clients: Vec<Client>,
}

impl Scene {
    fn new(grace: &str) -> Scene {
        let path = std::env::temp_dir().join(unique("ringmq-notify"));
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_nonblocking(true).expect("a socket");
        let settings = ["admin.bind=127.0.0.1:0", grace];
        let environment = vec![
            ("NOTIFY_SOCKET", path.display().to_string()),
            ("WATCHDOG_USEC", "2000000".to_owned()),
        ];
        let broker = Launch { shards: 2, environment, ..Launch::new(&settings) }.start();
        let client = |_| Client::connect(&broker, V5, &unique("c"));
        let clients = (0..16).map(client).collect();
        Scene { broker, manager, path, clients }
    }

    /// What the service manager was told since the last call.
    fn told(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let mut told = Vec::new();
        while let Ok(count) = self.manager.recv(&mut bytes) {
            told.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
        }
        told
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[test]
fn a_shard_that_does_not_answer_is_late_and_nothing_ends_for_it() {
    let _alone = machine();
    let mut scene = Scene::new("shutdown.grace=5s");
    let admin = admin_of(&scene.broker);
    let broker = &scene.broker;
    assert_eq!(page(admin, "/healthz"), (200, "ok\n".to_owned()));
    let held = Held::hold(broker.pid(), "ringmq-1");
    let began = Instant::now();
    let (mut well, mut waiting): (Vec<_>, Vec<_>) =
        scene.clients.drain(..).map(|mut c| (answers(&mut c), c)).partition(|(well, _)| *well);
    assert!(!well.is_empty() && !waiting.is_empty(), "{} on one shard", well.len());

    // A reload meanwhile: new settings, and a listener more.
    let config = fs::read_to_string(broker.config_file()).expect("the harness wrote it");
    let more = config.replace("]\n", ", {name: more, bind: '127.0.0.1:0'}]\n");
    fs::write(broker.config_file(), more + "log: {level: debug}\n").expect("it can be written");
    broker.signal("-HUP");

    let mut told = Vec::new();
    eventually("it is said who is late", || {
        told.extend(scene.told());
        broker.log().contains("a shard does not answer")
    });
    let (status, text) = page(admin, "/healthz");
    assert!(status == 503 && text.starts_with("no answer from shard 1 for "), "{status} {text}");
    assert_eq!(page(admin, "/readyz").0, 503);
    let (status, metrics) = page(admin, "/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("\nringmq_shard_late_seconds{shard=\"0\"} 0\n"), "{metrics}");
    assert!(!metrics.contains("\nringmq_shard_late_seconds{shard=\"1\"} 0\n"), "{metrics}");
    told.extend(scene.told());
    assert!(told.iter().any(|said| said.contains("WATCHDOG=1")), "{told:?}");
    assert!(told.iter().any(|said| said == "STATUS=no answer from shard 1"), "{told:?}");

    std::thread::sleep(lasting(11, 40).saturating_sub(began.elapsed()));
    let told = scene.told();
    assert!(!told.iter().any(|said| said.contains("WATCHDOG=1")), "fed while late: {told:?}");
    let log = broker.log();
    let lines = log.matches("a shard does not answer").count();
    assert_eq!(lines, 1, "once, and not each time:\n{log}");
    assert!(!log.contains("configuration reloaded"), "one shard has not: {log}");
    for (_, c) in &mut well {
        c.ping();
    }
    assert!(broker.alive());

    drop(held);
    eventually("that is over", || broker.log().contains("a shard answers again"));
    eventually("the reload goes on", || broker.log().contains("configuration reloaded"));
    assert!(broker.log().contains("listener opened"), "{}", broker.log());
    assert_eq!(page(admin, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(page(admin, "/readyz").0, 200);
    for (_, c) in &mut waiting {
        assert!(matches!(c.next(), Packet::PingResp), "the answer that was owed");
    }
    for (_, c) in well.iter_mut().chain(&mut waiting) {
        c.ping();
    }
    eventually("the watchdog is fed", || scene.told().iter().any(|said| said == "WATCHDOG=1"));
    broker.signal("-TERM");
    assert_eq!(broker.wait(Duration::from_secs(10)), Some(0));
}

#[test]
fn a_drain_ends_in_its_time_whoever_is_late() {
    let _alone = machine();
    let mut scene = Scene::new("shutdown.grace=4s");
    let held = Held::hold(scene.broker.pid(), "ringmq-1");
    let clients = scene.clients.drain(..).map(|mut c| (answers(&mut c), c));
    let (well, _waiting): (Vec<_>, Vec<_>) = clients.partition(|(well, _)| *well);
    scene.broker.signal("-TERM");
    let began = Instant::now();
    for (_, mut c) in well {
        c.expect_disconnect(&[SHUTTING_DOWN]);
    }
    held.outlive(Duration::from_secs(20));
    assert_eq!(scene.broker.wait(Duration::from_secs(1)), Some(0));
    let took = began.elapsed();
    figure("late", &format!("a drain with a grace of 4 s and a shard that is held: {took:?}"));
    assert!(took < Duration::from_secs(9), "{took:?}");
    let log = scene.broker.log();
    assert!(log.contains("it ends at once") && log.contains("stopped"), "{log}");
}

#[test]
fn a_second_signal_stops_at_once_whoever_is_late() {
    let _alone = machine();
    let scene = Scene::new("shutdown.grace=60s");
    let held = Held::hold(scene.broker.pid(), "ringmq-0");
    scene.broker.signal("-TERM");
    std::thread::sleep(Duration::from_millis(500));
    scene.broker.signal("-TERM");
    held.outlive(Duration::from_secs(8));
    assert_eq!(scene.broker.wait(Duration::from_secs(1)), Some(0));
}
