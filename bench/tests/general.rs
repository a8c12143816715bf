//! `conn`, `pub`, `sub`, `merge` and scenario files against real brokers: RingMQ, which is built
//! for it, and Debian's Mosquitto. Nothing is skipped: what is missing fails and says what to do.

#[path = "general/ground.rs"]
mod ground;

use ground::{Broker, Generator, Scratch, bench, figure, number};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Both kinds of broker.
fn brokers() -> [Broker; 2] {
    [Broker::ringmq(), Broker::mosquitto()]
}

/// Subscribers and publishers on a topic of their own; returns both results.
fn exchange(
    broker: &Broker,
    scratch: &Scratch,
    sub: &str,
    publish: &str,
) -> [serde_json::Value; 2] {
    let (heard, said) = (scratch.path("sub.json"), scratch.path("pub.json"));
    let ready = scratch.path("ready");
    let at = format!("-h 127.0.0.1 -p {}", broker.port);
    let mut subscribers =
        Generator::start(&format!("sub {at} {sub} --json {heard} --ready-file {ready}"));
    subscribers.until_there(&ready);
    let publishers = Generator::start(&format!("pub {at} {publish} --json {said}"));
    publishers.ends_with(0);
    subscribers.ends_with(0);
    std::fs::remove_file(&ready).expect("the subscribers made it");
    [ground::result(&heard), ground::result(&said)]
}

#[test]
fn every_message_arrives_once_and_in_order() {
    let scratch = Scratch::new("exchange");
    for broker in brokers() {
        for (version, qos) in [(4, 0), (4, 1), (4, 2), (5, 0), (5, 1), (5, 2), (3, 1)] {
            let case = format!("{} version {version} QoS {qos}", broker.name);
            let both = format!("-V {version} -q {qos}");
            let [heard, said] = exchange(
                &broker,
                &scratch,
                &format!("{both} -c 4 -i 0 -t x{version}{qos}/# -L 2000"),
                &format!("{both} -c 10 -i 0 -I 2 -t x{version}{qos}/%i -s 64 -L 500"),
            );
            assert_eq!(number(&said, "published"), 500, "{case}");
            let acknowledged = if qos == 0 { 0 } else { 500 };
            assert_eq!(number(&said, "acknowledged"), acknowledged, "{case}");
            assert_eq!(number(&said, "unacknowledged"), 0, "{case}");
            assert_eq!(number(&said, "published_bytes"), 500 * 64, "{case}");
            assert_eq!(number(&heard, "delivered"), 2000, "{case}");
            assert_eq!(number(&heard, "delivered_bytes"), 2000 * 64, "{case}");
            assert_eq!(number(&heard, "latency_ms.count"), 2000, "{case}");
            assert_eq!(number(&heard, "streams"), 40, "{case}");
            for fault in ["lost", "reordered", "duplicated", "disconnects", "strange"] {
                assert_eq!(number(&heard, fault), 0, "{case}: {fault}");
            }
            for fault in ["disconnects", "strange", "refused_acks", "acks_out_of_order", "failed"] {
                assert_eq!(number(&said, fault), 0, "{case}: {fault}");
            }
        }
    }
}

#[test]
fn full_speed_keeps_to_the_window_that_the_broker_gives() {
    let scratch = Scratch::new("speed");
    for broker in brokers() {
        // With QoS 2 a broker has more than it takes until it is told PUBREL: it ends the
        // connection of who sends more (MQTT 5, 3.3.4).
        let [heard, said] = exchange(
            &broker,
            &scratch,
            "-c 1 -q 1 -t s/# -L 6000",
            "-c 2 -i 0 -I 0 -F 0 -q 2 -t s/%i -s 30 -L 6000 -w",
        );
        assert_eq!(number(&said, "acknowledged"), 6000, "{}", broker.name);
        assert_eq!(number(&said, "disconnects"), 0, "{}", broker.name);
        assert_eq!(number(&heard, "delivered") + number(&heard, "lost"), 6000, "{}", broker.name);
    }
}

