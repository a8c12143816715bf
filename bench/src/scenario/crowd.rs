//! A crowd: very many clients that connect, keep their connections by pings, and leave. `million`,
//! `storm`, `fleet`, `queue` and `retained` share this. What else the clients send is up to a
//! [`Talk`].

use super::RunSettings;
use crate::clients::join::{Join, Names};
use crate::clients::socket::SocketOptions;
use crate::clients::{Handler, Net};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::exporter::Totals;
use crate::monitor::Monitor;
use crate::mqtt::{self, Malformed, Packet, first};
use crate::probe::{self, Probes};
use crate::process;
use crate::stop;
use serde_json::{Value, json};

/// The most a ping is late, in nanoseconds; the pings of that time are sent together.
const PING_GRAIN: u64 = 2 * MILLISECOND;
/// Nanoseconds between two looks at the schedule of connections, when these have a rate.
const PACE_GRAIN: u64 = MILLISECOND;
/// The run ends after the broker has turned clients away more often than this, all clients
/// together.
const MOST_REFUSALS: u64 = 10_000;
/// After this many nanoseconds without a new client the broker counts as stuck.
const STUCK: u64 = 60 * SECOND;
/// With fewer clients than these the generator's memory is mostly that of its rings, not of the
/// clients.
const MANY: u32 = 10_000;
/// After this many nanoseconds without a packet, missing messages count as lost.
const SILENCE: u64 = 5 * SECOND;
/// Connections that are ended between two passes over completions.
const LEAVE_AT_ONCE: u32 = 512;

/// What clients send besides CONNECT, SUBSCRIBE and PINGREQ, and how they react.
pub trait Talk {
    /// The single subscription of `client`; `None` when it has none.
    fn filter(&self, client: u32) -> Option<(String, u8)>;
    /// Handles a packet other than PINGRESP for a client that is ready.
    fn packet(
        &mut self,
        stage: &mut Stage<'_>,
        client: u32,
        packet: &Packet<'_>,
        now: u64,
    ) -> Result<(), Malformed>;
    /// `client` got its CONNACK; its connection was begun, or with a rate was due, at `begun`.
    fn arrived(&mut self, _client: u32, _begun: u64) {}
    /// Messages published and received so far; `None` when they are not counted.
    fn messages(&self) -> Option<(u64, u64)> {
        None
    }
    /// Sends what is due by `now`; returns when it should be called again.
    fn speak(&mut self, _stage: &mut Stage<'_>, _now: u64) -> u64 {
        u64::MAX
    }
}

/// Clients that publish nothing.
pub struct Quiet {
    /// The prefix of topics; `None` when clients do not subscribe.
    salt: Option<String>,
    /// Packets that came all the same.
    pub strange: u64,
}

impl Quiet {
    /// Quiet clients, each with a subscription if `subscribe`.
    pub fn new(salt: &str, subscribe: bool) -> Self {
        Self { salt: subscribe.then(|| salt.to_string()), strange: 0 }
    }
}

impl Talk for Quiet {
    fn filter(&self, client: u32) -> Option<(String, u8)> {
        self.salt.as_ref().map(|salt| (format!("{salt}/m/{client}"), 0))
    }

    fn packet(
        &mut self,
        _stage: &mut Stage<'_>,
        _client: u32,
        _packet: &Packet<'_>,
        _now: u64,
    ) -> Result<(), Malformed> {
        self.strange += 1;
        Ok(())
    }
}

/// The parts of a crowd that a [`Talk`] may use.
pub struct Stage<'a> {
    /// For sending.
    pub net: &'a mut Net,
    /// For which clients are ready.
    pub join: &'a Join,
    /// For recording latencies.
    pub monitor: &'a mut Monitor,
}

/// A schedule that visits every client in turn, evenly spread over an interval.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    total: u64,
    /// Nanoseconds of one round.
    interval: u64,
    start: u64,
    visits: u64,
}

