//! `--prometheus`: the figures of a run, served at `/metrics` while the run goes on.
//!
//! The generator's thread renders a page once a second from its existing counts; another thread
//! answers requests with the latest page. No work is added per message.

use crate::monitor::Sample;
use crate::stats::Latency;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Upper bounds of the latency buckets in nanoseconds; the last bucket has none.
const BOUNDS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
    60_000_000_000,
];
/// The longest request, in bytes, and the longest time for reading it and for writing the answer.
const REQUEST: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(1);

/// The latest page, shared with the thread that serves it.
#[derive(Clone, Debug)]
pub struct Exporter {
    page: Arc<Mutex<String>>,
}

/// Sums since the run began, which Prometheus takes as counters.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Connections acknowledged so far.
    pub connects: u64,
    /// Connections that ended without being ended by this program.
    pub disconnects: u64,
    /// Messages published and received; `None` when the run does not count them.
    pub messages: Option<(u64, u64)>,
}

/// The latency histogram since the run began.
#[derive(Clone, Debug, Default)]
pub struct Buckets {
    counts: [u64; BOUNDS.len() + 1],
    /// The sum of all latencies, in nanoseconds.
    sum: u128,
}

impl Buckets {
    /// Adds the latencies of one second.
    pub fn add(&mut self, latency: &Latency) {
        latency.each(|nanos, count| {
            let bucket = BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
            self.counts[bucket] += count;
            self.sum += u128::from(nanos) * u128::from(count);
        });
    }
}

impl Exporter {
    /// Listens on `address` and serves an empty page until the first [`Self::show`].
    pub fn start(address: SocketAddr) -> Result<Exporter, String> {
        let failed = |error| format!("--prometheus {address}: {error}");
        let listener = TcpListener::bind(address).map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        let exporter = Exporter::on(listener).map_err(failed)?;
        eprintln!("metrics at http://{at}/metrics");
        Ok(exporter)
    }

    fn on(listener: TcpListener) -> std::io::Result<Exporter> {
        let page = Arc::new(Mutex::new(String::new()));
        let served = page.clone();
        let thread = std::thread::Builder::new().name("prometheus".into());
        thread.spawn(move || serve(&listener, &served))?;
        Ok(Exporter { page })
    }

    /// Replaces the page with the figures given.
    pub fn show(&self, sample: &Sample, totals: &Totals, buckets: &Buckets) {
        let text = page(sample, totals, buckets);
        if let Ok(mut page) = self.page.lock() {
            *page = text;
        }
    }
}

fn page(sample: &Sample, totals: &Totals, buckets: &Buckets) -> String {
    let mut text = String::new();
    let mut one = |name: &str, kind: &str, help: &str, value: f64| {
        let _ = write!(
            text,
            "# HELP ringmq_bench_{name} {help}\n# TYPE ringmq_bench_{name} {kind}\n\
             ringmq_bench_{name} {value}\n"
        );
    };
    let count = |number: u64| number as f64;
    one("clients", "gauge", "Clients that are connected.", f64::from(sample.clients));
    one("connects_total", "counter", "Connections acknowledged.", count(totals.connects));
    one("disconnects_total", "counter", "Connections lost.", count(totals.disconnects));
    if let Some((published, delivered)) = totals.messages {
        one("published_total", "counter", "Messages published.", count(published));
        one("delivered_total", "counter", "Messages received.", count(delivered));
    }
    one(
        "generator_late_seconds",
        "gauge",
        "The latest the generator was for its own schedule in the last second.",
        sample.own_lag / 1e3,
    );
    one(
        "generator_cpu_ratio",
        "gauge",
        "CPU of the generator, 1 is one core.",
        sample.own_cpu / 100.0,
    );
    if let Some(cpu) = sample.cpu {
        one("broker_cpu_ratio", "gauge", "CPU of the broker, 1 is one core.", cpu / 100.0);
        one("broker_resident_bytes", "gauge", "Memory of the broker.", count(sample.rss));
    }
    let name = "ringmq_bench_latency_seconds";
    let _ = write!(
        text,
        "# HELP {name} Latency of messages, of conn of connections, of pub of \
         acknowledgements.\n# TYPE {name} histogram\n"
    );
    let mut sum = 0;
    for (index, count) in buckets.counts.iter().enumerate() {
        sum += count;
        let bound = BOUNDS.get(index).map_or("+Inf".into(), |b| (*b as f64 / 1e9).to_string());
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {sum}");
    }
    let _ = write!(text, "{name}_sum {}\n{name}_count {sum}\n", buckets.sum as f64 / 1e9);
    text
}

fn serve(listener: &TcpListener, page: &Mutex<String>) {
    for stream in listener.incoming().flatten() {
        // A failed answer concerns one scraper only; the next request is served.
        let _ = answer(stream, page);
    }
}

fn answer(mut stream: TcpStream, page: &Mutex<String>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = [0; REQUEST];
    let mut length = 0;
    // The deadline covers the whole request: a peer that sends one byte at a time has no more time
    // than a silent peer.
    let end = Instant::now() + PATIENCE;
    while length < REQUEST && !request[..length].contains(&b'\n') && Instant::now() < end {
        match stream.read(&mut request[length..])? {
            0 => return Ok(()),
            more => length += more,
        }
    }
    let found = [&b"GET /metrics "[..], b"GET /metrics?"];
    let found = found.iter().any(|line| request[..length].starts_with(line));
    let (status, body) = match page.lock() {
        Ok(page) if found => ("200 OK", page.clone()),
        _ => ("404 Not Found", "the figures are at /metrics\n".to_string()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: \
         {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporter() -> (Exporter, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (Exporter::on(listener).unwrap(), address)
    }

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn the_page_of_the_moment_is_served() {
        let (exporter, address) = exporter();
        let mut latency = Latency::new();
        for nanos in [50_000, 300_000, 300_000, 70_000_000_000] {
            latency.record(nanos);
        }
        let mut buckets = Buckets::default();
        buckets.add(&latency);
        let totals = Totals { messages: Some((7, 0)), ..Totals::default() };
        exporter.show(&Sample { clients: 3, ..Sample::default() }, &totals, &buckets);
        let text = get(address, "/metrics");
        for line in [
            "ringmq_bench_clients 3\n",
            "ringmq_bench_published_total 7\n",
            "ringmq_bench_latency_seconds_bucket{le=\"0.0001\"} 1\n",
            "ringmq_bench_latency_seconds_bucket{le=\"0.0005\"} 3\n",
            "ringmq_bench_latency_seconds_bucket{le=\"+Inf\"} 4\n",
            "ringmq_bench_latency_seconds_count 4\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("broker_cpu") && !text.contains("NaN"));
        assert!(get(address, "/").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn a_peer_that_says_nothing_does_not_keep_others_waiting_for_long() {
        let (_exporter, address) = exporter();
        let _silent = TcpStream::connect(address).unwrap();
        assert!(get(address, "/metrics").starts_with("HTTP/1.1 200"));
    }
}
