//! The log and its reader: one that does not read stops nobody, and what clients choose stays
//! within its line. And the signals whose only answer is a line.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::line::Line;
use crate::support::broker::{cores, program};
use crate::support::*;

/// A broker whose log is read by the test, or not.
struct Unread {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    address: SocketAddr,
}

impl Unread {
    fn start(settings: &[&str]) -> Unread {
        let mut command = program();
        command.args(["--set", "listeners.0.bind=127.0.0.1:0", "--set", &cores(2)]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn();
        let mut child = child.expect("it starts");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("default=") {
            line.clear();
            assert!(log.read_line(&mut line).expect("a pipe") > 0, "it ended");
        }
        let (_, rest) = line.split_once("default=").expect("just seen");
        let address = rest.split([',', ' ', '"', '\n']).next().expect("the first part");
        Unread { child, log, address: address.parse().expect("an address") }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    #[track_caller]
    fn wait(&mut self, patience: Duration) -> Option<i32> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status can be read") {
                return status.code();
            }
            assert!(Instant::now() < end, "still running after {patience:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let _alone = machine();
    // At debug no line is left out.
    let mut broker = Unread::start(&["log.level=debug", "shutdown.grace=5s"]);
    let name = "n".repeat(300);
    let mut worst = Duration::ZERO;
    for n in 0..4000 {
        let began = Instant::now();
        let connect = Connect::new(V5, format!("{n}-{name}")).login(Some(&name), None);
        let mut line = Line::open(broker.address, &connect, patience()).expect("it is served");
        line.send(&[0xe0, 0]).expect("it stands");
        worst = worst.max(began.elapsed());
    }
    // 4,000 lines of some 800 bytes and more do not fit into the pipe and the store.
    let mut text = String::new();
    let lost = loop {
        text.clear();
        assert!(broker.log.read_line(&mut text).expect("a pipe") > 0, "it ended");
        if let Some((_, lost)) = text.split_once("log lines were lost") {
            let (_, lost) = lost.split_once("lost=").expect("how many");
            break lost.trim().parse::<u64>().expect("a number");
        }
    };
    assert!((500..8000).contains(&lost), "{lost}");
    crate::probe::figure("log", &format!("{lost} lines lost; slowest connect {worst:?}"));
    Line::open(broker.address, &Connect::new(V5, unique("c")), patience()).expect("it is served");
    broker.signal("-TERM");
    let mut rest = String::new();
    broker.log.read_to_string(&mut rest).expect("text");
    assert_eq!(broker.wait(Duration::from_secs(10)), Some(0));
    assert!(rest.trim_end().ends_with("stopped"), "its last line is missing: {rest}");
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_it_from_ending() {
    let _alone = machine();
    let mut broker = Unread::start(&["log.level=debug", "shutdown.grace=2s"]);
    let name = "n".repeat(300);
    for n in 0..2500 {
        let connect = Connect::new(V5, format!("{n}-{name}")).login(Some(&name), None);
        Line::open(broker.address, &connect, patience()).expect("it is served");
    }
    broker.signal("-TERM");
    assert_eq!(broker.wait(Duration::from_secs(12)), Some(0));
}

#[test]
fn nobody_can_write_a_line_of_the_log() {
    for format in ["text", "json"] {
        let broker =
            Broker::start(&[&format!("log.format={format}"), "mqtt.max_client_id_length=60"]);
        let forged = "x\n2026-01-01T00:00:00Z ERROR ringmq: forged\x1b[31m\u{9b}2J\u{202e}";
        let user = "u\r\n\x1b]0;title\x07 shard=9";
        Connect::new(V5, forged).login(Some(user), None).open(&broker).disconnect();
        Connect::new(V5, "long".repeat(20)).refused(&broker, 0x85);
        Connect::new(V311, forged).open(&broker).cut();
        eventually("all lines are there", || {
            broker.log().matches("client disconnected").count() == 2
        });
        let log = broker.log();
        let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
        assert_eq!((lines("client connected"), lines("client refused")), (2, 1), "{log}");
        for line in log.lines() {
            let start = if format == "json" { "{\"timestamp\":\"20" } else { "20" };
            assert!(line.starts_with(start) && !line.starts_with("2026-01-01"), "{line}");
            assert!(
                !line.chars().any(|letter| letter.is_control() || letter == '\u{202e}'),
                "{line}"
            );
        }
        let connected = log.lines().find(|line| line.contains("client connected")).expect("seen");
        for field in ["client_id", "username", "peer", "listener", "version", "keep_alive"] {
            assert!(connected.contains(field), "no {field} in {connected}");
        }
        let refused = log.lines().find(|line| line.contains("client refused")).expect("seen");
        assert!(
            refused.contains("the ClientId is too long") && refused.contains("133"),
            "{refused}"
        );
    }
    let broker = Broker::start(&["log.connections=false"]);
    Client::connect(&broker, V5, &unique("c")).disconnect();
    Connect::new(V5, "").login(Some("u"), None).open(&broker).disconnect();
    assert!(!broker.log().contains("client "), "{}", broker.log());
}

#[test]
fn lines_about_clients_have_a_limit_and_what_it_leaves_out_is_told() {
    let broker = Broker::start_with(&[], 1);
    let began = Instant::now();
    for _ in 0..400 {
        Client::connect(&broker, V311, &unique("c")).cut();
    }
    let seconds = began.elapsed().as_secs() + 1;
    let log = broker.log();
    let lines = log.matches("client connected").count() as u64;
    assert!((50..=50 + 10 * seconds).contains(&lines), "{lines} lines in {seconds} s");
    let end = Instant::now() + Duration::from_secs(30);
    let told = || {
        broker.log().lines().any(|line| {
            line.contains("lines about clients were left out") && line.contains("connected")
        })
    };
    while !told() {
        assert!(Instant::now() < end, "nothing is said of them: {}", broker.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn signals_without_a_meaning_are_a_line_and_usr1_is_a_summary() {
    let broker = Broker::start(&[]);
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&broker, V5, &unique("c"))).collect();
    let others = ["ALRM", "VTALRM", "PROF", "IO", "PWR", "XCPU", "XFSZ", "STKFLT", "34", "64"];
    for name in others {
        let before = broker.log().matches("this signal has no meaning here").count();
        broker.signal(&format!("-{name}"));
        eventually(name, || {
            broker.log().matches("this signal has no meaning here").count() > before
        });
    }
    // Ignored, as sockets would raise it.
    broker.signal("-PIPE");
    clients.iter_mut().for_each(Client::ping);
    broker.signal("-USR1");
    let shards = broker::shards();
    eventually("a summary", || broker.log().matches("summary of a shard").count() == shards);
    let log = broker.log();
    let whole = log.lines().find(|line| line.contains("ringmq::summary: summary connections="));
    let whole = whole.unwrap_or_else(|| panic!("no summary: {log}"));
    assert!(whole.contains(" connections=10 ") && whole.contains("resident_bytes="), "{whole}");
    broker.signal("-TERM");
    assert_eq!(broker.wait(Duration::from_secs(15)), Some(0));
}