impl Sweep {
    /// Visits clients 0 to `total` - 1 once per `interval` nanoseconds each, from `start` on.
    pub fn new(total: u32, interval: u64, start: u64) -> Self {
        Self { total: u64::from(total), interval, start, visits: 0 }
    }

    /// When the next visit is due; `u64::MAX` without clients.
    pub fn due(&self) -> u64 {
        if self.total == 0 {
            return u64::MAX;
        }
        let (rounds, rest) = (self.visits / self.total, self.visits % self.total);
        let part = u128::from(rest) * u128::from(self.interval) / u128::from(self.total);
        self.start + rounds * self.interval + part as u64
    }

    /// The next client, if one is due by `now`, and when it was due.
    pub fn next(&mut self, now: u64) -> Option<(u32, u64)> {
        let due = self.due();
        if due > now {
            return None;
        }
        let client = (self.visits % self.total) as u32;
        self.visits += 1;
        Some((client, due))
    }
}

/// Counts of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct CrowdCounts {
    /// Connections that the broker acknowledged.
    pub connects: u64,
    /// Connections of ready clients that ended without being ended by this program.
    pub disconnects: u64,
    /// Connections of clients that were not ready yet, which ended in the same way.
    pub turned_away: u64,
    /// The error number of the last such end; 0 when the broker closed the connection.
    pub last_errno: i32,
    /// PINGREQ sent.
    pub pings: u64,
    /// PINGRESP received.
    pub pongs: u64,
}

/// Clients, and what they send. A [`Talk`] may divide them into groups by their numbers.
pub struct Crowd<T> {
    /// How far each client has come.
    pub join: Join,
    /// What they send.
    pub talk: T,
    /// The samples of the run.
    pub monitor: Monitor,
    /// What happened.
    pub counts: CrowdCounts,
    probes: Option<Probes>,
    /// The report of the probes when they have ended.
    probed: Option<Value>,
    /// The generator's resident bytes before the first client, and its growth per client since
    /// then.
    own_before: u64,
    own_per_client: f64,
    pings: Option<Sweep>,
    last_arrival: u64,
    /// When a ready client last received a packet other than PINGRESP.
    last_packet: u64,
    /// When the next turn should begin at the latest.
    planned: u64,
    fatal: bool,
    /// Whether the broker may turn clients away without limit: they return until they are
    /// connected.
    pub patient: bool,
}

impl<T: Talk> Crowd<T> {
    /// The rings for a crowd of `total` clients, none of which is connected yet. `ping_interval` is
    /// in seconds, 0 for no pings; Keep Alive is a quarter longer.
    pub fn new(
        total: u32,
        ping_interval: u32,
        reset: bool,
        talk: T,
        settings: &RunSettings,
    ) -> Result<(Self, Net), String> {
        let own_before = process::own_resident();
        let monitor = Monitor::new(settings.pid, settings.exporter.clone());
        let options = SocketOptions {
            reset,
            tls: settings.tls.clone(),
            web: settings.web.clone(),
            ..SocketOptions::default()
        };
        let net = Net::new(&settings.targets(), total, options)?;
        let names = Names::Numbered(settings.salt.clone());
        let mut join = Join::new(settings.version, names, total, settings.joining);
        join.keep_alive = u16::try_from(ping_interval + ping_interval / 4).unwrap_or(u16::MAX);
        let interval = u64::from(ping_interval) * SECOND;
        let pings = (interval > 0).then(|| Sweep::new(total, interval, clock::now()));
        let crowd = Self {
            join,
            talk,
            monitor,
            counts: CrowdCounts::default(),
            probes: None,
            probed: None,
            own_before,
            own_per_client: 0.0,
            pings,
            last_arrival: 0,
            last_packet: 0,
            planned: u64::MAX,
            fatal: false,
            patient: false,
        };
        Ok((crowd, net))
    }

