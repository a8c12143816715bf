//! The admin server of a running broker: its pages, what they say while clients come, publish and
//! lose messages, and what peers that misbehave cannot do to it.

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use support::broker::run;
use support::http::{Http, Page, admin};
use support::{Broker, Client, Connect, Publish, V5, V311, eventually, unique};

#[track_caller]
fn get(broker: &Broker, path: &str) -> Page {
    Http::open(admin(broker)).get(path)
}

#[track_caller]
fn metrics(broker: &Broker) -> Page {
    get(broker, "/metrics")
}

fn start(settings: &[&str]) -> Broker {
    Broker::start(&[&["admin.bind=127.0.0.1:0"], settings].concat())
}

#[test]
fn pages_have_their_status_type_and_exact_length_on_one_connection() {
    let broker = start(&[]);
    let mut http = Http::open(admin(&broker));
    let text = "text/plain; charset=utf-8";
    for (path, status, kind, body) in [
        ("/healthz", 200, text, "ok\n"),
        ("/readyz", 200, text, "ready\n"),
        ("/readyz?verbose", 200, text, "ready\n"),
        ("http://other/readyz", 200, text, "ready\n"),
        ("/assets/", 404, text, "there are /metrics, /healthz and /readyz\n"),
        ("/metrics/", 404, text, "there are /metrics, /healthz and /readyz\n"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8", ""),
    ] {
        let page = http.get(path);
        assert_eq!((page.status, page.header("content-type")), (status, Some(kind)), "{path}");
        assert!(page.header("date").is_some(), "{path}");
        if path == "/metrics" {
            assert!(page.body.ends_with('\n') && page.body.len() > 5000);
        } else {
            assert_eq!(page.body, body, "{path}");
        }
        http.send(format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let head = http.answer(false);
        assert_eq!((head.status, head.header("content-type")), (status, Some(kind)), "{path}");
        if path != "/metrics" {
            assert_eq!(head.header("content-length"), page.header("content-length"), "{path}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        http.send(format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let page = http.answer(true);
        assert_eq!((page.status, page.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    // Requests that come together are answered in order.
    http.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!([http.answer(true).body, http.answer(true).body], ["ok\n", "ready\n"]);
    // A body is not taken for the next request.
    http.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 28\r\n\r\n");
    http.send(b"GET /nothing HTTP/1.1\r\n\r\n\r\n\r\n");
    assert_eq!(http.answer(true).body, "ok\n");
    let mut http = Http::open(admin(&broker));
    http.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(http.answer(true).status, 200);
    http.expect_closed();
    let mut http = Http::open(admin(&broker));
    http.send(b"GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(http.answer(true).status, 200);
    http.expect_closed();
}

#[test]
fn figures_follow_clients_subscriptions_and_messages_by_qos() {
    let broker = start(&[]);
    let shards = support::broker::shards() as f64;
    let before = metrics(&broker);
    assert_eq!(before.sum("ringmq_shard_up", &[]), shards);
    assert_eq!(before.sum("ringmq_ready", &[]), 1.0);
    assert_eq!(
        before.sum("ringmq_build_info", &[concat!("version=\"", env!("CARGO_PKG_VERSION"))]),
        1.0
    );
    assert_eq!(before.sum("ringmq_connections", &[]), 0.0);
    assert!(before.sum("process_resident_memory_bytes", &[]) > 1e6);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - before.sum("process_start_time_seconds", &[])).abs() < 60.0);
    let topic = unique("t");
    let mut sub = Client::subscriber(&broker, V5, &unique("s"), &topic, 2);
    let mut c = Client::connect(&broker, V311, &unique("p"));
    for (qos, count) in [(0, 5), (1, 3), (2, 2)] {
        for _ in 0..count {
            c.publish(&Publish::new(&topic, qos, "12345"));
            let got = sub.message();
            assert_eq!(got.qos, qos);
        }
    }
    c.ping();
    sub.ping();
    let page = metrics(&broker);
    assert_eq!(page.sum("ringmq_connections", &[]), 2.0);
    assert_eq!(page.sum("ringmq_sessions", &[]), 2.0);
    assert_eq!(page.sum("ringmq_subscriptions", &[]), 1.0);
    // A lone shard has nobody to tell.
    let interest = if shards > 1.0 { 1.0 } else { 0.0 };
    assert_eq!(page.sum("ringmq_interest_filters", &[]), interest);
    for (qos, count) in [("qos=\"0\"", 5.0), ("qos=\"1\"", 3.0), ("qos=\"2\"", 2.0)] {
        assert_eq!(page.sum("ringmq_messages_received_total", &[qos]), count);
        assert_eq!(page.sum("ringmq_messages_sent_total", &[qos]), count);
        assert_eq!(page.sum("ringmq_publish_received_bytes_total", &[qos]), 5.0 * count);
        assert_eq!(page.sum("ringmq_publish_sent_bytes_total", &[qos]), 5.0 * count);
    }
    assert!(page.sum("ringmq_received_bytes_total", &[]) > 100.0);
    assert_eq!(page.sum("ringmq_messages_dropped_total", &[]), 0.0);
    let steps = page.sum("ringmq_step_seconds_count", &[]);
    assert!(steps >= 20.0, "{steps} steps for some thirty packets");
    assert_eq!(page.sum("ringmq_step_seconds_bucket", &["le=\"+Inf\""]), steps);
    let (sum, busy) =
        (page.sum("ringmq_step_seconds_sum", &[]), page.sum("ringmq_step_busy_seconds_total", &[]));
    assert!((sum - busy).abs() < 1e-6 && busy > 0.0, "{sum} {busy}");
    c.disconnect();
    eventually("one connection is left", || metrics(&broker).sum("ringmq_connections", &[]) == 1.0);
}

#[test]
fn what_the_cores_do_when_nothing_happens_is_told() {
    let broker = start(&["runtime.receive_buffers.count=512"]);
    let shards = support::broker::shards() as f64;
    let (first, began) = (metrics(&broker), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let (second, asked) = (metrics(&broker), began.elapsed().as_secs_f64());
    let parked = |page: &Page| page.sum("ringmq_parked_seconds_total", &[]);
    let slept = (parked(&second) - parked(&first)) / shards;
    assert!((0.5..=asked + 0.05).contains(&slept), "each shard slept {slept} s of {asked}");
    assert!(second.sum("ringmq_sleeps_total", &["stage=\"park\""]) >= shards);
    let buffers = |name: &str| second.sum(name, &[]);
    let all = buffers("ringmq_receive_buffers_free") + buffers("ringmq_receive_buffers_posted");
    assert_eq!(all, 512.0 * shards);
    assert_eq!(second.sum("ringmq_rings", &[]), shards);
    assert!(second.sum("ringmq_socket_slots_free", &[]) > 100.0);
    assert_eq!(second.sum("ringmq_control_mail", &[]), 0.0);
    let lag = second.sum("ringmq_loop_lag_seconds", &[]) / shards;
    assert!((0.0..1.0).contains(&lag), "{lag}");
    if shards > 1.0 {
        assert_eq!(second.sum("ringmq_mailbox_depth", &["from="]), 0.0);
    }
}

#[test]
fn drops_are_told_by_reason() {
    let broker = start(&["mqtt.pending.max_messages=5"]);
    let (topic, id) = (unique("t"), unique("s"));
    let mut sub = Connect::durable(V5, &id).open(&broker);
    sub.granted(&topic, 1);
    sub.disconnect();
    eventually("it is offline", || metrics(&broker).sum("ringmq_sessions_offline", &[]) == 1.0);
    let mut c = Client::connect(&broker, V5, &unique("p"));
    for n in 0..12 {
        c.publish(&Publish::new(&topic, 1, n.to_string()));
    }
    for _ in 0..3 {
        c.publish(&Publish::new(&topic, 0, "lost"));
    }
    c.ping();
    let dropped = |reason: &str| {
        metrics(&broker).sum("ringmq_messages_dropped_total", &[&format!("reason=\"{reason}\"")])
    };
    eventually("seven found the queue full", || dropped("queue_full") == 7.0);
    eventually("three were QoS 0", || dropped("offline_qos0") == 3.0);
    let page = metrics(&broker);
    assert_eq!(page.sum("ringmq_messages_dropped_total", &[]), 10.0);
    assert_eq!(page.sum("ringmq_pending_messages", &[]), 5.0);
}

#[test]
fn sys_topics_tell_the_same() {
    let broker = start(&["sys.interval=1s"]);
    let topic = unique("t");
    let mut sub = Client::subscriber(&broker, V5, &unique("s"), &topic, 1);
    let mut c = Client::connect(&broker, V5, &unique("p"));
    for qos in [0, 1, 1] {
        c.publish(&Publish::new(&topic, qos, "1234567"));
        sub.message();
    }
    c.publish(&Publish::new(unique("kept"), 1, "x").retain());
    // What these topics tell does not change by listening to them.
    for (topic, name) in [
        ("publish/messages/received", "ringmq_messages_received_total"),
        ("publish/bytes/received", "ringmq_publish_received_bytes_total"),
        ("publish/messages/dropped", "ringmq_messages_dropped_total"),
        ("retained messages/count", "ringmq_retained_messages"),
        ("clients/disconnected", "ringmq_sessions_offline"),
    ] {
        let filter = format!("$SYS/broker/{topic}");
        let mut sys = Client::subscriber(&broker, V5, &unique("sys"), &filter, 0);
        eventually(name, || {
            let told: f64 = sys.message().text().parse().unwrap();
            told == metrics(&broker).sum(name, &[])
        });
        sys.disconnect();
    }
    let page = metrics(&broker);
    assert_eq!(page.sum("ringmq_messages_received_total", &[]), 4.0);
    assert_eq!(page.sum("ringmq_publish_received_bytes_total", &[]), 22.0);
    assert!(page.sum("ringmq_retained_messages", &[]) > 20.0, "the $SYS topics are retained");
}

#[test]
fn it_is_not_ready_from_the_drain_on_but_alive_until_the_end() {
    let broker = start(&["shutdown.grace=4s"]);
    let address = admin(&broker);
    let topic = unique("stuck");
    // Whoever does not read holds up the drain for the whole grace.
    let _stuck = Client::subscriber(&broker, V5, &unique("s"), &topic, 0);
    let mut c = Client::connect(&broker, V5, &unique("p"));
    for _ in 0..20 {
        c.publish(&Publish::new(&topic, 1, vec![0; 500_000]));
    }
    let mut http = Http::open(address);
    assert_eq!(http.get("/readyz").status, 200);
    broker.signal("-TERM");
    eventually("it is not ready", || {
        let page = http.get("/readyz");
        assert!(page.status == 200 || page.body == "draining\n", "{}", page.body);
        page.status == 503
    });
    let page = http.get("/healthz");
    assert_eq!((page.status, page.body.as_str()), (200, "ok\n"));
    assert_eq!(http.get("/metrics").sum("ringmq_ready", &[]), 0.0);
    assert_eq!(broker.wait(Duration::from_secs(8)), Some(0));
    assert!(TcpStream::connect(address).is_err(), "it still listens");
}

#[test]
fn requests_that_are_too_large_or_no_http_are_refused_or_cut_off() {
    let broker = start(&[]);
    let address = admin(&broker);
    let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(20_000));
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    for (request, statuses) in [
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"), &[431u16][..]),
        (large, &[431]),
        (long, &[414, 431]),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        ("GET / HTTP/1.1\r\nHost : x\r\n\r\n".to_owned(), &[400]),
        ("GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n".to_owned(), &[400, 505]),
        ("\0\x01\x02 nonsense\r\n\r\n".to_owned(), &[400]),
        ("\x16\x03\x01\x02\0 a TLS client hello".to_owned(), &[400]),
    ] {
        let mut http = Http::open(address);
        http.send(request.as_bytes());
        let page = http.answer(true);
        let shown: String = request.chars().take(40).collect();
        assert!(statuses.contains(&page.status), "{shown:?}: {}", page.status);
    }
    // Half a request, and then the end.
    let mut http = Http::open(address);
    http.send(b"GET /metrics HTTP/1.1\r\nHo");
    drop(http);
    assert_eq!(get(&broker, "/healthz").status, 200);
}

#[test]
fn a_request_that_takes_too_long_is_cut_off_and_keeps_nobody_waiting() {
    let broker = start(&[]);
    let address = admin(&broker);
    let began = Instant::now();
    let slow: Vec<_> =
        [&b""[..], b"GET /metrics HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"]
            .into_iter()
            .map(|first| {
                let mut http = Http::open(address);
                http.send(first);
                std::thread::spawn(move || {
                    if first.ends_with(b"\r\n\r\n") {
                        assert_eq!(http.answer(true).status, 200);
                    }
                    // A header byte now and then does not prolong it.
                    http.stream.set_nonblocking(true).unwrap();
                    let mut byte = [0; 64];
                    loop {
                        std::thread::sleep(Duration::from_millis(100));
                        if !first.is_empty() && !first.ends_with(b"\r\n\r\n") {
                            let _ = http.stream.write(b"a");
                        }
                        match http.stream.read(&mut byte) {
                            Ok(0) => return began.elapsed(),
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                            Ok(_) => {}
                            Err(_) => return began.elapsed(),
                        }
                        assert!(began.elapsed() < Duration::from_secs(30), "never cut off");
                    }
                })
            })
            .collect();
    assert_eq!(get(&broker, "/healthz").status, 200);
    assert!(began.elapsed() < Duration::from_secs(8));
    for one in slow {
        let after = one.join().expect("it was cut off");
        assert!(after > Duration::from_secs(5) && after < Duration::from_secs(25), "{after:?}");
    }
}

#[test]
fn a_hundred_connections_that_sit_there_lock_nobody_out() {
    let broker = start(&[]);
    let address = admin(&broker);
    let before = broker.descriptors();
    let mut sitting: Vec<_> = (0..200).map(|_| Http::open(address)).collect();
    for http in sitting.iter_mut().step_by(2) {
        http.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Half: ");
    }
    assert_eq!(get(&broker, "/metrics").sum("ringmq_ready", &[]), 1.0);
    let held = broker.descriptors();
    // Each of at most 64 has a second descriptor, by which it is shut down if the thread panics.
    assert!(held <= before + 128, "{before} descriptors before, {held} with 200 connections");
    // One that asks for much and reads nothing does not fill the broker's memory.
    let mut greedy = Http::open(address);
    greedy.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    for _ in 0..2000 {
        if greedy.stream.write_all(&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10)).is_err()
        {
            break;
        }
    }
    let page = metrics(&broker);
    assert!(page.sum("process_resident_memory_bytes", &[]) < 200e6);
    drop((greedy, sitting));
    eventually("their descriptors are free", || broker.descriptors() <= before + 1);
}

#[test]
fn a_taken_address_ends_the_start_with_one_and_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind = format!("admin.bind={}", taken.local_addr().unwrap());
    let exit = run(&["--set", "listeners.0.bind=127.0.0.1:0", "--set", &bind]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    for part in ["admin.bind", &taken.local_addr().unwrap().to_string(), "or change it"] {
        assert!(exit.stderr.contains(part), "{part} is not in {exit:?}");
    }
}

#[test]
fn without_a_setting_there_is_none_and_a_reload_opens_moves_and_closes_it() {
    let broker = Broker::start(&[]);
    assert!(!broker.log().contains("admin="), "{}", broker.log());
    let mut c = Client::connect(&broker, V5, &unique("c"));
    let file = broker.config_file();
    let config = fs::read_to_string(&file).expect("the harness wrote it");
    let reload = |admin: &str| {
        let count = |log: String| log.matches("configuration reloaded").count();
        let before = count(broker.log());
        fs::write(&file, format!("{config}{admin}")).expect("it can be written");
        broker.signal("-HUP");
        eventually("it is reloaded", || count(broker.log()) > before);
    };
    reload("admin: {bind: 127.0.0.1:0}\n");
    let first = admin(&broker);
    assert_eq!(get(&broker, "/readyz").status, 200);
    // A taken address: the old one goes on.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    reload(&format!("admin: {{bind: \"{}\"}}\n", taken.local_addr().unwrap()));
    assert!(broker.log().contains("admin.bind: cannot listen"), "{}", broker.log());
    assert_eq!(Http::open(first).get("/readyz").status, 200);
    // Free now: another reload of the same file takes it.
    let second = taken.local_addr().unwrap();
    drop(taken);
    reload(&format!("admin: {{bind: \"{second}\"}}\n"));
    assert_eq!(Http::open(second).get("/readyz").status, 200);
    assert!(TcpStream::connect(first).is_err(), "the old address is still open");
    reload("");
    assert!(TcpStream::connect(second).is_err(), "it is still open");
    c.ping();
}

#[test]
fn a_scrape_takes_as_long_with_thousands_of_clients_as_with_none() {
    const CLIENTS: usize = 4000;
    let _alone = support::machine();
    rlimit::increase_nofile_limit(CLIENTS as u64 + 500).expect("enough descriptors");
    let broker = start(&[]);
    let best = |lines: &mut usize| {
        // Anew: while the clients connect, an unused connection may exceed its time.
        let mut http = Http::open(admin(&broker));
        let times = (0..30).map(|_| {
            let began = Instant::now();
            *lines = http.get("/metrics").body.lines().count();
            let took = began.elapsed();
            std::thread::sleep(Duration::from_millis(15));
            took
        });
        times.min().expect("thirty of them")
    };
    let (mut few, mut many) = (0, 0);
    let without = best(&mut few);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| Client::subscriber(&broker, V311, &format!("c-{n}"), &format!("t/{n}"), 0))
        .collect();
    let with = best(&mut many);
    println!("{few} lines; best of 30: {without:?} with no client, {with:?} with {CLIENTS}");
    assert_eq!(few, many, "a line per client");
    assert_eq!(metrics(&broker).sum("ringmq_connections", &[]), CLIENTS as f64);
    assert!(with < Duration::from_millis(50), "{with:?}");
    assert!(with < without * 3 + Duration::from_millis(5), "{without:?}, then {with:?}");
    drop(clients);
}
