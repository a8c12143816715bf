//! The page for Prometheus, in its text format 0.0.4 or as OpenMetrics. Owns the layout, and the
//! names of what is not a plain counter of a shard. The names of those come from the table in
//! [`super::counters`].

mod bridges;
mod cluster;

use std::fmt::{Display, Write};
use std::time::Duration;

use super::alarms::AlarmKind;
use super::{
    AccountRow, BridgeRow, ClusterRow, Counters, Exemplar, Exemplars, Histogram, ListenerRow,
    MetricKind, SpanRow, TopRow,
};
use crate::ids::ShardId;

/// The format of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageFormat {
    /// Prometheus's text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0, with exemplars.
    OpenMetrics,
}

impl PageFormat {
    /// The media type of the format.
    pub fn content_type(self) -> &'static str {
        match self {
            PageFormat::Text => "text/plain; version=0.0.4; charset=utf-8",
            PageFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that an Accept header prefers; the text format when the header does not decide
    /// (RFC 9110, section 12.5.1).
    pub fn accepted(accept: &str) -> PageFormat {
        let (mut open, mut text) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut known) = (1.0, true);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name {
                    "q" => quality = value.parse().unwrap_or(0.0),
                    "version" if kind.ends_with("openmetrics-text") => {
                        known = matches!(value, "1.0.0" | "0.0.1");
                    }
                    _ => {}
                }
            }
            match kind {
                "application/openmetrics-text" if known => open = f64::max(open, quality),
                "text/plain" | "text/*" | "*/*" => text = f64::max(text, quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { PageFormat::OpenMetrics } else { PageFormat::Text }
    }
}

/// One shard's figures, copied out by the shard.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Snapshot {
    /// The counters and gauges of the table.
    pub counters: Counters,
    /// The durations of the steps.
    pub steps: Histogram,
    /// Sampled messages that were handled in these steps.
    pub exemplars: Exemplars,
    /// Data mails that wait in the mailbox from each shard, by the number of that shard. The entry
    /// of the shard itself is 0.
    pub mailboxes: Vec<u64>,
    /// How long the request for this copy waited until the shard's loop took it up.
    pub lag: Duration,
}

