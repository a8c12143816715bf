//! A run over time as a drawing: panels with clients, memory, CPU and latency, one below the other.
//!
//! This module decides what is drawn where; `picture` writes the drawing as SVG, `raster` as PNG.
//! Colour-blind readers can tell the colours apart.

mod bars;
mod picture;
mod raster;

use picture::{Anchor, Colour, Mark, Pen, Picture, Point};
use serde_json::Value;
use std::path::{Path, PathBuf};

const WIDTH: f64 = 900.0;
const PANEL: f64 = 130.0;
const GAP: f64 = 38.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 56.0;
const COLOURS: [Colour; 3] = [Colour(0x00_72b2), Colour(0xd5_5e00), Colour(0x00_9e73)];
const INK: Colour = Colour(0x00_0000);
const FAINT_INK: Colour = Colour(0x55_5555);
const PHASE: Colour = Colour(0x99_9999);
const GRID: Colour = Colour(0xdd_dddd);
/// The most points of a line; more would be closer together than pixels.
const MOST_POINTS: usize = 1500;
/// The average width of a letter, as a fraction of its size.
const LETTER: f64 = 0.62;

/// A file that a drawing is written to, in the format of its file name extension.
#[derive(Clone, Debug)]
pub struct Target {
    path: PathBuf,
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Svg,
    Png,
}

