//! Merging: the results of several generators that ran at the same time become one result. Counts
//! and rates are added, histograms are merged (percentiles are never averaged), and each part is
//! kept beside the sum.

use crate::arguments::Outcome;
use crate::outcome::{self, Verdict};
use crate::stats::Latency;
use crate::summary;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Counts that add up.
const SUMS: [&str; 24] = [
    "clients",
    "wanted",
    "connected",
    "failed",
    "retried",
    "reconnected",
    "published",
    "published_bytes",
    "acknowledged",
    "delivered",
    "delivered_bytes",
    "without_subscribers",
    "overrun",
    "lost",
    "reordered",
    "duplicated",
    "disconnects",
    "unacknowledged",
    "refused",
    "refused_acks",
    "turned_away",
    "acks_out_of_order",
    "strange",
    "withheld",
];
/// Fields of which the largest value counts: a generator at its limit makes all results doubtful.
const LARGEST: [&str; 3] = ["seconds", "generator_percent", "generator_late_ms"];
/// Commands whose results may be merged with each other; a scenario merges with the same scenario
/// only.
const GENERAL: [&str; 3] = ["conn", "pub", "sub"];

/// Whether `name` consists of such commands; a merged result has several, joined by `+`.
fn general(name: &str) -> bool {
    name.split('+').all(|one| GENERAL.contains(&one))
}

/// A result and its origin.
pub struct ResultFile {
    /// The file, or the command that gave the result.
    pub name: String,
    /// The report of a run, or a result file that contains one.
    pub file: Value,
}

impl ResultFile {
    fn report(&self) -> &Value {
        self.file.get("result").unwrap_or(&self.file)
    }

    fn scenario(&self) -> Result<&str, String> {
        let name = self.report()["scenario"].as_str();
        name.ok_or_else(|| format!("{}: this is not the result of one run", self.name))
    }
}

/// Reads the files, merges their results, and judges and writes the merged one.
pub fn run(files: &[PathBuf], asked: &Outcome) -> Result<Verdict, String> {
    let part = |path: &PathBuf| {
        Ok(ResultFile { name: path.display().to_string(), file: outcome::read(path)? })
    };
    let parts = files.iter().map(part).collect::<Result<Vec<_>, String>>()?;
    let mut merged = merge(&parts)?;
    let verdict = asked.judge(&mut merged);
    tell(&merged, asked)?;
    Ok(verdict)
}

/// Prints a merged result and writes it to the file that was asked for.
pub fn tell(merged: &Value, asked: &Outcome) -> Result<(), String> {
    if !asked.to_output() {
        println!("{}{}", merged["headline"].as_str().unwrap_or(""), summary::table(merged));
    }
    match &asked.json {
        Some(path) => outcome::write(path, merged),
        None => Ok(()),
    }
}

