//! A run over time as a drawing: clients, memory, CPU and latency below one another.
//!
//! Plain SVG, readable without a program of ours; colours that also a colour-blind reader tells
//! apart.

use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

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
    /// Decades instead of even steps.
    decades: bool,
    /// Name and values; a value that is not finite leaves a gap.
    lines: Vec<(&'static str, Vec<f64>)>,
}

/// Fails for a file whose name promises another format than SVG.
pub fn drawable(path: &Path) -> Result<(), String> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("svg") => Ok(()),
        _ => Err(format!("{}: a drawing is an SVG; name it FILE.svg", path.display())),
    }
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
        Panel { title: "clients", decades: false, lines: vec![("clients", column("clients"))] },
        Panel {
            title: "broker memory, MiB",
            decades: false,
            lines: vec![("resident", mib(column("rss")))],
        },
        Panel {
            title: "host memory, MiB (others' included)",
            decades: false,
            lines: vec![("used since start", used), ("slab", mib(column("host_slab")))],
        },
        Panel {
            title: "CPU, % of one core",
            decades: false,
            lines: vec![
                ("broker", column("cpu_percent")),
                ("generator", column("generator_percent")),
                ("broker had none", column("waited_percent")),
            ],
        },
        Panel {
            title: "latency, ms",
            decades: true,
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
        let mut written_to = 0.0;
        for (seconds, name) in phases {
            let place = x(*seconds);
            let _ = writeln!(
                out,
                "<line x1=\"{place:.1}\" y1=\"{y0}\" x2=\"{place:.1}\" y2=\"{}\" \
                 stroke=\"#999\" stroke-dasharray=\"3 3\"/>",
                y0 + PANEL
            );
            // The first panel carries the names, where they fit beside one another.
            if index == 0 && place >= written_to {
                written_to = place + 8.0 + 6.0 * name.len() as f64;
                let _ = writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{}\" font-size=\"10\" fill=\"#666\">{}</text>",
                    place + 3.0,
                    y0 + 11.0,
                    escaped(name)
                );
            }
        }
        let ends = range(panel);
        for (number, (name, values)) in panel.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let y = |value: f64| y0 + PANEL - part(panel, ends, value) * PANEL;
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
    let ends = range(panel);
    let right = WIDTH - RIGHT;
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", y0 - 5.0, escaped(panel.title));
    for value in marks(panel, ends) {
        let y = y0 + PANEL - PANEL * part(panel, ends, value);
        let value = (value * 1e6).round() / 1e6;
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

/// The ends of a panel's axis.
fn range(panel: &Panel) -> (f64, f64) {
    if !panel.decades {
        return (0.0, ceiling(top_of(panel)));
    }
    let values = panel.lines.iter().flat_map(|line| &line.1).copied().filter(|v| *v > 0.0);
    let least = values.fold(f64::INFINITY, f64::min);
    let power = |exponent: f64| 10f64.powf(exponent);
    let low = power(least.log10().floor());
    (low, power(top_of(panel).log10().ceil()).max(low * 10.0))
}

/// Where a value lies between the ends, from 0 to 1.
fn part(panel: &Panel, (low, high): (f64, f64), value: f64) -> f64 {
    if panel.decades { (value / low).log10() / (high / low).log10() } else { value / high }
}

/// The numbers beside an axis.
fn marks(panel: &Panel, (low, high): (f64, f64)) -> Vec<f64> {
    if !panel.decades {
        return vec![0.0, high / 2.0, high];
    }
    let decades = (high / low).log10().round() as i32;
    (0..=decades).map(|n| low * 10f64.powi(n)).collect()
}

/// The next number of the form 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
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
        for (value, want) in [(0.0, 1.0), (1.0, 1.0), (3.5, 4.0), (12.0, 15.0), (99.0, 100.0)] {
            assert_eq!(ceiling(value), want);
        }
        assert_eq!(ceiling(1_000_000.0), 1_000_000.0);
    }

    #[test]
    fn latency_goes_by_decades() {
        let lines = vec![("p99", vec![0.2, f64::NAN, 300.0])];
        let panel = Panel { title: "t", decades: true, lines };
        let (low, high) = range(&panel);
        assert!((low - 0.1).abs() < 1e-9 && (high - 1000.0).abs() < 1e-9);
        assert_eq!(marks(&panel, (low, high)).len(), 5);
        assert!((part(&panel, (low, high), 10.0) - 0.5).abs() < 1e-9);
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
