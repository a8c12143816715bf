//! The broker under attack: started with the admin server, asked for its figures, and a client
//! whose session is on each of its shards, wherever ClientIds are placed.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::broker::Launch;
use crate::support::*;

/// A broker, and what the attackers may know of it.
pub struct Ground {
    pub broker: Broker,
    pub shards: usize,
    admin: SocketAddr,
    web: Option<SocketAddr>,
}

/// How long steps took: for each bound in microseconds, how many were not longer; and all.
#[derive(Clone, Default, Debug)]
pub struct Steps(Vec<(u64, u64)>, u64);

impl Ground {
    #[track_caller]
    pub fn start(shards: usize, settings: &[&str]) -> Ground {
        // Thousands of connections of this process's own.
        rlimit::increase_nofile_limit(u64::MAX).expect("up to the hard limit it may");
        let always = [
            "admin.bind=127.0.0.1:0",
            "mqtt.receive_maximum=65535",
            "mqtt.session_expiry.default=10s",
        ];
        let settings = [&always[..], settings].concat();
        let broker = Launch { shards, ..Launch::new(&settings) }.start();
        let log = broker.log();
        let told = log.lines().rev().find_map(|line| {
            let (_, rest) = line.split_once("admin=")?;
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            rest[..end.unwrap_or(rest.len())].parse().ok()
        });
        let admin = told.unwrap_or_else(|| panic!("no address of the admin server in\n{log}"));
        // Now: in a long run the log does not keep its first lines.
        let web = log.contains("web=").then(|| broker.bound("web"));
        Ground { broker, shards, admin, web }
    }

    /// Its listener for WebSockets, if it has one.
    pub fn web(&self) -> Option<SocketAddr> {
        self.web
    }

    /// The metrics page; nothing when the broker does not answer in a while.
    pub fn page(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok()?;
        String::from_utf8(bytes).ok()
    }

    pub fn steps(&self) -> Option<Steps> {
        let page = self.page()?;
        let mut steps = Steps::default();
        for line in page.lines().filter(|line| line.starts_with("ringmq_step_seconds_bucket{")) {
            let (labels, count) = line.rsplit_once(' ')?;
            let count: u64 = count.parse().ok()?;
            let (_, bound) = labels.split_once("le=\"")?;
            let (bound, _) = bound.split_once('"')?;
            if bound == "+Inf" {
                steps.1 += count;
                continue;
            }
            let bound = (bound.parse::<f64>().ok()? * 1e6).round() as u64;
            match steps.0.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => steps.0.push((bound, count)),
            }
        }
        steps.0.sort_unstable();
        Some(steps)
    }

    fn sessions(&self, shard: usize) -> u64 {
        let page = self.page().expect("the admin server answers");
        let wanted = format!("ringmq_sessions{{shard=\"{shard}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&wanted));
        value.unwrap_or_else(|| panic!("no {wanted}in\n{page}")).parse().expect("a number")
    }

    /// A client on each shard. Nobody else may connect meanwhile.
    #[track_caller]
    pub fn client_on_each(&self) -> Vec<Client> {
        let mut found: Vec<Option<Client>> = (0..self.shards).map(|_| None).collect();
        let count = || (0..self.shards).map(|shard| self.sessions(shard)).collect::<Vec<_>>();
        for _ in 0..200 {
            if found.iter().all(Option::is_some) {
                return found.into_iter().flatten().collect();
            }
            let before = count();
            let client = Client::connect(&self.broker, V311, &unique("bystander"));
            let grown: Vec<_> =
                count().iter().zip(&before).map(|(after, before)| after > before).collect();
            if let Some(home) = grown.iter().position(|grown| *grown)
                && grown.iter().filter(|grown| **grown).count() == 1
                && found[home].is_none()
            {
                found[home] = Some(client);
            } else {
                client.disconnect();
            }
        }
        panic!("no client for each of {} shards", self.shards);
    }

    /// Resident memory of the broker in KiB; 0 when it has ended.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.broker.pid()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.map_or(0, |text| text.trim().trim_end_matches(" kB").parse().unwrap_or(0))
    }
}

impl Steps {
    /// The bound of the longest since `earlier`; `None` when it exceeded every bound.
    pub fn longest_since(&self, earlier: &Steps) -> Option<Duration> {
        let new = self.1 - earlier.1;
        let before = |bound| earlier.0.iter().find(|(known, _)| *known == bound);
        let within = |&&(bound, count): &&(u64, u64)| {
            count - before(bound).map_or(0, |(_, count)| *count) == new
        };
        self.0.iter().find(within).map(|(bound, _)| Duration::from_micros(*bound))
    }
}
