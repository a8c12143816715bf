//! Conditions on a result that make a run fail, such as `p99>20ms` or `lost>0`.
//!
//! A condition is a figure, a comparison and a value. The figure is a path into the result, such as
//! `memory.rss` (in a comparison `fanin.ringmq-1.cpu_us`), or one of the short names below. A
//! condition on a figure that the result does not have holds, so the run fails: a check that cannot
//! be made must not pass.

use serde_json::{Value, json};
use std::fmt;
use std::str::FromStr;

/// One condition.
#[derive(Clone, PartialEq, Debug)]
pub struct Threshold {
    text: String,
    path: String,
    comparison: Relation,
    /// The value in the unit of the figure.
    value: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Relation {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
    Unequal,
}

/// Comparison operators. Their order does not matter: `from_str` takes the longest one at its
/// place.
const COMPARISONS: [(&str, Relation); 6] = [
    (">=", Relation::AtLeast),
    ("<=", Relation::AtMost),
    ("==", Relation::Equal),
    ("!=", Relation::Unequal),
    (">", Relation::Above),
    ("<", Relation::Below),
];

const PERCENTILES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];
/// Fields for a short name, which stands for the first of them that a result has.
const LATENCIES: [&str; 3] = ["latency_ms", "ack_ms", "connack_ms"];
const RATES: [&str; 3] = ["delivered_per_s", "published_per_s", "connects_per_s"];

/// The unit of a figure, known by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Nanoseconds(u32),
    Plain,
}

impl Unit {
    fn of(path: &str) -> Unit {
        if PERCENTILES.contains(&path) {
            return Unit::Nanoseconds(1_000_000);
        }
        let named = |end: &str| path.split('.').any(|part| part.ends_with(end));
        if named("_ms")
            || path.starts_with("latency.")
            || path.starts_with("connack.")
            || path.starts_with("ack.")
        {
            Unit::Nanoseconds(1_000_000)
        } else if named("_us") {
            Unit::Nanoseconds(1000)
        } else if path.ends_with("seconds") || (named("_s") && !path.contains("_per_s")) {
            Unit::Nanoseconds(1_000_000_000)
        } else if PERCENTILES.iter().any(|end| path.ends_with(&format!(".{end}"))) {
            // A path into a comparison, such as `fanin.mosquitto.p99`.
            Unit::Nanoseconds(1_000_000)
        } else {
            Unit::Plain
        }
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = COMPARISONS.iter().filter_map(|(sign, comparison)| {
            text.split_once(sign).map(|(path, value)| (path, *comparison, value))
        });
        // In `a>=1` both `>=` and `>` are found; the operator with the shorter rest is the whole
        // one.
        let (path, comparison, value) = found
            .min_by_key(|(path, _, value)| (path.len(), value.len()))
            .ok_or("a condition is FIGURE>VALUE, such as p99>20ms (or >= < <= == !=)")?;
        let path = path.trim();
        let known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if path.is_empty() || !path.chars().all(known) {
            return Err(format!("{path:?} is no figure of a result"));
        }
        let value = number(value.trim(), Unit::of(path))?;
        Ok(Threshold { text: text.trim().to_string(), path: path.into(), comparison, value })
    }
}

fn number(text: &str, unit: Unit) -> Result<f64, String> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a number"))?;
    let nanos = match suffix.trim() {
        "" => return Ok(number),
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 6e10,
        other => return plain(number, other, unit),
    };
    match unit {
        Unit::Nanoseconds(of) => Ok(number * nanos / f64::from(of)),
        Unit::Plain => Err(format!("the figure is no time, so its value has no unit {suffix}")),
    }
}

fn plain(number: f64, suffix: &str, unit: Unit) -> Result<f64, String> {
    let factor = match suffix {
        "%" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        _ => return Err(format!("{suffix:?} is no unit; there are us ms s m KiB MiB GiB %")),
    };
    match unit {
        Unit::Plain => Ok(number * factor),
        Unit::Nanoseconds(_) => Err(format!("the figure is a time, so {suffix} is no unit of it")),
    }
}

/// The value at `path` in `report`: a field, a short name, or either of them at any depth.
fn find<'a>(report: &'a Value, path: &str) -> Option<&'a Value> {
    if let Some(value) = report.get(path) {
        return Some(value);
    }
    let of_first = |names: &[&str], path: &str| {
        let name = names.iter().find(|name| report.get(**name).is_some())?;
        if path.is_empty() { report.get(*name) } else { report.get(*name)?.get(path) }
    };
    let short = match path.split_once('.') {
        _ if PERCENTILES.contains(&path) => of_first(&LATENCIES, path),
        _ if path == "rate" => of_first(&RATES, ""),
        Some(("latency", which)) => report.get("latency_ms")?.get(which),
        Some(("connack", which)) => report.get("connack_ms")?.get(which),
        Some(("ack", which)) => report.get("ack_ms")?.get(which),
        _ => None,
    };
    short.or_else(|| {
        let mut dots = path.match_indices('.');
        dots.find_map(|(at, _)| find(report.get(&path[..at])?, &path[at + 1..]))
    })
}

/// A condition applied to a result.
#[derive(Debug)]
pub struct Judged<'a> {
    threshold: &'a Threshold,
    /// `None`: the result does not have the figure.
    found: Option<f64>,
    /// Whether the condition holds, so that the run has failed.
    pub holds: bool,
}

