//! The figures as Prometheus reads them: its text format 0.0.4. Owns the layout and the names of
//! what is not a plain counter of a shard; those come from the table in [`super::counters`].

use std::fmt::{Display, Write};
use std::time::Duration;

use super::{Counters, Histogram, Kind};
use crate::ids::ShardId;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One shard's figures, copied out by the shard.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Snapshot {
    /// The table's figures.
    pub counters: Counters,
    /// How long steps took.
    pub steps: Histogram,
    /// Data mails that wait in the mailbox from each shard, by number; its own entry is 0.
    pub mailboxes: Vec<u64>,
    /// How long the request for this copy waited for the shard's loop.
    pub lag: Duration,
}

/// What is known of the whole process.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Process {
    /// Filters in the interest table.
    pub interest: u64,
    /// `limits.memory` in bytes, if there is a bound.
    pub memory_limit: Option<u64>,
    /// It serves: all listeners are open and it does not drain.
    pub ready: bool,
    /// The shards that are late, and for how long they have not answered.
    pub late: Vec<(ShardId, Duration)>,
    /// Lines that the log has lost because nobody read it.
    pub lost_lines: u64,
    /// Until when the certificates of listeners are valid, seconds since 1970.
    pub certificates: Vec<(String, u64)>,
    /// Resident memory in bytes, if the system tells.
    pub resident_bytes: Option<u64>,
    /// Virtual memory in bytes, if the system tells.
    pub virtual_bytes: Option<u64>,
    /// CPU time, user and system, if the system tells.
    pub cpu: Option<Duration>,
    /// Open descriptors, if the system tells.
    pub open_fds: Option<u64>,
    /// Most descriptors, if there is a limit and the system tells.
    pub max_fds: Option<u64>,
    /// When it started, since the Unix epoch.
    pub started: Duration,
}

/// The whole page. A shard that did not answer is `None`: it has no figures but
/// `ringmq_shard_up 0`.
pub fn page(version: &str, process: &Process, shards: &[Option<&Snapshot>]) -> String {
    // A guess that is rarely exceeded: lines of about 60 bytes.
    let lines = Counters::DESCRIPTORS.len() + 30 + shards.len();
    let mut text = Text(String::with_capacity(64 * lines * (1 + shards.len())));
    text.family("ringmq_build_info", "gauge", "The version that runs; the value is always 1.");
    text.sample("ringmq_build_info", &[("version", &version)], 1);
    text.whole(process);
    text.family("ringmq_shard_up", "gauge", "1 when the shard answered this scrape.");
    for (shard, figures) in shards.iter().enumerate() {
        text.sample("ringmq_shard_up", &[("shard", &shard)], u8::from(figures.is_some()));
    }
    text.late(process, shards.len());
    text.counters(shards);
    text.steps(shards);
    text.loop_lag(shards);
    text.mailboxes(shards);
    text.0
}

struct Text(String);