/// Figures of the whole process.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Process {
    /// The number of filters in the interest table.
    pub interest: u64,
    /// `limits.memory` in bytes, if there is a bound.
    pub memory_limit: Option<u64>,
    /// True when all listeners are open and the broker does not drain.
    pub ready: bool,
    /// The shards that are late, and for how long they have not answered.
    pub late: Vec<(ShardId, Duration)>,
    /// The number of lines that the log has lost because they were not read fast enough.
    pub lost_lines: u64,
    /// The number of requests of the management API by outcome; empty without an API.
    pub api: Vec<(&'static str, u64)>,
    /// The bridges.
    pub bridges: Vec<BridgeRow>,
    /// The cluster, if this is a node of one.
    pub cluster: Option<ClusterRow>,
    /// The exporter of spans, if there is one.
    pub spans: Option<SpanRow>,
    /// The listeners.
    pub listeners: Vec<ListenerRow>,
    /// The listeners, and until when their certificates are valid, in seconds since 1970.
    pub certificates: Vec<(String, u64)>,
    /// The accounts that bound what is retained, and what is retained on each.
    pub accounts: Vec<AccountRow>,
    /// The clients that weigh most, by several measures.
    pub top: Vec<TopRow>,
    /// The names of the alarms that are raised.
    pub alarms: Vec<&'static str>,
    /// How often threads beside the shards have panicked, by kind.
    pub panics: Vec<(&'static str, u64)>,
    /// Resident memory in bytes, if the system reports it.
    pub resident_bytes: Option<u64>,
    /// Virtual memory in bytes, if the system reports it.
    pub virtual_bytes: Option<u64>,
    /// CPU time of user and system, if the system reports it.
    pub cpu: Option<Duration>,
    /// The number of open descriptors, if the system reports it.
    pub open_fds: Option<u64>,
    /// The largest number of descriptors, if there is a limit and the system reports it.
    pub max_fds: Option<u64>,
    /// When the process started, as time since the Unix epoch.
    pub started: Duration,
}

/// Makes the whole page. A shard that did not answer is `None`; its only figure is `ringmq_shard_up
/// 0`.
pub fn page(
    format: PageFormat,
    version: &str,
    process: &Process,
    shards: &[Option<&Snapshot>],
) -> String {
    // A guess that is rarely exceeded: each line has about 60 bytes.
    let lines = Counters::DESCRIPTORS.len() + 30 + shards.len();
    let mut text = PageText(String::with_capacity(64 * lines * (1 + shards.len())), format);
    text.family("ringmq_build_info", "gauge", "The version that runs; the value is always 1.");
    text.sample("ringmq_build_info", &[("version", &version)], 1);
    text.whole(process);
    text.family("ringmq_shard_up", "gauge", "1 when the shard answered this scrape.");
    for (shard, figures) in shards.iter().enumerate() {
        text.sample("ringmq_shard_up", &[("shard", &shard)], u8::from(figures.is_some()));
    }
    text.listeners(&process.listeners);
    text.bridges(&process.bridges);
    if let Some(cluster) = &process.cluster {
        text.cluster(cluster);
    }
    if let Some(row) = &process.spans {
        text.spans(row);
    }
    text.late(process, shards.len());
    text.counters(shards);
    text.steps(shards);
    text.loop_lag(shards);
    text.mailboxes(shards);
    if format == PageFormat::OpenMetrics {
        text.0.push_str("# EOF\n");
    }
    text.0
}

struct PageText(String, PageFormat);

type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

impl PageText {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // In OpenMetrics `_total` belongs to the name of the sample, not to that of the family.
        let stem = name.strip_suffix("_total").filter(|_| kind == "counter");
        let name = stem.filter(|_| self.1 == PageFormat::OpenMetrics).unwrap_or(name);
        self.0.push_str("# HELP ");
        self.0.push_str(name);
        self.0.push(' ');
        escape(&mut self.0, help, Quotes::Plain);
        // Writing to a String cannot fail.
        let _ = write!(self.0, "\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.series(name, labels, value);
        self.0.push('\n');
    }

    /// Writes a sample without the end of its line.
    fn series(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (at, (label, content)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            escape(&mut self.0, &content.to_string(), Quotes::Escaped);
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = write!(self.0, "{end} {value}");
    }

    /// Writes a sample of a bucket, with its exemplar where the format has exemplars.
    fn bucket(&mut self, name: &str, labels: Labels<'_>, count: u64, exemplar: Option<&Exemplar>) {
        self.series(name, labels, count);
        if let Some(exemplar) = exemplar.filter(|_| self.1 == PageFormat::OpenMetrics) {
            let (took, at) = (exemplar.nanos as f64 / 1e9, exemplar.at as f64 / 1e3);
            let _ = write!(self.0, " # {{trace_id=\"{}\"}} {took} {at}", exemplar.trace);
        }
        self.0.push('\n');
    }

    /// Writes a family with one sample for each row: a label with the row's name, and a value.
    fn of_each<'a, R>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        rows: &'a [R],
        sample: impl Fn(&'a R) -> (&'a str, &'a String, u64),
    ) {
        self.family(name, kind, help);
        for (label, row, value) in rows.iter().map(sample) {
            self.sample(name, &[(label, row)], value);
        }
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
        if !process.api.is_empty() {
            let name = "ringmq_admin_requests_total";
            let help = "Requests of the management API that were let in, changes among them, \
                        failed proofs of who calls, and attempts refused after such failures.";
            self.family(name, "counter", help);
            for (outcome, count) in &process.api {
                self.sample(name, &[("outcome", outcome)], count);
            }
        }
        self.alarms_and_panics(process);
        if !process.certificates.is_empty() {
            let name = "ringmq_tls_certificate_expiry_seconds";
            let help = "When a listener's certificate, or one of its chain, expires: seconds since \
                        the Unix epoch; admin.tls: that of the admin server.";
            self.family(name, "gauge", help);
            for (listener, until) in &process.certificates {
                self.sample(name, &[("listener", listener)], until);
            }
        }
        self.accounts(&process.accounts);
        if !process.top.is_empty() {
            let name = "ringmq_top_clients";
            let help = "What the clients that weigh most have each second, of the last one to two \
                        minutes: bytes, messages, drops, or milliseconds that their sends took.";
            self.family(name, "gauge", help);
            for row in &process.top {
                self.sample(
                    name,
                    &[("by", &row.by), ("client_id", &row.client_id)],
                    row.per_second,
                );
            }
        }
        // These are the names that every Prometheus client library uses.
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

    fn accounts(&mut self, accounts: &[AccountRow]) {
        if accounts.is_empty() {
            return;
        }
        type Figure = fn(&AccountRow) -> u64;
        let figures: [(&str, &str, Figure); 2] = [
            ("messages", "Messages retained for clients with a bound.", |row| row.messages),
            ("bytes", "Bytes of them, topics included.", |row| row.bytes),
        ];
        for (name, help, figure) in figures {
            let name = format!("ringmq_retained_account_{name}");
            self.of_each(&name, "gauge", help, accounts, |r| ("account", &r.name, figure(r)));
        }
    }

    fn listeners(&mut self, listeners: &[ListenerRow]) {
        if listeners.is_empty() {
            return;
        }
        type Figure = fn(&ListenerRow) -> u64;
        let figures: [(&str, &str, &str, Figure); 4] = [
            ("open", "gauge", "1 while the listener accepts.", |row| u64::from(row.running)),
            ("connections", "gauge", "Connections of the listener.", |row| row.connections),
            ("accepted_total", "counter", "Connections that came.", |row| row.accepted),
            (
                "refused_total",
                "counter",
                "Of these, those that were refused, at accept or at CONNECT.",
                |row| row.refused,
            ),
        ];
        for (name, kind, help, figure) in figures {
            let name = format!("ringmq_listener_{name}");
            self.family(&name, kind, help);
            for row in listeners {
                let labels: Labels<'_> = &[("listener", &row.name), ("type", &row.kind)];
                self.sample(&name, labels, figure(row));
            }
        }
    }

    fn spans(&mut self, row: &SpanRow) {
        let help = "1 while the receiver of spans (telemetry.otlp) takes them.";
        self.single("ringmq_otlp_up", "gauge", help, u8::from(row.up));
        let help = "Spans that the receiver has taken.";
        self.single("ringmq_otlp_spans_exported_total", "counter", help, row.exported);
        let name = "ringmq_otlp_spans_dropped_total";
        let help = "Spans that were not sent: no room on their shard or before the receiver, \
                    refused by it, or it was not reached.";
        self.family(name, "counter", help);
        for (reason, count) in &row.dropped {
            self.sample(name, &[("reason", reason)], count);
        }
    }

    fn alarms_and_panics(&mut self, process: &Process) {
        let name = "ringmq_thread_panics_total";
        self.family(name, "counter", "Panics of threads beside the shards, which are replaced.");
        for (thread, count) in &process.panics {
            self.sample(name, &[("thread", thread)], count);
        }
        let name = "ringmq_alarm_active";
        self.family(name, "gauge", "1 while the alarm is raised: /api/v1/alarms says why.");
        for kind in AlarmKind::ALL {
            let active = u8::from(process.alarms.contains(&kind.name()));
            self.sample(name, &[("alarm", &kind.name())], active);
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
                    MetricKind::Counter => "counter",
                    MetricKind::Gauge => "gauge",
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
            let (name, exemplars) = ("ringmq_step_seconds_bucket", &snapshot.exemplars);
            let mut bounded = 0;
            for (bucket, (bound, count)) in steps.cumulative().enumerate() {
                let labels: Labels<'_> = &[("shard", &shard), ("le", &bound)];
                self.bucket(name, labels, count, exemplars.of(bucket));
                bounded = bucket + 1;
            }
            let labels: Labels<'_> = &[("shard", &shard), ("le", &"+Inf")];
            self.bucket(name, labels, steps.count(), exemplars.of(bounded));
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
