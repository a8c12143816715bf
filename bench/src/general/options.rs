//! The options of `conn`, `pub` and `sub`, and the plan that they make. Where emqtt-bench has an
//! option of the same purpose, its names and meaning are taken over.

use super::hosts::{hostname, name_of, ports, resolve, sharing};
use super::payload::{Body, Header, Template};
use super::plan::{Plan, Publication, Publishing, Role, Subscribing};
use super::topics;
use crate::arguments::{Outcome, values};
use crate::clients::join::ClientNames;
use crate::clients::scram;
use crate::clients::socket;
use crate::clients::tls::{self, Identity, Trust};
use crate::exporter::Exporter;
use crate::mqtt::{Session, Version};
use crate::pattern::{Pattern, Variable};
use crate::plot;
use clap::{ArgAction, Args};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Variables that a topic name may contain.
pub const TOPIC: [Variable; 4] =
    [Variable::Number, Variable::ClientId, Variable::Username, Variable::Message];
/// Variables that a topic filter may contain.
const FILTER: [Variable; 3] = [Variable::Number, Variable::ClientId, Variable::Username];
const NUMBER: [Variable; 1] = [Variable::Number];
/// Bytes of the largest payload.
const LARGEST: u64 = 16 << 20;
/// The most connections under way at once: without a rate as in the scenarios, with a rate enough
/// for a slow broker.
const JOINING: u32 = 64;
const JOINING_PACED: u32 = 10_000;