impl Threshold {
    /// Applies the condition to `report`.
    pub fn judge(&self, report: &Value) -> Judged<'_> {
        let found = find(report, &self.path).and_then(Value::as_f64);
        let holds = found.is_none_or(|found| match self.comparison {
            Relation::Above => found > self.value,
            Relation::AtLeast => found >= self.value,
            Relation::Below => found < self.value,
            Relation::AtMost => found <= self.value,
            Relation::Equal => found == self.value,
            Relation::Unequal => found != self.value,
        });
        Judged { threshold: self, found, holds }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Judged<'_> {
    /// The entry in the result file.
    pub fn report(&self) -> Value {
        json!({"condition": self.threshold.text, "found": self.found, "failed": self.holds})
    }
}

impl fmt::Display for Judged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Threshold { text, path, .. } = self.threshold;
        match self.found {
            Some(found) if self.holds => {
                write!(f, "--fail-if {text:?} holds: {path} is {found}")
            }
            Some(found) => write!(f, "--fail-if {text:?} does not hold: {path} is {found}"),
            None => write!(f, "--fail-if {text:?} cannot be judged: this run has no {path}"),
        }
    }
}

/// Judges all conditions, prints those that hold to standard error, and returns whether any holds.
/// All outcomes are written into the report as `conditions`.
pub fn judge(conditions: &[Threshold], report: &mut Value) -> bool {
    if conditions.is_empty() {
        return false;
    }
    let judged: Vec<_> = conditions.iter().map(|c| c.judge(report)).collect();
    for failed in judged.iter().filter(|judged| judged.holds) {
        eprintln!("ringmq-bench: {failed}");
    }
    let failed = judged.iter().any(|judged| judged.holds);
    let rows: Vec<_> = judged.iter().map(Judged::report).collect();
    report["conditions"] = rows.into();
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &str, report: &Value) -> bool {
        condition.parse::<Threshold>().unwrap().judge(report).holds
    }

    fn example() -> Value {
        json!({
            "latency_ms": {"p50": 1.0, "p99": 20.0, "p99.9": 30.5, "count": 9},
            "connack_ms": {"p99": 5.0}, "lost": 3, "cpu_us": 2.5, "delivered_per_s": 1000.0,
            "memory": {"rss": 3 << 20}, "seconds": 5.0, "cpu_percent": 80.0,
            "fan.in": 1, "case": {"ringmq-1": {"latency_ms": {"p99": 7.0}}},
        })
    }

    #[test]
    fn conditions_hold_or_not() {
        let report = example();
        for condition in [
            "p99>19ms",
            "p99>=20ms",
            "p99 > 19.9",
            "p99<1s",
            "p99.9>30400us",
            "p99==20",
            "lost>0",
            "lost!=0",
            "latency.p50<2ms",
            "connack.p99>4ms",
            "connack_ms.p99>4ms",
            "cpu_us>2",
            "cpu_us>2us",
            "cpu_us>0.002ms",
            "memory.rss>2MiB",
            "rate<1001",
            "seconds>4s",
            "cpu_percent>=80%",
            "case.ringmq-1.p99>6ms",
            "case.ringmq-1.p99==7",
        ] {
            assert!(holds(condition, &report), "{condition}");
        }
        for condition in [
            "p99>20ms",
            "p99<20ms",
            "p99!=20",
            "p99.9>31ms",
            "lost>3",
            "lost==0",
            "cpu_us>0.003ms",
            "memory.rss>3MiB",
            "rate<1000",
            "case.ringmq-1.p99>7ms",
            "seconds>5s",
        ] {
            assert!(!holds(condition, &report), "{condition}");
        }
    }

    #[test]
    fn what_is_not_measured_does_not_pass() {
        let mut report = example();
        for condition in ["duplicated>0", "ack.p99>1s", "case.none.p99>1", "latency_ms>1"] {
            assert!(holds(condition, &report), "{condition}");
        }
        report["latency_ms"]["p99"] = Value::Null;
        let condition: Threshold = "p99>1".parse().unwrap();
        let judged = condition.judge(&report);
        assert!(judged.holds && judged.to_string().contains("cannot be judged"), "{judged}");
    }

    #[test]
    fn a_short_name_is_the_first_figure_there_is() {
        let publisher = json!({"ack_ms": {"p99": 3.0}, "connack_ms": {"p99": 9.0}});
        assert!(holds("p99==3", &publisher));
        // An empty histogram is not replaced by another one.
        let silent = json!({"ack_ms": {"p99": null}, "connack_ms": {"p99": 9.0}});
        assert!(holds("p99<1000s", &silent) && holds("p99>1000s", &silent));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "p99",
            ">1",
            "p99>",
            "p99>x",
            "p99>1x",
            "p99>1MiB",
            "lost>1ms",
            "a b>1",
            "p99=>1",
            "p99>NaN",
            "p99>inf",
            "p99>>1",
            "memory.rss>1s",
        ] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_report_says_what_was_found() {
        let mut report = example();
        let conditions: Vec<Threshold> =
            ["lost>0", "p99>1s"].iter().map(|text| text.parse().unwrap()).collect();
        assert!(judge(&conditions, &mut report));
        assert_eq!(report["conditions"][0]["failed"], true);
        assert_eq!(report["conditions"][1]["found"], 20.0);
        assert!(!judge(&conditions[1..], &mut report));
    }
}
