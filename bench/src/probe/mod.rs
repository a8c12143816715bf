//! Probes: steady pairs of publisher and subscriber, whose latencies show what other clients
//! experience while a crowd connects or storms.
//!
//! The pairs live on a thread of their own. This thread has a higher priority than the thread that
//! drives the crowd, because on a small machine a probe would otherwise wait for the generator and
//! not for the broker. The generator's part of the latency is measured, not assumed: a probe
//! carries when it was due and when it was sent, and the kernel tells when it arrived. Messages are
//! due on a fixed schedule, whether or not earlier ones have come (no coordinated omission).

mod pairs;

use crate::mqtt::Version;
use crate::report::Figure;
use crate::stats::Latency;
use pairs::{Pairs, Thread};
use serde_json::{Map, Value, json};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

/// The longest wait for messages under way when the probes end, in nanoseconds.
const LAST_ANSWERS: u64 = 2 * crate::clock::SECOND;

/// The number of probes and their rate.
#[derive(Clone, Copy, Debug)]
pub struct ProbePlan {
    /// Pairs of a publisher and a subscriber; 0 makes no probes.
    pub pairs: u32,
    /// Messages per second of each pair.
    pub rate: u32,
    /// QoS 0 or 1.
    pub qos: u8,
}

/// What the probes' thread tells the generator's thread.
enum Event {
    /// A message was sent, or should have been but could not be written.
    Sent { phase: usize },
    /// A message was received. Times are on the monotonic clock, in nanoseconds.
    Heard { phase: usize, due: u64, sent: u64, arrived: u64, read: u64 },
    /// A connection ended; the pair sends or receives no more.
    Ended,
    /// A packet that is no probe.
    Strange,
}

/// The figures of one phase of the run.
struct PhaseFigures {
    name: &'static str,
    sent: u64,
    heard: u64,
    total: Latency,
    late: Latency,
    broker: Latency,
    reading: Latency,
}

impl PhaseFigures {
    fn new(name: &'static str) -> Self {
        let empty = Latency::new;
        let (total, late, broker, reading) = (empty(), empty(), empty(), empty());
        Self { name, sent: 0, heard: 0, total, late, broker, reading }
    }

    fn report(&self) -> Value {
        json!({
            "sent": self.sent,
            "lost": self.sent.saturating_sub(self.heard),
            "total_ms": self.total.report(),
            "late_ms": self.late.report(),
            "broker_ms": self.broker.report(),
            "reading_ms": self.reading.report(),
        })
    }
}

/// Running probes, as the generator's thread sees them.
pub struct Probes {
    plan: ProbePlan,
    events: Receiver<Event>,
    phase: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    priority: &'static str,
    phases: Vec<PhaseFigures>,
    ended: u64,
    strange: u64,
}

impl Probes {
    /// Connects the pairs and starts their messages. The first phase is called `name`.
    pub fn start(
        plan: ProbePlan,
        target: SocketAddrV4,
        version: Version,
        salt: &str,
        name: &'static str,
    ) -> Result<Self, String> {
        let pairs = Pairs::connect(target, version, salt, plan)?;
        let (sender, events) = channel();
        let (phase, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (ready, priority) = channel();
        let thread = Thread { pairs, events: sender, phase: phase.clone(), stop: stop.clone() };
        let thread = std::thread::Builder::new().name("probes".into()).spawn(move || {
            // The receiver is gone only if the run has ended meanwhile.
            let _ = ready.send(pairs::rise());
            thread.run();
        });
        let thread = thread.map_err(|e| format!("thread of the probes: {e}"))?;
        let priority = priority.recv().map_err(|e| format!("thread of the probes: {e}"))?;
        let phases = vec![PhaseFigures::new(name)];
        let thread = Some(thread);
        Ok(Self { plan, events, phase, stop, thread, priority, phases, ended: 0, strange: 0 })
    }

    /// Begins the phase `name`: messages sent from now on belong to it.
    pub fn phase(&mut self, name: &'static str) {
        self.phase.store(self.phases.len(), Ordering::Relaxed);
        self.phases.push(PhaseFigures::new(name));
    }

    /// Takes in the events of the thread so far; each latency is also recorded in `second`.
    pub fn look(&mut self, second: &mut Latency) {
        while let Ok(event) = self.events.try_recv() {
            self.take(event, second);
        }
    }

    fn take(&mut self, event: Event, second: &mut Latency) {
        match event {
            Event::Sent { phase } => self.phases[phase].sent += 1,
            Event::Heard { phase, due, sent, arrived, read } => {
                let phase = &mut self.phases[phase];
                phase.heard += 1;
                phase.total.record(read.saturating_sub(due));
                phase.late.record(sent.saturating_sub(due));
                phase.broker.record(arrived.saturating_sub(sent));
                phase.reading.record(read.saturating_sub(arrived));
                second.record(read.saturating_sub(due));
            }
            Event::Ended => self.ended += 1,
            Event::Strange => self.strange += 1,
        }
    }

    /// Stops the schedule, waits for messages under way, and returns the report of all phases.
    pub fn finish(mut self) -> Value {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.look(&mut Latency::new());
        let phases: Map<String, Value> =
            self.phases.iter().map(|p| (p.name.to_string(), p.report())).collect();
        let sum = |f: fn(&PhaseFigures) -> u64| self.phases.iter().map(f).sum::<u64>();
        json!({
            "pairs": self.plan.pairs,
            "rate_of_each": self.plan.rate,
            "priority": self.priority,
            "sent": sum(|p| p.sent),
            "lost": sum(|p| p.sent.saturating_sub(p.heard)),
            "disconnects": self.ended,
            "strange": self.strange,
            "phases": phases,
        })
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Latencies of the probes in phase `name` of `report`, from their due times; null without probes.
pub fn of_phase(report: &Value, name: &str) -> Value {
    report["probes"]["phases"][name]["total_ms"].clone()
}

/// The lines about probes in a table for `report`, one for each phase; empty without probes.
pub fn table(report: &Value) -> String {
    let probes = &report["probes"];
    let Some(phases) = probes["phases"].as_object() else { return String::new() };
    let mut text = format!(
        "  probes         {} pairs, {} messages/s each, thread with {}; {} of {} lost, {} \
         disconnected\n\
         \x20                ms from when due; then what of it was ours before sending, the \
         broker's and the\n\
         \x20                network's, and ours after the kernel had it\n\
         \x20                phase          n     p50     p90     p99   p99.9     max   ours p99  \
         broker p99 / max  ours p99\n",
        probes["pairs"],
        probes["rate_of_each"],
        probes["priority"].as_str().unwrap_or(""),
        probes["lost"],
        probes["sent"],
        probes["disconnects"],
    );
    for (name, phase) in phases {
        let ms = |part: &str, which: &str| Figure(phase[part][which].as_f64());
        text.push_str(&format!(
            "                 {name:<9} {:>6} {:>7.2} {:>7.2} {:>7.2} {:>7.2} {:>7.2}   {:>8.2}  \
             {:>7.2} / {:<7.2} {:>8.2}\n",
            phase["sent"],
            ms("total_ms", "p50"),
            ms("total_ms", "p90"),
            ms("total_ms", "p99"),
            ms("total_ms", "p99.9"),
            ms("total_ms", "max"),
            ms("late_ms", "p99"),
            ms("broker_ms", "p99"),
            ms("broker_ms", "max"),
            ms("reading_ms", "p99"),
        ));
    }
    text
}