/// Options of all three.
#[derive(Args, Clone, Debug)]
pub struct Base {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Brokers: HOST or HOST:PORT, several by commas or repeated; clients go to them in turn
    #[arg(
        short = 'h',
        long,
        value_name = "HOST",
        value_delimiter = ',',
        default_value = "localhost"
    )]
    host: Vec<String>,
    /// Port where a host has none
    #[arg(short = 'p', long, default_value = "1883")]
    port: u16,
    /// MQTT version: 3 (3.1), 4 (3.1.1) or 5
    #[arg(short = 'V', long = "version", value_name = "VERSION", default_value = "5",
        value_parser = values::level)]
    protocol: Version,
    /// Clients
    #[arg(short = 'c', long, default_value = "200", value_parser = values::positive,
        value_name = "N")]
    count: u32,
    /// Number of the first client less one: %i and ClientIds count from there
    #[arg(short = 'n', long = "startnumber", default_value = "0", value_name = "N",
        value_parser = clap::value_parser!(u64).range(..=1_000_000_000_000))]
    start: u64,
    /// Time from one connection to the next, in ms or with a unit; 0: as fast as they go
    #[arg(short = 'i', long, default_value = "10", value_parser = values::milliseconds,
        value_name = "TIME")]
    interval: u64,
    /// Connections per second instead of --interval; 0: by --interval
    #[arg(short = 'R', long = "connrate", default_value = "0", value_name = "N")]
    rate: u32,
    /// Connections under way at once [default: 64 with --interval 0, else 10000]
    #[arg(long, value_parser = values::positive, value_name = "N")]
    joining: Option<u32>,
    /// Tries again when a connection fails
    #[arg(long, default_value = "0", value_name = "N")]
    num_retry_connect: u16,
    /// Times that a client comes back whose connection was lost
    #[arg(long, default_value = "0", value_name = "N")]
    reconnect: u16,
    /// Addresses of this host to connect from, in turn: several by commas, or FIRST-LAST
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = parse_sources)]
    ifaddr: Vec<Sources>,
    /// ClientIds are PREFIX_bench_pub_N (or _conn_, _sub_) instead of HOST_bench_pub_RANDOM_N
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// ClientIds are PREFIX and N, or N alone
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true",
        value_name = "BOOL", action = ArgAction::Set)]
    shortids: bool,
    /// ClientIds by this pattern: %i is the number of the client, %rand_N a number up to N
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["prefix", "shortids"],
        value_parser = |text: &str| Pattern::parse(text, &NUMBER))]
    client_id: Option<Pattern>,
    /// User name; %i is the number of the client, %rand_N a number up to N
    #[arg(short = 'u', long, value_name = "PATTERN",
        value_parser = |text: &str| Pattern::parse(text, &NUMBER))]
    username: Option<Pattern>,
    /// Password
    #[arg(short = 'P', long, requires = "username", allow_hyphen_values = true)]
    password: Option<String>,
    /// Prove the password by SCRAM-SHA-256 or SCRAM-SHA-512 instead of sending it (version 5)
    #[arg(long, value_name = "METHOD", requires = "password",
        value_parser = scram::Mechanism::parse)]
    scram: Option<scram::Mechanism>,
    /// Keep-alive in seconds; each client pings after three quarters of it. 0: never
    #[arg(short = 'k', long, default_value = "300", value_name = "SECONDS")]
    keepalive: u16,
    /// Begin without a former session
    #[arg(short = 'C', long, num_args = 0..=1, default_value = "true",
        default_missing_value = "true", value_name = "BOOL", action = ArgAction::Set)]
    clean: bool,
    /// Seconds that the session stays after the connection (version 5)
    #[arg(short = 'x', long = "session-expiry", default_value = "0", value_name = "SECONDS")]
    expiry: u32,
    /// Speak TLS; without --cacertfile any certificate is taken
    #[arg(short = 'S', long, num_args = 0..=1, default_value = "false",
        default_missing_value = "true", value_name = "BOOL", action = ArgAction::Set)]
    ssl: bool,
    /// Certificates (PEM) that must have signed the broker's
    #[arg(long, value_name = "FILE", requires = "ssl")]
    cacertfile: Option<PathBuf>,
    /// Certificate of the clients (PEM); of several, by commas or repeated, each client has the
    /// next
    #[arg(long, value_name = "FILE", requires = "keyfile", value_delimiter = ',')]
    certfile: Vec<PathBuf>,
    /// Its private key, or their keys in the same order
    #[arg(long, value_name = "FILE", requires = "certfile", value_delimiter = ',')]
    keyfile: Vec<PathBuf>,
    /// Version of TLS: 1.2 or 1.3 [default: both]
    #[arg(long, value_name = "VERSION", requires = "ssl", hide_possible_values = true)]
    ssl_version: Option<tls::Versions>,
    /// Clients go on from earlier sessions (tickets) instead of making full handshakes
    #[arg(long, requires = "ssl")]
    resume: bool,
    /// Carry MQTT in WebSockets
    #[arg(long)]
    ws: bool,
    /// At this path
    #[arg(long, value_name = "PATH", default_value = "/mqtt", requires = "ws")]
    ws_path: String,
    /// What the broker's certificate is for [default: the host]
    #[arg(long, value_name = "NAME", requires = "ssl")]
    tls_name: Option<String>,
    /// The broker's process on this host: adds its CPU time and memory
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// End so many seconds (or s, m, h) after all clients are in
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    seconds: Option<u64>,
    #[command(flatten)]
    outcome: Outcome,
    /// Draw the course of the run as FILE.svg or FILE.png
    #[arg(long, value_name = "FILE", value_parser = values::target)]
    plot: Option<plot::Target>,
    /// Serve the figures of the run to Prometheus at /metrics
    #[arg(long, alias = "restapi", value_name = "ADDRESS", value_parser = values::listen)]
    prometheus: Option<SocketAddr>,
    /// Make this file when all clients are in
    #[arg(long, value_name = "FILE", hide = true)]
    ready_file: Option<PathBuf>,
}

/// Options of `conn`.
#[derive(Args, Clone, Debug)]
pub struct Conn {
    #[command(flatten)]
    base: Base,
}

