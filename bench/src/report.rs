//! The tables of a comparison for a person, and the medians behind them.

use serde_json::{Map, Value};
use std::fmt::Write;

/// One broker in one scenario: its name and its median report, or why it has none.
pub struct Row {
    /// The broker's name.
    pub name: String,
    /// The median report, or the reason why there is none.
    pub result: Result<Value, String>,
}

/// Medians of all numbers in `reports`, field by field; for faults, the largest number instead.
pub fn median(reports: &[Value]) -> Value {
    let Some(Value::Object(first)) = reports.first() else { return Value::Null };
    let mut result = Map::new();
    for (key, value) in first {
        let all: Vec<&Value> = reports.iter().filter_map(|r| r.get(key)).collect();
        let combined = match value {
            Value::Object(_) if key != "plan" => {
                median(&all.into_iter().cloned().collect::<Vec<_>>())
            }
            Value::Number(_) if FAULTS.contains(&key.as_str()) => worst(&all),
            Value::Number(_) => middle(&all),
            other => other.clone(),
        };
        result.insert(key.clone(), combined);
    }
    Value::Object(result)
}

/// Counts of faults, for which the worst run is reported instead of the median one.
const FAULTS: &[&str] = &[
    "lost",
    "reordered",
    "duplicated",
    "disconnects",
    "unacknowledged",
    "acks_out_of_order",
    "refused_acks",
    "strange",
    "withheld",
];

fn numbers(all: &[&Value]) -> Vec<f64> {
    let mut numbers: Vec<f64> = all.iter().filter_map(|v| v.as_f64()).collect();
    numbers.sort_by(f64::total_cmp);
    numbers
}

fn middle(all: &[&Value]) -> Value {
    let numbers = numbers(all);
    let half = numbers.len() / 2;
    match numbers.len() {
        0 => Value::Null,
        n if n % 2 == 1 => numbers[half].into(),
        _ => f64::midpoint(numbers[half - 1], numbers[half]).into(),
    }
}

fn worst(all: &[&Value]) -> Value {
    all.iter().filter_map(|v| v.as_u64()).max().into()
}

/// The number at `path` in a report; dots lead into objects.
pub fn number(report: &Value, path: &str) -> Option<f64> {
    if let Some(value) = report.get(path) {
        return value.as_f64();
    }
    let (object, key) = path.split_once('.')?;
    report.get(object)?.get(key)?.as_f64()
}

/// A figure for a person: shown as a number if it is known, else as a dash.
#[derive(Clone, Copy, Debug)]
pub struct Figure(pub Option<f64>);

impl Figure {
    /// The figure at `path` of a report.
    pub fn of(report: &Value, path: &str) -> Figure {
        Figure(number(report, path))
    }

    /// Bytes as mebibytes.
    pub fn mebi(self) -> Figure {
        Figure(self.0.map(|bytes| bytes / 1_048_576.0))
    }

    /// This figure divided by `other`; unknown when either is unknown or `other` is zero.
    pub fn over(self, other: Figure) -> Figure {
        let other = other.0.filter(|number| *number != 0.0);
        Figure(self.0.zip(other).map(|(number, other)| number / other))
    }

    /// This figure minus `other`; unknown when either is unknown.
    pub fn less(self, other: Figure) -> Figure {
        Figure(self.0.zip(other.0).map(|(number, other)| number - other))
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.filter(|number| number.is_finite()) {
            Some(number) => number.fmt(f),
            // A dash takes the width that was asked for, without the digits.
            None => match f.width() {
                Some(width) if f.align() == Some(std::fmt::Alignment::Left) => {
                    write!(f, "{:<width$}", "-")
                }
                Some(width) => write!(f, "{:>width$}", "-"),
                None => f.write_str("-"),
            },
        }
    }
}

/// How a number is shown in a column.
#[derive(Clone, Copy)]
enum Form {
    Count,
    Two,
    Mebi,
}

/// A column: heading, field, form.
type Column = (&'static str, &'static str, Form);

const TRAFFIC: &[Column] = &[
    ("msg/s", "delivered_per_s", Form::Count),
    ("CPU µs/msg", "cpu_us", Form::Two),
    ("CPU %", "cpu_percent", Form::Count),
    ("p50 ms", "latency_ms.p50", Form::Two),
    ("p99", "latency_ms.p99", Form::Two),
    ("p99.9", "latency_ms.p99.9", Form::Two),
    ("lost", "lost", Form::Count),
    ("reord", "reordered", Form::Count),
    ("dup", "duplicated", Form::Count),
    ("disc", "disconnects", Form::Count),
    ("peak MiB", "peak_rss", Form::Mebi),
    ("gen µs", "generator_cpu_us", Form::Two),
    ("gen %", "generator_percent", Form::Count),
];