#[test]
fn topics_and_payloads_are_as_described() {
    let scratch = Scratch::new("topics");
    let topics = scratch.file(
        "topics.json",
        r#"{"topics": [
            {"name": "j/%i/a", "interval_ms": "4", "QoS": 1, "inject_timestamp": "ms",
             "payload": {"x": "%p1", "timestamp": "0"}, "render": "x"},
            {"name": "j/%i/b", "interval_ms": 8, "QoS": 0, "payload": {"y": 2}}]}"#,
    );
    let template = scratch.file("template", "<%UNIQUE%>");
    let broker = Broker::ringmq();
    let [heard, _] = exchange(
        &broker,
        &scratch,
        "-c 1 -q 1 -t j/# -L 300",
        &format!("-c 5 -i 0 --topics-payload {topics} -L 300"),
    );
    // Two thirds of the messages have a page in them.
    let bytes = number(&heard, "delivered_bytes");
    assert!((190 * 4096..210 * 4200).contains(&bytes), "{bytes}");
    let [heard, _] = exchange(
        &broker,
        &scratch,
        "-c 1 -q 1 -t h/# --payload-hdrs cnt64,ts -L 100",
        "-c 1 -I 1 -t h/%c/%s -q 1 --payload-hdrs cnt64,ts -s 0 -L 100",
    );
    assert_eq!(number(&heard, "delivered_bytes"), 1600);
    assert_eq!((number(&heard, "lost"), number(&heard, "without_header")), (0, 0));
    let [heard, _] = exchange(
        &broker,
        &scratch,
        "-c 1 -q 1 -t t/u7 -L 10",
        &format!("-c 1 -I 1 -n 6 -u u%i -P x -t t/%u -q 1 -m template://{template} -L 10"),
    );
    assert_eq!(number(&heard, "without_header"), 10);
}

#[test]
fn conditions_decide_the_exit_code() {
    let broker = Broker::ringmq();
    let at = format!("conn -h 127.0.0.1 -p {} -c 20 -i 0 --seconds 0.1", broker.port);
    let (code, _, _) = bench(&format!("{at} --fail-if connack.p99>60s,failed>0"));
    assert_eq!(code, 0);
    let (code, _, said) = bench(&format!("{at} --fail-if connack.p99>1us --fail-if failed>0"));
    assert_eq!(code, 3);
    assert!(said.contains("--fail-if \"connack.p99>1us\" holds"), "{said}");
    assert!(!said.contains("failed>0"), "{said}");
    let (code, _, said) = bench(&format!("{at} --fail-if latency.p99>1s"));
    assert_eq!(code, 3);
    assert!(said.contains("cannot be judged"), "{said}");
}

/// Accepts MQTT connections, acknowledges CONNECT, and says nothing more.
fn deaf_broker() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(&[0x20, 3, 0, 0, 0]);
            open.push(stream);
        }
    });
    port
}

#[test]
fn the_first_signal_ends_in_good_order_and_the_second_at_once() {
    let scratch = Scratch::new("signals");
    let result = scratch.path("pub.json");
    let words = format!("pub -h 127.0.0.1 -p {} -c 3 -i 0 -I 1 -q 1 -t a", deaf_broker());
    let ready = scratch.path("ready");
    let start = || {
        let words = format!("{words} --json {result} --ready-file {ready}");
        let mut generator = Generator::start(&words);
        generator.until_there(&ready);
        std::fs::remove_file(&ready).expect("it was made");
        std::thread::sleep(Duration::from_millis(300));
        generator
    };
    let generator = start();
    generator.signal("TERM");
    let began = Instant::now();
    // Acknowledgements are waited for, and do not come.
    let (code, out, _) = generator.ended();
    assert_eq!(code, Some(0));
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
    assert!(out.contains("stopped early"), "{out}");
    assert_eq!(number(&ground::result(&result), "unacknowledged"), 3);
    std::fs::remove_file(&result).expect("the first run wrote it");

    let generator = start();
    generator.signal("INT");
    std::thread::sleep(Duration::from_millis(200));
    generator.signal("INT");
    let began = Instant::now();
    let (code, _, _) = generator.ended();
    assert_eq!(code, Some(130));
    assert!(began.elapsed() < Duration::from_millis(1000), "{:?}", began.elapsed());
    assert!(!std::path::Path::new(&result).exists());
}