/// Options of `sub`.
#[derive(Args, Clone, Debug)]
pub struct Sub {
    #[command(flatten)]
    base: Base,
    /// Topic filter of each client, with %i %c %u %rand_N (repeat for several)
    #[arg(short = 't', long, required = true, value_name = "PATTERN",
        value_parser = |text: &str| filter(text))]
    topic: Vec<Pattern>,
    /// QoS that is asked for
    #[arg(short = 'q', long, default_value = "0",
        value_parser = clap::value_parser!(u8).range(..=2))]
    qos: u8,
    /// End when so many messages have come, to all clients together; 0: never
    #[arg(short = 'L', long, default_value = "0", value_name = "N")]
    limit: u64,
    /// Headers before each payload, as the publisher has them: cnt64 and ts, by commas
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    payload_hdrs: Vec<Header>,
}

/// Options of `pub`.
#[derive(Args, Clone, Debug)]
pub struct Pub {
    #[command(flatten)]
    base: Base,
    /// Topic of each client, with %i %c %u %s %rand_N (repeat: a message to each)
    #[arg(short = 't', long, required_unless_present = "topics_payload", value_name = "PATTERN",
        value_parser = |text: &str| topic(text))]
    topic: Vec<Pattern>,
    /// Time from one message of a client to its next, in ms or with a unit; 0: as fast as they go
    #[arg(short = 'I', long = "interval_of_msg", alias = "interval-of-msg", default_value = "1000",
        value_parser = values::milliseconds, value_name = "TIME")]
    every: u64,
    /// Bytes of a payload; from 28 on it says when it was sent
    #[arg(short = 's', long, default_value = "256", value_name = "BYTES",
        value_parser = |text: &str| values::whole(text, 0, LARGEST))]
    size: u64,
    /// Payload: a text, file://PATH, or template://PATH with %TIMESTAMP% %UNIQUE% %RANDOM%
    #[arg(short = 'm', long, allow_hyphen_values = true)]
    message: Option<String>,
    /// JSON file with several topics per client, their intervals and payloads
    #[arg(long, value_name = "FILE", conflicts_with_all = ["topic", "message", "qos", "retain",
        "every", "size"])]
    topics_payload: Option<PathBuf>,
    /// Headers before each payload: cnt64 and ts, by commas
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    payload_hdrs: Vec<Header>,
    /// QoS of the messages
    #[arg(short = 'q', long, default_value = "0",
        value_parser = clap::value_parser!(u8).range(..=2))]
    qos: u8,
    /// Retain the messages
    #[arg(short = 'r', long, num_args = 0..=1, default_value = "false",
        default_missing_value = "true", value_name = "BOOL", action = ArgAction::Set)]
    retain: bool,
    /// End when so many messages are published, by all clients together; 0: never
    #[arg(short = 'L', long, default_value = "0", value_name = "N")]
    limit: u64,
    /// Unacknowledged messages of a client with QoS 1 and 2; 0: as many as the broker takes
    #[arg(short = 'F', long, default_value = "1", value_name = "N")]
    inflight: u16,
    /// Publish when all clients are in
    #[arg(short = 'w', long, num_args = 0..=1, default_value = "false",
        default_missing_value = "true", value_name = "BOOL", action = ArgAction::Set)]
    wait_before_publishing: bool,
    /// Each client waits at random, up to so long, in ms or with a unit
    #[arg(long, default_value = "0", value_parser = values::milliseconds, value_name = "TIME")]
    max_random_wait: u64,
    /// And at least so long
    #[arg(long, default_value = "0", value_parser = values::milliseconds, value_name = "TIME")]
    min_random_wait: u64,
}

/// Addresses of this host.
#[derive(Clone, Debug)]
struct Sources(Vec<IpAddr>);

fn parse_sources(text: &str) -> Result<Sources, String> {
    values::sources(text).map(Sources)
}

fn filter(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("a topic filter has at least one character".into());
    }
    Pattern::parse(text, &FILTER)
}

fn topic(text: &str) -> Result<Pattern, String> {
    if text.is_empty() || text.contains(['+', '#']) {
        return Err("a topic to publish to is not empty and has no wildcard".into());
    }
    Pattern::parse(text, &TOPIC)
}

