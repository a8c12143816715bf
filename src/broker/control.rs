//! The control thread while the broker serves: it handles signals and the reports of shards, checks
//! that every shard responds, and runs reload and drain. It never waits for a shard: a command is
//! sent, and its consequences follow when the answer arrives. A shard that does not answer is late,
//! which is logged and shown; ending the process because of it is left to its supervisor. Only a
//! shard that has really ended ends the broker.

#[path = "leaving.rs"]
mod leaving;
#[path = "operator.rs"]
mod operator;
#[path = "upgrading.rs"]
mod upgrading;

use super::core::{CoreCommand, CoreReport, time_of_day};
use super::log::{LogControl, LogLevels};
use super::notify::Notifier;
use super::signals::{self, Signal};
use super::summary::SummaryFigures;
use super::upgrade::new::Predecessor;
use super::upgrade::old::Farewell;
use super::upgrade::requests::UpgradeRequest;
use super::watch::{BEAT, WatchRound};
use super::{Broker, Failure};
use crate::admin::{self, BrokerStage};
use crate::config::{Config, Get, ListenerConfig, Sources};
use crate::contained;
use crate::ids::ShardId;
use crate::overload::Policy;
use crate::shard::{Settings, Shard};
use crate::telemetry::alarms::{Alarm, AlarmReadings, Alarms};
use crossbeam_channel::{Receiver, RecvError, select};
use leaving::Leaving;
use std::sync::Arc;
use std::time::{Duration, Instant};
use upgrading::Upgrading;

/// How often cores are asked to look at their mail while they drain.
const NUDGE: Duration = Duration::from_millis(50);
/// How long shards may take to end when they are told to end at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long a summary waits for the shards.
const SUMMARY: Duration = Duration::from_secs(1);

/// What the control thread needs beside the broker.
pub(super) struct ControlThread<'a> {
    pub broker: Broker,
    pub config: Config,
    pub sources: &'a Sources,
    pub signals: &'a Receiver<Signal>,
    pub log: &'a LogControl,
    pub notifier: &'a Notifier,
    task: ListenerChange,
    /// Another reload was requested while this one is in progress.
    again: bool,
    summary: Option<(WatchRound, Instant)>,
    figures: SummaryFigures,
    alarms: Alarms,
    /// What is logged.
    levels: LogLevels,
    /// Listeners that an operator has closed for a while.
    stopped: Vec<ListenerConfig>,
    /// Upgrades that are asked for, and the one that is under way.
    requests: Receiver<UpgradeRequest>,
    upgrading: Option<Upgrading>,
    /// This node leaves its cluster.
    leaving: Option<Leaving>,
    next_beat: Instant,
    fed: Instant,
}

/// Work that waits for answers of the shards.
enum ListenerChange {
    Nothing,
    /// The new settings, and the listeners that are gone.
    Closing(WatchRound, Box<Config>),
    /// Listeners, by name and address.
    Opening(WatchRound, Vec<String>, Why),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Start,
    Reload,
}

/// How serving ended.
enum ServingEnd {
    Drain,
    Now,
    /// Another process serves.
    HandedOver(Farewell),
}

