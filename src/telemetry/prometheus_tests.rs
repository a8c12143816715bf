//! Tests of the text format, which is read back by a strict reader of a few lines. The interop test
//! reads the page of a running broker with Prometheus's own client library.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::telemetry::trace_context::TraceId;

type Series = HashMap<(String, Vec<(String, String)>), f64>;

/// Reads a page. Panics where the page breaks the format.
fn parse(text: &str) -> Series {
    assert!(text.ends_with('\n'));
    let (mut series, mut kinds) = (Series::new(), HashMap::new());
    let mut family = String::new();
    let mut helps = HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helps.insert(name.to_owned()) && !help.is_empty(), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helps.contains(name), "no HELP before {line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            name.clone_into(&mut family);
        } else {
            let (head, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
            let suffix = name.strip_prefix(family.as_str()).expect(line);
            assert!(suffix.is_empty() || kinds[&family] == "histogram", "{line}");
            let valid = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
            assert!(name.chars().all(valid), "{line}");
            let labels = labels.strip_suffix('}').expect(line);
            let pairs = labels.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
                let (label, content) = pair.split_once("=\"").expect(line);
                (label.to_owned(), content.strip_suffix('"').expect(line).to_owned())
            });
            let key = (name.to_owned(), pairs.collect());
            assert!(series.insert(key, value.parse().expect(line)).is_none(), "twice: {line}");
        }
    }
    series
}

fn value(series: &Series, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels = labels.iter().map(|(l, c)| ((*l).to_owned(), (*c).to_owned())).collect();
    series.get(&(name.to_owned(), labels)).copied()
}

fn snapshot() -> Snapshot {
    let mut steps = Histogram::default();
    [500, 1_500, 3_000, 2_000_000_000].iter().for_each(|nanos| steps.record(*nanos));
    let counters = Counters {
        connections_open: 7,
        messages_received_qos1: 11,
        publish_bytes_sent_qos2: 13,
        dropped_expired: 17,
        parked_nanos: 1_500_000_000,
        spun_nanos: 1,
        ..Counters::default()
    };
    let mut exemplars = Exemplars::default();
    let trace = TraceId(0xABC);
    exemplars.add(trace, 1_500, Duration::from_millis(1_700_000_000_250));
    exemplars.add(trace, 2_000_000_000, Duration::from_millis(1));
    let mailboxes = vec![3, 0, 5];
    Snapshot { counters, steps, exemplars, mailboxes, lag: Duration::from_micros(250) }
}

#[test]
fn every_figure_of_every_shard_that_answered_is_on_the_page_with_its_labels() {
    let one = snapshot();
    let text = page(
        PageFormat::Text,
        "1.2.3",
        &Process::default(),
        &[None, Some(&one), Some(&Snapshot::default())],
    );
    let series = parse(&text);
    let is = |name: &str, labels: &[(&str, &str)], expected: f64| {
        assert_eq!(value(&series, name, labels), Some(expected), "{name} {labels:?}");
    };
    is("ringmq_build_info", &[("version", "1.2.3")], 1.0);
    is("ringmq_shard_up", &[("shard", "0")], 0.0);
    is("ringmq_shard_up", &[("shard", "1")], 1.0);
    is("ringmq_connections", &[("shard", "1")], 7.0);
    is("ringmq_connections", &[("shard", "2")], 0.0);
    is("ringmq_messages_received_total", &[("shard", "1"), ("qos", "1")], 11.0);
    is("ringmq_publish_sent_bytes_total", &[("shard", "1"), ("qos", "2")], 13.0);
    is("ringmq_messages_dropped_total", &[("shard", "1"), ("reason", "expired")], 17.0);
    is("ringmq_parked_seconds_total", &[("shard", "1")], 1.5);
    is("ringmq_spun_seconds_total", &[("shard", "1")], 1e-9);
    is("ringmq_loop_lag_seconds", &[("shard", "1")], 0.000_25);
    is("ringmq_mailbox_depth", &[("shard", "1"), ("from", "0")], 3.0);
    is("ringmq_mailbox_depth", &[("shard", "1"), ("from", "2")], 5.0);
    assert_eq!(value(&series, "ringmq_mailbox_depth", &[("shard", "1"), ("from", "1")]), None);
    assert_eq!(value(&series, "ringmq_connections", &[("shard", "0")]), None);
    for figure in Counters::DESCRIPTORS {
        let labels: Vec<_> = [("shard", "2")].iter().chain(figure.labels).copied().collect();
        assert!(value(&series, figure.name, &labels).is_some(), "{}", figure.field);
    }
}

