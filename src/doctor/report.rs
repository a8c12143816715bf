//! The doctor's report, as a table for people and as JSON for scripts. Owns all formatting. What it
//! says was decided by the judgements.

use super::facts::Facts;
use super::finding::{Finding, Fix, Severity};
use super::need::{Bound, Need};
use super::worst::Worst;

/// The result of an examination.
#[derive(Clone, Debug)]
pub struct Report {
    /// The facts of the host.
    pub facts: Facts,
    /// What the configuration demands.
    pub need: Need,
    /// The findings of all checks, in a fixed order.
    pub findings: Vec<Finding>,
    /// The number of clients that each limit allows, the tightest limit first.
    pub bounds: Vec<Bound>,
    /// New connections per second, and whether the configuration sets them.
    pub connect_rate: (u64, bool),
    /// What each setting lets these clients make the broker hold, at worst.
    pub worst: Vec<Worst>,
}

impl Report {
    /// Whether this host can hold what was asked for.
    pub fn ready(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity < Severity::Blocker)
    }

    /// The number of clients that this host can hold. It is 0 while something keeps the broker from
    /// starting, and when the memory is unreadable.
    pub fn clients(&self) -> u64 {
        if self.facts.memory_left().is_none() {
            return 0;
        }
        let counted = |finding: &&Finding| {
            let bound = self.bounds.iter().any(|bound| bound.check == finding.check);
            finding.severity == Severity::Blocker && !bound
        };
        match self.findings.iter().find(counted) {
            Some(_) => 0,
            None => self.bounds.first().map_or(0, |bound| bound.clients),
        }
    }

    /// Seconds until the first limit is met.
    pub fn seconds_to_first_limit(&self) -> f64 {
        self.clients() as f64 / self.connect_rate.0 as f64
    }

    /// The warnings and blockers, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let bad = self.findings.iter().filter(|finding| finding.severity >= Severity::Warning);
        bad.map(|finding| self.line(finding)).collect()
    }

    /// The first blocker that stops a shard at its start, whatever the number of clients is, as one
    /// line.
    pub fn obstacle(&self) -> Option<String> {
        let fatal = |finding: &&Finding| {
            finding.severity == Severity::Blocker
                && ["io_uring", "memlock"].contains(&finding.check)
        };
        self.findings.iter().find(fatal).map(|finding| self.line(finding))
    }

    fn line(&self, finding: &Finding) -> String {
        let Finding { check, found, needed, fix, .. } = finding;
        let mut line = format!("{check}: found {found}; needed: {needed}");
        if let Some(fix) = fix {
            line += &format!("; fix: {}", self.ways(fix).join(", or "));
        }
        line
    }

    /// The ways to apply a fix that are possible where this process runs.
    fn ways(&self, fix: &Fix) -> Vec<String> {
        let contained = self.facts.place.container.is_some();
        match (&fix.container, contained) {
            (_, true) if fix.inside => vec![fix.host.clone()],
            (Some(container), true) => vec![format!("{container} [{UNCHANGEABLE}]")],
            (None, true) => vec![format!("on the host: {} [{UNCHANGEABLE}]", fix.host)],
            (_, false) => vec![fix.host.clone()],
        }
    }

    /// The report for people.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.headline());
        let width = |of: fn(&Finding) -> usize| self.findings.iter().map(of).max().unwrap_or(0);
        let names = width(|finding| finding.check.len());
        for finding in &self.findings {
            let Finding { check, severity, found, needed, .. } = finding;
            text += &format!("{:<8} {check:<names$}  {found}\n", severity.word());
            if *severity == Severity::Fine {
                continue;
            }
            text += &format!("{:9}{:names$}  needed: {needed}\n", "", "");
            for way in finding.fix.iter().flat_map(|fix| self.ways(fix)) {
                text += &format!("{:9}{:names$}  fix:    {way}\n", "", "");
            }
        }
        text += "\nclients that each limit allows\n";
        for bound in &self.bounds {
            text += &format!(
                "{:>12}  {:<names$}  {}\n",
                count(bound.clients),
                bound.check,
                bound.because
            );
        }
        text += "\nmemory that each setting lets clients take, all of it within limits.memory\n";
        for worst in &self.worst {
            let most = worst.bytes.map_or("no bound".to_owned(), bytes);
            text += &format!("{most:>12}  {:<23}  {}\n", worst.key, worst.because);
        }
        text + "\n" + &self.verdict()
    }

    fn headline(&self) -> String {
        let release = self.facts.kernel.as_ref().map_or("?", |(release, _)| release.as_str());
        let shards = counted(self.need.shards, "shard");
        let asked = match self.need.clients {
            Some(clients) => format!("{} clients", count(clients)),
            None => "as many clients as fit".to_owned(),
        };
        format!("RingMQ doctor: Linux {release}, {shards}, {asked}")
    }

    fn verdict(&self) -> String {
        let (rate, configured) = self.connect_rate;
        let mut text = match self.facts.memory_left() {
            Some(_) => format!("This host holds {} idle clients", count(self.clients())),
            None => "How many clients this host holds cannot be told: its memory is unreadable"
                .to_owned(),
        };
        if let Some(first) = self.bounds.first().filter(|_| self.clients() > 0) {
            let source = if configured { "as configured" } else { "assumed" };
            text += &format!(
                "; the first limit is {}, met after {} at {} new connections a second ({source})",
                first.check,
                seconds(self.seconds_to_first_limit()),
                count(rate)
            );
        }
        let bad: Vec<&str> = self
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Blocker)
            .map(|finding| finding.check)
            .collect();
        if bad.is_empty() {
            text + ".\nReady.\n"
        } else {
            format!("{text}.\nNot ready: {}.\n", bad.join(", "))
        }
    }

    /// The report for scripts, as one JSON object.
    pub fn json(&self) -> String {
        let (rate, configured) = self.connect_rate;
        let place = &self.facts.place;
        let (container, network) = (place.container.map(|e| e.name()), place.network.word());
        let bounds = self.bounds.iter().map(|bound| {
            let (check, because) = (quoted(bound.check), quoted(&bound.because));
            format!(r#"{{"check":{check},"clients":{},"because":{because}}}"#, bound.clients)
        });
        let findings = self.findings.iter().map(json_finding);
        let worst = self.worst.iter().map(|worst| {
            let most = worst.bytes.map_or("null".to_owned(), |bytes| bytes.to_string());
            let (key, because) = (quoted(worst.key), quoted(&worst.because));
            format!(r#"{{"key":{key},"bytes":{most},"because":{because}}}"#)
        });
        format!(
            concat!(
                r#"{{"ready":{},"asked":{},"clients":{},"first_limit":{},"connect_rate":{},"#,
                r#""connect_rate_configured":{},"seconds_to_first_limit":{:.1},"#,
                r#""host":{{"kernel":{},"shards":{},"memory_left":{},"container":{},"#,
                r#""network":{},"cgroup":{}}},"#,
                r#""limits":[{}],"findings":[{}],"worst_cases":[{}]}}"#,
                "\n"
            ),
            self.ready(),
            self.need.clients.map_or("null".to_owned(), |clients| clients.to_string()),
            self.clients(),
            optional(self.bounds.first().map(|bound| bound.check)),
            rate,
            configured,
            self.seconds_to_first_limit(),
            optional(self.facts.kernel.as_ref().map(|(release, _)| release.as_str())),
            self.need.shards,
            self.facts.memory_left().map_or("null".to_owned(), |left| left.to_string()),
            optional(container),
            quoted(network),
            if self.facts.cgroup.unified { 2 } else { 1 },
            bounds.collect::<Vec<_>>().join(","),
            findings.collect::<Vec<_>>().join(","),
            worst.collect::<Vec<_>>().join(",")
        )
    }
}

const UNCHANGEABLE: &str = "cannot be changed from inside a container";

fn json_finding(finding: &Finding) -> String {
    let fix = match &finding.fix {
        None => "null".to_owned(),
        Some(fix) => format!(
            r#"{{"host":{},"container":{},"inside_container":{}}}"#,
            quoted(&fix.host),
            optional(fix.container.as_deref()),
            fix.inside
        ),
    };
    format!(
        r#"{{"check":{},"severity":{},"found":{},"needed":{},"fix":{fix}}}"#,
        quoted(finding.check),
        quoted(&finding.severity.word().to_lowercase()),
        quoted(&finding.found),
        quoted(&finding.needed)
    )
}

fn optional(text: Option<&str>) -> String {
    text.map_or("null".to_owned(), quoted)
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Writes a number as `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Writes a number and a word as `1 shard` or `2 shards`.
pub(super) fn counted(number: u64, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// Writes a size with its unit.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    value = (value * 10.0).round() / 10.0;
    let whole = value.fract() == 0.0 || unit == 0;
    if whole {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

fn seconds(time: f64) -> String {
    match time {
        t if t < 120.0 => format!("{t:.0} s"),
        t if t < 7200.0 => format!("{:.0} min", t / 60.0),
        t => format!("{:.0} h", t / 3600.0),
    }
}
