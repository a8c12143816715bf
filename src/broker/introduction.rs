//! The start of the cores: each is told of the others, and none serves before all are whole
//! ([`crate::shard::Whole`]).

use super::core::{CoreCommand, CoreReport};
use super::signals::SignalQueue;
use super::{Broker, Failure, clustered, questions};
use crate::cluster::start::Cluster;
use crate::config::ListenerConfig;
use crate::ring::{Doorbell, RingPort};
use crate::shard::Whole;
use crossbeam_channel::RecvTimeoutError;
use std::time::{Duration, Instant};

/// How long the cores may take to start. Later nothing has a time limit.
const START: Duration = Duration::from_secs(60);
/// How long a signal to stop may wait while the broker starts.
const LOOK: Duration = Duration::from_millis(100);

impl Broker {
    /// Tells the cores, the admin servers and helpers of each other.
    pub(super) fn connect(
        &mut self,
        queue: questions::QuestionQueue,
        node_ends: Option<clustered::ClusterEnds>,
    ) -> Result<(), Failure> {
        self.introduce()?;
        let homes = self.cores.iter().zip(&self.doorbells).map(|(core, doorbell)| {
            questions::Home { commands: core.commands.clone(), doorbell: doorbell.clone() }
        });
        let homes: Vec<_> = homes.collect();
        self.admin.introduce(homes.clone());
        self.homes.clone_from(&homes);
        self.node_ends = node_ends;
        let started = queue.start(homes);
        started.map_err(|error| Failure::new(format!("cannot start a helper thread: {error}")))
    }

    /// Waits for every core's driver, and tells each about all.
    fn introduce(&mut self) -> Result<(), Failure> {
        let mut peers: Vec<Option<(RingPort, Doorbell)>> = vec![None; self.cores.len()];
        let until = Instant::now() + START;
        while peers.iter().any(Option::is_none) {
            match self.reports.recv_deadline(until) {
                Ok(CoreReport::Up(id, port, doorbell)) => {
                    peers[usize::from(id.0)] = Some((port, doorbell));
                }
                Ok(CoreReport::Failed(id, why)) => {
                    return Err(Failure::new(format!("shard {} cannot start: {why}", id.0)));
                }
                // Nothing has been asked of anybody yet.
                Ok(CoreReport::Done(_) | CoreReport::Alive(..) | CoreReport::Ended(_)) => {}
                Err(_) => {
                    let seconds = START.as_secs();
                    return Err(Failure::new(format!("a shard did not start in {seconds} s")));
                }
            }
        }
        let peers: Vec<(RingPort, Doorbell)> = peers.into_iter().flatten().collect();
        self.doorbells = peers.iter().map(|(_, doorbell)| doorbell.clone()).collect();
        self.tell_all(|| CoreCommand::Peers(peers.clone()));
        Ok(())
    }

    /// Waits until each core has put back what was stored: a message that one of them took in
    /// before would miss the subscribers of another. False when the broker is told to stop
    /// meanwhile. A node of a cluster joins it after that; with `durable` it does so before, as the
    /// cluster says what of that is still this node's.
    pub(super) fn become_whole(&mut self, signals: &SignalQueue) -> Result<bool, Failure> {
        if self.cluster.as_ref().is_some_and(Cluster::is_durable) {
            self.start_cluster()?;
        }
        let mut whole = Whole::new(self.cores.len() as u8);
        while !whole.may_listen() {
            if signals.says_stop() {
                return Ok(false);
            }
            match self.reports.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(CoreReport::Done(id)) => {
                    self.watch.answered(id, Instant::now());
                    whole.told(id);
                }
                // Nobody has been asked for that yet.
                Ok(CoreReport::Alive(..)) => {}
                Ok(CoreReport::Failed(id, why)) => {
                    return Err(Failure::new(format!("shard {} cannot start: {why}", id.0)));
                }
                Ok(CoreReport::Up(..)) => {}
                Ok(CoreReport::Ended(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new("a shard ended at the start"));
                }
            }
        }
        self.start_cluster()?;
        Ok(true)
    }

    /// Opens the listeners; returns `name=address` of each. No core accepts before all know all of
    /// them: a core that does not would refuse the clients that others hand over to it.
    pub(super) fn listen_at_start(
        &mut self,
        listeners: &[ListenerConfig],
    ) -> Result<Vec<String>, Failure> {
        let mut bound = Vec::with_capacity(listeners.len());
        for listener in listeners {
            bound.push(self.bind_listener(listener)?);
        }
        self.await_cores()?;
        let bound = listeners.iter().zip(bound);
        Ok(bound.map(|(listener, (id, sockets))| self.listen(id, listener, sockets)).collect())
    }

    /// Waits until every core has carried out what it was told so far.
    fn await_cores(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        self.tell_all(|| CoreCommand::Ping(now));
        let round = self.watch.round();
        while !self.watch.is_done(&round) {
            match self.reports.recv() {
                Ok(CoreReport::Done(id) | CoreReport::Alive(id, _)) => {
                    self.watch.answered(id, Instant::now());
                }
                Ok(CoreReport::Up(..)) => {}
                Ok(CoreReport::Failed(id, why)) => {
                    return Err(Failure::new(format!("shard {} cannot start: {why}", id.0)));
                }
                Ok(CoreReport::Ended(_)) | Err(_) => {
                    return Err(Failure::new("a shard ended at the start"));
                }
            }
        }
        Ok(())
    }
}