#[test]
fn the_step_histogram_has_rising_buckets_and_an_exact_count_and_sum() {
    let one = snapshot();
    let text = page(PageFormat::Text, "1", &Process::default(), &[Some(&one)]);
    let series = parse(&text);
    let bucket =
        |le: &str| value(&series, "ringmq_step_seconds_bucket", &[("shard", "0"), ("le", le)]);
    assert_eq!(bucket("0.000001"), Some(1.0));
    assert_eq!(bucket("0.000002"), Some(2.0));
    assert_eq!(bucket("0.000004"), Some(3.0));
    assert_eq!(bucket("1.048576"), Some(3.0));
    assert_eq!(bucket("+Inf"), Some(4.0));
    assert_eq!(value(&series, "ringmq_step_seconds_count", &[("shard", "0")]), Some(4.0));
    assert_eq!(value(&series, "ringmq_step_seconds_sum", &[("shard", "0")]), Some(2.000_005));
}

#[test]
fn what_the_system_does_not_tell_is_left_out() {
    let told = Process {
        interest: 9,
        ready: true,
        resident_bytes: Some(4096),
        cpu: Some(Duration::from_millis(1_250)),
        open_fds: Some(12),
        started: Duration::from_millis(1_700_000_000_500),
        ..Process::default()
    };
    let series = parse(&page(PageFormat::Text, "1", &told, &[]));
    assert_eq!(value(&series, "ringmq_ready", &[]), Some(1.0));
    assert_eq!(value(&series, "ringmq_interest_filters", &[]), Some(9.0));
    assert_eq!(value(&series, "process_resident_memory_bytes", &[]), Some(4096.0));
    assert_eq!(value(&series, "process_cpu_seconds_total", &[]), Some(1.25));
    assert_eq!(value(&series, "process_start_time_seconds", &[]), Some(1_700_000_000.5));
    assert_eq!(value(&series, "process_max_fds", &[]), None);
}

#[test]
fn help_and_label_values_are_escaped() {
    let mut text = PageText(String::new(), PageFormat::Text);
    text.family("ringmq_x", "gauge", "a \\ b\nc \"d\"");
    text.sample("ringmq_x", &[("name", &"a\\b\n\"c\"é")], 1);
    let expected = "# HELP ringmq_x a \\\\ b\\nc \"d\"\n# TYPE ringmq_x gauge\n\
                    ringmq_x{name=\"a\\\\b\\n\\\"c\\\"é\"} 1\n";
    assert_eq!(text.0, expected);
}

#[test]
fn openmetrics_has_exemplars_its_own_names_of_families_and_an_end() {
    let one = snapshot();
    let process = Process { panics: vec![("admin", 1)], ..Process::default() };
    let text = page(PageFormat::OpenMetrics, "1", &process, &[Some(&one)]);
    let id = "00000000000000000000000000000abc";
    for line in [
        "# TYPE ringmq_messages_received counter\n",
        "\nringmq_messages_received_total{shard=\"0\",qos=\"1\"} 11\n",
        "# TYPE ringmq_connections gauge\n",
        &format!(
            "\nringmq_step_seconds_bucket{{shard=\"0\",le=\"0.000002\"}} 2 # \
             {{trace_id=\"{id}\"}} 0.0000015 1700000000.25\n"
        ),
        &format!(
            "\nringmq_step_seconds_bucket{{shard=\"0\",le=\"+Inf\"}} 4 # \
             {{trace_id=\"{id}\"}} 2 0.001\n"
        ),
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(text.ends_with("\n# EOF\n"));
    let mut families: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(families.iter().all(|family| !family.ends_with("_total counter")), "{families:?}");
    for line in text.lines().filter(|line| line.ends_with(" counter")) {
        let name = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '));
        if let Some((name, _)) = name {
            assert!(text.contains(&format!("\n{name}_total")), "{name}: a counter without _total");
        }
    }
    families.sort_unstable();
    let names: Vec<&str> = families.iter().map(|f| f.split_once(' ').unwrap().0).collect();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a name of two families");
}

#[test]
fn the_format_is_what_the_accept_header_wants_more() {
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;\
                      q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    for (accept, wanted) in [
        ("", PageFormat::Text),
        ("*/*", PageFormat::Text),
        ("text/html, text/plain", PageFormat::Text),
        ("application/openmetrics-text", PageFormat::OpenMetrics),
        ("application/openmetrics-text; version=1.0.0", PageFormat::OpenMetrics),
        ("application/openmetrics-text;version=2.0.0, text/plain;q=0.1", PageFormat::Text),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.8", PageFormat::Text),
        ("application/openmetrics-text;q=0, text/plain", PageFormat::Text),
        ("application/openmetrics-text;q=what", PageFormat::Text),
        (prometheus, PageFormat::OpenMetrics),
    ] {
        assert_eq!(PageFormat::accepted(accept), wanted, "{accept}");
    }
}

/// What is there besides the table of counters: one of everything.
fn full() -> Process {
    let name = || "x".to_owned();
    Process {
        memory_limit: Some(1),
        api: vec![("let_in", 1)],
        bridges: vec![BridgeRow {
            dropped: vec![("full", 1)],
            refused: vec![("quota", 1)],
            ..BridgeRow::default()
        }],
        cluster: Some(ClusterRow {
            nodes: vec![crate::telemetry::NodeRow::default()],
            durable: Some(crate::telemetry::DurableRow::default()),
            ..ClusterRow::default()
        }),
        spans: Some(SpanRow::default()),
        listeners: vec![ListenerRow {
            name: name(),
            kind: name(),
            bind: name(),
            running: true,
            connections: 1,
            max_connections: None,
            accepted: 1,
            refused: 1,
        }],
        certificates: vec![(name(), 1)],
        panics: vec![("admin", 1)],
        accounts: vec![AccountRow { name: name(), messages: 1, bytes: 1 }],
        top: vec![TopRow { by: "drops", client_id: name(), per_second: 0.5 }],
        resident_bytes: Some(1),
        virtual_bytes: Some(1),
        cpu: Some(Duration::from_secs(1)),
        open_fds: Some(1),
        max_fds: Some(1),
        ..Process::default()
    }
}

/// Names of metrics in a query, or in rules of alerts.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("ringmq_") || word.starts_with("process_"))
}

