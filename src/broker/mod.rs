//! The running broker: cores, listeners, signals, reload, drain. Everything here is control plane;
//! the data path is `shard` behind `ring`, joined in `core`.

mod core;
pub mod listen;
pub mod log;
mod memory;
pub mod notify;
pub mod signals;

use self::core::{Clock, Command, Core, Plan, Report};
use crate::admin::{self, Admin, AdminFailure, Ask, Question, Stage};
use crate::config::{Bind, Config, Cores, Listener, Sources};
use crate::ids::{ListenerId, ShardId};
use crate::limits::{CONTROL_MAILBOX, DATA_MAILBOX, MAX_SHARDS};
use crate::mesh::quota::{Quota, Rate};
use crate::mesh::{Entrance, Shared, mailbox};
use crate::ring::{Doorbell, RingPort};
use crate::shard::{Settings, home_of};
use crate::topic::Seeds;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use listen::SocketFile;
use notify::Notifier;
use signals::Signal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How long a core may take to start or to carry out a command.
const PATIENCE: Duration = Duration::from_secs(20);

/// The broker cannot start or go on: what, and what to do, in one or two sentences.
#[derive(Debug)]
pub struct Failure(String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Runs the broker until it is told to stop.
///
/// # Errors
/// When it cannot start, or a core fails while running.
pub fn run(config: Config, sources: Sources) -> Result<(), Failure> {
    let started = SystemTime::now();
    let fail = |error: &dyn std::fmt::Display| Failure(error.to_string());
    let log = log::start(&config.log).map_err(|error| fail(&error))?;
    // The allocator asks for huge pages, which would round each size class up to 2 MiB: measured
    // 600 bytes per idle client with them and 391 without. Not being allowed only costs memory.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let (_signal_thread, signals) = signals::channel().map_err(|error| fail(&error))?;
    let notifier = Notifier::of_process().map_err(|error| fail(&error))?;
    for remark in config.remarks() {
        tracing::warn!("{remark}");
    }
    // Before an executor is made: it does not report a kernel without io_uring but panics.
    let host = crate::doctor::examine(&config, None);
    if let Some(obstacle) = host.obstacle() {
        return Err(Failure(format!("this host cannot run it; {obstacle}")));
    }
    for warning in host.warnings() {
        tracing::warn!("{warning}");
    }
    let mut broker = Broker::start(&config, started)?;
    // First, so that /readyz can say that the broker is not ready.
    broker.open_admin(config.admin.bind, Stage::Starting).map_err(|error| fail(&error))?;
    let mut bound = broker.open_listeners(&config)?;
    if let Some(admin) = &broker.admin {
        admin.enter(Stage::Ready);
        bound.push(format!("admin={}", admin.address()));
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        shards = broker.cores.len(),
        bound = %bound.join(","),
        "ready"
    );
    notifier.ready(&format!("{} shards, {}", broker.cores.len(), bound.join(", ")));
    broker.control(config, &sources, &signals, &log, &notifier)
}

struct Broker {
    cores: Vec<Core>,
    doorbells: Vec<Doorbell>,
    reports: Receiver<Report>,
    open: Vec<Open>,
    next_listener: u16,
    shared: Arc<Shared>,
    admin: Option<Admin>,
    /// The address it was told, which a reload compares.
    admin_bind: Option<SocketAddr>,
    started: SystemTime,
}

/// A listener in use.
struct Open {
    id: ListenerId,
    config: Listener,
    _file: Option<SocketFile>,
}

impl Broker {
    fn start(config: &Config, started: SystemTime) -> Result<Broker, Failure> {
        let cpus = cpus(&config.cores)?;
        let shards = cpus.len();
        // A soft limit below the hard one only makes rings smaller than they could be.
        let nofile = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
        let ring = core::ring_config(config, nofile);
        let settings = Arc::new(Settings::new(config));
        let shared = Shared::new(Seeds::random());
        let clock = Clock::start();
        let (sender, reports) = crossbeam_channel::unbounded();
        let ends = mailbox::mailboxes(shards, DATA_MAILBOX, CONTROL_MAILBOX);
        let mut cores = Vec::with_capacity(shards);
        for (number, (cpu, ends)) in cpus.into_iter().zip(ends).enumerate() {
            let plan = Plan {
                id: ShardId(number as u8),
                shards: shards as u8,
                cpu,
                settings: Arc::clone(&settings),
                shared: Arc::clone(&shared),
                ring: ring.clone(),
                ends,
                clock,
                reports: sender.clone(),
            };
            cores.push(core::start(plan).map_err(|error| {
                Failure(format!("cannot start a thread for shard {number}: {error}"))
            })?);
        }
        let mut broker = Broker {
            cores,
            doorbells: Vec::new(),
            reports,
            open: Vec::new(),
            next_listener: 0,
            shared,
            admin: None,
            admin_bind: None,
            started,
        };
        broker.introduce()?;
        Ok(broker)
    }

    /// Waits for every core's driver, then tells each about all.
    fn introduce(&mut self) -> Result<(), Failure> {
        let mut peers: Vec<Option<(RingPort, Doorbell)>> = vec![None; self.cores.len()];
        while peers.iter().any(Option::is_none) {
            match self.reports.recv_timeout(PATIENCE) {
                Ok(Report::Up(id, port, doorbell)) => {
                    peers[usize::from(id.0)] = Some((port, doorbell));
                }
                Ok(Report::Failed(id, why)) => {
                    return Err(Failure(format!("shard {} cannot start: {why}", id.0)));
                }
                Ok(Report::Done | Report::Ended(_)) => {}
                Err(_) => return Err(Failure("a shard did not start in 20 s".to_owned())),
            }
        }
        let peers: Vec<(RingPort, Doorbell)> = peers.into_iter().flatten().collect();
        self.doorbells = peers.iter().map(|(_, doorbell)| doorbell.clone()).collect();
        self.tell_all(|| Command::Peers(peers.clone()))
    }

    fn send(&self, core: usize, command: Command) {
        // A core that has ended reads no commands; its report says so.
        let _ = self.cores[core].commands.send(command);
        self.doorbells[core].ring();
    }

    /// One command to every core; returns when all have carried it out.
    fn tell_all(&mut self, command: impl Fn() -> Command) -> Result<(), Failure> {
        for core in 0..self.cores.len() {
            self.send(core, command());
        }
        self.wait_done(self.cores.len(), PATIENCE)
    }

    fn wait_done(&mut self, mut count: usize, patience: Duration) -> Result<(), Failure> {
        let until = Instant::now() + patience;
        while count > 0 {
            match self.reports.recv_deadline(until) {
                Ok(Report::Done) => count -= 1,
                Ok(Report::Failed(id, why)) => {
                    return Err(Failure(format!("shard {} failed: {why}", id.0)));
                }
                Ok(Report::Ended(id)) => {
                    return Err(Failure(format!("shard {} ended unexpectedly", id.0)));
                }
                Ok(Report::Up(..)) => {}
                Err(_) => return Err(Failure("a shard does not answer".to_owned())),
            }
        }
        Ok(())
    }

    fn open_listeners(&mut self, config: &Config) -> Result<Vec<String>, Failure> {
        let mut bound = Vec::new();
        for listener in &config.listeners {
            bound.push(self.open_listener(listener)?);
        }
        Ok(bound)
    }

    /// Starts the admin server, if there is to be one.
    fn open_admin(&mut self, bind: Option<SocketAddr>, stage: Stage) -> Result<(), AdminFailure> {
        let Some(bind) = bind else { return Ok(()) };
        let shards = self.cores.iter().zip(&self.doorbells).map(|(core, doorbell)| {
            let (commands, doorbell) = (core.commands.clone(), doorbell.clone());
            Arc::new(move |question: Question| {
                // A core that has ended drops the question, which says so.
                let _ = commands.send(Command::Figures(question));
                doorbell.ring();
            }) as Ask
        });
        let shared = Arc::clone(&self.shared);
        let (seeds, count) = (shared.seeds.clone(), self.cores.len() as u8);
        let sources = admin::Sources {
            shards: shards.collect(),
            interest: Box::new(move || shared.interest.len() as u64),
            placement: Box::new(move |client_id| home_of(&seeds, client_id, count).0),
            started: self.started,
        };
        self.admin = Some(Admin::start(bind, stage, sources)?);
        self.admin_bind = Some(bind);
        Ok(())
    }

    /// A new address for the admin server. When it cannot be had, the old one goes on.
    fn move_admin(&mut self, wanted: Option<SocketAddr>) {
        // Closed first: the new address may contain the old one (0.0.0.0).
        let old = self.admin.take().map(|admin| admin.address());
        self.admin_bind = None;
        match self.open_admin(wanted, Stage::Ready) {
            Ok(()) => match &self.admin {
                Some(admin) => tracing::info!(bound = %admin.address(), "admin server moved"),
                None => tracing::info!("admin server closed"),
            },
            Err(failure) => {
                tracing::error!("{failure}");
                if let Err(failure) = self.open_admin(old, Stage::Ready) {
                    tracing::error!("{failure}");
                }
            }
        }
    }

    /// Opens one listener on every core; returns `name=address`.
    fn open_listener(&mut self, listener: &Listener) -> Result<String, Failure> {
        let listening = listen::open(listener, self.cores.len())
            .map_err(|failure| Failure(failure.to_string()))?;
        let id = ListenerId(self.next_listener);
        self.next_listener += 1;
        let entrance = Arc::new(Entrance {
            name: listener.name.clone(),
            allow_anonymous: listener.allows_anonymous(),
            mountpoint: listener.mountpoint.clone(),
            max_connections: listener.max_connections.map_or(u64::MAX, u64::from),
            max_connect_rate: listener.max_connect_rate,
            connections: Quota::default(),
            rate: Rate::default(),
        });
        let unix = matches!(listener.bind, Bind::Unix(_));
        let count = listening.sockets.len();
        for (core, socket) in listening.sockets.into_iter().enumerate() {
            let command = Command::Listen(id, socket, unix, Arc::clone(&entrance));
            self.send(core, command);
        }
        self.wait_done(count, PATIENCE)?;
        self.open.push(Open { id, config: listener.clone(), _file: listening.file });
        Ok(format!("{}={}", listener.name, listening.bound))
    }

    fn close_listener(&mut self, at: usize) -> Result<(), Failure> {
        let open = self.open.remove(at);
        tracing::info!(listener = open.config.name, "listener closed");
        self.tell_all(|| Command::Unlisten(open.id))
    }

    /// Signals until the end.
    fn control(
        mut self,
        mut config: Config,
        sources: &Sources,
        signals: &Receiver<Signal>,
        log: &log::LogControl,
        notifier: &Notifier,
    ) -> Result<(), Failure> {
        loop {
            let wait = notifier.watchdog_interval().unwrap_or(Duration::from_secs(2));
            match signals.recv_timeout(wait) {
                Ok(Signal::Stop) => break,
                Ok(Signal::StopNow) => {
                    self.stop_now();
                    return Ok(());
                }
                Ok(Signal::Reload) => {
                    notifier.reloading();
                    match sources.load() {
                        Ok(new) => {
                            log.set_level(new.log.level);
                            self.reload(&config, &new)?;
                            config = new;
                            tracing::info!("configuration reloaded");
                        }
                        Err(problems) => {
                            tracing::error!("reload refused, nothing changed:\n{problems}");
                        }
                    }
                    notifier.ready("serving");
                }
                Err(RecvTimeoutError::Timeout) => {
                    // Also finds a core that failed.
                    self.tell_all(|| Command::Ping)?;
                    notifier.alive();
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        notifier.stopping();
        self.drain(config.shutdown.grace, signals)
    }

    fn reload(&mut self, old: &Config, new: &Config) -> Result<(), Failure> {
        let settings = Arc::new(Settings::new(new));
        self.tell_all(|| Command::Reload(Arc::clone(&settings)))?;
        let fixed = [
            ("cores", old.cores != new.cores),
            ("runtime", old.runtime != new.runtime),
            ("log.format", old.log.format != new.log.format),
        ];
        for (key, _) in fixed.iter().filter(|(_, changed)| *changed) {
            tracing::warn!(key, "changed in the configuration, but needs a restart");
        }
        if self.admin_bind != new.admin.bind {
            self.move_admin(new.admin.bind);
        }
        let gone = |open: &Open| !new.listeners.contains(&open.config);
        while let Some(at) = self.open.iter().position(gone) {
            self.close_listener(at)?;
        }
        for wanted in &new.listeners {
            if self.open.iter().any(|open| open.config == *wanted) {
                continue;
            }
            match self.open_listener(wanted) {
                Ok(bound) => tracing::info!(%bound, "listener opened"),
                // The others go on; the operator sees what is missing.
                Err(failure) => tracing::error!("{failure}"),
            }
        }
        Ok(())
    }

    fn drain(mut self, grace: Duration, signals: &Receiver<Signal>) -> Result<(), Failure> {
        tracing::info!(grace_seconds = grace.as_secs(), "draining");
        if let Some(admin) = &self.admin {
            admin.enter(Stage::Draining);
        }
        let until = Instant::now() + grace;
        self.tell_all(|| Command::Drain)?;
        self.tell_all(|| Command::Ping)?;
        for core in 0..self.cores.len() {
            self.send(core, Command::Dismiss);
        }
        let mut left = self.cores.len();
        while left > 0 {
            let now = Instant::now();
            if now >= until || matches!(signals.try_recv(), Ok(Signal::StopNow)) {
                self.stop_now();
                break;
            }
            let wait = (until - now).min(Duration::from_millis(50));
            match self.reports.recv_timeout(wait) {
                Ok(Report::Ended(_)) => left -= 1,
                Ok(Report::Failed(id, why)) => {
                    return Err(Failure(format!("shard {} failed: {why}", id.0)));
                }
                _ => {
                    // Mail between cores may need another look.
                    for doorbell in &self.doorbells {
                        doorbell.ring();
                    }
                }
            }
        }
        self.join();
        tracing::info!("stopped");
        Ok(())
    }

    fn stop_now(&mut self) {
        for core in 0..self.cores.len() {
            self.send(core, Command::Stop);
        }
        self.join();
    }

    fn join(&mut self) {
        for core in &mut self.cores {
            if let Some(thread) = core.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// The CPUs to run on, one shard each.
fn cpus(cores: &Cores) -> Result<Vec<usize>, Failure> {
    let usable: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    match cores {
        Cores::List(list) => {
            if let Some(missing) = list.iter().find(|&&core| !usable.contains(&usize::from(core))) {
                return Err(Failure(format!(
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