/// The merged result of `parts`. Fails for results of different scenarios, and for a result given
/// twice.
pub fn merge(parts: &[ResultFile]) -> Result<Value, String> {
    let Some((first, others)) = parts.split_first() else {
        return Err("there is nothing to merge".into());
    };
    let mut names = vec![first.scenario()?];
    for part in others {
        let name = part.scenario()?;
        if name != names[0] && !(general(name) && general(names[0])) {
            return Err(format!(
                "{} is a result of {name}, {} of {}",
                part.name, first.name, names[0]
            ));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for (index, part) in parts.iter().enumerate() {
        if let Some(same) = parts[..index].iter().find(|other| other.report() == part.report()) {
            return Err(format!("{} and {} are the same result", same.name, part.name));
        }
    }
    let mut merged = Map::new();
    merged.insert("scenario".into(), names.join("+").into());
    let headline = format!("{}: {} results merged", names.join(" + "), parts.len());
    merged.insert("headline".into(), headline.into());
    for part in parts {
        let fields = part.report().as_object().into_iter().flatten();
        for (key, value) in fields {
            add(&mut merged, key, value).map_err(|why| format!("{}: {key}: {why}", part.name))?;
        }
    }
    let parts: Vec<Value> = parts.iter().map(kept).collect();
    merged.insert("parts".into(), parts.into());
    Ok(Value::Object(merged))
}

fn add(merged: &mut Map<String, Value>, key: &str, value: &Value) -> Result<(), String> {
    if let Some(latency) = value.as_object().filter(|fields| fields.contains_key("p99")) {
        let text = latency.get("histogram").and_then(Value::as_str);
        let text = text.ok_or("there is no histogram; it is of an older ringmq-bench")?;
        let mut sum = Latency::decoded(text)?;
        if let Some(before) = merged.get(key).and_then(|v| v["histogram"].as_str()) {
            sum.add(&Latency::decoded(before)?)?;
        }
        merged.insert(key.into(), sum.report());
    } else if key == "refusals" {
        let codes = value.as_object().into_iter().flatten();
        let sums = merged.entry(key).or_insert_with(|| json!({}));
        for (code, count) in codes {
            let sum = sums[code].as_u64().unwrap_or(0) + count.as_u64().unwrap_or(0);
            sums[code] = sum.into();
        }
    } else if let Some(number) = value.as_number() {
        let before = merged.get(key).and_then(Value::as_number);
        let sum = if SUMS.contains(&key) || key.ends_with("_per_s") {
            match (before.map(|b| b.as_u64()), number.as_u64()) {
                (None, _) => value.clone(),
                (Some(Some(before)), Some(number)) => before.saturating_add(number).into(),
                (Some(_), _) => {
                    let before = before.and_then(serde_json::Number::as_f64).unwrap_or(0.0);
                    (before + number.as_f64().unwrap_or(0.0)).into()
                }
            }
        } else if LARGEST.contains(&key) {
            let before = before.and_then(serde_json::Number::as_f64).unwrap_or(0.0);
            number.as_f64().unwrap_or(0.0).max(before).into()
        } else {
            return Ok(());
        };
        merged.insert(key.into(), sum);
    }
    Ok(())
}

/// The report of a part without its series and its histograms.
fn kept(part: &ResultFile) -> Value {
    let mut report = part.report().clone();
    if let Some(fields) = report.as_object_mut() {
        fields.remove("series");
        for value in fields.values_mut().filter_map(Value::as_object_mut) {
            value.remove("histogram");
        }
    }
    let machine = part.file.get("machine").cloned();
    json!({"name": part.name, "machine": machine, "result": report})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    fn figure(merged: &Value, path: &str) -> f64 {
        report::number(merged, path).unwrap()
    }

    fn part(name: &str, scenario: &str, latencies: &[u64], more: Value) -> ResultFile {
        let mut latency = Latency::new();
        latencies.iter().for_each(|ms| latency.record(ms * 1_000_000));
        let mut report = json!({
            "scenario": scenario, "latency_ms": latency.report(), "series": {"at_s": [1]},
            "cpu_us": 3.0,
        });
        for (key, value) in more.as_object().unwrap() {
            report[key] = value.clone();
        }
        ResultFile { name: name.into(), file: json!({"machine": {"date": name}, "result": report}) }
    }

    #[test]
    fn counts_add_up_and_percentiles_are_those_of_all_messages() {
        // The average of the two medians would be 5.5 ms, that of the two p99 55 ms.
        let slow = json!({"delivered": 1, "delivered_per_s": 0.5, "seconds": 3, "lost": 2});
        let fast = json!({"delivered": 99, "delivered_per_s": 20, "seconds": 2,
            "refusals": {"5": 2}});
        let parts = [part("a", "sub", &[100], slow), part("b", "sub", &[1; 99], fast)];
        let merged = merge(&parts).unwrap();
        assert_eq!(merged["latency_ms"]["count"], 100);
        assert!((figure(&merged, "latency_ms.p50") - 1.0).abs() < 0.01);
        assert!((figure(&merged, "latency_ms.p99") - 1.0).abs() < 0.01);
        assert!((figure(&merged, "latency_ms.max") - 100.0).abs() < 0.1);
        assert_eq!((&merged["delivered"], &merged["lost"]), (&json!(100), &json!(2)));
        assert_eq!((figure(&merged, "delivered_per_s"), figure(&merged, "seconds")), (20.5, 3.0));
        assert_eq!(merged["refusals"]["5"], 2);
        // A broker's CPU is not that of a sum of generators.
        assert!(merged.get("cpu_us").is_none() && merged.get("series").is_none());
        assert_eq!(merged["parts"][1]["result"]["cpu_us"], 3.0);
        assert!(merged["parts"][1]["result"]["latency_ms"].get("histogram").is_none());
        // A merged result can be merged again.
        let again = ResultFile { name: "c".into(), file: merged };
        let more = [again, part("d", "sub", &[1], json!({"delivered": 1}))];
        assert_eq!(merge(&more).unwrap()["delivered"], 101);
    }

    #[test]
    fn publishers_and_subscribers_may_be_added_but_not_two_scenarios() {
        let of =
            |name, scenario| part(name, scenario, &[name.len() as u64], json!({"published": 1}));
        assert_eq!(merge(&[of("a", "pub"), of("bb", "sub")]).unwrap()["scenario"], "pub+sub");
        let error = merge(&[of("a", "fanin"), of("bb", "fanout")]).unwrap_err();
        assert!(error.contains("bb is a result of fanout"), "{error}");
        let error = merge(&[of("a", "pub"), of("bb", "fanout")]).unwrap_err();
        assert!(error.contains("fanout"), "{error}");
    }

    #[test]
    fn what_cannot_be_added_is_named() {
        let of = |name| part(name, "sub", &[1], json!({}));
        let error = merge(&[of("a"), of("b")]).unwrap_err();
        assert!(error.contains("a and b are the same result"), "{error}");
        let old = ResultFile {
            name: "old".into(),
            file: json!({"scenario": "sub",
            "latency_ms": {"p99": 1.0}}),
        };
        let error = merge(&[of("a"), old]).unwrap_err();
        assert!(error.contains("old") && error.contains("older"), "{error}");
        let other = ResultFile { name: "x".into(), file: json!({"results": {}}) };
        assert!(merge(&[other]).is_err());
    }
}
