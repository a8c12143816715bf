//! The running broker: cores, listeners, signals, reload, drain. Everything here is control plane;
//! the data path is `shard` behind `ring`, joined in `core`.
//!
//! While it serves, these end the process, and nothing else: SIGTERM and SIGINT, a shard whose
//! thread ends ([`Failure`]), and a panic, which aborts unless its thread is one that is replaced
//! (`crate::contained`). Whatever is only slow is reported
//! (`control`, `watch`); a reload or an admin address that cannot be had is a line of the log.
//!
//! Panics that are left in `ring` while it serves are about our own books and the kernel's promise
//! that a request completes once: a slot, a send and a hand-over are released once (`slots`,
//! `send`, `hand_over`), a socket has one send in flight (`socket`), a buffer has an identifier and
//! a length that it was given out with (`buffers`). Going on after one of them would give bytes of
//! one client to another. No client's input and no setting reaches them. `broker` and `admin` have
//! none besides a listener's number of shards (`listen`).

mod admin_servers;
mod around;
mod clock;
mod clustered;
mod control;
mod core;
mod introduction;
pub mod listen;
pub mod log;
mod log_writer;
mod memory;
mod moving;
pub mod notify;
mod opening;
mod policy;
mod questions;
mod rings;
pub mod secure;
mod services;
pub mod signals;
mod store;
mod summary;
pub mod upgrade;
mod watch;

use self::admin_servers::AdminServers;
use self::core::{Clock, Core, CoreCommand, CorePlan, CoreReport};
use crate::access::Access;
use crate::access::load::{load, read_file};
use crate::admin::api::Ordered;
use crate::bridge::feed::FeederPlan;
use crate::bridge::set::Bridges;
use crate::bridge::start::Common;
use crate::cluster::start::Cluster;
use crate::config::{Bind, Config, Cores, Get, ListenerConfig, MemoryBudget, Sources};
use crate::ids::{ListenerId, ShardId};
use crate::limits::MAX_SHARDS;
use crate::link_record::path_name;
use crate::mesh::quota::{Quota, Rate};
use crate::mesh::{ListenerState, Shared};
use crate::overload::Policy;
use crate::ring::Doorbell;
use crate::shard::Settings;
use crate::storage::store::Store;
use crate::topic::Seeds;
use crate::upgrade::frame::Hello;
use control::ControlThread;
use crossbeam_channel::Receiver;
use listen::{Listening, SocketFile};
use log::LogControl;
use moving::MoveOrder;
use notify::Notifier;
use policy::HostMemory;
pub use policy::ban_file_problem;
use secure::Secured;
pub use services::ask_once;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use upgrade::new::Predecessor;
use watch::Watch;

/// The broker cannot start or go on: what, and what to do, in one or two sentences.
#[derive(Debug)]
pub struct Failure {
    what: String,
    logged: bool,
}

impl Failure {
    fn new(what: impl std::fmt::Display) -> Failure {
        Failure { what: what.to_string(), logged: false }
    }