impl<'a> ControlThread<'a> {
    pub(super) fn new(
        broker: Broker,
        config: Config,
        sources: &'a Sources,
        signals: &'a Receiver<Signal>,
        log: &'a LogControl,
        notifier: &'a Notifier,
    ) -> ControlThread<'a> {
        let now = Instant::now();
        ControlThread {
            levels: LogLevels::of(config.log.level),
            broker,
            config,
            sources,
            signals,
            log,
            notifier,
            task: ListenerChange::Nothing,
            again: false,
            summary: None,
            figures: SummaryFigures::default(),
            alarms: Alarms::default(),
            stopped: Vec::new(),
            requests: crossbeam_channel::never(),
            upgrading: None,
            leaving: None,
            next_beat: now,
            fed: now,
        }
    }

    /// Opens the listeners, serves until told to stop, stops.
    ///
    /// # Errors
    /// When a listener of the start cannot listen, or a shard fails.
    pub(super) fn run(mut self, predecessor: Option<Predecessor>) -> Result<(), Failure> {
        let bound = match predecessor {
            Some(predecessor) => self.take_over(predecessor)?,
            None => self.broker.listen_at_start(&self.config.listeners)?,
        };
        self.task = ListenerChange::Opening(self.broker.watch.round(), bound, Why::Start);
        self.listen_to_upgrades();
        match self.serve()? {
            ServingEnd::Drain => self.drain(),
            ServingEnd::Now => self.stop_now(),
            ServingEnd::HandedOver(farewell) => self.leave(farewell),
        }
    }

    /// Obeys signals until one says stop.
    fn serve(&mut self) -> Result<ServingEnd, Failure> {
        loop {
            self.go_on();
            if self.go_on_leaving() {
                return Ok(ServingEnd::Drain);
            }
            self.broker.look_at_host_memory();
            let wait = self.next_beat.saturating_duration_since(Instant::now());
            let wait = wait.min(super::policy::LOOK).min(self.rest_of_leaving());
            let wait = if self.summary.is_some() { wait.min(NUDGE) } else { wait };
            let (signals, reports) = (self.signals, self.broker.reports.clone());
            let (orders, requests) = (self.broker.orders.clone(), self.requests.clone());
            let outcomes = self.outcomes();
            select! {
                recv(requests) -> request => {
                    if let Ok(request) = request {
                        self.begin_upgrade(request);
                    }
                }
                recv(outcomes) -> outcome => {
                    if let Some(ending) = self.end_upgrade(outcome.ok())? {
                        return Ok(ending);
                    }
                }
                recv(orders) -> ordered => {
                    if let Ok((order, reply)) = ordered {
                        self.obey(&order, reply);
                    }
                }
                recv(signals) -> signal => match signal {
                    Ok(Signal::Stop) => return Ok(ServingEnd::Drain),
                    Ok(Signal::StopNow) => return Ok(ServingEnd::Now),
                    Ok(Signal::Reload) => {
                        // What is wrong stands in the log.
                        let _ = self.reload();
                    }
                    Ok(Signal::Summary) => self.ask_for_summary(),
                    Ok(Signal::Upgrade) => self.begin_upgrade(UpgradeRequest::default()),
                    Ok(Signal::Other(number)) => note(number),
                    // The thread that waits for signals has ended, so nobody could stop the broker
                    // any more.
                    Err(RecvError) => return Ok(ServingEnd::Drain),
                },
                recv(reports) -> report => {
                    if let Ok(report) = report {
                        self.handle_report(report)?;
                    }
                }
                default(wait) => {}
            }
            self.beat()?;
        }
    }

    /// Handles the report of a shard.
    fn handle_report(&mut self, report: CoreReport) -> Result<(), Failure> {
        let now = Instant::now();
        let id = match report {
            CoreReport::Done(id) => id,
            CoreReport::Alive(id, snapshot) => {
                self.figures.heard(id, now, snapshot);
                id
            }
            CoreReport::Up(..) => return Ok(()),
            CoreReport::Failed(id, why) => {
                return Err(Failure::new(format!("shard {} failed: {why}", id.0)));
            }
            CoreReport::Ended(id) => {
                return Err(Failure::new(format!("shard {} ended unexpectedly", id.0)));
            }
        };
        if let Some(late) = self.broker.watch.answered(id, now) {
            let late_seconds = late.as_secs();
            tracing::warn!(shard = id.0, late_seconds, "a shard answers again");
            self.show_late();
        }
        Ok(())
    }

    /// Logs which shards are late, and notifies the watchdog unless one is.
    fn look_around(&mut self, now: Instant) {
        for (shard, since) in self.broker.watch.look(now) {
            let late_seconds = now.duration_since(since).as_secs();
            tracing::error!(
                shard = shard.0,
                late_seconds,
                "a shard does not answer; its clients wait"
            );
            self.show_late();
        }
        let interval = self.notifier.watchdog_interval();
        if interval.is_some_and(|interval| now.duration_since(self.fed) >= interval.min(BEAT))
            && self.broker.watch.late().next().is_none()
        {
            self.fed = now;
            self.notifier.alive();
        }
    }

    /// Asks every shard at intervals whether it is alive.
    fn beat(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        self.look_around(now);
        if now < self.next_beat {
            return Ok(());
        }
        let interval = self.notifier.watchdog_interval();
        self.next_beat = now + interval.map_or(BEAT, |interval| interval.min(BEAT));
        self.find_ended()?;
        for shard in self.broker.shards() {
            // A shard that still has a question to answer gets no further one.
            if self.broker.watch.is_quiet(shard) {
                self.broker.send(shard, CoreCommand::Ping(now));
            }
        }
        self.broker.watch_certificates(now);
        self.show_certificates();
        self.broker.admin.accounts(&self.broker.policy.limits.accounts.rows());
        self.broker.admin.lost_lines(self.log.lost());
        self.broker.admin.look_after(now);
        self.look_for_alarms();
        Ok(())
    }

    /// Raises and clears alarms: in the log, for the admin server, and below `$SYS`.
    fn look_for_alarms(&mut self) {
        let total = self.figures.total();
        let limit = Some(self.broker.shared.memory_limit.used()).filter(|&limit| limit > 0);
        let most = self.config.runtime.max_connections.get();
        // The cluster's thread is none of the shards.
        let (cluster, wills) = (&self.broker.cluster, self.broker.shared.cluster_memory.used());
        let readings = AlarmReadings {
            memory: limit.map(|limit| (total.memory_held() + wills, limit)),
            late: self.broker.watch.late().map(|(id, _)| id).collect(),
            certificates: self.broker.certificates(),
            connections: most.map(|most| (total.connections_open, u64::from(most))),
            lost_lines: self.log.lost(),
            bridges: self.broker.bridges.shown().rows(),
            nodes: cluster.as_ref().map(|one| one.view().row().nodes).unwrap_or_default(),
            panics: contained::panics().to_vec(),
            ..self.figures.readings()
        };
        let changed = self.alarms.look(&readings, time_of_day().as_millis() as u64);
        // First: whoever reads of an alarm below `$SYS` finds it in the API.
        if !changed.is_empty() {
            self.broker.admin.alarms(self.alarms.list());
        }
        for &Alarm { name, ref message, deactivate_at, .. } in &changed {
            let text = match deactivate_at {
                None => {
                    tracing::warn!(alarm = name, "{message}");
                    message.clone()
                }
                Some(_) => {
                    tracing::info!(alarm = name, "the alarm is over");
                    String::new()
                }
            };
            let tell = Box::new(move |shard: &mut Shard| shard.tell_alarm(name, &text));
            self.broker.hand(ShardId(0), CoreCommand::Inquire(tell));
        }
    }

    /// Finds threads that ended without a report: they have panicked (where a panic does not
    /// abort).
    fn find_ended(&mut self) -> Result<(), Failure> {
        let ended = self.broker.shards().find(|&shard| self.broker.has_ended(shard));
        let Some(shard) = ended else { return Ok(()) };
        while let Ok(report) = self.broker.reports.try_recv() {
            self.handle_report(report)?;
        }
        Err(Failure::new(format!("the thread of shard {} has ended", shard.0)))
    }

    /// Tells the admin server when certificates expire.
    fn show_certificates(&self) {
        self.broker.admin.certificates(&self.broker.certificates());
    }

    /// Tells the admin server and the service manager who is late.
    fn show_late(&self) {
        let late: Vec<(ShardId, Instant)> = self.broker.watch.late().collect();
        let status = match late.as_slice() {
            [] => "serving".to_owned(),
            late => {
                let numbers: Vec<String> = late.iter().map(|(id, _)| id.0.to_string()).collect();
                format!("no answer from shard {}", numbers.join(", "))
            }
        };
        self.notifier.status(&status);
        self.broker.admin.late(&late);
    }

    /// Continues the work whose answers have arrived.
    fn go_on(&mut self) {
        self.broker.bridges.go_on();
        if let Some((round, until)) = &self.summary
            && (self.broker.watch.is_done(round) || Instant::now() >= *until)
        {
            self.summary = None;
            self.write_summary();
        }
        match std::mem::replace(&mut self.task, ListenerChange::Nothing) {
            ListenerChange::Closing(round, config) if self.broker.watch.is_done(&round) => {
                self.open_new_listeners(&config);
                self.config = *config;
            }
            ListenerChange::Opening(round, bound, why) if self.broker.watch.is_done(&round) => {
                self.opened(bound, why);
            }
            waits => self.task = waits,
        }
    }

    fn opened(&mut self, mut bound: Vec<String>, why: Why) {
        if why == Why::Reload {
            bound.iter().for_each(|bound| tracing::info!(%bound, "listener opened"));
            tracing::info!("configuration reloaded");
            self.broker.admin.enter(BrokerStage::Ready);
            self.notifier.ready("serving");
        } else {
            self.broker.admin.enter(BrokerStage::Ready);
            bound.extend(self.broker.admin.addresses().map(|(name, at)| format!("{name}={at}")));
            let (shards, bound) = (self.broker.cores.len(), bound.join(","));
            tracing::info!(version = env!("CARGO_PKG_VERSION"), shards, %bound, "ready");
            self.notifier.ready(&format!("{shards} shards, {}", bound.replace(',', ", ")));
        }
        if std::mem::take(&mut self.again) {
            let _ = self.reload();
        }
    }

    /// Reads the configuration again. The new settings are on their way when this returns; the
    /// listeners that are new are opened when those that are gone are closed, on every shard.
    ///
    /// # Errors
    /// Every problem of it; nothing has changed.
    fn reload(&mut self) -> Result<(), Vec<String>> {
        if !matches!(self.task, ListenerChange::Nothing) {
            self.again = true;
            return Ok(());
        }
        self.not_while_upgrading()?;
        self.not_while_leaving()?;
        self.notifier.reloading();
        let mut new = self.sources.load().map_err(|problems| self.refused(words(&problems.0)))?;
        let access = super::load(&new, &super::read_file);
        let access = Arc::new(access.map_err(|problems| self.refused(words(&problems)))?);
        let policy = super::policy::of(&new, Some(&self.broker.policy));
        let policy = policy.map_err(|problem| self.refused(words(&[problem])))?;
        let bridges = self.broker.bridges.wanted(&new).map_err(|all| self.refused(all))?;
        for key in self.config.keys_that_need_a_restart(&new) {
            tracing::warn!(key, "changed in the configuration, but needs a restart");
        }
        self.set_levels(LogLevels::of(new.log.level));
        let settings = Settings::new(&new).with_memory(&new, self.broker.memory);
        let settings = settings.with_access(access);
        let networks =
            |policy: &Policy| (policy.limits.address.prefix_v4, policy.limits.address.prefix_v6);
        if networks(&self.broker.policy) != networks(&policy) {
            self.broker.shared.sources.forget_networks(&policy.limits.address);
        }
        self.broker.policy = Arc::clone(&policy);
        let settings = Arc::new(Settings { policy, ..settings });
        self.broker.shared.memory_limit.set(super::shown(settings.memory));
        self.broker.tell_all(|| CoreCommand::Reload(Arc::clone(&settings)));
        self.broker.admin.reload(&new);
        self.broker.bridges.change(bridges, new.shutdown.grace.get());
        let late: Vec<_> = self.broker.watch.late().collect();
        self.broker.admin.late(&late);
        self.broker.admin.alarms(self.alarms.list());
        self.broker.secure_again(&mut new.listeners);
        self.show_certificates();
        // What an operator has closed is open again, as the configuration says.
        self.stopped.clear();
        self.broker.close_listeners_besides(&new.listeners);
        self.task = ListenerChange::Closing(self.broker.watch.round(), Box::new(new));
        Ok(())
    }

    /// The configuration cannot be read again, for these reasons.
    fn refused(&self, problems: Vec<String>) -> Vec<String> {
        for problem in &problems {
            tracing::error!("{problem}");
        }
        tracing::error!(problems = problems.len(), "reload refused, nothing changed");
        self.notifier.ready("serving");
        problems
    }

    fn open_new_listeners(&mut self, config: &Config) {
        let mut bound = Vec::new();
        for wanted in &config.listeners {
            if self.broker.open.iter().any(|open| open.config == *wanted) {
                continue;
            }
            match self.broker.open_listener(wanted) {
                Ok(address) => bound.push(address),
                // The other listeners work; the operator sees in the log which one is missing.
                Err(failure) => tracing::error!("{failure}"),
            }
        }
        self.task = ListenerChange::Opening(self.broker.watch.round(), bound, Why::Reload);
    }

    fn ask_for_summary(&mut self) {
        let now = Instant::now();
        self.broker.tell_all(|| CoreCommand::Ping(now));
        self.summary = Some((self.broker.watch.round(), now + SUMMARY));
    }

    fn write_summary(&self) {
        let late: Vec<_> = self.broker.watch.late().collect();
        let uptime = self.broker.started.elapsed().unwrap_or_default();
        let resident = admin::resident_bytes();
        let limit = Some(self.broker.shared.memory_limit.used()).filter(|&limit| limit > 0);
        self.figures.write(Instant::now(), uptime, resident, limit, self.log.lost(), &late);
    }

    /// No new clients; the wills are routed; every client is told; the shards end. Takes at most
    /// `shutdown.grace`, whoever is late.
    fn drain(mut self) -> Result<(), Failure> {
        if self.summary.take().is_some() {
            self.write_summary();
        }
        let grace = self.config.shutdown.grace.get();
        tracing::info!(grace_seconds = grace.as_secs(), "draining");
        self.notifier.stopping();
        self.broker.admin.enter(BrokerStage::Draining);
        let until = Instant::now() + grace;
        // Two rounds, because mail that the first one sends to other shards is taken in by the
        // second. A late shard can delay the others only for a part of the grace period.
        let now = Instant::now();
        for command in [|_| CoreCommand::Drain, CoreCommand::Ping as fn(Instant) -> CoreCommand] {
            self.broker.tell_all(|| command(now));
            let round = self.broker.watch.round();
            let patience = (Instant::now() + grace / 4).min(until);
            let all = |control: &Self| control.broker.watch.is_done_by_all_in_time(&round);
            if self.wait(patience, all)? == WaitEnd::ToldToStop {
                return self.stop_now();
            }
        }
        self.broker.admin.flush_spans();
        self.broker.send_all(|| CoreCommand::Dismiss);
        let ended = |control: &Self| control.broker.running == 0;
        match self.wait(until, ended)? {
            WaitEnd::Done => self.broker.join(),
            WaitEnd::TooLong | WaitEnd::ToldToStop => return self.stop_now(),
        }
        self.broker.stop_others(until);
        tracing::info!("stopped");
        Ok(())
    }

    /// Ends every shard without disconnecting its clients first. A shard that does not react ends
    /// with the process.
    fn stop_now(mut self) -> Result<(), Failure> {
        self.broker.send_all(|| CoreCommand::Stop);
        let ended = |control: &Self| control.broker.running == 0;
        let waited = self.wait(Instant::now() + AT_ONCE, ended)?;
        if waited != WaitEnd::Done {
            for shard in self.broker.shards().filter(|&shard| !self.broker.has_ended(shard)) {
                tracing::error!(shard = shard.0, "a shard does not answer; it ends at once");
            }
        }
        self.broker.join();
        self.broker.stop_others(Instant::now() + AT_ONCE);
        tracing::info!("stopped");
        Ok(())
    }

    /// Handles the reports of shards until `done`, `until`, or a second signal to stop.
    fn wait(&mut self, until: Instant, done: impl Fn(&Self) -> bool) -> Result<WaitEnd, Failure> {
        while !done(self) {
            let now = Instant::now();
            if now >= until {
                return Ok(WaitEnd::TooLong);
            }
            self.look_around(now);
            let (signals, reports) = (self.signals, self.broker.reports.clone());
            select! {
                recv(signals) -> signal => match signal {
                    Ok(Signal::StopNow) => return Ok(WaitEnd::ToldToStop),
                    Ok(Signal::Summary) => self.write_summary(),
                    Ok(Signal::Other(number)) => note(number),
                    Ok(Signal::Stop | Signal::Reload | Signal::Upgrade) => {}
                    // Not to be asked again and again.
                    Err(RecvError) => std::thread::sleep(NUDGE),
                },
                recv(reports) -> report => match report {
                    Ok(CoreReport::Ended(_)) => self.broker.running -= 1,
                    Ok(report) => self.handle_report(report)?,
                    Err(RecvError) => std::thread::sleep(NUDGE),
                },
                default((until - now).min(NUDGE)) => self.broker.ring_all(),
            }
        }
        Ok(WaitEnd::Done)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitEnd {
    Done,
    TooLong,
    ToldToStop,
}

fn words(problems: &[impl ToString]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn note(number: i32) {
    let signal = signals::name(number);
    tracing::warn!(signal, number, "this signal has no meaning here; SIGTERM stops the broker");
}
