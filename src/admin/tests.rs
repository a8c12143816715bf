//! Tests of the server over TCP, with closures in the place of shards.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;

use super::*;
use crate::contained;
use crate::telemetry::alarms::Alarm;

fn start(shards: Vec<AskShard>, stage: BrokerStage) -> Admin {
    let sources = AdminSources {
        shards,
        interest: Box::new(|| 0),
        bridges: Box::new(Vec::new),
        cluster: Box::new(|| None),
        spans: Box::new(|| None),
        listeners: Box::new(Vec::new),
        memory_limit: Box::new(|| None),
        top: TopClients::default(),
        placement: Arc::new(|name| name.len() as u8),
        started: SystemTime::now(),
        api: None,
    };
    let bind = "127.0.0.1:0".parse().unwrap();
    let door =
        AdminEndpoint { bind, key: "admin.bind", name: "admin", terms: ServerTerms::of_pages() };
    Admin::start(door, stage, sources).unwrap()
}

fn quick() -> AskShard {
    Arc::new(|question: FiguresRequest| question.answer(Snapshot::default()))
}

/// Status and body.
fn get(admin: &Admin, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin.address()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_shard_that_does_not_answer_is_named_and_costs_a_scrape_a_second() {
    let (sender, questions) = channel();
    let hung: AskShard = Arc::new(move |question| drop(sender.send(question)));
    let admin = start(vec![quick(), hung], BrokerStage::Ready);
    let began = Instant::now();
    let (status, body) = get(&admin, "/healthz");
    assert_eq!((status, body.as_str()), (503, "no answer in 2 s from shard 1\n"));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let began = Instant::now();
    let (status, body) = get(&admin, "/metrics");
    assert_eq!(status, 200);
    assert!(body.contains("\nringmq_shard_up{shard=\"0\"} 1\nringmq_shard_up{shard=\"1\"} 0\n"));
    assert!(body.contains("\nringmq_connections{shard=\"0\"} 0\n"));
    assert!(!body.contains("ringmq_connections{shard=\"1\"}"));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // Readiness does not depend on the shard that is silent.
    assert_eq!(get(&admin, "/readyz").0, 200);
    // The shard answers again, and from then on in time.
    std::thread::spawn(move || {
        questions.iter().for_each(|question| question.answer(Snapshot::default()));
    });
    assert_eq!(get(&admin, "/healthz"), (200, "ok\n".to_owned()));
}

/// What the hook of the log does on such a thread.
fn panic_held() {
    assert!(contained::count_panic(), "the thread says that it is contained");
    contained::hold()
}

/// Waits for the server's thread to be found dead.
fn found_dead(admin: &mut Admin, now: Instant) {
    let until = Instant::now() + Duration::from_secs(10);
    while admin.paused().is_none() {
        assert!(Instant::now() < until, "nothing has panicked");
        admin.look_after(now);
        std::thread::yield_now();
    }
}

#[test]
fn a_thread_that_panics_is_replaced_and_its_connections_end() {
    let count = AtomicU32::new(0);
    let shard: AskShard = Arc::new(move |question: FiguresRequest| {
        if count.fetch_add(1, Ordering::Relaxed) == 1 {
            panic_held();
        }
        question.answer(Snapshot::default());
    });
    let mut admin = start(vec![shard], BrokerStage::Ready);
    let mut idle = TcpStream::connect(admin.address()).unwrap();
    assert_eq!(get(&admin, "/healthz"), (200, "ok\n".to_owned()));
    let mut asking = TcpStream::connect(admin.address()).unwrap();
    write!(asking, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let now = Instant::now();
    found_dead(&mut admin, now);
    for stream in [&mut idle, &mut asking] {
        assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)), "it is closed");
    }
    assert_eq!(admin.paused(), Some("admin.bind"));
    admin.look_after(now);
    assert_eq!(admin.paused(), None, "the first time there is no pause");
    assert_eq!(get(&admin, "/healthz"), (200, "ok\n".to_owned()));
}

