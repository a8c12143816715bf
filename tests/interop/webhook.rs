//! Bridges to an HTTP service that is slow, away, wrong, or has enough for now; and what waits on
//! disk for another broker while this one is killed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Ack, AckKind, Broker, Client, Packet, Publish, V5, V311, eventually, unique};

/// A request as the service has seen it.
#[derive(Clone)]
struct Seen {
    path: String,
    headers: HashMap<String, String>,
    body: String,
}

type Answer = dyn Fn(usize, &Seen) -> String + Send + Sync;

/// A service whose answers the test chooses, by the number of the request.
struct Service {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Service {
    fn start(answer: Box<Answer>) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (all, answer): (_, Arc<Answer>) = (Arc::clone(&seen), Arc::from(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &all, &*answer));
            }
        });
        Service { address, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no thread panics with it").clone()
    }
}

/// Requests of one connection, until it ends.
fn serve(stream: TcpStream, all: &Mutex<Vec<Seen>>, answer: &Answer) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let seen = Seen { path, headers, body: String::from_utf8(body).ok()? };
        let number = {
            let mut all = all.lock().expect("no thread panics with it");
            all.push(seen.clone());
            all.len() - 1
        };
        writer.write_all(answer(number, &seen).as_bytes()).ok()?;
    }
}

fn status(line: &str) -> String {
    format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n")
}

fn near(address: SocketAddr, more: &str) -> (Broker, std::path::PathBuf) {
    near_with(address, more, "")
}

/// `more`: further keys of `http`; `keys`: of the bridge.
fn near_with(address: SocketAddr, more: &str, keys: &str) -> (Broker, std::path::PathBuf) {
    let directory = std::env::temp_dir().join(unique("ringmq-hook"));
    fs::create_dir(&directory).expect("a directory");
    let file = directory.join("hook.yaml");
    let text = format!(
        "listeners: [{{bind: '127.0.0.1:0'}}]\nadmin: {{bind: '127.0.0.1:0'}}\nbridges:\n  - name: \
         hook\n    http: {{url: 'http://{address}/in/${{topic.2}}', filters: ['h/#'], \
         retry: {{min: 20ms, max: 100ms}}, timeout: 500ms{more}}}\n{keys}"
    );
    fs::write(&file, text).expect("its file");
    (Broker::of_file(file.to_str().expect("a plain path")), directory)
}

/// A service that fails in each way there is: nothing is lost, and each client's messages stay in
/// order.
#[test]
fn a_webhook_tries_again_and_keeps_each_clients_order() {
    let answer = |number: usize, _: &Seen| match number % 11 {
        3 => status("503 Busy"),
        5 => "HTTP/1.1 429 Wait\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n".to_owned(),
        7 => {
            std::thread::sleep(Duration::from_millis(700));
            status("200 OK")
        }
        9 => "nonsense\r\n\r\n".to_owned(),
        _ => status("204 No Content"),
    };
    let service = Service::start(Box::new(answer));
    let (broker, directory) =
        near(service.address, ", secret: key, headers: {x-from: '${client_id}'}");
    let names: Vec<String> = (0..4).map(|_| unique("c")).collect();
    let mut clients: Vec<Client> =
        names.iter().map(|name| Client::connect(&broker, V5, name)).collect();
    for number in 0..15 {
        for client in &mut clients {
            client.publish(&Publish::new("h/a b", 1, format!("{{\"n\":{number}}}")));
        }
    }
    eventually("everything has arrived", || {
        broker.metric("ringmq_bridge_delivered_total", "") == 60.0
    });
    let mut orders: HashMap<String, Vec<u64>> = HashMap::new();
    let mut keys = HashSet::new();
    for seen in service.seen() {
        assert_eq!(seen.path, "/in/a%20b");
        assert!(seen.headers["x-ringmq-signature"].starts_with("sha256="));
        let body: serde_json::Value = serde_json::from_str(&seen.body).expect("JSON");
        assert_eq!(body["client_id"], *seen.headers["x-from"]);
        let number = body["payload"]["n"].as_u64().expect("a number");
        let order = orders.entry(seen.headers["x-from"].clone()).or_default();
        // A repetition carries the key of the first attempt.
        let again = !keys.insert(seen.headers["idempotency-key"].clone());
        assert_eq!(again, order.last() == Some(&number), "{order:?} then {number}");
        order.push(number);
    }
    for (name, order) in &mut orders {
        order.dedup();
        assert!(order.iter().copied().eq(0..15), "{name}: {order:?}");
    }
    assert!(broker.metric("ringmq_bridge_retries_total", "") > 0.0);
    let _ = fs::remove_dir_all(directory);
}

