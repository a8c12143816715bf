//! A comparison as a drawing: a block for each scenario, with one bar for each broker and figure.
//! Bars of one figure and scenario share a scale, so that their lengths show the ratios between
//! brokers.

use super::picture::{Anchor, Colour, Mark, Picture};
use super::{FAINT_INK, GRID, INK, grouped, rule, write};
use crate::plot::picture::Pen;
use crate::report::number;
use serde_json::Value;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 20.0;
const NAMES: f64 = 110.0;
const COLUMN: f64 = 250.0;
/// The longest bar, in units of the picture; its number stands to the right of it.
const BAR: f64 = 160.0;
const LINE: f64 = 17.0;
const TOP: f64 = 40.0;
const HEAD: f64 = 34.0;
/// The most letters of a title, which fit into the picture's width.
const TITLE: usize = 110;
const COLOURS: [Colour; 6] = [
    Colour(0x00_72b2),
    Colour(0x56_b4e9),
    Colour(0xd5_5e00),
    Colour(0x00_9e73),
    Colour(0xcc_79a7),
    Colour(0xe6_9f00),
];

/// The heading of a figure, and its field in the result.
type BarField = (&'static str, &'static str);

const TRAFFIC: [BarField; 3] = [
    ("CPU, µs per message", "cpu_us"),
    ("latency p99, ms", "latency_ms.p99"),
    ("messages per second", "delivered_per_s"),
];
const IDLE: [BarField; 3] = [
    ("CPU, µs per connection", "connect_cpu_us"),
    ("memory, bytes per client", "pss_per_client"),
    ("connections per second", "connects_per_s"),
];

/// Draws the result file of `compare`.
pub fn comparison(file: &Value) -> Result<Picture, String> {
    let results = file["results"].as_object().filter(|results| !results.is_empty());
    let results = results.ok_or("this is not the result of a comparison")?;
    let mut brokers: Vec<&str> = Vec::new();
    for name in results.values().filter_map(Value::as_object).flat_map(|rows| rows.keys()) {
        if !brokers.contains(&name.as_str()) {
            brokers.push(name);
        }
    }
    let block = |rows: usize| HEAD + rows as f64 * LINE + 16.0;
    let rows = |case: &Value| case.as_object().map_or(0, |rows| rows.len());
    let height: f64 = results.values().map(|case| block(rows(case))).sum();
    let mut out = Picture { width: WIDTH, height: TOP + height, marks: Vec::new() };
    let text = |key: &str| file["machine"][key].as_str().unwrap_or("").to_string();
    let title = format!("{} {}", text("date"), text("cpu"));
    write(&mut out, (LEFT, 22.0), Anchor::Start, 15.0, INK, title.trim().to_owned());
    let mut top = TOP;
    for (name, case) in results {
        rule(&mut out, (LEFT, top), (WIDTH - LEFT, top), Pen::Thin, GRID);
        draw(&mut out, name, case, &brokers, top);
        top += block(rows(case));
    }
    Ok(out)
}

fn draw(out: &mut Picture, name: &str, case: &Value, brokers: &[&str], top: f64) {
    let Some(rows) = case.as_object() else { return };
    let headline = rows.values().find_map(|row| row["headline"].as_str()).unwrap_or(name);
    let headline: String = headline.chars().take(TITLE).collect();
    write(out, (LEFT, top + 15.0), Anchor::Start, 12.0, INK, headline);
    let idle = rows.values().any(|row| row.get("pss_per_client").is_some());
    let figures = if idle { &IDLE } else { &TRAFFIC };
    for (column, (heading, field)) in figures.iter().enumerate() {
        let left = LEFT + NAMES + column as f64 * COLUMN;
        let heading = (*heading).to_owned();
        write(out, (left, top + 29.0), Anchor::Start, 10.0, FAINT_INK, heading);
        let values = rows.values().filter_map(|row| number(row, field));
        let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        for (line, (broker, row)) in rows.iter().enumerate() {
            let base = top + HEAD + line as f64 * LINE + 11.0;
            if column == 0 {
                write(out, (LEFT, base), Anchor::Start, 11.0, INK, broker.clone());
            }
            let value = number(row, field).filter(|value| value.is_finite());
            let length = value.filter(|_| most > 0.0).map_or(0.0, |v| v.max(0.0) / most * BAR);
            let colour = brokers.iter().position(|name| name == broker).unwrap_or(0);
            let colour = COLOURS[colour % COLOURS.len()];
            let size = (length, LINE - 5.0);
            out.marks.push(Mark::Bar { at: (left, base - 10.0), size, colour });
            let shown = value.map_or("-".to_owned(), shown);
            write(out, (left + length + 5.0, base), Anchor::Start, 10.0, FAINT_INK, shown);
        }
    }
}

fn shown(value: f64) -> String {
    if value >= 100.0 { grouped(value.round()) } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_broker_has_a_bar_of_the_length_of_its_figure() {
        let file = json!({
            "machine": {"date": "today", "cpu": "x < y"},
            "results": {
                "fanin": {
                    "one": {"headline": "fanin: 7 publishers", "cpu_us": 2.0,
                        "latency_ms": {"p99": 1.0}, "delivered_per_s": 12345.0},
                    "two": {"cpu_us": 4.0, "latency_ms": {"p99": null}},
                    "none": {"error": "it ended at once"},
                },
                "idle": {"one": {"pss_per_client": 700.0, "connect_cpu_us": 9.0}},
            },
        });
        let picture = comparison(&file).unwrap();
        let bars = |mark: &&Mark| matches!(mark, Mark::Bar { .. });
        assert_eq!(picture.marks.iter().filter(bars).count(), 12);
        let lengths: Vec<f64> = picture
            .marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Bar { size, .. } => Some(size.0),
                _ => None,
            })
            .take(3)
            .collect();
        assert_eq!(lengths, [BAR / 2.0, BAR, 0.0]);
        let svg = picture.svg();
        for words in
            ["fanin: 7 publishers", "12,345", "x &lt; y", "memory, bytes per client", ">-<"]
        {
            assert!(svg.contains(words), "{words}");
        }
        assert!(!svg.contains("NaN"));
        assert!(comparison(&json!({"results": {}})).is_err());
    }
}