/// The queries of all panels of a dashboard.
fn queries(panels: &serde_json::Value, all: &mut Vec<String>) {
    for panel in panels.as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push(target["expr"].as_str().expect("a query").to_owned());
        }
        queries(&panel["panels"], all);
    }
}

/// Families that no panel shows, and why.
const NOT_SHOWN: [(&str, &str); 3] = [
    ("process_virtual_memory_bytes", "address space that is reserved and not used says nothing"),
    ("ringmq_gathering_probes_total", "of the experiment; ringmq_gathering_seconds is its outcome"),
    ("ringmq_gathering_switches_total", "the same"),
];

#[test]
fn the_dashboard_and_the_alerts_name_what_there_is_and_the_dashboard_shows_all() {
    let text = page(PageFormat::Text, "1", &full(), &[Some(&snapshot())]);
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let kinds: HashMap<&str, &str> = kinds.collect();
    let family = |name: &str| {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let histogram = stem.filter(|stem| kinds.get(stem) == Some(&"histogram"));
        histogram.unwrap_or(name).to_owned()
    };
    let dashboard = include_str!("../../tuning/grafana.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let mut all = Vec::new();
    queries(&dashboard["panels"], &mut all);
    assert!(all.len() > 100, "{} queries", all.len());
    let shown: HashSet<String> = all.iter().flat_map(|query| names(query)).map(family).collect();
    let alerts = include_str!("../../tuning/alerts.yaml");
    for name in shown.iter().cloned().chain(names(alerts).map(family)) {
        assert!(kinds.contains_key(&*name), "nothing is called {name}");
    }
    let without: HashSet<&str> = NOT_SHOWN.iter().map(|(name, _)| *name).collect();
    let unseen = |name: &&&str| !shown.contains(**name) && !without.contains(**name);
    assert_eq!(kinds.keys().filter(unseen).collect::<Vec<_>>(), Vec::<&&str>::new(), "no panel");
    let stale = |name: &&&str| shown.contains(**name) || !kinds.contains_key(**name);
    let stale: Vec<_> = without.iter().filter(stale).collect();
    assert_eq!(stale, Vec::<&&str>::new(), "they are shown, or are not there any more");
}

#[test]
fn the_heaviest_clients_are_on_the_page_where_they_are_wanted() {
    let one = TopRow { by: "drops", client_id: "a\"b".to_owned(), per_second: 1.5 };
    let process = Process { top: vec![one], ..Process::default() };
    let text = page(PageFormat::Text, "1", &process, &[]);
    let line = "\nringmq_top_clients{by=\"drops\",client_id=\"a\\\"b\"} 1.5\n";
    assert!(text.contains(line), "{text}");
    assert!(!page(PageFormat::Text, "1", &Process::default(), &[]).contains("ringmq_top_clients"));
}
