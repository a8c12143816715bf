//! Spans for OpenTelemetry: a receiver that decodes them with the protocol's own classes, and a
//! collector before it; messages of mosquitto's clients, with and without a trace of their own,
//! over several shards, and of those that are no clients.

use crate::support::http::{Http, admin};
use crate::support::{Broker, Client, Temporary, V311, eventually, unique};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

const CONTEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Ended when it goes.
struct Receiver {
    child: Child,
    port: String,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Receiver {
    fn start(refusals: &str) -> Receiver {
        let mut command = crate::script_of_python("otlp_receiver.py", &[refusals]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a receiver");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().expect("its port").unwrap();
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&spans);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Receiver { child, port, spans }
    }

    fn endpoint(&self) -> String {
        format!("telemetry.otlp.endpoint=http://127.0.0.1:{}", self.port)
    }

    /// The spans that are as wanted, once there are so many.
    fn wait_for(&self, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let found = || {
            let spans = self.spans.lock().unwrap();
            spans.iter().filter(|span| wanted(span)).cloned().collect::<Vec<_>>()
        };
        eventually("the spans have come", || found().len() >= count);
        found()
    }
}

/// A collector that sends what it takes to a receiver. Ended when it goes.
struct Collector {
    child: Child,
    port: String,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Collector {
    fn start(receiver: &Receiver) -> Collector {
        let mut command = crate::script_of_python("collector.py", &[&receiver.port]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a collector");
        let port = BufReader::new(child.stdout.take().unwrap()).lines().next();
        let port = port.expect("its port").unwrap();
        let mut collector = Collector { child, port };
        eventually("it takes connections", || {
            assert!(collector.child.try_wait().unwrap().is_none(), "it has ended");
            TcpStream::connect(format!("127.0.0.1:{}", collector.port)).is_ok()
        });
        collector
    }
}

/// mosquitto_sub for one message; told what its user properties were.
fn subscriber(broker: &Broker, id: &str, topic: &str) -> Child {
    let (host, port) = (broker.address().ip().to_string(), broker.address().port().to_string());
    Command::new("mosquitto_sub")
        .args(["-h", &host, "-p", &port, "-i", id, "-t", topic, "-q", "1", "-V", "5"])
        .args(["-C", "1", "-F", "%P"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub: run scripts/test, which installs it")
}

fn publish(broker: &Broker, arguments: &[&str]) {
    let (host, port) = (broker.address().ip().to_string(), broker.address().port().to_string());
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", &host, "-p", &port, "-V", "5", "-m", "x"]).args(arguments);
    crate::output(&mut command);
}

fn said(child: Child) -> String {
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn subscribed(broker: &Broker, ids: &[&str]) {
    let mut http = Http::open(admin(broker));
    for id in ids {
        eventually("it is subscribed", || {
            let page = http.request("GET", &format!("/api/v1/clients/{id}/subscriptions"), "", "");
            page.status == 200 && page.body.contains("topic")
        });
    }
}

fn one<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    let found: Vec<&Value> = spans.iter().filter(|span| span["name"] == json!(name)).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

fn deliveries(spans: &[Value]) -> Vec<&Value> {
    spans.iter().filter(|span| span["name"] == json!("deliver")).collect()
}

#[test]
fn a_clients_trace_goes_on_through_the_broker_and_unaltered_to_its_subscribers() {
    let receiver = Receiver::start("0");
    let broker = Broker::start(&[
        "admin.bind=127.0.0.1:0",
        &receiver.endpoint(),
        "telemetry.otlp.sample=0",
        "telemetry.otlp.headers.X-Key=secret",
        "telemetry.otlp.service_name=plant-broker",
    ]);
    let topic = unique("trace/a");
    let (one_id, other_id) = (unique("one"), unique("other"));
    let readers = [subscriber(&broker, &one_id, &topic), subscriber(&broker, &other_id, &topic)];
    // A subscriber that is away gets nothing of QoS 0.
    let away_id = unique("away");
    let mut away = crate::support::Connect::durable(V311, &away_id).open(&broker);
    away.granted(&topic, 0);
    away.disconnect();
    let mut http = Http::open(admin(&broker));
    eventually("it is away", || {
        http.request("GET", &format!("/api/v1/clients/{away_id}"), "", "")
            .body
            .contains("\"connected\":false")
    });
    subscribed(&broker, &[&one_id, &other_id]);
    let property = ["-D", "publish", "user-property", "traceparent", CONTEXT];
    let more = ["-D", "publish", "user-property", "unit", "kelvin"];
    let publisher = unique("publisher");
    publish(
        &broker,
        &[&property[..], &more, &["-t", &topic, "-q", "1", "-i", &publisher]].concat(),
    );
    for reader in readers {
        let properties = said(reader);
        assert_eq!(properties.trim(), format!("traceparent:{CONTEXT} unit:kelvin"), "unaltered");
    }
    let spans = receiver.wait_for(5, |_| true);
    assert_eq!(spans.len(), 5, "{spans:#?}");
    let (receipt, route) = (one(&spans, "receive"), one(&spans, "route"));
    for span in &spans {
        assert_eq!(span["trace"], json!("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(span["resource"]["service.name"], json!("plant-broker"));
        assert_eq!(span["messaging.system"], json!("mqtt"));
        assert_eq!(span["messaging.destination.name"], json!(topic));
        let (begins, ends) = (span["begins"].as_u64().unwrap(), span["ends"].as_u64().unwrap());
        assert!(begins <= ends && ends >= receipt["begins"].as_u64().unwrap(), "{span}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(now.as_nanos() as u64 - begins < 600_000_000_000, "{span}");
    }
    assert_eq!(receipt["parent"], json!("b7ad6b7169203331"));
    assert_eq!(receipt["messaging.client.id"], json!(publisher));
    assert_eq!((&receipt["kind"], &receipt["flags"]), (&json!("SPAN_KIND_SERVER"), &json!(0x301)));
    assert_eq!(route["parent"], receipt["span"]);
    let delivered = deliveries(&spans);
    let mut who: Vec<(String, Option<&str>)> = delivered
        .iter()
        .map(|span| (span["messaging.client.id"].to_string(), span["error"].as_str()))
        .collect();
    who.sort();
    assert!(delivered.iter().all(|span| span["parent"] == route["span"]), "{delivered:#?}");
    let dropped: Vec<_> = who.iter().filter_map(|(_, error)| *error).collect();
    assert_eq!((who.len(), dropped), (3, vec!["offline_qos0"]), "{who:?}");
    // Without a trace of its own nothing is recorded at a share of nothing.
    let last_id = unique("last");
    let last = subscriber(&broker, &last_id, &topic);
    subscribed(&broker, &[&last_id]);
    publish(&broker, &["-t", &topic, "-q", "1"]);
    assert_eq!(said(last).trim(), "");
    // What the caller does not record is not recorded here.
    let unrecorded = CONTEXT.replace("-01", "-00");
    publish(&broker, &["-t", &topic, "-D", "publish", "user-property", "traceparent", &unrecorded]);
    let before = receiver.spans.lock().unwrap().len();
    publish(&broker, &[&property[..], &["-t", &topic, "-i", "end"]].concat());
    let ended = |span: &Value| span["messaging.client.id"] == json!("end");
    receiver.wait_for(1, ended);
    let between = receiver.spans.lock().unwrap().iter().skip(before).cloned().collect::<Vec<_>>();
    let of_others = |span: &&Value| span["name"] == json!("receive") && !ended(span);
    assert_eq!(between.iter().find(of_others), None, "{between:#?}");
}

#[test]
fn a_share_of_messages_begins_traces_which_the_log_and_the_metrics_name() {
    // The first requests fail and are made again.
    let receiver = Receiver::start("2");
    let rules = Temporary::file("acl", "topic readwrite trace/#\n");
    let broker = Broker::start(&[
        "admin.bind=127.0.0.1:0",
        &receiver.endpoint(),
        "telemetry.otlp.sample=1",
        "telemetry.otlp.headers.X-Key=secret",
        "log.format=json",
        &format!("access.authorization.0.acl_file.path={}", rules.display()),
    ]);
    let topic = unique("trace/b");
    let (reader, other) = (unique("reader"), unique("old"));
    let mut old = Client::subscriber(&broker, V311, &other, &topic, 1);
    let reading = subscriber(&broker, &reader, &topic);
    subscribed(&broker, &[&reader]);
    publish(&broker, &["-t", &topic, "-q", "1", "-i", &unique("publisher")]);
    old.expect("x");
    let properties = said(reading);
    let context = properties.trim().strip_prefix("traceparent:").expect("a context").to_owned();
    let parts: Vec<&str> = context.split('-').collect();
    assert_eq!((parts[0], parts[3]), ("00", "01"), "{context}");
    let spans = receiver.wait_for(4, |span| span["trace"] == json!(parts[1]));
    let (receipt, route) = (one(&spans, "receive"), one(&spans, "route"));
    assert_eq!((&receipt["parent"], &receipt["span"]), (&json!(""), &json!(parts[2])));
    assert_eq!(route["parent"], receipt["span"]);
    let mut clients: Vec<String> =
        deliveries(&spans).iter().map(|s| s["messaging.client.id"].to_string()).collect();
    clients.sort();
    let mut wanted = vec![json!(reader).to_string(), json!(other).to_string()];
    wanted.sort();
    assert_eq!(clients, wanted);
    // A line of the log about a sampled message names its trace.
    publish_denied(&broker, &["-t", "elsewhere", "-q", "1", "-i", "denied"]);
    let denied = receiver.wait_for(1, |span| span["messaging.client.id"] == json!("denied"));
    assert!(denied.len() == 1 && denied[0]["error"].is_string(), "{denied:#?}");
    let of_trace = format!("\"trace_id\":{}", denied[0]["trace"]);
    eventually("the log names the trace", || broker.log().contains(&of_trace));
    // OpenMetrics names traces beside the steps that took so long.
    let mut http = Http::open(admin(&broker));
    let accept = "Accept: application/openmetrics-text;version=1.0.0\r\n";
    let page = http.request("GET", "/metrics", accept, "");
    let kind = page.header("content-type");
    assert_eq!(kind, Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let exemplars: Vec<&str> = page
        .body
        .lines()
        .filter_map(|line| line.split_once(" # {trace_id=\""))
        .map(|x| x.1)
        .collect();
    let traces: Vec<Value> =
        receiver.wait_for(1, |_| true).iter().map(|s| s["trace"].clone()).collect();
    assert!(!exemplars.is_empty(), "{}", page.body);
    for exemplar in exemplars {
        let (trace, _) = exemplar.split_once('"').unwrap();
        assert!(traces.contains(&json!(trace)), "{exemplar}");
    }
    println!("{}", crate::python_reading("openmetrics_page.py", &[], &page.body));
    let plain = http.get("/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(!plain.body.contains("trace_id"));
    eventually("what was exported is counted", || {
        let page = http.get("/metrics");
        page.sum("ringmq_otlp_spans_exported_total", &[]) >= 4.0
            && page.sum("ringmq_otlp_up", &[]) == 1.0
            && page.sum("ringmq_otlp_spans_dropped_total", &[]) == 0.0
    });
}

#[test]
fn a_collector_takes_the_spans_and_passes_them_on() {
    let receiver = Receiver::start("0");
    let collector = Collector::start(&receiver);
    let broker = Broker::start(&[
        "admin.bind=127.0.0.1:0",
        &format!("telemetry.otlp.endpoint=http://127.0.0.1:{}", collector.port),
        "telemetry.otlp.sample=0",
    ]);
    let topic = unique("trace/c");
    let id = unique("reader");
    let mut reader = Client::subscriber(&broker, V311, &id, &topic, 1);
    let property = ["-D", "publish", "user-property", "traceparent", CONTEXT];
    let publisher = unique("publisher");
    publish(&broker, &[&property[..], &["-t", &topic, "-q", "1", "-i", &publisher]].concat());
    reader.expect("x");
    let spans = receiver.wait_for(3, |_| true);
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let (receipt, route) = (one(&spans, "receive"), one(&spans, "route"));
    assert_eq!(receipt["trace"], json!("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(receipt["parent"], json!("b7ad6b7169203331"));
    assert_eq!(receipt["messaging.client.id"], json!(publisher));
    assert_eq!(receipt["resource"]["service.name"], json!("ringmq"));
    assert_eq!(route["parent"], receipt["span"]);
    let deliver = one(&spans, "deliver");
    assert_eq!((&deliver["parent"], &deliver["messaging.client.id"]), (&route["span"], &json!(id)));
    let mut http = Http::open(admin(&broker));
    eventually("the exporter knows", || {
        let page = http.get("/metrics");
        page.sum("ringmq_otlp_up", &[]) == 1.0
            && page.sum("ringmq_otlp_spans_exported_total", &[]) == 3.0
            && page.sum("ringmq_otlp_spans_dropped_total", &[]) == 0.0
    });
}

#[test]
fn what_the_api_and_bridges_publish_and_wills_are_received_too() {
    let receiver = Receiver::start("0");
    let far = Broker::start(&[]);
    let broker = Broker::start(&[
        "admin.bind=127.0.0.1:0",
        &receiver.endpoint(),
        "telemetry.otlp.sample=1",
        "telemetry.otlp.headers.X-Key=secret",
        "bridges.0.name=uplink",
        &format!("bridges.0.mqtt.addresses=[\"{}\"]", far.address()),
        "bridges.0.mqtt.topics.0.filter=trace/#",
        "bridges.0.mqtt.topics.0.direction=in",
        "bridges.0.mqtt.topics.0.qos=1",
    ]);
    let mut http = Http::open(admin(&broker));
    let topic = unique("trace/d");
    let mut reader = Client::subscriber(&broker, V311, &unique("reader"), "trace/#", 1);
    let body = json!({"topic": topic, "payload": "by the API", "qos": 1}).to_string();
    let json_body = "Content-Type: application/json\r\n";
    let answer = http.request("POST", "/api/v1/publish", json_body, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    reader.expect("by the API");
    let via = |word: &str| {
        let spans = receiver.wait_for(1, |span| span["ringmq.via"] == json!(word));
        assert_eq!(spans.len(), 1, "{spans:#?}");
        let span = spans.into_iter().next().unwrap();
        assert_eq!((&span["name"], &span["error"]), (&json!("receive"), &Value::Null));
        assert_eq!((&span["parent"], &span["messaging.client.id"]), (&json!(""), &Value::Null));
        let of_trace = |other: &Value| other["trace"] == span["trace"];
        let all = receiver.wait_for(3, of_trace);
        assert_eq!(one(&all, "route")["parent"], span["span"]);
        assert_eq!(one(&all, "deliver")["parent"], one(&all, "route")["span"]);
        span
    };
    assert_eq!(via("api")["kind"], json!("SPAN_KIND_SERVER"));
    eventually("the bridge is up", || {
        let page = http.get("/metrics");
        page.body.contains("ringmq_bridge_up") && page.sum("ringmq_bridge_up", &[]) == 1.0
    });
    let mut brought = false;
    eventually("the bridge has subscribed, and brings a message", || {
        if !brought {
            publish(&far, &["-t", &topic, "-q", "1"]);
        }
        brought = http.get("/metrics").sum("ringmq_bridge_brought_total", &[]) >= 1.0;
        brought
    });
    reader.expect("x");
    let span = receiver.wait_for(1, |span| span["ringmq.via"] == json!("bridge"))[0].clone();
    let wanted = (&json!("uplink"), &json!("SPAN_KIND_CONSUMER"));
    assert_eq!((&span["ringmq.bridge"], &span["kind"]), wanted);
    // A client that goes without DISCONNECT.
    let (host, port) = (broker.address().ip().to_string(), broker.address().port().to_string());
    let will = ["--will-topic", "trace/gone", "--will-payload", "gone", "--will-qos", "1"];
    let mut willing = Command::new("mosquitto_sub")
        .args(["-h", &host, "-p", &port, "-i", &unique("willing"), "-t", "nothing", "-V", "5"])
        .args(will)
        .stdout(Stdio::null())
        .spawn()
        .expect("mosquitto_sub: run scripts/test, which installs it");
    eventually("it is connected", || http.get("/metrics").sum("ringmq_connections", &[]) >= 2.0);
    let _ = willing.kill();
    let _ = willing.wait();
    eventually("its will comes", || reader.message().payload == b"gone");
    assert_eq!(via("will")["kind"], json!("SPAN_KIND_INTERNAL"));
}

/// A publish that the broker does not take.
fn publish_denied(broker: &Broker, arguments: &[&str]) {
    let (host, port) = (broker.address().ip().to_string(), broker.address().port().to_string());
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", &host, "-p", &port, "-V", "5", "-m", "x"]).args(arguments);
    command.output().expect("mosquitto_pub: run scripts/test, which installs it");
}
