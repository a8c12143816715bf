//! The table that ends every run: the same lines for every scenario, from fields that all reports
//! name alike. Figures that a scenario does not measure are left out.

use crate::report::{self, Figure};
use serde_json::Value;
use std::fmt::Write;

/// The table for one report.
pub fn table(report: &Value) -> String {
    let figure = |path: &str| report::number(report, path);
    let mut text = String::from("\n  in short\n");
    if let Some(rate) = figure("connects_per_s") {
        let _ = writeln!(text, "  {:<26}{rate:>10.0}", "connects/s");
    }
    if let Some(rate) = figure("published_per_s").filter(|_| figure("delivered_per_s").is_none()) {
        let _ = writeln!(text, "  {:<26}{rate:>10.0}", "published/s");
    }
    if let Some(rate) = figure("delivered_per_s") {
        let _ = writeln!(text, "  {:<26}{rate:>10.0}", "messages/s");
    }
    let _ = writeln!(
        text,
        "  {:<26}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "ms", "p50", "p90", "p99", "p99.9", "max"
    );
    let rows =
        [("CONNACK", "connack_ms"), ("acknowledged", "ack_ms"), ("end to end", "latency_ms")];
    for (name, field) in rows {
        percentiles(&mut text, name, &report[field]);
    }
    let count = |key: &str| report[key].as_u64().map_or("-".into(), |n| n.to_string());
    if figure("connected").is_some() {
        let _ = writeln!(
            text,
            "  clients                   connected {} of {}, failed {}, retried {}, came back {}",
            count("connected"),
            count("clients"),
            count("failed"),
            count("retried"),
            count("reconnected"),
        );
        let _ = writeln!(
            text,
            "  messages                  published {}, acknowledged {}, received {}",
            count("published"),
            count("acknowledged"),
            count("delivered"),
        );
    }
    let _ = writeln!(
        text,
        "  faults                    lost {}, reordered {}, twice {}, unexpected disconnects {}",
        count("lost"),
        count("reordered"),
        count("duplicated"),
        count("disconnects"),
    );
    broker(&mut text, report);
    if let Some(memory) = figure("host.memory") {
        let mib = |path: &str| figure(path).unwrap_or(0.0) / 1_048_576.0;
        let _ = writeln!(
            text,
            "  whole host, grown by      {:.1} MiB (MemAvailable), slab {:.1}, TCP buffers {:.1}; \
             {:.0} sockets",
            memory / 1_048_576.0,
            mib("host.slab"),
            mib("host.tcp_buffers"),
            figure("host.sockets").unwrap_or(0.0),
        );
    }
    if let Some(percent) = figure("generator_percent") {
        let limit = if percent > 90.0 { ": IT WAS THE LIMIT" } else { "" };
        let each = figure("generator_bytes_per_client");
        let each = each.map_or(String::new(), |bytes| format!(", {bytes:.0} B per client"));
        let _ = writeln!(text, "  generator                 {percent:.0} % of a core{limit}{each}");
    }
    text
}

fn percentiles(text: &mut String, name: &str, latency: &Value) {
    if latency["count"].as_u64().unwrap_or(0) == 0 {
        return;
    }
    let _ = write!(text, "  {name:<26}");
    for which in ["p50", "p90", "p99", "p99.9", "max"] {
        let _ = write!(text, "{:>10.2}", Figure(latency[which].as_f64()));
    }
    text.push('\n');
}

fn broker(text: &mut String, report: &Value) {
    let figure = |path: &str| report::number(report, path);
    let mib = |path: &str| {
        figure(path).map_or("-".to_string(), |bytes| format!("{:.1}", bytes / 1_048_576.0))
    };
    if figure("memory.rss").is_some() {
        let _ = writeln!(
            text,
            "  broker memory, MiB        RSS {}, PSS {}, peak {}",
            mib("memory.rss"),
            mib("memory.pss"),
            mib("memory.peak_rss"),
        );
    }
    if let Some(percent) = figure("cpu_percent") {
        let each = figure("cpu_us").map_or("-".to_string(), |us| format!("{us:.2}"));
        let _ = writeln!(
            text,
            "  broker CPU                {percent:.0} % of a core, {each} µs per connection or \
             message"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_there_is_shown_and_what_is_not_is_left_out() {
        let latency = json!({"p50": 1.0, "p90": 2.0, "p99": 3.0, "p99.9": 4.0, "max": 5.5,
            "count": 9});
        let report = json!({"connack_ms": latency, "lost": 3, "disconnects": 0,
            "host": {"memory": 3 << 20}, "generator_percent": 95.0});
        let text = table(&report);
        assert!(text.contains("5.50") && text.contains("lost 3, reordered -"), "{text}");
        assert!(text.contains("3.0 MiB") && text.contains("IT WAS THE LIMIT"), "{text}");
        assert!(!text.contains("end to end") && !text.contains("broker"), "{text}");
    }
}
