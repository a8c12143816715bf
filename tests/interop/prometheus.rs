//! What is given for Prometheus, with Prometheus itself: its own program checks the rules and the
//! page, scrapes a broker, and answers every query of the dashboard for Grafana.

use crate::support::http::admin;
use crate::support::{Broker, Client, Publish, Temporary, V311, eventually, unique};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

fn tuning(name: &str) -> String {
    format!("{}/tuning/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: run scripts/test, which installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{arguments:?}: {said}");
}

/// Stopped when it goes.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of a GET.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.to_owned())
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Names of metrics in a query.
fn words(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("ringmq_") || word.starts_with("process_"))
}

/// The panels of a dashboard, those in its rows included.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = dashboard["panels"].as_array().unwrap().iter();
    let rows = all.flat_map(|panel| match panel["type"] == "row" {
        true => panel["panels"].as_array().unwrap().iter().collect(),
        false => vec![panel],
    });
    rows.collect()
}

#[test]
fn prometheus_takes_the_rules_the_page_and_every_query() {
    promtool(&["check", "rules", &tuning("alerts.yaml")], "");
    promtool(&["check", "config", &tuning("prometheus.yaml")], "");
    let broker = Broker::start(&["admin.bind=127.0.0.1:0", "limits.memory=64MiB"]);
    let mut client = Client::subscriber(&broker, V311, &unique("prom"), "a/+", 1);
    client.publish(&Publish::new("a/b", 1, "x"));
    client.expect("x");
    promtool(&["check", "metrics"], &get(admin(&broker), "/metrics").unwrap());
    // Prometheus, with the configuration that is given, for this broker.
    let directory = Temporary::named("prometheus");
    fs::create_dir_all(&*directory).unwrap();
    let given = fs::read_to_string(tuning("prometheus.yaml")).unwrap();
    let given = given
        .replace("127.0.0.1:18083", &admin(&broker).to_string())
        .replace("[alerts.yaml]", &format!("[\"{}\"]", tuning("alerts.yaml")))
        .replace("_interval: 15s", "_interval: 1s");
    let config = directory.join("prometheus.yaml");
    fs::write(&config, given).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
        .arg(format!("--web.listen-address={free}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus: run scripts/test, which installs it");
    let running = Running(prometheus);
    let ask = |query: &str| -> Value {
        let path = format!("/api/v1/query?query={}", encoded(query));
        let answer = get(free, &path).unwrap_or_default();
        serde_json::from_str(&answer).unwrap_or_default()
    };
    let found = |answer: &Value| answer["data"]["result"].as_array().map_or(0, Vec::len);
    // On a machine with other work it takes its time to start.
    eventually("it answers", || get(free, "/-/ready").is_some());
    eventually("it has scraped twice", || {
        found(&ask("count_over_time(ringmq_ready[1m]) >= 2")) == 1
    });
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(tuning("grafana.json")).unwrap()).unwrap();
    let page = get(admin(&broker), "/metrics").unwrap();
    let mut queries = 0;
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let query = query.replace("$instance", ".+").replace("$__rate_interval", "1m");
            let answer = ask(&query);
            assert_eq!(answer["status"], Value::from("success"), "{title}: {query}: {answer}");
            queries += 1;
            // What compares shows nothing while all is well; there are no bridges here, no cluster,
            // no TLS. Everything else has figures.
            let compares = ["> 0", "== 1"].iter().any(|end| query.ends_with(end));
            let there = words(&query).all(|name| page.contains(&format!("\n{name}")));
            assert!(compares || !there || found(&answer) > 0, "{title}: {query} shows nothing");
        }
    }
    assert!(queries > 100, "{queries} queries");
    // Every figure that an alert is about exists; those of a cluster do at a node of one
    // (`durable::figures_of_alerts_exist_at_a_node`).
    let rules = get(free, "/api/v1/rules").unwrap();
    let rules: Value = serde_json::from_str(&rules).unwrap();
    for rule in rules["data"]["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!(rule["health"], Value::from("ok"), "{rule}");
        let query = rule["query"].as_str().unwrap();
        for name in words(query) {
            let optional = ["ringmq_tls_", "ringmq_bridge", "ringmq_cluster_"];
            let optional = optional.iter().any(|prefix| name.starts_with(prefix));
            assert!(optional || page.contains(&format!("\n{name}")), "{name} in {query}");
        }
    }
    drop(running);
}
