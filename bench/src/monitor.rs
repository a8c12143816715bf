//! Observation of a long scenario while it runs: one sample a second, and a progress line after
//! several samples.

use crate::clock::{self, SECOND};
use crate::exporter::{Buckets, Exporter, Totals};
use crate::host::Host;
use crate::process::{Memory, Tree};
use crate::stats::Latency;
use serde_json::{Value, json};

const EVERY: u64 = SECOND;
/// Samples between two progress lines.
const LINE: usize = 5;
/// Bytes of memory that must remain available on the host; with less the scenario ends early.
pub const FLOOR: u64 = 3 << 29;

/// The figures of one second of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sample {
    /// Seconds since the run began.
    pub at: f64,
    /// Clients that are connected and ready.
    pub clients: u32,
    /// Clients that came in per second.
    pub joined: f64,
    /// Broker: percent of one core; `None` when its process is not known.
    pub cpu: Option<f64>,
    /// Broker: time that its threads waited for a CPU, summed, in percent of the second.
    pub waited: f64,
    /// Generator: percent of one core.
    pub own_cpu: f64,
    /// Generator: how late it was for its own schedule at most, in milliseconds.
    pub own_lag: f64,
    /// Broker: resident bytes.
    pub rss: u64,
    /// Memory and sockets of the host.
    pub host: Host,
    /// Median latency in this second, in milliseconds; 0 without messages.
    pub p50: f64,
    /// 99th percentile of the latency, in the same way.
    pub p99: f64,
    /// Messages published per second in this second; 0 when they are not counted.
    pub published: f64,
    /// Messages received per second, in the same way.
    pub delivered: f64,
}

/// Takes the samples.
pub struct Monitor {
    /// All samples so far.
    pub samples: Vec<Sample>,
    /// The start of each phase, in seconds since the run began, and the phase's name.
    pub phases: Vec<(f64, &'static str)>,
    /// The host before the first client.
    pub before: Host,
    /// Latencies of the current second.
    pub latency: Latency,
    /// Whether less than [`FLOOR`] was available at some sample.
    pub floor_met: bool,
    /// Sums so far; the scenario that counts writes them.
    pub totals: Totals,
    buckets: Buckets,
    exporter: Option<Exporter>,
    last_messages: (u64, u64),
    tree: Option<Tree>,
    began: u64,
    next: u64,
    last_time: u64,
    last_cpu: u64,
    last_wait: u64,
    last_own: u64,
    last_clients: u32,
    /// The largest lateness in the current second, in nanoseconds.
    lag: u64,
}

impl Monitor {
    /// Begins the observation now. `pid` is the broker's process; `exporter` gets each sample.
    pub fn new(pid: Option<i32>, exporter: Option<Exporter>) -> Self {
        let tree = pid.map(Tree::of);
        let now = clock::now();
        Self {
            samples: Vec::new(),
            phases: Vec::new(),
            before: Host::now(),
            latency: Latency::new(),
            floor_met: false,
            totals: Totals::default(),
            buckets: Buckets::default(),
            exporter,
            last_messages: (0, 0),
            last_cpu: tree.as_ref().and_then(Tree::cpu).unwrap_or(0),
            last_wait: tree.as_ref().map_or(0, Tree::waited),
            tree,
            began: now,
            next: now + EVERY,
            last_time: now,
            last_own: clock::own_cpu(),
            last_clients: 0,
            lag: 0,
        }
    }

    /// Notes that the generator was `nanos` nanoseconds behind its own schedule.
    pub fn late(&mut self, nanos: u64) {
        self.lag = self.lag.max(nanos);
    }

    /// The broker's processes.
    pub fn tree(&self) -> Option<&Tree> {
        self.tree.as_ref()
    }

    /// The broker's memory now; zeros when its process is not known.
    pub fn memory(&self) -> Memory {
        self.tree.as_ref().map(Tree::memory).unwrap_or_default()
    }

    /// The broker's largest resident set so far, in bytes.
    pub fn peak(&self) -> Option<u64> {
        self.tree.as_ref().map(Tree::peak)
    }

    /// What the whole host has used up since before the first client.
    pub fn host(&self) -> Value {
        Host::now().since(&self.before)
    }

    /// When the next sample is due, on [`clock::now`].
    pub fn due(&self) -> u64 {
        self.next
    }

    /// Notes that the phase `name` begins.
    pub fn phase(&mut self, name: &'static str) {
        self.phases.push((self.seconds(), name));
    }

    /// Seconds since the observation began.
    pub fn seconds(&self) -> f64 {
        (clock::now() - self.began) as f64 / 1e9
    }