const IDLE: &[Column] = &[
    ("clients", "clients", Form::Count),
    ("connects/s", "connects_per_s", Form::Count),
    ("CPU µs/conn", "connect_cpu_us", Form::Two),
    ("RSS B/client", "rss_per_client", Form::Count),
    ("PSS B/client", "pss_per_client", Form::Count),
    ("empty MiB", "empty_rss", Form::Mebi),
    ("idle CPU %", "idle_cpu_percent", Form::Two),
    ("disc", "disconnects", Form::Count),
    ("peak MiB", "peak_rss", Form::Mebi),
    ("gen µs", "generator_cpu_us", Form::Two),
];

/// One scenario as an aligned table. Ratios compare each row with the row `reference`.
pub fn table(title: &str, rows: &[Row], reference: &str) -> String {
    let idle = rows.iter().any(|r| matches!(&r.result, Ok(v) if v.get("clients").is_some()));
    let columns = if idle { IDLE } else { TRAFFIC };
    let ratios: &[(&str, &str)] = if idle {
        &[("×CPU", "connect_cpu_us"), ("×mem", "pss_per_client")]
    } else {
        &[("×msg/s", "delivered_per_s"), ("×CPU", "cpu_us"), ("×p99", "latency_ms.p99")]
    };
    let base = rows.iter().find(|r| r.name == reference).and_then(|r| r.result.as_ref().ok());
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut head = vec!["broker".to_string()];
    head.extend(columns.iter().map(|c| c.0.to_string()));
    head.extend(ratios.iter().map(|r| r.0.to_string()));
    lines.push(head);
    let mut notes = String::new();
    for row in rows {
        let report = match &row.result {
            Ok(report) => report,
            Err(why) => {
                let _ = writeln!(notes, "  {}: no result: {why}", row.name);
                continue;
            }
        };
        let mut line = vec![row.name.clone()];
        line.extend(columns.iter().map(|c| shown(number(report, c.1), c.2)));
        for (_, field) in ratios {
            let base = base.and_then(|b| number(b, field)).filter(|b| *b > 0.0);
            let ratio = number(report, field).zip(base).map(|(value, base)| value / base);
            line.push(ratio.map_or("-".into(), |r| format!("{r:.2}")));
        }
        lines.push(line);
        for field in FAULTS.iter().skip(4) {
            if let Some(count) = number(report, field).filter(|c| *c > 0.0) {
                let _ = writeln!(notes, "  {}: {} {count}", row.name, field.replace('_', " "));
            }
        }
        if number(report, "generator_percent").is_some_and(|p| p > 90.0) {
            let _ = writeln!(notes, "  {}: the generator was the limit", row.name);
        }
    }
    format!("{title}\n{}{notes}", aligned(&lines))
}

fn shown(value: Option<f64>, form: Form) -> String {
    let Some(value) = value else { return "-".into() };
    match form {
        Form::Count => grouped(value.round() as i64),
        Form::Two => format!("{value:.2}"),
        Form::Mebi => format!("{:.1}", value / 1_048_576.0),
    }
}

fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// Aligns the first column to the left and the others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let _ = if column == 0 {
                write!(text, "  {cell:<width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_figure_that_is_not_there_is_a_dash() {
        let report = json!({"a": 2.5, "none": null, "bytes": 3 << 20});
        let figure = |path| Figure::of(&report, path);
        assert_eq!(
            format!("{:.2}|{:>6.1}|{:<4.0}|", figure("a"), figure("b"), figure("none")),
            "2.50|     -|-   |"
        );
        assert_eq!(format!("{:.1}", figure("bytes").mebi()), "3.0");
        assert_eq!(format!("{:.1}", figure("a").over(Figure(Some(0.0)))), "-");
        assert_eq!(format!("{:.1}", Figure(Some(f64::NAN))), "-");
        assert_eq!(format!("{:.1}", figure("a").less(figure("a"))), "0.0");
    }

    #[test]
    fn medians_go_field_by_field_and_faults_show_their_worst() {
        let one = json!({"cpu_us": 3.0, "lost": 0, "latency_ms": {"p50": 1.0}, "scenario": "x"});
        let two = json!({"cpu_us": 1.0, "lost": 7, "latency_ms": {"p50": 3.0}, "scenario": "x"});
        let three = json!({"cpu_us": 2.0, "lost": 1, "latency_ms": {"p50": 9.0}, "scenario": "x"});
        let got = median(&[one, two, three]);
        assert_eq!(number(&got, "cpu_us"), Some(2.0));
        assert_eq!(number(&got, "lost"), Some(7.0));
        assert_eq!(number(&got, "latency_ms.p50"), Some(3.0));
        assert_eq!(got["scenario"], "x");
    }

    #[test]
    fn the_table_shows_ratios_and_reasons() {
        let rows = [
            Row { name: "ref".into(), result: Ok(json!({"cpu_us": 4.0, "lost": 1234})) },
            Row { name: "new".into(), result: Ok(json!({"cpu_us": 1.0, "strange": 2})) },
            Row { name: "none".into(), result: Err("absent".into()) },
        ];
        let text = table("t", &rows, "ref");
        assert!(text.contains("0.25") && text.contains("1,234") && text.contains("absent"));
        assert!(text.contains("new: strange 2"));
    }
}