    /// Starts probes beside the crowd, unless the plan has none or the broker has no plain
    /// listener.
    pub fn probe(&mut self, plan: probe::ProbePlan, settings: &RunSettings) -> Result<(), String> {
        // Probes have sockets of their own, without TLS and WebSockets.
        let plain = settings.plain.or(settings.tls.is_none().then_some(settings.target));
        if plan.pairs > 0
            && plan.rate > 0
            && let Some(target) = plain
        {
            let (version, salt) = (settings.version, &settings.salt);
            self.probes = Some(Probes::start(plan, target, version, salt, "alone")?);
        }
        Ok(())
    }

    /// Ends the probes; [`Self::report`] then contains their figures.
    pub fn end_probes(&mut self) {
        if let Some(probes) = self.probes.take() {
            self.probed = Some(probes.finish());
        }
    }

    /// Begins a phase of the run, for samples and probes.
    pub fn phase(&mut self, name: &'static str) {
        self.monitor.phase(name);
        if let Some(probes) = &mut self.probes {
            probes.phase(name);
        }
    }

    /// Takes in the probes' events, and takes a sample if one is due.
    fn look(&mut self) -> Result<(), String> {
        if let Some(probes) = &mut self.probes {
            probes.look(&mut self.monitor.latency);
        }
        let (connects, disconnects) = (self.counts.connects, self.counts.disconnects);
        self.monitor.totals = Totals { connects, disconnects, messages: self.talk.messages() };
        self.monitor.look(self.join.ready)
    }

    /// One turn: pings and messages that are due, then completions, at most until `end`. Fails when
    /// the run cannot go on.
    pub fn turn(&mut self, net: &mut Net, end: u64) -> Result<(), String> {
        let now = clock::now();
        self.monitor.late(now.saturating_sub(self.planned));
        let mut next = end.min(self.monitor.due()).min(now + 50 * MILLISECOND);
        if let Some(pings) = &mut self.pings {
            while let Some((client, _)) = pings.next(now) {
                if self.join.is_ready(client) {
                    mqtt::put_pingreq(net.out(client));
                    self.counts.pings += 1;
                }
            }
            next = next.min(pings.due().max(now + PING_GRAIN));
        }
        let mut stage = Stage { net, join: &self.join, monitor: &mut self.monitor };
        next = next.min(self.talk.speak(&mut stage, now));
        self.planned = next;
        net.pass(self, next.saturating_sub(clock::now()).max(1), 1)?;
        self.look()?;
        if self.fatal {
            return Err(format!("the broker turns clients away: {:?}", self.counts));
        }
        Ok(())
    }

    /// Whether the run must stop, because memory is short or a signal asks for it.
    pub fn must_stop(&self) -> bool {
        self.monitor.floor_met || stop::requested()
    }

    /// Connects all clients that are not connected. Returns early when the run must stop.
    pub fn come_in(&mut self, net: &mut Net) -> Result<(), String> {
        self.last_arrival = clock::now();
        while !self.join.complete() && !self.must_stop() {
            self.join.pump(net)?;
            let paced = if self.join.interval > 0 { clock::now() + PACE_GRAIN } else { u64::MAX };
            self.turn(net, paced)?;
            if clock::now() > self.last_arrival + STUCK {
                let (ready, counts) = (self.join.ready, self.counts);
                return Err(format!("nobody came in for 60 s; {ready} are in; {counts:?}"));
            }
        }
        self.join.stop();
        if self.join.ready >= MANY {
            let grown = process::own_resident().saturating_sub(self.own_before);
            self.own_per_client = grown as f64 / f64::from(self.join.ready);
        }
        Ok(())
    }

    /// Goes on for `nanos` nanoseconds, or less when the run must stop.
    pub fn stay(&mut self, net: &mut Net, nanos: u64) -> Result<(), String> {
        let end = clock::now() + nanos;
        while clock::now() < end && !self.must_stop() {
            self.turn(net, end)?;
        }
        Ok(())
    }