    /// The log has it already, in its own format.
    pub fn is_logged(&self) -> bool {
        self.logged
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Runs the broker until it is told to stop.
///
/// # Errors
/// When it cannot start, or a core fails while running.
pub fn run(config: Config, sources: Sources, way: StartMode) -> Result<(), Failure> {
    let log = log::start(&config.log).map_err(Failure::new)?;
    log.take_panics();
    let outcome = serve(config, &sources, &log, way);
    log.end(outcome.as_ref().err().map(|failure| failure as &dyn std::fmt::Display));
    outcome.map_err(|failure| Failure { logged: true, ..failure })
}

/// How the broker comes to its clients.
#[derive(Debug)]
pub enum StartMode {
    /// They connect.
    Open,
    /// A running broker hands them over: the socket to it.
    TakeOver(OwnedFd),
}

impl StartMode {
    /// From standard input, which is the socket to the running broker, and is /dev/null from then
    /// on.
    ///
    /// # Errors
    /// When it is no socket.
    pub fn from_input() -> Result<StartMode, Failure> {
        let no_socket = |error: std::io::Error| Failure::new(format!("standard input: {error}"));
        let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(no_socket)?;
        rustix::net::sockopt::socket_type(&input).map_err(|error| no_socket(error.into()))?;
        let nothing = std::fs::File::open("/dev/null").map_err(no_socket)?;
        rustix::stdio::dup2_stdin(nothing).map_err(|error| no_socket(error.into()))?;
        Ok(StartMode::TakeOver(input))
    }
}

fn serve(
    config: Config,
    sources: &Sources,
    log: &LogControl,
    way: StartMode,
) -> Result<(), Failure> {
    let started = SystemTime::now();
    let predecessor = match way {
        StartMode::Open => None,
        StartMode::TakeOver(socket) => Some(Predecessor::greet(socket.into(), &config)?),
    };
    // The allocator asks for huge pages, which would round each size class up to 2 MiB: measured
    // 600 bytes per idle client with them and 391 without. Not being allowed only costs memory.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let (_signal_thread, signals) = signals::channel().map_err(Failure::new)?;
    let notifier = Notifier::of_process().map_err(Failure::new)?;
    for remark in config.remarks().into_iter().chain(sources.remarks()) {
        tracing::warn!("{remark}");
    }
    if config.listeners.iter().all(|listener| config.refuses_everybody(listener)) {
        // Nobody can use the broker like this: it runs, and whoever looks for the reason finds it.
        tracing::error!("no listener lets any client in: see the warning above");
    }
    // Before an executor is made: it does not report a kernel without io_uring but panics.
    let host = crate::doctor::examine_at_start(&config);
    if let Some(obstacle) = host.obstacle() {
        return Err(Failure::new(format!("this host cannot run it; {obstacle}")));
    }
    for warning in host.warnings() {
        tracing::warn!("{warning}");
    }
    let continued = predecessor.as_ref().map(|known| &known.hello);
    let mut broker = Broker::start(&config, started, host.facts.memory_budget(), continued)?;
    if !broker.become_whole(&signals)? {
        tracing::info!("told to stop before it listened");
        broker.stop_others(Instant::now() + FAREWELL);
        return Ok(());
    }
    if predecessor.is_none() {
        // Of another process that is taken over from, they start when it has ended.
        broker.start_bridges(&config)?;
        // First, so that /readyz can say that the broker is not ready.
        broker.admin.open(&config)?;
    }
    ControlThread::new(broker, config, sources, &signals.receiver, log, &notifier).run(predecessor)
}

/// How long the cluster's thread may take to end when the broker does not start.
const FAREWELL: Duration = Duration::from_secs(1);

struct Broker {
    cores: Vec<Core>,
    /// Cores that have not ended.
    running: usize,
    doorbells: Vec<Doorbell>,
    reports: Receiver<CoreReport>,
    watch: Watch,
    open: Vec<OpenListener>,
    next_listener: u16,
    shared: Arc<Shared>,
    admin: AdminServers,
    /// What operators order by the API.
    orders: Receiver<Ordered>,
    started: SystemTime,
    /// What `limits.memory: auto` stands for.
    memory: Option<u64>,
    /// Limits, overload and bans in force.
    policy: Arc<Policy>,
    host_memory: HostMemory,
    homes: Vec<questions::Home>,
    clock: Clock,
    /// What placement is derived from.
    secret: [u64; 2],
    bridges: Bridges,
    cluster: Option<Cluster>,
    /// The cluster's mailboxes, until its thread has them.
    node_ends: Option<clustered::ClusterEnds>,
    /// Locked while this process runs.
    store: Option<Store>,
}

/// The limit on memory as those who show it want it: 0 for none.
fn shown(memory: u64) -> u64 {
    if memory == u64::MAX { 0 } else { memory }
}

/// A listener in use.
struct OpenListener {
    id: ListenerId,
    config: ListenerConfig,
    secured: Option<Secured>,
    state: Arc<ListenerState>,
    file: Option<SocketFile>,
}

impl Broker {
    /// `continued`: the broker that this one takes over from.
    fn start(
        config: &Config,
        started: SystemTime,
        memory: Option<u64>,
        continued: Option<&Hello>,
    ) -> Result<Broker, Failure> {
        let cpus = cpus(&config.cores)?;
        let shards = cpus.len();
        // A soft limit below the hard one only makes rings smaller than they could be.
        let nofile = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
        let ring = rings::ring_config(config, nofile);
        let access = Arc::new(read_access(config).map_err(Failure::new)?);
        let (clock, zero) = begin_clock(continued);
        let (sender_of_orders, orders) = crossbeam_channel::unbounded();
        let settings = Settings::new(config).with_memory(config, memory).with_access(access);
        let policy = policy::of(config, None).map_err(Failure::new)?;
        let settings = Arc::new(Settings { policy: Arc::clone(&policy), ..settings });
        let (store, mut stored) = store::begin(config, shards as u8, clock, continued)?;
        let secret = secret_of(continued, store.as_ref());
        let (cluster, shared) = clustered::plan(config, shards, Seeds::stored(secret), continued)?;
        limit_memory(&shared, &settings, config, memory);
        let (sender, reports) = crossbeam_channel::unbounded();
        let (bridges, mut feeders) = plan_bridges(config, shards, zero, &shared)?;
        let (ends, node_ends) = clustered::mailboxes(shards, cluster.is_some());
        let (helpers, queue) = questions::queue(shards);
        let mut cores = Vec::with_capacity(shards);
        for (number, (cpu, ends)) in cpus.into_iter().zip(ends).enumerate() {
            let plan = CorePlan {
                id: ShardId(number as u8),
                shards: shards as u8,
                cpu,
                settings: Arc::clone(&settings),
                shared: Arc::clone(&shared),
                ring: ring.clone(),
                ends,
                clock,
                reports: sender.clone(),
                helpers: helpers.clone(),
                stored: stored.pop_front(),
                feeders: feeders.pop_front().unwrap_or_default(),
                cluster: cluster.as_ref().map(Cluster::bell),
            };
            cores.push(core::start(plan).map_err(|error| {
                Failure::new(format!("cannot start a thread for shard {number}: {error}"))
            })?);
        }
        let mut broker = Broker {
            cores,
            running: shards,
            doorbells: Vec::new(),
            reports,
            watch: Watch::new(shards, Instant::now()),
            open: Vec::new(),
            next_listener: 0,
            shared: Arc::clone(&shared),
            admin: AdminServers::new(shared, started, zero, sender_of_orders),
            orders,
            started,
            memory,
            policy,
            host_memory: HostMemory::default(),
            homes: Vec::new(),
            clock,
            secret,
            bridges,
            cluster,
            node_ends: None,
            store,
        };
        broker.connect(queue, node_ends).map(|()| broker)
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.cores.len() as u8).map(ShardId)
    }

    /// Gives a command that will be answered.
    fn send(&mut self, shard: ShardId, command: CoreCommand) {
        self.watch.asked(shard, Instant::now());
        self.hand(shard, command);
    }

    fn hand(&self, shard: ShardId, command: CoreCommand) {
        let at = usize::from(shard.0);
        // A core that has ended reads no commands; its report says so.
        let _ = self.cores[at].commands.send(command);
        self.doorbells[at].ring();
    }

    /// One command to every core, each of which will answer it.
    fn tell_all(&mut self, command: impl Fn() -> CoreCommand) {
        self.shards().for_each(|shard| self.send(shard, command()));
    }

    /// One command to every core, to which the answer is its end.
    fn send_all(&mut self, command: impl Fn() -> CoreCommand) {
        self.shards().for_each(|shard| self.hand(shard, command()));
    }

    fn ring_all(&self) {
        self.doorbells.iter().for_each(Doorbell::ring);
    }

    /// True when the core's thread is at its end, whatever it said.
    fn has_ended(&self, shard: ShardId) -> bool {
        let thread = self.cores[usize::from(shard.0)].thread.as_ref();
        thread.is_none_or(|thread| thread.is_finished())
    }

    /// Opens one listener on every core; returns `name=address`. Its sockets listen at once, and
    /// each core takes its own when it answers.
    fn open_listener(&mut self, listener: &ListenerConfig) -> Result<String, Failure> {
        let (id, listening) = self.bind_listener(listener)?;
        Ok(self.listen(id, listener, listening))
    }

    /// Opens a listener's sockets and makes it known to every core. It does not listen yet.
    fn bind_listener(
        &mut self,
        listener: &ListenerConfig,
    ) -> Result<(ListenerId, Listening), Failure> {
        let listening = listen::open(listener, self.cores.len()).map_err(Failure::new)?;
        Ok((self.enroll(listener)?, listening))
    }

    /// Makes a listener known to every core. It does not listen yet.
    fn enroll(&mut self, listener: &ListenerConfig) -> Result<ListenerId, Failure> {
        let secured = Secured::open(listener)
            .map_err(|unusable| Failure::new(format!("listener {}: {unusable}", listener.name)))?;
        let id = ListenerId(self.next_listener);
        self.next_listener += 1;
        let state = Arc::new(ListenerState {
            name: listener.name.to_string(),
            allow_anonymous: listener.allows_anonymous(),
            mountpoint: listener.mountpoint.to_string(),
            max_connections: listener.max_connections.get().map_or(u64::MAX, u64::from),
            max_connect_rate: listener.max_connect_rate.get(),
            stack: listener.stack(),
            connections: Quota::default(),
            rate: Rate::default(),
            accepted: Default::default(),
            refused: Default::default(),
        });
        if let Some(secured) = &secured {
            self.tell_all(|| CoreCommand::Secure(id, secured.server.clone()));
        }
        let enroll = || MoveOrder::Enroll(id, Arc::clone(&state));
        self.send_all(|| CoreCommand::Move(enroll()));
        self.open.push(OpenListener { id, config: listener.clone(), secured, state, file: None });
        Ok(id)
    }

    /// Gives the cores the sockets of a listener that they know; returns `name=address`.
    fn listen(
        &mut self,
        id: ListenerId,
        listener: &ListenerConfig,
        listening: Listening,
    ) -> String {
        let Some(open) = self.open.iter_mut().find(|open| open.id == id) else {
            return String::new();
        };
        open.file = listening.file;
        let state = Arc::clone(&open.state);
        let unix = matches!(listener.bind, Bind::Unix(_));
        let shards: Vec<ShardId> = self.shards().collect();
        for (shard, socket) in shards.into_iter().cycle().zip(listening.sockets) {
            self.send(shard, CoreCommand::Listen(id, socket, unix, Arc::clone(&state)));
        }
        self.admin.opened(id, listener, &listening.bound.to_string(), &state);
        format!("{}={}", listener.name, listening.bound)
    }

    /// Reads the files of secure listeners again, with the keys of `wanted` where a listener
    /// differs in those only. One that cannot be used leaves the old one in force.
    fn secure_again(&mut self, wanted: &mut [ListenerConfig]) {
        for at in 0..self.open.len() {
            let config = &self.open[at].config;
            let same = |new: &&mut ListenerConfig| {
                ListenerConfig { tls: config.tls.clone(), ..(**new).clone() } == *config
            };
            if let Some(new) = wanted.iter_mut().find(same) {
                let tls = new.tls.clone();
                if !self.resecure(at, Some(tls)) {
                    new.tls = self.open[at].config.tls.clone();
                }
            }
        }
    }

    /// The same for one, with other keys perhaps; true when that went well.
    fn resecure(&mut self, at: usize, tls: Option<crate::config::TlsConfig>) -> bool {
        let OpenListener { id, config, secured: Some(secured), .. } = &mut self.open[at] else {
            return true;
        };
        let mut new = config.clone();
        new.tls = tls.unwrap_or(new.tls);
        let (id, name) = (*id, new.name.clone());
        if let Err(unusable) = secured.reload(&new) {
            tracing::error!(listener = &*name, "{unusable}; what was read before stays in force");
            return false;
        }
        *config = new;
        let server = secured.server.clone();
        tracing::info!(listener = &*name, "certificates read again");
        self.tell_all(|| CoreCommand::Secure(id, server.clone()));
        true
    }

    /// Now and then: reads files that have changed where a listener watches them, and says which
    /// certificates expire soon.
    fn watch_certificates(&mut self, now: Instant) {
        for at in 0..self.open.len() {
            let OpenListener { config, secured: Some(secured), .. } = &mut self.open[at] else {
                continue;
            };
            let changed = secured.has_changed(config, now);
            secured.warn(config, now);
            if changed {
                self.resecure(at, None);
            }
        }
    }

    /// Until when the certificates of secure listeners are valid, by name, and that of the admin
    /// server.
    fn certificates(&self) -> Vec<(String, u64)> {
        let secured = |open: &OpenListener| {
            Some((open.config.name.to_string(), open.secured.as_ref()?.server.not_after))
        };
        let mut all: Vec<_> = self.open.iter().filter_map(secured).collect();
        let known = |name: &str| all.iter().any(|(listener, _)| listener == name);
        let of_admin = self.admin.certificate().filter(|(name, _)| !known(name));
        all.extend(of_admin);
        all
    }

    /// Closes the listener of that name, and returns what it was opened with.
    fn stop_listener(&mut self, name: &str) -> Option<ListenerConfig> {
        let at = self.open.iter().position(|open| *open.config.name == *name)?;
        let open = self.open.remove(at);
        self.admin.stopped(open.id);
        self.tell_all(|| CoreCommand::Unlisten(open.id));
        Some(open.config)
    }

    /// Closes the listeners that are not among these.
    fn close_listeners_besides(&mut self, wanted: &[ListenerConfig]) {
        let gone = |open: &mut OpenListener| !wanted.contains(&open.config);
        let gone: Vec<OpenListener> = self.open.extract_if(.., gone).collect();
        for open in gone {
            tracing::info!(listener = &*open.config.name, "listener closed");
            self.admin.closed(open.id);
            self.tell_all(|| CoreCommand::Unlisten(open.id));
        }
    }

    /// Starts the threads of bridges.
    fn start_bridges(&mut self, config: &Config) -> Result<(), Failure> {
        let shards = admin_servers::shards(&self.homes, &self.shared);
        self.admin.show_bridges(self.bridges.shown());
        let cores = self.homes.iter().map(admin_servers::feed).collect();
        self.bridges.start(config, shards, cores).map_err(Failure::new)
    }

    /// Waits for the threads that are at their end. The others end with the process.
    fn join(&mut self) {
        for core in &mut self.cores {
            if let Some(thread) = core.thread.take_if(|thread| thread.is_finished()) {
                // A panic there has been told already.
                let _ = thread.join();
            }
        }
    }
}

/// The clock of the cores, and the wall clock at its zero. `continued`: that of another process.
fn begin_clock(continued: Option<&Hello>) -> (Clock, SystemTime) {
    let clock = continued.map_or_else(Clock::start, |hello| Clock::continued(hello.zero));
    (clock, SystemTime::now() - Duration::from_nanos(clock.nanos()))
}

/// What placement is derived from: a new secret, unless there is one.
fn secret_of(continued: Option<&Hello>, store: Option<&Store>) -> [u64; 2] {
    match (continued, store) {
        (Some(hello), _) => [hello.secret.0, hello.secret.1],
        (None, Some(store)) => store.placement(),
        (None, None) => Seeds::random_secret(),
    }
}

/// Makes the limit on memory known, and says so when there should be one and is none.
fn limit_memory(shared: &Shared, settings: &Settings, config: &Config, memory: Option<u64>) {
    shared.memory_limit.set(shown(settings.memory));
    if config.limits.budget() == MemoryBudget::Auto && memory.is_none() {
        tracing::warn!("how much memory is free is unknown: limits.memory has no effect");
    }
}

/// The bridges, and what each core needs for them. `zero`: the wall clock at the zero of the
/// shards' clock.
fn plan_bridges(
    config: &Config,
    cores: usize,
    zero: SystemTime,
    shared: &Arc<Shared>,
) -> Result<(Bridges, VecDeque<Vec<FeederPlan>>), Failure> {
    let zero = zero.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let shared = Arc::clone(shared);
    let common = Common {
        host: admin_servers::node_name(),
        instance: path_name(shared.instance.used()),
        storage: std::path::PathBuf::from(&*config.storage.path),
        zero: zero.as_millis() as u64,
        cores,
        key: Box::new(move |name| shared.seeds.place(name.as_bytes())),
    };
    Bridges::plan(config, common).map_err(Failure::new)
}

/// What `access:` and its files say.
fn read_access(config: &Config) -> Result<Access, String> {
    load(config, &read_file).map_err(|problems| problems.join("\n"))
}

/// The CPUs to run on, one shard each.
fn cpus(cores: &Cores) -> Result<Vec<usize>, Failure> {
    let usable: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    match cores {
        Cores::List(list) => {
            if let Some(missing) = list.iter().find(|&&core| !usable.contains(&usize::from(core))) {
                return Err(Failure::new(format!(
                    "cores: this process may not run on core {missing}; it may use {usable:?}"
                )));
            }
            Ok(list.iter().map(|&core| usize::from(core)).collect())
        }
        Cores::Auto => {
            // Rounds a cgroup's CPU quota into account, which affinity does not show.
            let quota = std::thread::available_parallelism().map_or(1, |count| count.get());
            let count = usable.len().min(quota).clamp(1, MAX_SHARDS);
            let mut usable = usable;
            usable.truncate(count);
            if usable.is_empty() {
                usable.push(0);
            }
            Ok(usable)
        }
    }
}
