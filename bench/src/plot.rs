//! A run over time as a drawing: clients, memory, CPU and latency below one another.
//!
//! Plain SVG, readable without a program of ours; colours that also a colour-blind reader tells
//! apart.

use serde_json::Value;
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const PANEL: f64 = 130.0;
const GAP: f64 = 34.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 46.0;
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];
/// More points than this are thinned: a reader sees pixels.
const MOST_POINTS: usize = 1500;

/// Lines that share an axis.
struct Panel {
    title: &'static str,
    /// Name and values; a value that is not finite leaves a gap.
    lines: Vec<(&'static str, Vec<f64>)>,
}

/// Draws what [`crate::monitor::Monitor::report`] gave.
pub fn svg(title: &str, series: &Value) -> String {
    let column = |key: &str| -> Vec<f64> {
        let values = series[key].as_array().map(Vec::as_slice).unwrap_or_default();
        values.iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
    };
    let mib = |values: Vec<f64>| values.into_iter().map(|v| v / 1_048_576.0).collect::<Vec<_>>();
    let seen = |values: Vec<f64>| {
        values.into_iter().map(|v| if v > 0.0 { v } else { f64::NAN }).collect::<Vec<_>>()
    };
    let available = mib(column("host_available"));
    let first = available.first().copied().unwrap_or(0.0);
    let used = available.iter().map(|v| (first - v).max(0.0)).collect();
    let panels = [
        Panel { title: "clients", lines: vec![("clients", column("clients"))] },
        Panel { title: "broker memory, MiB", lines: vec![("resident", mib(column("rss")))] },
        Panel {
            title: "host memory, MiB (others' included)",
            lines: vec![("used since start", used), ("slab", mib(column("host_slab")))],
        },
        Panel {
            title: "CPU, % of one core",
            lines: vec![
                ("broker", column("cpu_percent")),
                ("generator", column("generator_percent")),
                ("broker had none", column("waited_percent")),
            ],
        },
        Panel {
            title: "latency, ms",
            lines: vec![("p99", seen(column("p99_ms"))), ("p50", seen(column("p50_ms")))],
        },
    ];
    draw(title, &column("at_s"), &panels, &phases(series))
}

fn phases(series: &Value) -> Vec<(f64, &str)> {
    let all = series["phases"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|p| Some((p[0].as_f64()?, p[1].as_str()?))).collect()
}

fn draw(title: &str, at: &[f64], panels: &[Panel], phases: &[(f64, &str)]) -> String {
    let drawn: Vec<&Panel> = panels.iter().filter(|p| top_of(p) > 0.0).collect();
    let height = TOP + drawn.len() as f64 * (PANEL + GAP) + 20.0;
    let end = at.last().copied().unwrap_or(1.0).max(1.0);
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n",
        escaped(title)
    );
    for (index, panel) in drawn.iter().enumerate() {
        let y0 = TOP + index as f64 * (PANEL + GAP);
        frame(&mut out, panel, y0, end, &x);
        for (seconds, name) in phases {
            let _ = writeln!(
                out,
                "<line x1=\"{0:.1}\" y1=\"{y0}\" x2=\"{0:.1}\" y2=\"{1}\" stroke=\"#999\" \
                 stroke-dasharray=\"3 3\"/>",
                x(*seconds),
                y0 + PANEL
            );
            if index == 0 {
                let place = x(*seconds) + 3.0;
                let _ = writeln!(
                    out,
                    "<text x=\"{place:.1}\" y=\"{}\" font-size=\"10\" fill=\"#666\">{}</text>",
                    y0 + 11.0,
                    escaped(name)
                );
            }
        }
        let top = ceiling(top_of(panel));
        for (number, (name, values)) in panel.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let y = |value: f64| y0 + PANEL - value / top * PANEL;
            let points = path(at, values, &x, &y);
            let _ = writeln!(
                out,
                "<path d=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\n\
                 <text x=\"{}\" y=\"{}\" fill=\"{colour}\">{}</text>",
                WIDTH - RIGHT + 8.0,
                y0 + 14.0 + number as f64 * 16.0,
                escaped(name)
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Heading, axes and their numbers.
fn frame(out: &mut String, panel: &Panel, y0: f64, end: f64, x: &impl Fn(f64) -> f64) {
    let top = ceiling(top_of(panel));
    let right = WIDTH - RIGHT;
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", y0 - 5.0, escaped(panel.title));
    for part in 0..=2 {
        let value = top * f64::from(part) / 2.0;
        let y = y0 + PANEL - PANEL * f64::from(part) / 2.0;
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{right}\" y2=\"{y}\" stroke=\"#ddd\"/>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-size=\"10\">{value}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    let step = ceiling(end / 8.0);
    let mut seconds = 0.0;
    while seconds <= end {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"10\">{seconds} s</text>",
            x(seconds),
            y0 + PANEL + 13.0
        );
        seconds += step;
    }
}

/// A path through the values; gaps where there are none, peaks kept when there are too many.
fn path(at: &[f64], values: &[f64], x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) -> String {
    let group = values.len().div_ceil(MOST_POINTS).max(1);
    let mut text = String::new();
    let mut pen_down = false;
    for (times, values) in at.chunks(group).zip(values.chunks(group)) {
        let value = values.iter().copied().filter(|v| v.is_finite()).fold(f64::NAN, f64::max);
        if value.is_nan() {
            pen_down = false;
            continue;
        }
        let command = if pen_down { 'L' } else { 'M' };
        let _ = write!(text, "{command}{:.1} {:.1}", x(times[0]), y(value));
        if !pen_down {
            // A point with gaps on both sides is seen, too.
            text.push_str("h.8");
        }
        pen_down = true;
    }
    text
}

fn top_of(panel: &Panel) -> f64 {
    let values = panel.lines.iter().flat_map(|line| &line.1);
    values.copied().filter(|v| v.is_finite()).fold(0.0, f64::max)
}

/// The next number of the form 1, 2, 2.5, 4, 5 or 8 times a power of ten.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 4.0, 5.0, 8.0, 10.0];
    steps.iter().map(|s| s * unit).find(|top| *top >= value * 0.999_999).unwrap_or(value)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, want) in [(0.0, 1.0), (1.0, 1.0), (3.0, 4.0), (12.0, 20.0), (99.0, 100.0)] {
            assert_eq!(ceiling(value), want);
        }
        assert_eq!(ceiling(1_000_000.0), 1_000_000.0);
    }

    #[test]
    fn a_path_has_gaps_and_is_bounded() {
        let same = |v: f64| v;
        let text = path(&[0.0, 1.0, 2.0], &[5.0, f64::NAN, 7.0], &same, &same);
        assert_eq!(text, "M0.0 5.0h.8M2.0 7.0h.8");
        let many: Vec<f64> = (0..100_000).map(f64::from).collect();
        let text = path(&many, &many, &same, &same);
        assert!(text.matches(['L', 'M']).count() <= MOST_POINTS);
    }

    #[test]
    fn a_drawing_has_only_the_panels_with_something_in_them() {
        let series = json!({
            "at_s": [1.0, 2.0], "clients": [10, 20], "cpu_percent": [0.0, 50.0],
            "p99_ms": [0.0, 0.0], "phases": [[0.0, "a<b"]],
        });
        let text = svg("x & y", &series);
        assert!(text.contains("x &amp; y") && text.contains("a&lt;b"));
        assert!(text.contains(">clients<") && text.contains("CPU") && !text.contains("latency"));
        assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
        assert!(!text.contains("NaN"));
        svg("empty", &Value::Null);
    }
}