#[test]
fn a_server_that_panics_again_pauses_and_ends_when_it_is_to_end() {
    let shard: AskShard = Arc::new(|_| panic_held());
    let mut admin = start(vec![shard], BrokerStage::Ready);
    let mut now = Instant::now();
    for pause in [0, 2, 4] {
        let mut asking = TcpStream::connect(admin.address()).unwrap();
        write!(asking, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        found_dead(&mut admin, now);
        if pause > 0 {
            admin.look_after(now + Duration::from_millis(pause * 1000 - 1));
            assert!(admin.paused().is_some(), "{pause} s are not over");
        }
        now += Duration::from_secs(pause);
        admin.look_after(now);
        assert_eq!(admin.paused(), None);
    }
    let mut asking = TcpStream::connect(admin.address()).unwrap();
    write!(asking, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    found_dead(&mut admin, now);
    let began = Instant::now();
    drop(admin);
    assert!(began.elapsed() < Duration::from_secs(1), "nobody waits for a thread that is held");
}

#[test]
fn the_alarm_about_threads_stands_on_the_page_of_health() {
    let admin = start(vec![quick()], BrokerStage::Ready);
    let (name, message) = ("thread_failed", "why".to_owned());
    let mut list = AlarmList::default();
    list.active.push(Alarm { name, message, activate_at: 1, deactivate_at: None });
    admin.alarms(Arc::new(list));
    assert_eq!(get(&admin, "/healthz"), (200, "ok; why\n".to_owned()));
    admin.others_paused(&["admin.bind"]);
    let both = "ok; why; admin.bind does not answer for a while\n".to_owned();
    assert_eq!(get(&admin, "/healthz"), (200, both));
}

#[test]
fn a_shard_that_has_ended_is_a_failure_unless_the_broker_drains() {
    let admin = start(vec![Arc::new(drop), quick()], BrokerStage::Starting);
    assert_eq!(get(&admin, "/readyz"), (503, "starting\n".to_owned()));
    assert_eq!(get(&admin, "/healthz"), (503, "ended: shard 0\n".to_owned()));
    admin.enter(BrokerStage::Draining);
    assert_eq!(get(&admin, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(&admin, "/readyz"), (503, "draining\n".to_owned()));
}

#[test]
fn dropping_it_closes_its_address_and_ends_its_connections() {
    let admin = start(vec![quick()], BrokerStage::Ready);
    let address = admin.address();
    let mut open = TcpStream::connect(address).unwrap();
    assert_eq!(get(&admin, "/readyz").0, 200);
    drop(admin);
    assert!(TcpStream::connect(address).is_err());
    assert!(matches!(open.read(&mut [0; 8]), Ok(0) | Err(_)));
}

#[test]
fn a_late_shard_is_named_at_once_and_counted_until_it_answers() {
    let admin = start(vec![quick(), quick()], BrokerStage::Ready);
    let late_seconds = |shard: u8| {
        let (_, page) = get(&admin, "/metrics");
        let name = format!("ringmq_shard_late_seconds{{shard=\"{shard}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
        line.parse::<f64>().unwrap()
    };
    assert_eq!((late_seconds(0), late_seconds(1)), (0.0, 0.0));
    let since = Instant::now() - Duration::from_secs(7);
    admin.late(vec![(ShardId(1), since)]);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(&admin, path), (503, "no answer from shard 1 for 7 s\n".to_owned()));
    }
    let ready = || get(&admin, "/metrics").1.contains("\nringmq_ready 1\n");
    assert!(!ready(), "it says what /readyz says");
    assert_eq!(late_seconds(0), 0.0);
    assert!((7.0..30.0).contains(&late_seconds(1)), "{}", late_seconds(1));
    admin.late(Vec::new());
    assert_eq!(get(&admin, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(&admin, "/readyz"), (200, "ready\n".to_owned()));
    assert!(ready());
    admin.lost_lines(12);
    assert!(get(&admin, "/metrics").1.contains("\nringmq_log_lines_lost_total 12\n"));
}

#[test]
fn where_a_client_lives_is_told_by_name() {
    let admin = start(vec![quick()], BrokerStage::Ready);
    assert_eq!(get(&admin, "/placement?client_id=three"), (200, "5\n".into()));
    assert_eq!(get(&admin, "/placement?client_id=%C3%A4%26b"), (200, "4\n".into()));
    for wrong in ["", "?", "?client=x", "?client_id=%", "?client_id=%f", "?client_id=%FF"] {
        assert_eq!(get(&admin, &format!("/placement{wrong}")).0, 400, "{wrong}");
    }
}

#[test]
fn a_shard_that_cannot_store_is_not_ready_on_every_page() {
    use crate::telemetry::Counters;
    for (down, full, degraded, ready) in
        [(0, 0, 0, true), (1, 0, 0, false), (0, 1, 0, false), (1, 0, 1, true)]
    {
        let counters = Counters {
            storage_down: down,
            storage_full: full,
            storage_degraded: degraded,
            ..Counters::default()
        };
        let shard: AskShard = Arc::new(move |question: FiguresRequest| {
            question.answer(Snapshot { counters, ..Snapshot::default() });
        });
        let admin = start(vec![quick(), shard], BrokerStage::Ready);
        assert_eq!(get(&admin, "/readyz").0 == 200, ready);
        let shown = format!("\nringmq_ready {}\n", u8::from(ready));
        assert!(get(&admin, "/metrics").1.contains(&shown), "{down} {full} {degraded}");
    }
}