impl Target {
    /// Fails for an unknown extension and for a path that cannot be a file: before a run, not after
    /// it.
    pub fn new(path: PathBuf) -> Result<Target, String> {
        let shown = path.display();
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        let format = match ending.as_deref() {
            Some("svg") => Format::Svg,
            Some("png") => Format::Png,
            _ => return Err(format!("a drawing is FILE.svg or FILE.png, not {shown}")),
        };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if directory.is_some_and(|parent| !parent.is_dir()) || path.is_dir() {
            return Err(format!("no file can be written to {shown}"));
        }
        Ok(Target { path, format })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Draws the results of a comparison, given as its result file.
    pub fn compare(&self, file: &Value) -> Result<(), String> {
        self.write(&bars::comparison(file)?)
    }

    /// Draws a series that [`crate::monitor::Monitor::report`] gave.
    pub fn draw(&self, title: &str, series: &Value) -> Result<(), String> {
        self.write(&course(title, series))
    }

    fn write(&self, picture: &Picture) -> Result<(), String> {
        let bytes = match self.format {
            Format::Svg => picture.svg().into_bytes(),
            Format::Png => raster::png(picture)?,
        };
        std::fs::write(&self.path, bytes).map_err(|e| format!("{}: {e}", self.path.display()))
    }
}

/// Lines that share axes.
struct Panel {
    title: &'static str,
    /// Whether the axis is logarithmic, with a mark for each power of ten.
    decades: bool,
    /// The name and the values of each line; a value that is not finite leaves a gap.
    lines: Vec<(&'static str, Vec<f64>)>,
}

fn course(title: &str, series: &Value) -> Picture {
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
                ("broker waiting", column("waited_percent")),
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

fn draw(title: &str, at: &[f64], panels: &[Panel], phases: &[(f64, &str)]) -> Picture {
    let drawn: Vec<&Panel> = panels.iter().filter(|p| top_of(p) > 0.0).collect();
    let end = at.last().copied().unwrap_or(1.0).max(1.0);
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
    let height = TOP + drawn.len() as f64 * (PANEL + GAP) - 14.0;
    let mut out = Picture { width: WIDTH, height, marks: Vec::new() };
    write(&mut out, (LEFT, 20.0), Anchor::Start, 15.0, INK, title.to_owned());
    for (index, panel) in drawn.iter().enumerate() {
        let y0 = TOP + index as f64 * (PANEL + GAP);
        frame(&mut out, panel, y0, end, &x);
        for (seconds, _) in phases {
            let place = x(*seconds);
            rule(&mut out, (place, y0), (place, y0 + PANEL), Pen::Dashed, PHASE);
        }
        // Phase names stand above the first panel, where no line crosses them.
        if index == 0 {
            name_phases(&mut out, y0, phases, &x);
        }
        let ends = range(panel);
        for (number, (name, values)) in panel.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let y = |value: f64| y0 + PANEL - part(panel, ends, value) * PANEL;
            for points in runs(at, values, &x, &y) {
                out.marks.push(Mark::Line { points, pen: Pen::Strong, colour });
            }
            let (left, base) = (WIDTH - RIGHT + 8.0, y0 + 14.0 + number as f64 * 18.0);
            let sample = (left + 16.0, base - 4.0);
            rule(&mut out, (left, base - 4.0), sample, Pen::Strong, colour);
            write(&mut out, (left + 22.0, base), Anchor::Start, 12.0, colour, (*name).to_owned());
        }
    }
    out
}

/// Writes phase names beside one another, in a second row where they overlap.
fn name_phases(out: &mut Picture, y0: f64, phases: &[(f64, &str)], x: &impl Fn(f64) -> f64) {
    let mut written_to = [0.0, LEFT + width_of("clients", 12.0) + 8.0];
    for (seconds, name) in phases {
        let place = x(*seconds) + 2.0;
        let Some(row) = (0..2).find(|row| place >= written_to[*row]) else { continue };
        written_to[row] = place + width_of(name, 10.0) + 6.0;
        let base = y0 - 18.0 + row as f64 * 12.0;
        write(out, (place, base), Anchor::Start, 10.0, FAINT_INK, (*name).to_owned());
    }
}

fn width_of(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * LETTER
}

fn write(out: &mut Picture, at: Point, anchor: Anchor, size: f64, colour: Colour, text: String) {
    out.marks.push(Mark::Text { at, anchor, size, colour, text });
}

fn rule(out: &mut Picture, from: Point, to: Point, pen: Pen, colour: Colour) {
    out.marks.push(Mark::Line { points: vec![from, to], pen, colour });
}

/// Draws the heading and the axes with their numbers.
fn frame(out: &mut Picture, panel: &Panel, y0: f64, end: f64, x: &impl Fn(f64) -> f64) {
    let ends = range(panel);
    let right = WIDTH - RIGHT;
    write(out, (LEFT, y0 - 6.0), Anchor::Start, 12.0, INK, panel.title.to_owned());
    for value in marks(panel, ends) {
        let y = y0 + PANEL - PANEL * part(panel, ends, value);
        rule(out, (LEFT, y), (right, y), Pen::Thin, GRID);
        let text = grouped((value * 1e6).round() / 1e6);
        write(out, (LEFT - 6.0, y + 3.5), Anchor::End, 10.0, FAINT_INK, text);
    }
    let step = ceiling(end / 8.0);
    let mut seconds = 0.0;
    while seconds <= end {
        let place = x(seconds);
        let base = y0 + PANEL;
        rule(out, (place, base), (place, base + 3.0), Pen::Thin, PHASE);
        let text = format!("{} s", grouped(seconds));
        write(out, (place, base + 14.0), Anchor::Middle, 10.0, FAINT_INK, text);
        seconds += step;
    }
}

/// A number with commas between thousands, such as 1,000,000.
pub fn grouped(value: f64) -> String {
    let text = value.to_string();
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// The lines through the values: gaps where values are missing, and peaks kept when values are
/// thinned.
fn runs(
    at: &[f64],
    values: &[f64],
    x: &impl Fn(f64) -> f64,
    y: &impl Fn(f64) -> f64,
) -> Vec<Vec<Point>> {
    let group = values.len().div_ceil(MOST_POINTS).max(1);
    let mut runs = vec![Vec::new()];
    for (times, values) in at.chunks(group).zip(values.chunks(group)) {
        let value = values.iter().copied().filter(|v| v.is_finite()).fold(f64::NAN, f64::max);
        match runs.last_mut() {
            Some(run) if value.is_finite() => run.push((x(times[0]), y(value))),
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    for run in &mut runs {
        // A point between two gaps becomes a short line, which is visible.
        if let [(x, y)] = run[..] {
            run.push((x + 1.5, y));
        }
    }
    runs
}

fn top_of(panel: &Panel) -> f64 {
    let values = panel.lines.iter().flat_map(|line| &line.1);
    values.copied().filter(|v| v.is_finite()).fold(0.0, f64::max)
}

/// The least and the largest number of a panel's axis.
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

/// The position of a value between the ends, from 0 to 1.
fn part(panel: &Panel, (low, high): (f64, f64), value: f64) -> f64 {
    if panel.decades { (value / low).log10() / (high / low).log10() } else { value / high }
}

/// The numbers beside the axis.
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
    fn a_line_has_gaps_and_is_bounded() {
        let same = |v: f64| v;
        let lines = runs(&[0.0, 1.0, 2.0, 3.0], &[5.0, f64::NAN, 7.0, 8.0], &same, &same);
        assert_eq!(lines, [vec![(0.0, 5.0), (1.5, 5.0)], vec![(2.0, 7.0), (3.0, 8.0)]]);
        let many: Vec<f64> = (0..100_000).map(f64::from).collect();
        let lines = runs(&many, &many, &same, &same);
        assert!(lines.len() == 1 && lines[0].len() <= MOST_POINTS);
        assert_eq!(runs(&[], &[], &same, &same), [[]; 0]);
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (value, want) in [(0.0, "0"), (999.0, "999"), (1e6, "1,000,000"), (1234.5, "1,234.5")] {
            assert_eq!(grouped(value), want);
        }
    }

    fn example() -> Value {
        json!({
            "at_s": [1.0, 2.0], "clients": [10, 20], "cpu_percent": [0.0, 50.0],
            "p99_ms": [0.0, 0.0], "phases": [[0.0, "a<b"], [0.1, "next"]],
        })
    }

    #[test]
    fn a_drawing_has_only_the_panels_with_something_in_them() {
        let text = course("x & y", &example()).svg();
        assert!(text.contains("x &amp; y") && text.contains("a&lt;b") && text.contains(">next<"));
        assert!(text.contains(">clients<") && text.contains("CPU") && !text.contains("latency"));
        assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
        assert!(!text.contains("NaN"));
        course("empty", &Value::Null).svg();
    }

    #[test]
    fn a_name_says_the_format_and_another_is_refused_before_the_run() {
        let scratch = std::env::temp_dir().join(format!("ringmq-plot-{}", std::process::id()));
        std::fs::create_dir(&scratch).expect("a directory of our own");
        for name in ["a", "a.jpg", "a.svg.gz", "png", "none/a.png"] {
            assert!(Target::new(scratch.join(name)).is_err(), "{name}");
        }
        let drawn = |name: &str, title: &str| {
            let target = Target::new(scratch.join(name)).expect("it can be drawn");
            target.draw(title, &example()).expect("it is drawn");
            std::fs::read(target.path()).expect("it is there")
        };
        let svg = drawn("a.svg", "a title");
        assert!(svg.starts_with(b"<svg"));
        let (png, untitled) = (drawn("a.PNG", "a title"), drawn("b.png", ""));
        assert!(png.starts_with(b"\x89PNG"));
        assert_ne!(png, untitled, "the title is in the pixels");
        let size = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
        let picture = course("a title", &example());
        assert_eq!(f64::from(size(16)), picture.width * raster::SCALE);
        assert_eq!(f64::from(size(20)), picture.height * raster::SCALE);
        std::fs::remove_dir_all(&scratch).expect("it was ours");
    }
}