    /// Goes on until `done`, until no packet came for `SILENCE`, or until the run must stop.
    pub fn until(&mut self, net: &mut Net, done: impl Fn(&T) -> bool) -> Result<(), String> {
        self.last_packet = clock::now();
        while !done(&self.talk) && !self.must_stop() {
            if clock::now() > self.last_packet + SILENCE {
                break;
            }
            self.turn(net, clock::now() + 20 * MILLISECOND)?;
        }
        Ok(())
    }

    /// Ends the connections of `clients` as fast as possible.
    pub fn leave(&mut self, net: &mut Net, clients: std::ops::Range<u32>) -> Result<(), String> {
        for client in clients {
            if net.is_open(client) {
                net.hang_up(client);
                self.join.left(client);
            }
            if client % LEAVE_AT_ONCE == LEAVE_AT_ONCE - 1 {
                net.pass(self, 0, 0)?;
                self.look()?;
            }
        }
        net.pass(self, 0, 0)
    }

    /// Adds the counts and the probes' figures to `report`; ends the probes.
    pub fn report(&mut self, report: &mut Value) {
        self.end_probes();
        if let Some(probes) = self.probed.take() {
            report["probes"] = probes;
        }
        if self.own_per_client > 0.0 {
            report["generator_bytes_per_client"] = self.own_per_client.into();
        }
        let counts = self.counts;
        report["disconnects"] = counts.disconnects.into();
        report["turned_away"] = counts.turned_away.into();
        report["last_errno"] = counts.last_errno.into();
        report["pings"] = counts.pings.into();
        report["pings_unanswered"] = counts.pings.saturating_sub(counts.pongs).into();
        report["refused"] = self.join.refused.into();
        report["stopped_early"] = if self.monitor.floor_met {
            json!("the host was short of memory")
        } else if stop::requested() {
            json!("interrupted")
        } else {
            Value::Null
        };
    }
}

impl<T: Talk> Handler for Crowd<T> {
    fn connected(&mut self, net: &mut Net, client: u32) {
        self.join.connected(net, client);
    }

    fn received(&mut self, net: &mut Net, client: u32, bytes: &[u8]) -> Result<usize, Malformed> {
        let now = clock::now();
        let mut used = 0;
        while let Some(packet) = mqtt::split(&bytes[used..])? {
            used += packet.total;
            if !self.join.is_ready(client) {
                let filters = |c| self.talk.filter(c).into_iter().collect();
                if let Some(arrival) = self.join.packet(net, client, &packet, filters)? {
                    self.counts.connects += 1;
                    self.talk.arrived(client, arrival.begun);
                }
                self.last_arrival = now;
            } else if packet.first == first::PINGRESP {
                self.counts.pongs += 1;
            } else {
                self.last_packet = now;
                let mut stage = Stage { net, join: &self.join, monitor: &mut self.monitor };
                self.talk.packet(&mut stage, client, &packet, now)?;
            }
        }
        Ok(used)
    }

    fn closed(&mut self, _net: &mut Net, client: u32, errno: i32) {
        self.counts.last_errno = errno;
        if self.join.left(client) {
            self.counts.disconnects += 1;
        } else {
            self.counts.turned_away += 1;
            self.fatal |= self.counts.turned_away > MOST_REFUSALS && !self.patient;
            self.join.return_of(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_visits_everyone_once_per_interval_and_evenly() {
        let mut sweep = Sweep::new(3, 300, 1000);
        let mut seen = Vec::new();
        while let Some(visit) = sweep.next(1650) {
            seen.push(visit);
        }
        let want = [(0, 1000), (1, 1100), (2, 1200), (0, 1300), (1, 1400), (2, 1500), (0, 1600)];
        assert_eq!(seen, want);
        assert_eq!(sweep.due(), 1700);
        assert_eq!(Sweep::new(0, 300, 0).due(), u64::MAX);
    }

    #[test]
    fn a_million_clients_for_a_day_do_not_overflow() {
        let mut sweep = Sweep::new(1_000_000, 240 * SECOND, 0);
        sweep.visits = 360_000_000 + 1;
        assert_eq!(sweep.due(), 360 * 240 * SECOND + 240_000);
    }
}
