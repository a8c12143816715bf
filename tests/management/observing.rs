//! What an operator can watch: traces, the heaviest clients, events, alarms.

use super::{Api, start};
use crate::Broker;
use crate::support::http::admin;
use crate::support::{Client, Connect, Publish, V5, V311, eventually, patience, unique};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// All lines of a trace, once one of them is `last`.
#[track_caller]
fn lines(api: &mut Api, name: &str, last: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let mut position = 0;
    eventually("the last line is there", || {
        let part = api.get(&format!("/trace/{name}/log?position={position}&bytes=500"));
        position = part["meta"]["position"].as_u64().unwrap();
        let text = part["items"].as_str().unwrap();
        all.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        all.iter().any(&last)
    });
    all
}

/// What the lines say in short.
fn short(lines: &[Value]) -> Vec<String> {
    let short = |line: &Value| match line["packet"].as_str() {
        Some(packet) => format!("{} {packet}", line["event"].as_str().unwrap()),
        None => line["event"].as_str().unwrap().to_owned(),
    };
    lines.iter().map(short).collect()
}

#[test]
fn a_trace_of_a_client_has_every_packet_and_what_was_decided() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let (id, other) = (unique("traced"), unique("other"));
    let wanted = json!({"name": "one", "type": "clientid", "clientid": id});
    let (status, made) = api.ask("POST", "/trace", &wanted);
    assert_eq!((status, &made["status"], &made["of"]), (200, &json!("running"), &json!(id)));
    let mut untraced = Client::subscriber(&broker, V311, &other, "t/#", 0);
    let mut client = Client::connect(&broker, V5, &id);
    client.granted("t/1", 1);
    client.publish(&Publish::new("t/1", 1, "hidden").retain());
    client.expect("hidden");
    untraced.expect("hidden");
    client.unsubscribe(&["t/1"]);
    client.ping();
    client.disconnect();
    let found = lines(&mut api, "one", |line| line["event"] == json!("session ended"));
    let wanted = [
        "sent CONNACK",
        "connected",
        "received SUBSCRIBE",
        "subscribed",
        "sent SUBACK",
        "received PUBLISH",
        "sent PUBLISH",
        "sent PUBACK",
        "received PUBACK",
        "received UNSUBSCRIBE",
        "unsubscribed",
        "sent UNSUBACK",
        "received PINGREQ",
        "sent PINGRESP",
        "received DISCONNECT",
        "disconnected",
        "session ended",
    ];
    let (mut got, mut wanted) = (short(&found), wanted.map(str::to_owned).to_vec());
    // A PUBACK to the publisher and its own copy may come in either order.
    got.sort();
    wanted.sort();
    assert_eq!(got, wanted, "{found:#?}");
    assert!(found.iter().all(|line| line["clientid"] == json!(id)));
    let ended = |line: &Value| line["event"] == json!("session ended");
    assert!(found.iter().all(|line| line["peer"].is_string() != ended(line)), "{found:#?}");
    let publish = found.iter().find(|l| l["packet"] == json!("PUBLISH")).unwrap();
    assert_eq!((&publish["topic"], &publish["qos"]), (&json!("t/1"), &json!(1)));
    assert_eq!((&publish["payload_bytes"], &publish["payload"]), (&json!(6), &Value::Null));
    let times: Vec<&str> = found.iter().map(|line| line["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let stopped = api.ask("PUT", "/trace/one/stop", &Value::Null);
    assert_eq!((stopped.0, &stopped.1["status"]), (200, &json!("stopped")));
    let shown = api.get("/trace");
    assert_eq!((&shown[0]["lines"], &shown[0]["lost"]), (&json!(found.len()), &json!(0)));
    assert_eq!(api.status("DELETE", "/trace/one"), 204);
    assert_eq!(api.get("/trace"), json!([]));
}

#[test]
fn a_trace_of_a_topic_follows_a_message_through_all_clients() {
    let broker = start(&["mqtt.pending.max_messages=1", "mqtt.pending.on_full=drop_new"]);
    let mut api = Api::of(&broker);
    let name = unique("w");
    let mut away = Connect::durable(V5, format!("{name}-away")).open(&broker);
    away.granted(&format!("{name}/+"), 1);
    away.disconnect();
    let mut online = Client::subscriber(&broker, V311, &format!("{name}-on"), "#", 1);
    eventually("it is away", || {
        api.get(&format!("/clients/{name}-away"))["connected"] == json!(false)
    });
    let wanted = json!({"name": "topic", "type": "topic", "topic": format!("{name}/#"),
        "payload_encode": "text", "seconds": 100});
    assert_eq!(api.ask("POST", "/trace", &wanted).0, 200);
    let mut publisher = Client::connect(&broker, V5, &format!("{name}-p"));
    publisher.publish(&Publish::new(format!("{name}/a"), 1, "first"));
    publisher.publish(&Publish::new("elsewhere", 1, "unseen"));
    publisher.publish(&Publish::new(format!("{name}/a"), 1, "second"));
    online.expect("first");
    let found = lines(&mut api, "topic", |line| line["event"] == json!("dropped"));
    let of = |who: &str, event: &str| -> Vec<&Value> {
        let who = json!(format!("{name}-{who}"));
        found.iter().filter(|line| line["clientid"] == who && line["event"] == event).collect()
    };
    let payloads = |lines: Vec<&Value>| -> Vec<Value> {
        lines.into_iter().map(|line| line["payload"].clone()).collect()
    };
    assert_eq!(payloads(of("p", "received")), [json!("first"), json!("second")]);
    assert_eq!(of("away", "dropped")[0]["reason"], json!("queue_full"));
    eventually("both are sent", || {
        let log = api.get("/trace/topic/log");
        log["items"].as_str().unwrap().matches("\"sent\"").count() == 2
    });
    let all = api.http.request("GET", "/api/v1/trace/topic/download", "", "");
    assert_eq!(all.header("content-type"), Some("application/x-ndjson"));
    assert!(!all.body.contains("unseen") && all.body.contains("second"), "{}", all.body);
}

/// A trace of a client, named `live`.
fn live(id: &str) -> Value {
    json!({"name": "live", "type": "clientid", "clientid": id})
}

/// Begins a trace of a client, named `live`, and follows it on the
/// connection that is returned.
fn followed(broker: &Broker, api: &mut Api, id: &str) -> TcpStream {
    assert_eq!(api.ask("POST", "/trace", &live(id)).0, 200);
    let mut stream = TcpStream::connect(admin(broker)).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    write!(stream, "GET /api/v1/trace/live/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    stream
}

#[test]
fn a_trace_comes_live_and_by_command_and_what_is_wrong_is_named() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let id = unique("live");
    let mut stream = followed(&broker, &mut api, &id);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_ringmq"))
        .args(["trace", "--client", &id, "--api", &format!("http://{}", admin(&broker))])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("both run", || api.get("/trace").as_array().unwrap().len() == 2);
    let mut client = Client::connect(&broker, V311, &id);
    client.ping();
    let mut text = String::new();
    while !text.contains("PINGRESP") {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).expect("an event");
        assert!(count > 0, "closed: {text}");
        text.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
    assert!(text.contains("text/event-stream") && text.contains("\ndata: {\"time\""), "{text}");
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let reading = std::thread::spawn(move || {
        let found = told.any(|line| line.unwrap().contains("PINGRESP"));
        (found, told)
    });
    // A trace is listed a moment before the shards know of it.
    eventually("the command shows a ping", || {
        client.ping();
        reading.is_finished()
    });
    let (found, _told) = reading.join().unwrap();
    assert!(found);
    // Interrupted, it takes its trace with it.
    let _ = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(child.wait().unwrap().success());
    assert_eq!(api.get("/trace").as_array().unwrap().len(), 1);
    assert_eq!(api.ask("POST", "/trace", &live(&id)).0, 409);
    for (wrong, named) in [
        (json!({"name": "a b", "type": "clientid", "clientid": "x"}), "name"),
        (json!({"name": "a", "type": "clientid"}), "clientid"),
        (json!({"name": "a", "type": "clientid", "clientid": "x", "topic": "y"}), "type"),
        (json!({"name": "a", "type": "ip_address", "ip_address": "x"}), "ip_address"),
        (json!({"name": "a", "type": "topic", "topic": "a/#/b"}), "topic"),
        (json!({"name": "a", "type": "clientid", "clientid": "x", "seconds": 0}), "seconds"),
    ] {
        let (status, problem) = api.ask("POST", "/trace", &wrong);
        assert_eq!(status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{problem}");
    }
    for number in 1..8 {
        let more = json!({"name": number.to_string(), "type": "clientid", "clientid": "x"});
        assert_eq!(api.ask("POST", "/trace", &more).0, 200);
    }
    let more = json!({"name": "more", "type": "clientid", "clientid": "x"});
    assert_eq!(api.ask("POST", "/trace", &more).0, 503);
    assert_eq!(api.status("DELETE", "/trace"), 204);
    assert_eq!(api.status("DELETE", "/trace/live"), 404);
    assert_eq!(api.status("GET", "/trace/live/log"), 404);
}

#[test]
fn the_heaviest_clients_are_named() {
    let broker = start(&["telemetry.top_clients=2"]);
    let mut api = Api::of(&broker);
    let (heavy, light, away) = (unique("heavy"), unique("light"), unique("away"));
    let mut offline = Connect::durable(V311, &away).open(&broker);
    offline.granted("q/#", 0);
    offline.disconnect();
    eventually("it is away", || api.get(&format!("/clients/{away}"))["connected"] == json!(false));
    let mut one = Client::connect(&broker, V311, &heavy);
    let mut other = Client::connect(&broker, V311, &light);
    for n in 0..5000 {
        one.send_publish(&Publish::new(if n < 70 { "q/1" } else { "r/1" }, 0, "x".repeat(100)));
        if n % 100 == 0 {
            other.send_publish(&Publish::new("r/1", 0, "x"));
        }
    }
    one.ping();
    other.ping();
    for by in ["messages_received", "bytes_received"] {
        let top = api.get(&format!("/top?by={by}"));
        assert_eq!(top["data"][0]["clientid"], json!(heavy), "{top}");
        let total = top["data"][0]["total"].as_f64().unwrap();
        let wanted = if by == "messages_received" { 5000.0 } else { 5000.0 * 107.0 };
        assert!((0.7 * wanted..1.3 * wanted).contains(&total), "{by}: {total} of {wanted}");
    }
    // Each one counts.
    let top = api.get("/top?by=drops&limit=1");
    assert_eq!(top["data"][0]["clientid"], json!(away));
    assert_eq!((&top["data"][0]["total"], &top["data"][0]["error"]), (&json!(70), &json!(0)));
    let page = api.http.get("/metrics");
    for (by, id) in [("drops", &away), ("bytes_received", &heavy)] {
        let labels = format!("{{by=\"{by}\",client_id=\"{id}\"}}");
        assert!(page.sum("ringmq_top_clients", &[&labels]) > 0.0, "{}", page.body);
    }
    assert!(page.body.matches("\nringmq_top_clients{by=\"messages_received\"").count() <= 2);
    assert_eq!(api.get("/slow_subscriptions")["data"], json!([]));
    assert_eq!(api.status("GET", "/top?by=name"), 400);
    assert_eq!(api.status("GET", "/top?limit=101"), 400);
}

#[test]
fn events_are_published_where_they_are_wanted() {
    let kinds = "telemetry.events=[connected, disconnected, subscribed, unsubscribed, \
                 session_ended, dropped]";
    let broker = start(&[kinds]);
    let watcher_id = unique("watcher");
    let mut watcher = Client::subscriber(&broker, V5, &watcher_id, "$SYS/broker/events/#", 0);
    let id = unique("seen");
    let mut next = |topic: &str| loop {
        let event = watcher.message();
        let said: Value = serde_json::from_slice(&event.payload).unwrap();
        if said["clientid"] != json!(watcher_id) {
            assert_eq!(event.topic, format!("$SYS/broker/events/{topic}"), "{said}");
            assert_eq!(said["clientid"], json!(id), "{said}");
            let age = std::time::SystemTime::now()
                .duration_since(std::time::SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_millis() as i64
                - said["timestamp"].as_i64().unwrap();
            assert!((-1000..60_000).contains(&age), "{said}");
            return said;
        }
    };
    let mut client = Connect::durable(V5, &id).login(None, None).open(&broker);
    let said = next("client/connected");
    assert_eq!((&said["proto_ver"], &said["clean_start"]), (&json!(5), &json!(false)));
    assert_eq!(said["listener"], json!("default"));
    client.granted("a/+", 1);
    let said = next("session/subscribed");
    assert_eq!((&said["topic"], &said["qos"]), (&json!("a/+"), &json!(1)));
    client.granted("b", 0);
    next("session/subscribed");
    client.unsubscribe(&["a/+"]);
    assert_eq!(next("session/unsubscribed")["topic"], json!("a/+"));
    client.disconnect();
    let said = next("client/disconnected");
    assert_eq!(said["code"], json!(0), "{said}");
    let mut publisher = Client::connect(&broker, V311, &watcher_id.replace("watcher", "p"));
    publisher.publish(&Publish::new("b", 0, "x"));
    let said = loop {
        let event = watcher.message();
        if event.topic == "$SYS/broker/events/message/dropped" {
            break serde_json::from_slice::<Value>(&event.payload).unwrap();
        }
    };
    assert_eq!((&said["topic"], &said["reason"]), (&json!("b"), &json!("offline_qos0")));
    assert_eq!(said["clientid"], json!(id));
    assert!(broker.metric("ringmq_events_total", "") >= 7.0);
    assert_eq!(broker.metric("ringmq_events_dropped_total", ""), 0.0);
}

#[test]
fn an_alarm_is_raised_and_cleared_once_everywhere() {
    let broker = start(&["runtime.max_connections=10"]);
    let mut api = Api::of(&broker);
    assert_eq!(api.get("/alarms"), json!([]));
    let mut watcher = Client::subscriber(&broker, V5, "watcher", "$SYS/broker/alarms/+", 0);
    let more: Vec<Client> =
        (0..8).map(|n| Client::connect(&broker, V311, &format!("c-{n}"))).collect();
    let told = watcher.message();
    assert_eq!(told.topic, "$SYS/broker/alarms/connections_high");
    let text = String::from_utf8(told.payload.to_vec()).unwrap();
    assert!(text.contains("90 % of runtime.max_connections"), "{text}");
    let alarms = api.get("/alarms");
    assert_eq!(alarms[0]["name"], json!("connections_high"), "{alarms}");
    let alarm = "alarm=\"connections_high\"";
    assert_eq!(broker.metric("ringmq_alarm_active", alarm), 1.0);
    assert_eq!(broker.metric("ringmq_alarm_active", "alarm=\"memory_high\""), 0.0);
    // Whoever comes later is told as well.
    let mut late = Client::subscriber(&broker, V311, "late", "$SYS/broker/alarms/#", 0);
    assert_eq!(late.message().payload, told.payload);
    late.disconnect();
    more.into_iter().for_each(Client::disconnect);
    assert!(watcher.message().payload.is_empty(), "it is over");
    eventually("it is over", || api.get("/alarms") == json!([]));
    let past = api.get("/alarms?activated=false");
    assert_eq!(past.as_array().unwrap().len(), 1, "{past}");
    assert!(past[0]["deactivate_at"].as_u64() > past[0]["activate_at"].as_u64(), "{past}");
    assert_eq!(broker.metric("ringmq_alarm_active", alarm), 0.0);
    eventually("it is logged", || broker.log().contains("the alarm is over"));
    let log = broker.log();
    assert_eq!(log.matches("% of runtime.max_connections").count(), 1, "{log}");
    assert_eq!(log.matches("the alarm is over").count(), 1, "{log}");
}

#[test]
fn listeners_are_stopped_and_started_and_a_drained_node_says_so() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let mut client = Client::connect(&broker, V5, "stays");
    let listener = |api: &mut Api| api.get("/listeners")[0].clone();
    assert_eq!(api.status("POST", "/listeners/tcp:default/start"), 422);
    assert_eq!(api.status("POST", "/listeners/tcp:default/stop"), 204);
    assert_eq!(api.status("POST", "/listeners/tcp:default/stop"), 422);
    assert_eq!(api.status("POST", "/listeners/none/stop"), 404);
    assert_eq!(listener(&mut api)["running"], json!(false));
    eventually("nobody is let in", || TcpStream::connect(broker.address()).is_err());
    client.ping();
    assert_eq!(api.status("POST", "/listeners/default/start"), 204);
    let shown = listener(&mut api);
    assert_eq!(shown["running"], json!(true));
    // The kernel may have chosen another port.
    let bind = |shown: &Value| shown["bind"].as_str().unwrap().parse().unwrap();
    eventually("it listens", || TcpStream::connect::<std::net::SocketAddr>(bind(&shown)).is_ok());
    let ready = |api: &mut Api| api.http.get("/readyz").status;
    assert_eq!(ready(&mut api), 200);
    assert_eq!(api.status("POST", "/drain"), 204);
    assert_eq!((ready(&mut api), api.http.get("/healthz").status), (503, 200));
    assert_eq!(listener(&mut api)["running"], json!(false));
    client.ping();
    assert_eq!(api.status("POST", "/resume"), 204);
    let shown = listener(&mut api);
    assert_eq!((ready(&mut api), &shown["running"]), (200, &json!(true)));
    eventually("it listens", || TcpStream::connect::<std::net::SocketAddr>(bind(&shown)).is_ok());
    // Reading the configuration again opens what was stopped.
    assert_eq!(api.status("POST", "/drain"), 204);
    assert_eq!(api.status("POST", "/configs/reload"), 204);
    eventually("it is ready", || ready(&mut api) == 200);
    assert_eq!(api.get("/listeners").as_array().unwrap().len(), 1);
    assert_eq!(listener(&mut api)["running"], json!(true));
}

#[test]
fn single_modules_are_logged_at_a_level_of_their_own() {
    // At `info` it says that it is ready.
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    assert_eq!(api.get("/log"), json!({"level": "info", "modules": {}}));
    let plain = json!({"level": "warn", "modules": {}});
    assert_eq!(api.ask("PUT", "/log", &json!({"level": "warn"})), (200, plain.clone()));
    let connect = |name: &str| Client::connect(&broker, V5, name).disconnect();
    connect("unseen");
    let wanted = json!({"modules": {"shard": "info", "rustls": "error"}});
    let shown = json!({"level": "warn", "modules": {"ringmq::shard": "info", "rustls": "error"}});
    assert_eq!(api.ask("PUT", "/log", &wanted), (200, shown.clone()));
    connect("seen");
    eventually("a client is logged", || broker.log().contains("client_id=\"seen\""));
    assert_eq!(api.get("/log"), shown);
    let (status, problem) = api.ask("PUT", "/log", &json!({"modules": {"shrad": "info"}}));
    assert_eq!(status, 422, "{problem}");
    assert!(problem.to_string().contains("there is no `shrad`"), "{problem}");
    assert_eq!(api.ask("PUT", "/log", &json!({"modules": {"shard": "loud"}})).0, 400);
    assert_eq!(api.get("/log"), shown, "what was refused has changed nothing");
    assert_eq!(api.ask("PUT", "/log", &json!({"modules": {}})), (200, plain));
    assert!(!broker.log().contains("client_id=\"unseen\""), "{}", broker.log());
}

#[test]
fn a_listener_counts_who_came_and_who_was_refused() {
    let broker = start(&["listeners.0.max_connections=1"]);
    let mut api = Api::of(&broker);
    let name = api.get("/listeners")[0]["name"].as_str().unwrap().to_owned();
    let label = format!("listener=\"{name}\"");
    let figure = |name: &str| broker.metric(&format!("ringmq_listener_{name}"), &label);
    let one = Client::connect(&broker, V5, "one");
    Connect::new(V5, "two").refused(&broker, 0x97);
    let listener = &api.get("/listeners")[0];
    assert_eq!((&listener["accepted"], &listener["refused"]), (&json!(2), &json!(1)));
    let shown = ["open", "connections", "accepted_total", "refused_total"].map(figure);
    assert_eq!(shown, [1.0, 1.0, 2.0, 1.0]);
    one.disconnect();
    eventually("it is gone", || figure("connections") == 0.0);
}

#[test]
fn a_bridge_without_its_other_end_is_an_alarm() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let broker = start(&[
        "bridges.0.name=uplink",
        &format!("bridges.0.mqtt.addresses={closed}"),
        "bridges.0.mqtt.topics.0.filter=up/#",
        "bridges.0.buffer.max_bytes=64KiB",
    ]);
    let mut api = Api::of(&broker);
    let active = |name: &str| broker.metric("ringmq_alarm_active", &format!("alarm=\"{name}\""));
    eventually("the bridge is down", || active("bridge_down") == 1.0);
    let alarms = api.get("/alarms");
    assert_eq!(alarms[0]["message"], json!("not connected: uplink"), "{alarms}");
    assert_eq!(active("bridge_queue"), 0.0);
    let mut publisher = Client::connect(&broker, V311, "publisher");
    for number in 0..60 {
        publisher.publish(&Publish::new(format!("up/{number}"), 1, "x".repeat(1000)));
    }
    eventually("its buffer is nearly full", || active("bridge_queue") == 1.0);
    let bridge = &api.get("/bridges")[0];
    assert_eq!(bridge["waiting_limit"], json!(65_536), "{bridge}");
}

#[test]
fn explain_says_what_was_dropped_for_a_client_so_far() {
    let broker = start(&["mqtt.pending.max_messages=2", "mqtt.pending.on_full=drop_new"]);
    let mut api = Api::of(&broker);
    let name = unique("away");
    let mut away = Connect::durable(V5, &name).open(&broker);
    away.granted("d/one", 1);
    away.granted("d/zero", 0);
    away.disconnect();
    eventually("it is away", || api.get(&format!("/clients/{name}"))["connected"] == json!(false));
    let drops = |api: &mut Api| {
        api.get(&format!("/explain?topic=d/one&client={name}"))["client_drops"]["by_reason"].clone()
    };
    assert_eq!(drops(&mut api), json!({}));
    let mut publisher = Client::connect(&broker, V5, &unique("p"));
    for number in 0..5 {
        publisher.publish(&Publish::new("d/one", 1, format!("{number}")));
    }
    publisher.publish(&Publish::new("d/zero", 0, "x"));
    publisher.ping();
    let wanted = json!({"offline_qos0": 1, "queue_full": 3});
    eventually("they are counted", || drops(&mut api) == wanted);
    assert_eq!(api.get("/explain?topic=d/one")["client_drops"], Value::Null, "nobody was named");
    assert_eq!(api.get("/explain?topic=d/one&client=nobody")["client_drops"], Value::Null);
    let admin = admin(&broker).to_string();
    let told = Command::new(env!("CARGO_BIN_EXE_ringmq"))
        .args(["explain", "d/one", "--client", &name, "--api", &format!("http://{admin}")])
        .output()
        .unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("dropped for it in") && told.contains("3 queue_full"), "{told}");
}

