//! Threads that panic: one beside the shards is replaced, the others do not notice, and the pages
//! and the log tell of it; a shard's panic ends the process. A library before the C library makes
//! a reading of the clock fail on the thread of a name, at which the standard library panics.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::disk::compiled;
use crate::storage::Place;
use crate::support::broker::Launch;
use crate::support::http::{Http, admin};
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// A broker of one shard whose threads panic when they are told to.
struct Panicking {
    place: Place,
    broker: Broker,
}

impl Panicking {
    fn new(settings: &[&str]) -> Panicking {
        let place = Place::new();
        fs::create_dir_all(&place.0).expect("a scratch directory");
        let library = place.0.join("panics.so");
        compiled("panics.c", &library);
        let environment = vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("PANICS", place.0.display().to_string()),
        ];
        let bind = ["admin.bind=127.0.0.1:0", "admin.pages_bind=127.0.0.1:0"];
        let settings = [&bind, settings].concat();
        let broker = Launch { environment, shards: 1, ..Launch::new(&settings) }.start();
        Panicking { place, broker }
    }

    fn order(&self, thread: &str) -> PathBuf {
        let order = self.place.0.join(thread);
        fs::write(&order, "").expect("writable");
        order
    }

    /// Has the thread of that name panic, for so many times in all, and does something meanwhile.
    fn panic(&self, thread: &str, times: u32, mut meanwhile: impl FnMut()) {
        let end = Instant::now() + PATIENCE;
        while self.panics(thread) < f64::from(times) {
            let order = self.order(thread);
            while order.exists() {
                assert!(Instant::now() < end, "{thread}: {}", self.broker.log());
                meanwhile();
            }
            // The allocator reads the clock as well, and goes on without it.
            std::thread::sleep(Duration::from_millis(300));
        }
        assert_eq!(self.panics(thread), f64::from(times));
    }

    /// What a page of the server without the API says.
    fn page(&self, path: &str) -> String {
        let page = Http::open(self.broker.bound("admin_pages")).get(path);
        assert_eq!(page.status, 200, "{}", page.body);
        page.body
    }

    fn panics(&self, kind: &str) -> f64 {
        let pages = Http::open(self.broker.bound("admin_pages")).get("/metrics");
        pages.sum("ringmq_thread_panics_total", &[&format!("thread=\"{kind}\"")])
    }
}

#[test]
fn an_admin_server_that_panics_is_told_of_and_replaced_and_clients_notice_nothing() {
    let bed = Panicking::new(&[]);
    let broker = &bed.broker;
    let traced = r#"{"name": "kept", "type": "clientid", "clientid": "publisher"}"#;
    let mut before = Http::open(admin(broker));
    let begun = before.request("POST", "/api/v1/trace", "", traced);
    assert_eq!(begun.status, 200, "{}", begun.body);
    assert_eq!(bed.page("/healthz"), "ok\n");
    let mut subscriber = Client::subscriber(broker, V5, "subscriber", "a/#", 1);
    let mut publisher = Client::connect(broker, V5, "publisher");
    let mut slowest = Duration::ZERO;
    let mut exchange = || {
        let began = Instant::now();
        publisher.publish(&Publish::new("a/b", 1, "x"));
        subscriber.expect("x");
        slowest = slowest.max(began.elapsed());
    };
    let panicked = "ok; a thread has panicked within five minutes, see the log: admin";
    for times in 1..=2 {
        bed.panic("admin", times, &mut exchange);
        let dead = format!("{panicked}; admin.bind does not answer for a while\n");
        eventually("the other server tells", || {
            exchange();
            bed.page("/healthz") == dead
        });
        assert_eq!(bed.page("/readyz"), "ready\n");
        before.expect_closed();
        // The socket takes the connection, which is answered when the new thread is there.
        before = Http::open(admin(broker));
        eventually("the alarm is raised", || {
            let alarms = before.request("GET", "/api/v1/alarms", "", "");
            alarms.body.contains("\"thread_failed\"")
        });
        eventually("it is told", || bed.page("/healthz") == format!("{panicked}\n"));
    }
    assert!(bed.page("/metrics").contains("\nringmq_alarm_active{alarm=\"thread_failed\"} 1\n"));
    exchange();
    eventually("the trace goes on", || {
        let page = Http::open(admin(broker)).request("GET", "/api/v1/trace/kept/log", "", "");
        page.body.contains("PUBLISH")
    });
    let log = broker.log();
    assert_eq!(log.matches("admin server begins again").count(), 2, "{log}");
    assert!(log.contains("goes_on=true") && log.contains("alarm=\"thread_failed\""), "{log}");
    crate::probe::figure("slowest exchange beside panics", &format!("{slowest:?}"));
}

#[test]
fn the_exporter_of_spans_is_replaced() {
    let bed = Panicking::new(&["telemetry.otlp.endpoint=http://127.0.0.1:1"]);
    for times in 1..=2 {
        // It reads the clock five times a second, so the new one works.
        bed.panic("otlp", times, || std::thread::sleep(Duration::from_millis(5)));
    }
    assert!(bed.page("/healthz").starts_with("ok; "));
}

#[test]
fn a_shard_that_panics_ends_the_process_and_the_log_says_where() {
    let bed = Panicking::new(&[]);
    let order = bed.order("ringmq-0");
    // By a signal in a release build; where panics unwind, the control thread finds it dead.
    assert_ne!(bed.broker.wait(PATIENCE), Some(0));
    assert!(!order.exists());
    let log = bed.broker.log();
    assert!(log.contains("panicked: ") && log.contains("thread=\"ringmq-0\""), "{log}");
}