/// Publishers wait for the service (`puback: delivered`): while it has no time nobody is answered,
/// then everybody is in the order of the publications, and told what it refuses.
#[test]
fn publishers_wait_for_the_service() {
    let ready = Arc::new(AtomicBool::new(false));
    let is_ready = Arc::clone(&ready);
    let answer = move |_: usize, seen: &Seen| match is_ready.load(Ordering::SeqCst) {
        false => status("503 Busy"),
        true if seen.body.contains("bad") => status("400 Bad Request"),
        true => status("204 No Content"),
    };
    let service = Service::start(Box::new(answer));
    let (broker, directory) = near_with(service.address, "", "    puback: delivered\n");
    let mut five = Client::connect(&broker, V5, &unique("five"));
    let mut three = Client::connect(&broker, V311, &unique("three"));
    let first = five.send_publish(&Publish::new("h/x", 1, "one"));
    let second = five.send_publish(&Publish::new("h/x", 2, "two"));
    let other = five.send_publish(&Publish::new("other", 1, "not for the service"));
    let third = three.send_publish(&Publish::new("h/y", 1, "three"));
    eventually("they wait", || broker.metric("ringmq_bridge_acks_waiting", "") == 4.0);
    eventually("it is tried", || !service.seen().is_empty());
    five.expect_nothing();
    three.expect_nothing();
    let mut free = Client::connect(&broker, V5, &unique("free"));
    free.publish(&Publish::new("other", 1, "not for the service"));
    ready.store(true, Ordering::SeqCst);
    for (kind, id) in
        [(AckKind::PubAck, first), (AckKind::PubRec, second), (AckKind::PubAck, other)]
    {
        let Packet::Ack(ack) = five.next() else { panic!("an answer") };
        assert_eq!((ack.kind, ack.id), (kind, id));
        assert!(ack.reason < 0x80, "{ack:?}");
    }
    five.send(&Ack::new(AckKind::PubRel, second).encode());
    assert_eq!(five.ack(AckKind::PubComp, second).reason, 0);
    three.ack(AckKind::PubAck, third);
    // Implementation specific error; MQTT 3 has no such word, and would only send it again.
    assert_eq!(five.publish_code(&Publish::new("h/x", 1, "bad")), 0x83);
    three.publish(&Publish::new("h/x", 1, "bad"));
    assert_eq!(broker.metric("ringmq_bridge_acks_failed_total", "reason=\"refused\""), 2.0);
    eventually("nobody waits", || broker.metric("ringmq_bridge_acks_waiting", "") == 0.0);
    let _ = fs::remove_dir_all(directory);
}

/// What the service refuses is dropped and counted; batches are arrays.
#[test]
fn a_webhook_drops_what_is_refused_and_sends_batches() {
    let refuse = |_: usize, seen: &Seen| {
        status(if seen.body.contains("bad") { "400 Bad Request" } else { "200 OK" })
    };
    let service = Service::start(Box::new(refuse));
    let (broker, directory) =
        near(service.address, ", batch: 10, lanes: 1, body: {p: '${payload}'}");
    let mut client = Client::connect(&broker, V311, &unique("c"));
    client.publish(&Publish::new("h/x", 1, "bad"));
    eventually("it is refused", || {
        broker.metric("ringmq_bridge_dropped_total", "reason=\"rejected\"") == 1.0
    });
    for number in 0..50 {
        client.send_publish(&Publish::new("h/x", 0, number.to_string()));
    }
    eventually("the others arrive", || broker.metric("ringmq_bridge_delivered_total", "") == 50.0);
    let mut all = Vec::new();
    for seen in service.seen().iter().skip(1) {
        let body: serde_json::Value = serde_json::from_str(&seen.body).expect("JSON");
        let batch = body.as_array().expect("an array");
        assert!(batch.len() <= 10);
        all.extend(batch.iter().map(|element| element["p"].as_u64().expect("a number")));
    }
    assert!(all.iter().copied().eq(0..50), "{all:?}");
    let _ = fs::remove_dir_all(directory);
}

/// Events reach a service as messages do: a bridge takes them by their topics.
#[test]
fn events_go_to_a_webhook() {
    let service = Service::start(Box::new(|_, _: &Seen| status("204 No Content")));
    let broker = Broker::start(&[
        "telemetry.events=[connected, disconnected]",
        "bridges.0.name=events",
        &format!("bridges.0.http.url=http://{}/events", service.address),
        "bridges.0.http.filters=[\"$SYS/broker/events/#\"]",
    ]);
    let id = unique("seen");
    Client::connect(&broker, V5, &id).disconnect();
    let came = |topic: &str| {
        service.seen().iter().any(|seen| {
            let body: serde_json::Value = serde_json::from_str(&seen.body).expect("JSON");
            body["topic"] == *topic && body["payload"]["clientid"] == *id
        })
    };
    for topic in ["$SYS/broker/events/client/connected", "$SYS/broker/events/client/disconnected"] {
        eventually("the event has come", || came(topic));
    }
}