/// A trace that was removed while others run leaves its number to the next one.
#[test]
fn a_new_trace_has_no_lines_of_one_that_was_removed() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let id = unique("old");
    let trace = |name: &str, of: &str| json!({"name": name, "type": "clientid", "clientid": of});
    assert_eq!(api.ask("POST", "/trace", &trace("other", "nobody")).0, 200);
    let mut client = Client::connect(&broker, V311, &id);
    for round in 0..5 {
        let (old, new) = (format!("old-{round}"), format!("new-{round}"));
        assert_eq!(api.ask("POST", "/trace", &trace(&old, &id)).0, 200);
        client.ping();
        assert_eq!(api.status("DELETE", &format!("/trace/{old}")), 204);
        assert_eq!(api.ask("POST", "/trace", &trace(&new, "nobody")).0, 200);
        // Longer than from one fetch to the next.
        std::thread::sleep(Duration::from_millis(250));
        let all = api.get("/trace");
        assert!(all.as_array().unwrap().iter().all(|one| one["lines"] == json!(0)), "{all}");
        assert_eq!(api.status("DELETE", &format!("/trace/{new}")), 204);
    }
}

#[test]
fn who_follows_a_trace_is_not_ended_for_connections_that_ask_nothing() {
    let broker = start(&[]);
    let mut api = Api::of(&broker);
    let id = unique("live");
    let mut stream = followed(&broker, &mut api, &id);
    let mut text = String::new();
    let mut read_to = |end: &str| {
        while !text.contains(end) {
            let mut chunk = [0; 4096];
            let count = stream.read(&mut chunk).expect("an event");
            assert!(count > 0, "closed: {text}");
            text.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    };
    read_to("\r\n\r\n");
    let idle: Vec<TcpStream> =
        (0..70).map(|_| TcpStream::connect(admin(&broker)).unwrap()).collect();
    // Those before it have been accepted when this one is answered.
    Api::of(&broker).get("/nodes");
    Client::connect(&broker, V311, &id).ping();
    read_to("PINGRESP");
    drop(idle);
}
