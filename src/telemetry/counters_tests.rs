//! Tests of the table of figures.

use std::collections::HashMap;

use super::{Counters, Descriptor, MetricKind};

#[test]
fn every_figure_is_named_once_and_the_way_prometheus_wants_it() {
    let mut seen: HashMap<(&str, String), &str> = HashMap::new();
    let mut helps: HashMap<&str, &Descriptor> = HashMap::new();
    let mut previous = "";
    for figure in Counters::DESCRIPTORS {
        let name = figure.name;
        assert!(name.starts_with("ringmq_"), "{name}");
        assert_eq!(name.ends_with("_total"), figure.kind == MetricKind::Counter, "{name}");
        assert!(figure.help.ends_with('.'), "{name}");
        let labels = format!("{:?}", figure.labels);
        assert_eq!(seen.insert((name, labels), figure.field), None, "{name} twice");
        let first = helps.entry(name).or_insert(figure);
        assert_eq!(first.help, figure.help, "{name}");
        assert!(first.field == figure.field || previous == name, "{name} is not in one place");
        previous = name;
    }
}

#[test]
fn the_figures_of_shards_add_up_field_by_field() {
    let mut total = Counters { messages_received_qos1: 3, sessions: 2, ..Counters::default() };
    let other = Counters { messages_received_qos1: 4, pending_bytes: 9, ..Counters::default() };
    total.add(&other);
    let expected = Counters {
        messages_received_qos1: 7,
        sessions: 2,
        pending_bytes: 9,
        ..Counters::default()
    };
    assert_eq!(total, expected);
}

#[test]
fn iteration_pairs_each_value_with_its_descriptor() {
    let counters = Counters { dropped_expired: 5, step_busy_nanos: 6, ..Counters::default() };
    let found: Vec<_> = counters.iter().filter(|(_, value)| *value > 0).collect();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].0.field, "dropped_expired");
    assert_eq!(found[0].0.labels, [("reason", "expired")]);
    assert_eq!(found[1].0.divisor(), 1_000_000_000);
    assert_eq!(counters.iter().count(), Counters::DESCRIPTORS.len());
}