type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.0.push_str("# HELP ");
        self.0.push_str(name);
        self.0.push(' ');
        escape(&mut self.0, help, Quotes::Plain);
        // A String takes everything: these cannot fail.
        let _ = write!(self.0, "\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (at, (label, content)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            escape(&mut self.0, &content.to_string(), Quotes::Escaped);
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn whole(&mut self, process: &Process) {
        let ready = u8::from(process.ready);
        self.single("ringmq_ready", "gauge", "1 while the broker serves: as /readyz.", ready);
        let help = "Topic filters in the interest table; a lone shard needs none.";
        self.single("ringmq_interest_filters", "gauge", help, process.interest);
        if let Some(limit) = process.memory_limit {
            let help =
                "What clients may make the broker hold (limits.memory): ringmq_memory_bytes.";
            self.single("ringmq_memory_limit_bytes", "gauge", help, limit);
        }
        let help = "Log lines that were lost because nobody read the log.";
        self.single("ringmq_log_lines_lost_total", "counter", help, process.lost_lines);
        if !process.certificates.is_empty() {
            let name = "ringmq_tls_certificate_expiry_seconds";
            let help = "When a listener's certificate, or one of its chain, expires: seconds since \
                        the Unix epoch.";
            self.family(name, "gauge", help);
            for (listener, until) in &process.certificates {
                self.sample(name, &[("listener", listener)], until);
            }
        }
        // The names that every Prometheus client library uses.
        let seconds = process.started.as_secs_f64();
        let help = "Start of the process in seconds since the Unix epoch.";
        self.single("process_start_time_seconds", "gauge", help, seconds);
        if let Some(cpu) = process.cpu {
            let help = "CPU time of the process, user and system.";
            self.single("process_cpu_seconds_total", "counter", help, cpu.as_secs_f64());
        }
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory.", process.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory.", process.virtual_bytes),
            ("process_open_fds", "Open file descriptors; clients use none.", process.open_fds),
            ("process_max_fds", "Most file descriptors.", process.max_fds),
        ] {
            if let Some(value) = value {
                self.single(name, "gauge", help, value);
            }
        }
    }

    fn late(&mut self, process: &Process, shards: usize) {
        let help = "For how long the shard has not answered the control thread, once that is more \
                    than 6 s; otherwise 0.";
        self.family("ringmq_shard_late_seconds", "gauge", help);
        for shard in 0..shards {
            let late = process.late.iter().find(|(late, _)| usize::from(late.0) == shard);
            let seconds = late.map_or(0.0, |(_, time)| time.as_secs_f64());
            self.sample("ringmq_shard_late_seconds", &[("shard", &shard)], seconds);
        }
    }

    fn counters(&mut self, shards: &[Option<&Snapshot>]) {
        let values: Vec<_> =
            known(shards).map(|(shard, known)| (shard, known.counters.values())).collect();
        let mut name = "";
        for (at, figure) in Counters::DESCRIPTORS.iter().enumerate() {
            if figure.name != name {
                name = figure.name;
                let kind = match figure.kind {
                    Kind::Counter => "counter",
                    Kind::Gauge => "gauge",
                };
                self.family(name, kind, figure.help);
            }
            for (shard, values) in &values {
                let value = values[at];
                let own =
                    figure.labels.iter().map(|(label, content)| (*label, content as &dyn Display));
                let labels: Vec<_> =
                    [("shard", shard as &dyn Display)].into_iter().chain(own).collect();
                let labels = &labels[..];
                match figure.divisor() {
                    1 => self.sample(name, labels, value),
                    divisor => self.sample(name, labels, value as f64 / divisor as f64),
                }
            }
        }
    }

    fn steps(&mut self, shards: &[Option<&Snapshot>]) {
        let help = "How long the shard's steps took that found something to do: for so long, \
                    everything else on the shard waited.";
        self.family("ringmq_step_seconds", "histogram", help);
        for (shard, snapshot) in known(shards) {
            let steps = &snapshot.steps;
            for (bound, count) in steps.cumulative() {
                let labels: Labels<'_> = &[("shard", &shard), ("le", &bound)];
                self.sample("ringmq_step_seconds_bucket", labels, count);
            }
            let labels: Labels<'_> = &[("shard", &shard), ("le", &"+Inf")];
            self.sample("ringmq_step_seconds_bucket", labels, steps.count());
            let seconds = steps.nanos() as f64 / 1e9;
            self.sample("ringmq_step_seconds_sum", &[("shard", &shard)], seconds);
            self.sample("ringmq_step_seconds_count", &[("shard", &shard)], steps.count());
        }
    }

    fn loop_lag(&mut self, shards: &[Option<&Snapshot>]) {
        let help = "How long this scrape's question waited until the shard's loop took it up, \
                    waking it included: what any input would have waited at that moment.";
        self.family("ringmq_loop_lag_seconds", "gauge", help);
        for (shard, snapshot) in known(shards) {
            let lag = snapshot.lag.as_secs_f64();
            self.sample("ringmq_loop_lag_seconds", &[("shard", &shard)], lag);
        }
    }

    fn mailboxes(&mut self, shards: &[Option<&Snapshot>]) {
        let help = format!(
            "Data mails that wait in the shard's mailbox from another shard; with {} it is full \
             and publishers there are parked.",
            crate::limits::DATA_MAILBOX
        );
        self.family("ringmq_mailbox_depth", "gauge", &help);
        for (shard, snapshot) in known(shards) {
            let others = snapshot.mailboxes.iter().enumerate();
            for (from, depth) in others.filter(|(from, _)| *from != shard) {
                let labels: Labels<'_> = &[("shard", &shard), ("from", &from)];
                self.sample("ringmq_mailbox_depth", labels, depth);
            }
        }
    }
}

fn known<'a>(
    shards: &'a [Option<&'a Snapshot>],
) -> impl Iterator<Item = (usize, &'a Snapshot)> + use<'a> {
    shards.iter().enumerate().filter_map(|(shard, snapshot)| Some((shard, (*snapshot)?)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Plain,
    Escaped,
}

/// Help escapes backslash and line feed, label values the double quote too.
fn escape(out: &mut String, text: &str, quotes: Quotes) {
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes == Quotes::Escaped => out.push_str("\\\""),
            _ => out.push(letter),
        }
    }
}

#[cfg(test)]
#[path = "prometheus_tests.rs"]
mod tests;