impl Conn {
    /// The plan that these options ask for.
    pub fn plan(self) -> Result<Plan, String> {
        self.base.plan(Role::Connect)
    }
}

impl Sub {
    /// The plan that these options ask for.
    pub fn plan(self) -> Result<Plan, String> {
        let limit = (self.limit > 0).then_some(self.limit);
        let (filters, qos, headers) = (self.topic, self.qos, self.payload_hdrs);
        self.base.user_named("--topic", &filters)?;
        self.base.plan(Role::Subscribe(Subscribing { filters, qos, limit, headers }))
    }
}

impl Pub {
    /// The plan that these options ask for.
    pub fn plan(self) -> Result<Plan, String> {
        let publications = match &self.topics_payload {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
                let read = text.and_then(|text| topics::read(&text));
                read.map_err(|why| format!("--topics-payload {}: {why}", path.display()))?
            }
            None => {
                let body = self.body()?;
                let one = |topic: &Pattern| Publication {
                    topic: topic.clone(),
                    qos: self.qos,
                    retain: self.retain,
                    interval: self.every,
                    body: body.clone(),
                };
                self.topic.iter().map(one).collect()
            }
        };
        if self.min_random_wait > self.max_random_wait {
            return Err("--min-random-wait is longer than --max-random-wait".into());
        }
        let topics: Vec<Pattern> = publications.iter().map(|one| one.topic.clone()).collect();
        self.base.user_named("--topic", &topics)?;
        let publishing = Publishing {
            publications,
            headers: self.payload_hdrs,
            limit: (self.limit > 0).then_some(self.limit),
            inflight: self.inflight,
            wait: self.wait_before_publishing,
            delay: (self.min_random_wait, self.max_random_wait),
        };
        self.base.plan(Role::Publish(publishing))
    }

    fn body(&self) -> Result<Body, String> {
        let size = self.size as usize;
        let Some(text) = &self.message else { return Ok(Body::Filled(size)) };
        let read = |path: &str| {
            let bytes = std::fs::read(path).map_err(|e| format!("--message {path}: {e}"))?;
            let fits = bytes.len() as u64 <= LARGEST;
            if fits { Ok(bytes) } else { Err(format!("--message {path}: over {LARGEST} bytes")) }
        };
        Ok(if let Some(path) = text.strip_prefix("template://") {
            Body::Template(Template::parse(&read(path)?, size))
        } else if let Some(path) = text.strip_prefix("file://") {
            Body::Fixed(read(path)?)
        } else {
            Body::Fixed(text.clone().into_bytes())
        })
    }
}

impl Base {
    /// Refuses `%u` where there is no user name.
    fn user_named(&self, option: &str, patterns: &[Pattern]) -> Result<(), String> {
        let named = patterns.iter().any(|pattern| pattern.has(Variable::Username));
        if named && self.username.is_none() {
            return Err(format!("{option} has %u, so --username is needed"));
        }
        Ok(())
    }

    fn plan(self, role: Role) -> Result<Plan, String> {
        let targets = self.host.iter().map(|host| resolve(host, self.port));
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let sources = self.sources(&targets)?;
        let many = sharing(self.count, &targets, &sources) > socket::CLIENTS_PER_ADDRESS;
        let run = fresh();
        let names = ClientNames {
            client_id: self.client_ids(&role, run)?,
            username: self.username.clone(),
            first: self.start + 1,
            seed: u64::from(run),
        };
        let interval = 1_000_000_000u64.checked_div(u64::from(self.rate)).unwrap_or(self.interval);
        let usual = if interval == 0 { JOINING } else { JOINING_PACED };
        let session = match (self.clean, self.expiry) {
            (_, 1..) if self.protocol != Version::V5 => {
                return Err("--session-expiry needs --version 5".into());
            }
            (true, 0) => Session::Clean,
            (true, seconds) => Session::Fresh(seconds),
            (false, seconds) => Session::Lasting(seconds),
        };
        if self.scram.is_some() && self.protocol != Version::V5 {
            return Err("--scram needs --version 5".into());
        }
        let exporter = match self.prometheus {
            Some(address) => Some(Exporter::start(address)?),
            None => None,
        };
        Ok(Plan {
            role,
            hosts: self.host.join(", "),
            tls: self.tls()?,
            web: self.ws.then(|| self.ws_path.as_str().into()),
            ports: many.then(ports),
            targets,
            sources,
            version: self.protocol,
            clients: self.count,
            names,
            password: self.password,
            scram: self.scram,
            interval,
            joining: self.joining.unwrap_or(usual),
            retries: self.num_retry_connect,
            reconnects: self.reconnect,
            keep_alive: self.keepalive,
            session,
            pid: self.pid,
            duration: self.seconds,
            outcome: self.outcome,
            plot: self.plot,
            exporter,
            ready_file: self.ready_file,
            run,
        })
    }