    /// Takes a sample if one is due. Fails when the broker's process has ended.
    pub fn look(&mut self, clients: u32) -> Result<(), String> {
        let now = clock::now();
        if now < self.next {
            return Ok(());
        }
        self.next = now + EVERY;
        let seconds = (now - self.last_time) as f64 / 1e9;
        let own = clock::own_cpu();
        let (cpu, wait, rss) = match &self.tree {
            Some(tree) => {
                let gone = || format!("the broker's process is gone ({clients} clients were in)");
                (Some(tree.cpu().ok_or_else(gone)?), tree.waited(), tree.resident())
            }
            None => (None, 0, 0),
        };
        let percent = |to: u64, from: u64| to.saturating_sub(from) as f64 / 1e7 / seconds;
        let (p50, p99) = self.latency.middle_and_tail();
        let messages = self.totals.messages.unwrap_or_default();
        let each_second = |to: u64, from: u64| to.saturating_sub(from) as f64 / seconds;
        let sample = Sample {
            at: (now - self.began) as f64 / 1e9,
            clients,
            joined: (f64::from(clients) - f64::from(self.last_clients)) / seconds,
            cpu: cpu.map(|cpu| percent(cpu, self.last_cpu)),
            waited: percent(wait, self.last_wait),
            own_cpu: percent(own, self.last_own),
            own_lag: self.lag as f64 / 1e6,
            rss,
            host: Host::now(),
            p50,
            p99,
            published: each_second(messages.0, self.last_messages.0),
            delivered: each_second(messages.1, self.last_messages.1),
        };
        if let Some(exporter) = &self.exporter {
            self.buckets.add(&self.latency);
            exporter.show(&sample, &self.totals, &self.buckets);
        }
        self.latency.clear();
        self.last_messages = messages;
        self.lag = 0;
        (self.last_time, self.last_cpu, self.last_own) = (now, cpu.unwrap_or(0), own);
        self.last_wait = wait;
        self.last_clients = clients;
        self.floor_met |= sample.host.available < FLOOR;
        self.samples.push(sample);
        if self.samples.len().is_multiple_of(LINE) {
            self.line();
        }
        Ok(())
    }

    fn line(&self) {
        let all = &self.samples[self.samples.len().saturating_sub(LINE)..];
        let mean = |f: fn(&Sample) -> f64| all.iter().map(f).sum::<f64>() / all.len() as f64;
        let Some(last) = all.last() else { return };
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        let phase = self.phases.last().map_or("", |p| p.1);
        let mut line = format!(
            "{:6.0} s {phase:<10} {:>9} clients {:>+8.0}/s",
            last.at,
            last.clients,
            mean(|s| s.joined)
        );
        let mut add = |text: String| line.push_str(&text);
        if self.totals.messages.is_some() {
            let (published, delivered) = (mean(|s| s.published), mean(|s| s.delivered));
            add(format!(" · {published:.0} published/s {delivered:.0} received/s"));
        }
        if last.cpu.is_some() {
            let rss_each = last.rss.checked_div(u64::from(last.clients)).unwrap_or(0);
            let cpu = mean(|s| s.cpu.unwrap_or(0.0));
            add(format!(" · broker {cpu:4.0} % {:6.0} MiB ({rss_each} B each)", mib(last.rss)));
        }
        add(format!(
            " · generator {:3.0} %, late {:.1} ms",
            mean(|s| s.own_cpu),
            all.iter().map(|s| s.own_lag).fold(0.0, f64::max)
        ));
        if last.cpu.is_some() {
            add(format!(
                " · host {:+6.0} MiB, {:.0} free, slab {:.0} · {} sockets",
                (self.before.available as f64 - last.host.available as f64) / 1_048_576.0,
                mib(last.host.available),
                mib(last.host.slab),
                last.host.sockets
            ));
        }
        if last.p99 > 0.0 {
            add(format!(" · p50 {:.2} p99 {:.2} ms", last.p50, last.p99));
        }
        eprintln!("{line}");
    }

    /// All samples, for the result file.
    pub fn report(&self) -> Value {
        let column = |f: &dyn Fn(&Sample) -> Value| -> Value {
            self.samples.iter().map(f).collect::<Vec<_>>().into()
        };
        let tenth = |value: f64| (value * 10.0).round() / 10.0;
        json!({
            "at_s": column(&|s| tenth(s.at).into()),
            "clients": column(&|s| s.clients.into()),
            "cpu_percent": column(&|s| s.cpu.map(tenth).into()),
            "waited_percent": column(&|s| tenth(s.waited).into()),
            "generator_percent": column(&|s| tenth(s.own_cpu).into()),
            "generator_late_ms": column(&|s| tenth(s.own_lag).into()),
            "rss": column(&|s| s.rss.into()),
            "host_available": column(&|s| s.host.available.into()),
            "host_slab": column(&|s| s.host.slab.into()),
            "host_sockets": column(&|s| s.host.sockets.into()),
            "p50_ms": column(&|s| s.p50.into()),
            "p99_ms": column(&|s| s.p99.into()),
            "published_per_s": column(&|s| tenth(s.published).into()),
            "delivered_per_s": column(&|s| tenth(s.delivered).into()),
            "phases": self.phases.iter().map(|p| json!([tenth(p.0), p.1])).collect::<Vec<_>>(),
        })
    }
}