#[test]
fn a_broker_that_was_started_ends_with_the_second_signal() {
    let scratch = Scratch::new("started");
    let json = scratch.path("fanin.json");
    let words = format!("fanin --scale 0.01 --seconds 60 --json {json} mosquitto");
    let generator = Generator::start(&words);
    let limit = Instant::now() + Duration::from_secs(30);
    let broker = loop {
        if let Some(child) = generator.children().first() {
            break child.clone();
        }
        assert!(Instant::now() < limit, "no broker was started");
        std::thread::sleep(Duration::from_millis(20));
    };
    std::thread::sleep(Duration::from_millis(500));
    // Two of a kind could be one by the time they are delivered.
    generator.signal("TERM");
    generator.signal("INT");
    let (code, _, _) = generator.ended();
    assert_eq!(code, Some(130));
    while std::path::Path::new("/proc").join(&broker).exists() && !ground::is_dead(&broker) {
        assert!(Instant::now() < limit, "the broker goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_waited_for_sessions_is_taken_when_they_come_back() {
    let scratch = Scratch::new("away");
    for broker in brokers() {
        let at = format!("-h 127.0.0.1 -p {}", broker.port);
        let sub = format!("sub {at} -c 3 -i 0 --client-id away-%i -C false -x 600 -q 1 -t a/%i");
        Generator::start(&format!("{sub} --seconds 0")).ends_with(0);
        Generator::start(&format!("pub {at} -c 3 -i 0 -I 2 -q 1 -t a/%i -s 64 -L 60")).ends_with(0);
        let heard = scratch.path("sub.json");
        Generator::start(&format!("{sub} -L 60 --seconds 20 --json {heard}")).ends_with(0);
        let heard = ground::result(&heard);
        let figures = ["delivered", "streams", "lost", "reordered", "resumed", "disconnects"];
        let figures = figures.map(|name| number(&heard, name));
        assert_eq!(figures, [60, 3, 0, 0, 3, 0], "{}: {heard}", broker.name);
    }
}

#[test]
fn merged_results_are_the_sum_of_their_parts() {
    let scratch = Scratch::new("merge");
    let broker = Broker::mosquitto();
    let at = format!("-h 127.0.0.1 -p {}", broker.port);
    let start = |name: &str, limit: u32| {
        let (json, ready) = (scratch.path(name), scratch.path(&format!("{name}.ready")));
        let words =
            format!("sub {at} -c 2 -q 1 -t m -L {limit} --json {json} --ready-file {ready}");
        let mut generator = Generator::start(&words);
        generator.until_there(&ready);
        generator
    };
    let subscribers = [start("a", 400), start("b", 400)];
    let said = scratch.path("c");
    Generator::start(&format!("pub {at} -c 4 -i 0 -I 2 -q 1 -t m -L 200 --json {said}"))
        .ends_with(0);
    subscribers.into_iter().for_each(|generator| generator.ends_with(0));
    let files = ["a", "b", "c"].map(|name| scratch.path(name)).join(" ");
    let merged = scratch.path("merged");
    let (code, out, _) = bench(&format!("merge {files} --json {merged} --fail-if delivered!=800"));
    assert_eq!(code, 0, "{out}");
    let merged = ground::file(&merged);
    let parts = ["a", "b"].map(|name| ground::result(&scratch.path(name)));
    assert_eq!(number(&merged, "latency_ms.count"), 800);
    assert_eq!((number(&merged, "published"), number(&merged, "clients")), (200, 8));
    let of = |name: &str| parts.iter().map(|part| figure(part, name)).collect::<Vec<_>>();
    let largest = of("latency_ms.max").into_iter().fold(0.0, f64::max);
    assert_eq!(figure(&merged, "latency_ms.max"), largest);
    let median = figure(&merged, "latency_ms.p50");
    let medians = of("latency_ms.p50");
    let between = |ends: &[f64]| ends[0].min(ends[1]) <= median && median <= ends[0].max(ends[1]);
    assert!(between(&medians), "{median} {medians:?}");
    let (code, _, said) = bench(&format!("merge {files} {}", scratch.path("a")));
    assert_eq!(code, 1);
    assert!(said.contains("are the same result"), "{said}");
}

#[test]
fn prometheus_sees_a_run_while_it_goes_on() {
    let scratch = Scratch::new("prometheus");
    let broker = Broker::ringmq();
    let port = ground::free_port();
    let ready = scratch.path("ready");
    let mut generator = Generator::start(&format!(
        "pub -h 127.0.0.1 -p {} -c 7 -i 0 -I 10 -q 1 -t p/%i --prometheus {port} --ready-file \
         {ready}",
        broker.port
    ));
    generator.until_there(&ready);
    let page = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the generator listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers in UTF-8");
        text
    };
    let figures = |text: &str| -> BTreeMap<String, f64> {
        let figure = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_string(), value.parse().ok()?))
        };
        text.lines().filter(|line| !line.starts_with('#')).filter_map(figure).collect()
    };
    let limit = Instant::now() + Duration::from_secs(20);
    let seen = loop {
        let seen = figures(&page());
        if seen.get("ringmq_bench_published_total").is_some_and(|count| *count > 100.0) {
            break seen;
        }
        assert!(Instant::now() < limit, "{}", page());
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(seen["ringmq_bench_clients"], 7.0);
    assert_eq!(seen["ringmq_bench_connects_total"], 7.0);
    assert!(seen["ringmq_bench_latency_seconds_count"] > 50.0);
    let all = seen["ringmq_bench_latency_seconds_bucket{le=\"+Inf\"}"];
    assert_eq!(all, seen["ringmq_bench_latency_seconds_count"]);
    generator.signal("TERM");
    generator.ends_with(0);
}