    fn client_ids(&self, role: &Role, run: u32) -> Result<Pattern, String> {
        if let Some(pattern) = &self.client_id {
            if self.count > 1 && !pattern.has(Variable::Number) {
                return Err("--client-id needs %i: each client has its own".into());
            }
            return Ok(pattern.clone());
        }
        let kind = role.name();
        let prefix = self.prefix.as_deref().filter(|prefix| !prefix.is_empty());
        let before = match (self.shortids, prefix) {
            (true, prefix) => prefix.unwrap_or("").to_string(),
            (false, Some(prefix)) => format!("{prefix}_bench_{kind}_"),
            (false, None) => format!("{}_bench_{kind}_{run}_", hostname()),
        };
        Ok(Pattern::parse("%i", &NUMBER)?.after(&before))
    }

    fn sources(&self, targets: &[SocketAddr]) -> Result<Vec<IpAddr>, String> {
        let sources: Vec<IpAddr> = self.ifaddr.iter().flat_map(|one| one.0.clone()).collect();
        for source in &sources {
            socket::check(*source).map_err(|why| format!("--ifaddr {source}: {why}"))?;
        }
        for target in targets {
            let fitting = sources.iter().filter(|one| one.is_ipv4() == target.is_ipv4()).count();
            if fitting == 0 && !sources.is_empty() {
                return Err(format!("--ifaddr has no address of the family of {target}"));
            }
            // The loopback network has enough source addresses.
            if fitting == 0 && target.is_ipv4() && target.ip().is_loopback() {
                continue;
            }
            let (first, last) = ports();
            let room = (u64::from(last - first) + 1) * fitting.max(1) as u64;
            let wanted = u64::from(self.count).div_ceil(targets.len() as u64);
            if wanted > room {
                return Err(format!(
                    "{wanted} clients of {target} need more than the {room} ports that {} source \
                     address(es) have: give more with --ifaddr, or widen \
                     net.ipv4.ip_local_port_range",
                    fitting.max(1)
                ));
            }
        }
        Ok(sources)
    }

    fn tls(&self) -> Result<Option<Arc<tls::TlsSettings>>, String> {
        if !self.ssl {
            let alone = !self.certfile.is_empty();
            return if alone { Err("--certfile needs --ssl".into()) } else { Ok(None) };
        }
        let trust = self.cacertfile.clone().map_or(Trust::Anyone, Trust::Authorities);
        let identities = Identity::pairs(&self.certfile, &self.keyfile)
            .map_err(|why| format!("--certfile: {why}"))?;
        let names: Vec<&str> = match &self.tls_name {
            Some(name) => vec![name],
            None => self.host.iter().map(|host| name_of(host)).collect(),
        };
        let versions = self.ssl_version.unwrap_or_default();
        let asked = tls::Asked { trust, identities, versions, resume: self.resume };
        let tls = tls::TlsSettings::new(&asked, &names);
        Ok(Some(Arc::new(tls.map_err(|why| format!("--ssl: {why}"))?)))
    }
}

/// A number that no other run is likely to have.
fn fresh() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32
}
