//! Upgrades as the control thread sees them: who asks for one, what stands against it, and how it
//! ended. The work is done by a thread of its own; the broker serves, or rests, meanwhile.

use super::{ControlThread, ListenerChange, ServingEnd};
use crate::bridge::figures::BridgeState;
use crate::broker::Failure;
use crate::broker::core::CoreCommand;
use crate::broker::upgrade::new::Predecessor;
use crate::broker::upgrade::old::{self, Farewell, UpgradeJob, UpgradeOutcome};
use crate::broker::upgrade::requests::{self, UpgradeRequest};
use crate::cluster::start::Cluster;
use crate::config::{Bridge, BridgePuback, BufferMode};
use crate::upgrade::frame::{Hello, StoreIs};
use crate::upgrade::{OLDEST, VERSION};
use crossbeam_channel::{Receiver, never};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the admin addresses of an old process may stay in use.
const ADMIN: Duration = Duration::from_secs(5);

/// How long bridges may take to send what they have, and cores to give it to them.
const BRIDGES: Duration = Duration::from_secs(3);

/// The upgrade that is under way.
pub(super) struct Upgrading {
    outcome: Receiver<UpgradeOutcome>,
    request: UpgradeRequest,
}

impl ControlThread<'_> {
    /// Takes clients over; returns the listeners' names and addresses.
    pub(super) fn take_over(&mut self, from: Predecessor) -> Result<Vec<String>, Failure> {
        let mut taken = from.take_over(&mut self.broker, &self.config)?;
        let bound = taken.listen(&mut self.broker);
        taken.wait_for_end();
        if let Err(failure) = self.broker.start_bridges(&self.config) {
            // The clients are served all the same.
            tracing::error!("{failure}");
        }
        let until = Instant::now() + ADMIN;
        while let Err(failure) = self.broker.admin.open(&self.config) {
            if Instant::now() > until {
                // The clients are served all the same.
                tracing::error!("{failure}");
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(bound)
    }

    pub(super) fn listen_to_upgrades(&mut self) {
        let (sender, requests) = crossbeam_channel::unbounded();
        requests::start(sender);
        self.requests = requests;
    }

    /// Where the outcome of the upgrade that is under way comes from.
    pub(super) fn outcomes(&self) -> Receiver<UpgradeOutcome> {
        self.upgrading.as_ref().map_or_else(never, |upgrading| upgrading.outcome.clone())
    }

    /// Nothing else may change what is being handed over.
    pub(super) fn not_while_upgrading(&self) -> Result<(), Vec<String>> {
        match &self.upgrading {
            Some(_) => Err(self.refused(vec!["an upgrade is under way".to_owned()])),
            None => Ok(()),
        }
    }

    /// Begins an upgrade, or says why not.
    pub(super) fn begin_upgrade(&mut self, mut request: UpgradeRequest) {
        let job = match self.job(&request) {
            Ok(job) => job,
            Err(why) => {
                tracing::error!("no upgrade: {why}");
                request.answer(Err(&why));
                return;
            }
        };
        let binary = job.binary.display().to_string();
        tracing::info!(binary, dry_run = job.dry_run, "upgrade begins");
        let (sender, outcome) = crossbeam_channel::bounded(1);
        let work = move || drop(sender.send(old::run(job)));
        match std::thread::Builder::new().name("upgrade".to_owned()).spawn(work) {
            Ok(_) => self.upgrading = Some(Upgrading { outcome, request }),
            Err(error) => request.answer(Err(&format!("no thread for it: {error}"))),
        }
    }

    fn job(&self, request: &UpgradeRequest) -> Result<UpgradeJob, String> {
        if self.upgrading.is_some() {
            return Err("another upgrade is under way".to_owned());
        }
        if !matches!(self.task, ListenerChange::Nothing) {
            return Err("a start or reload is under way; try again".to_owned());
        }
        if std::process::id() == 1 {
            return Err("this is process 1, with which its container would end; start the broker \
                        below an init process"
                .to_owned());
        }
        if let Some(why) = self.stuck_node() {
            return Err(why.to_owned());
        }
        if let Some(why) = self.stuck_bridge() {
            return Err(why);
        }
        let binary = match &request.binary {
            Some(binary) => binary.clone(),
            None => own_binary()?,
        };
        let arguments = std::env::args_os().skip(1).filter(|word| word != "--take-over");
        let broker = &self.broker;
        let lock = match &broker.store {
            None => None,
            Some(store) => Some(store.share_lock().map_err(|error| format!("the lock: {error}"))?),
        };
        let store = broker.store.as_ref().map(|store| StoreIs {
            path: store.path().to_string_lossy().into(),
            shards: store.shards,
        });
        let listener = |open: &super::super::OpenListener| {
            (open.id, open.config.name.to_string(), open.config.bind.to_string())
        };
        let tickets = |open: &super::super::OpenListener| {
            Some((open.id, open.secured.as_ref()?.exported_tickets()?))
        };
        Ok(UpgradeJob {
            homes: broker.homes.clone(),
            listeners: broker.open.iter().map(listener).collect(),
            tickets: broker.open.iter().filter_map(tickets).collect(),
            hello: Hello {
                version: VERSION,
                oldest: OLDEST,
                build: env!("CARGO_PKG_VERSION").into(),
                zero: broker.clock.zero(),
                secret: (broker.secret[0], broker.secret[1]),
                shards: broker.homes.len() as u8,
                store,
                node: broker.cluster.as_ref().map(Cluster::names),
                durable: broker.cluster.as_ref().is_some_and(Cluster::is_durable),
            },
            node: broker.cluster.as_ref().map(Cluster::handle),
            others: broker.cluster.as_ref().map_or(0, |known| known.view().row().nodes.len()),
            lock: lock.map(Into::into),
            binary,
            arguments: arguments.collect(),
            dry_run: request.dry_run,
        })
    }

    /// Why the node of a cluster that this broker is cannot be handed over now.
    fn stuck_node(&self) -> Option<&'static str> {
        let row = self.broker.cluster.as_ref()?.view().row();
        let durable = row.durable.as_ref();
        let reasons = [
            (self.leaving.is_some(), "this node leaves its cluster"),
            (!row.connected, "none of cluster.nats.servers carries frames now"),
            (
                durable.is_some_and(|durable| durable.adopting),
                "sessions of a lost node are being adopted; try again",
            ),
            (
                durable.is_some_and(|durable| durable.out),
                "the cluster's stream does not take what is stored; try again when it does",
            ),
        ];
        reasons.iter().find_map(|&(holds, why)| holds.then_some(why))
    }

    /// A bridge that would lose what it has (it is in memory, and the other end is away), or for
    /// which publishers wait that would not be answered in time.
    fn stuck_bridge(&self) -> Option<String> {
        let rows = self.broker.bridges.shown().rows();
        let away = rows.iter().filter(|row| row.waiting > 0 && row.state != BridgeState::Up.word());
        away.filter_map(|row| {
            let named = |bridge: &&Bridge| *bridge.name == *row.name;
            let bridge = self.config.bridges.iter().find(named)?;
            let why = if bridge.buffer.mode == BufferMode::Memory {
                "they would be lost; buffer.mode: disk keeps such messages"
            } else if bridge.puback == BridgePuback::Delivered {
                "their publishers wait for it (puback: delivered)"
            } else {
                return None;
            };
            Some(format!(
                "bridge {} has {} messages that its other end does not take now: {why}",
                row.name, row.waiting
            ))
        })
        .next()
    }

    /// An upgrade has ended; how this process ends, if it does.
    pub(super) fn end_upgrade(
        &mut self,
        outcome: Option<UpgradeOutcome>,
    ) -> Result<Option<ServingEnd>, Failure> {
        let Some(Upgrading { mut request, .. }) = self.upgrading.take() else { return Ok(None) };
        match outcome.unwrap_or_else(|| UpgradeOutcome::Lost("its thread has ended".to_owned())) {
            UpgradeOutcome::Gone(pid, report, farewell) => {
                self.notifier.main_process(pid);
                tracing::info!(pid, "upgraded: {report}");
                request.answer(Ok(&report));
                Ok(Some(ServingEnd::HandedOver(farewell)))
            }
            UpgradeOutcome::Possible(report) => {
                tracing::info!("an upgrade is possible: {report}");
                request.answer(Ok(&report));
                Ok(None)
            }
            UpgradeOutcome::Stays(why) => {
                tracing::error!("no upgrade, this process serves on: {why}");
                request.answer(Err(&why));
                Ok(None)
            }
            UpgradeOutcome::Lost(why) => {
                request.answer(Err(&why));
                Err(Failure::new(why))
            }
        }
    }

    /// Leaves everything to the new process, which goes on with bridges when `farewell` is over.
    pub(super) fn leave(mut self, farewell: Farewell) -> Result<(), Failure> {
        for open in &mut self.broker.open {
            if let Some(file) = open.file.take() {
                file.leave();
            }
        }
        let bridges = self.broker.bridges.shown().rows();
        let ended = if bridges.is_empty() { Ok(()) } else { self.end_bridges() };
        drop(farewell);
        ended
    }

    /// The bridges send what they have, as at any end of the broker, and put the rest away.
    fn end_bridges(&mut self) -> Result<(), Failure> {
        self.broker.send_all(|| CoreCommand::Stop);
        let ended = |control: &Self| control.broker.running == 0;
        self.wait(Instant::now() + BRIDGES, ended)?;
        self.broker.join();
        self.broker.stop_others(Instant::now() + BRIDGES);
        Ok(())
    }
}

/// The file that this process was started from, or the one that has replaced it.
fn own_binary() -> Result<PathBuf, String> {
    let path = std::env::current_exe().map_err(|error| format!("which program? {error}"))?;
    let text = path.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(replaced) => PathBuf::from(replaced),
        None => path,
    })
}