#[test]
fn a_scenario_file_runs_its_parts_together() {
    let scratch = Scratch::new("file");
    let broker = Broker::mosquitto();
    let merged = scratch.path("merged.json");
    let file = scratch.file(
        "run.yaml",
        "host: 127.0.0.1\nqos: 1\ninterval: 0\nfail-if: [lost>0, 'delivered!=900', \
         'published!=300']\nparts:\n- {command: sub, topic: f/#, count: 3}\n- command: pub\n  \
         topic: f/%i\n  count: 5\n  interval_of_msg: 2\n  limit: 300\n",
    );
    let run = format!("run {file} --set port={} --json {merged}", broker.port);
    let (code, out, said) = bench(&run);
    assert_eq!(code, 0, "{out}{said}");
    let result = ground::file(&merged);
    assert_eq!((number(&result, "delivered"), number(&result, "published")), (900, 300));
    let (code, _, said) = bench(&format!("{run} --set limit=100"));
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("published!=300"), "{said}");
    let one = scratch.file("one.yaml", "command: conn\ncount: 4\ninterval: 0\nseconds: 100ms\n");
    let at = format!("--set port={} --set host=127.0.0.1", broker.port);
    let (code, out, said) = bench(&format!("run {one} {at} --fail-if connected!=4"));
    assert_eq!(code, 0, "{out}{said}");
    let (code, _, said) = bench(&format!("run {one} {at} --set cuont=1"));
    assert_eq!(code, 2);
    assert!(said.contains("--set cuont") && said.contains("is it count?"), "{said}");
}

#[test]
fn clients_go_to_all_hosts_from_all_source_addresses() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    let ports = [0, 1].map(|n: usize| listeners[n].local_addr().expect("it is bound").port());
    let counting = listeners.map(|listener| {
        std::thread::spawn(move || {
            let mut from = BTreeMap::new();
            let mut open = Vec::new();
            for _ in 0..12 {
                let (mut stream, peer) = listener.accept().expect("a client comes");
                *from.entry(peer.ip().to_string()).or_insert(0) += 1;
                let _ = stream.write_all(&[0x20, 3, 0, 0, 0]);
                open.push(stream);
            }
            from
        })
    });
    let hosts = format!("-h 127.0.0.1:{} -h 127.0.0.1:{}", ports[0], ports[1]);
    let words =
        format!("conn {hosts} -c 24 -i 0 --seconds 0.2 --ifaddr 127.0.5.1-127.0.5.3,127.0.6.1");
    let (code, _, said) = bench(&words);
    assert_eq!(code, 0, "{said}");
    for counted in counting {
        let from = counted.join().expect("it counted");
        let want = ["127.0.5.1", "127.0.5.2", "127.0.5.3", "127.0.6.1"];
        assert_eq!(from.keys().collect::<Vec<_>>(), want);
        assert!(from.values().all(|count| *count == 3), "{from:?}");
    }
}

#[test]
fn lost_clients_come_back_as_often_as_they_may() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let serving = std::thread::spawn(move || {
        // In, lost, refused as busy (0x89), in again.
        for answer in [0, 0x89, 0] {
            let (mut stream, _) = listener.accept().expect("the client comes");
            let mut bytes = [0; 512];
            let length = stream.read(&mut bytes).expect("it says CONNECT");
            assert_eq!(bytes[0], 0x10, "{:?}", &bytes[..length]);
            stream.write_all(&[0x20, 3, 0, answer, 0]).expect("it reads");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let words = "--reconnect 1 --num-retry-connect 1 -c 1 -V 5";
    let scratch = Scratch::new("returns");
    let json = scratch.path("conn.json");
    let (code, _, said) = bench(&format!("conn -h 127.0.0.1 -p {port} {words} --json {json}"));
    assert_eq!(code, 0, "{said}");
    serving.join().expect("all three connections came");
    let result = ground::result(&json);
    for (field, want) in [
        ("connected", 1),
        ("reconnected", 1),
        ("retried", 1),
        ("failed", 0),
        ("refused", 1),
        ("disconnects", 2),
    ] {
        assert_eq!(number(&result, field), want, "{field}: {result}");
    }
    assert_eq!(result["refusals"]["137"], 1);
}

#[test]
fn clients_prove_a_password_without_sending_it() {
    let broker = Broker::ringmq_with(|program, scratch| {
        let users = scratch.path("users");
        let words = ["passwd", "-b", "apple", "-H", "scram", &users, "a=n,n"];
        let made = Command::new(program).args(words).output().expect("it runs");
        assert!(made.status.success(), "{made:?}");
        vec![format!("access.authentication=[{{scram: {{path: {users}}}}}]")]
    });
    let scratch = Scratch::new("scram");
    let result = scratch.path("result.json");
    let conn = format!("conn -h 127.0.0.1 -p {} -c 20 -i 0 -u a=n,n --seconds 0", broker.port);
    for method in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let (code, _, said) = bench(&format!("{conn} -P apple --scram {method} --json {result}"));
        assert_eq!(code, 0, "{said}");
        assert_eq!(number(&ground::result(&result), "connected"), 20, "{method}");
    }
    let (code, _, said) = bench(&format!("{conn} -P pear --scram SCRAM-SHA-256"));
    assert!(code == 1 && said.contains("0x87"), "{said}");
    for (wrong, names) in [("-V 4 --scram SCRAM-SHA-256", "--version 5"), ("--scram MD5", "MD5")] {
        let (code, _, said) = bench(&format!("{conn} -P apple {wrong}"));
        assert!(code == 2 && said.contains(names), "{code} {said}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_a_failure_and_a_bad_word_misuse() {
    let (code, _, said) = bench(&format!("conn -h 127.0.0.1 -p {} -c 3", ground::free_port()));
    assert_eq!(code, 1);
    assert!(said.contains("Connection refused"), "{said}");
    let (code, _, said) = bench("pub -t a --cuont 3");
    assert_eq!(code, 2);
    assert!(said.contains("--cuont") && said.contains("--count"), "{said}");
}
