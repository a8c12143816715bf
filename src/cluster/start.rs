//! Starting and stopping the cluster's thread with the broker.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a thread of its own, which shares an order with the control thread"
)]

use super::frame::{Abilities, LONGEST_NAME, is_name};
use super::junction::Junction;
use super::nats::Nats;
use super::node::{Node, NodePlan, WhenCutOff};
use super::serve::{Bell, NanosecondClock, NodeMove, Service, View, give_up, incarnation};
use crate::bridge::orders::{Orders, wait_for_end};
use crate::config::{self, Config, Get, OnPartition};
use crate::limits::MAX_CLUSTERED_SHARDS;
use crate::mesh::Shared;
use crate::mesh::mail::{Control, Stamped};
use crate::mesh::mailbox::NodeEnds;
use crate::time;
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The longest time for the cluster's thread to start.
const START: Duration = Duration::from_secs(10);

/// The longest time for an answer of the cluster's thread.
const ANSWER: Duration = Duration::from_secs(10);

/// How a node begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum NodeStart {
    /// As a node that was not there before.
    Anew,
    /// In the place of another process, which it waits for.
    Successor,
}

/// The cluster of which this broker is a node, as the control thread sees it.
pub struct Cluster {
    config: config::ClusterConfig,
    name: String,
    bell: Arc<Notify>,
    view: Arc<View>,
    orders: Arc<Orders>,
    way: NodeStart,
    moves: (Sender<NodeMove>, Option<Receiver<NodeMove>>),
    thread: Option<JoinHandle<()>>,
}

/// How an upgrade tells the cluster's thread what to do.
#[derive(Clone)]
pub struct NodeHandle {
    moves: Sender<NodeMove>,
    bell: Arc<Notify>,
}

impl NodeHandle {
    /// Tells it. A thread that has ended is told nothing.
    pub fn tell(&self, what: NodeMove) {
        let _ = self.moves.send(what);
        self.bell.notify_one();
    }

    /// Asks it; `None` when it does not answer in time.
    pub fn ask<T>(&self, what: impl FnOnce(Sender<T>) -> NodeMove) -> Option<T> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        self.tell(what(sender));
        answer.recv_timeout(ANSWER).ok()
    }
}

impl Cluster {
    /// Plans the cluster from the configuration; `None` when this broker is not in a cluster.
    /// `host` is the host's name.
    ///
    /// # Errors
    /// The reason why this broker cannot be a node.
    pub fn plan(
        config: &Config,
        shards: usize,
        host: &str,
        way: NodeStart,
    ) -> Result<Option<Cluster>, String> {
        let cluster = &config.cluster;
        if cluster.name.is_empty() {
            return Ok(None);
        }
        if shards > MAX_CLUSTERED_SHARDS {
            return Err(format!(
                "cluster: {shards} shards are too many for a node of a cluster; set cores to at \
                 most {MAX_CLUSTERED_SHARDS} of them"
            ));
        }
        let name = own_name(config, host);
        if !is_name(&name) {
            return Err(format!("cluster.node: the host's name `{host}` cannot be used; set one"));
        }
        let (moves, asked) = crossbeam_channel::unbounded();
        Ok(Some(Cluster {
            config: cluster.clone(),
            name,
            bell: Arc::default(),
            view: Arc::default(),
            orders: Arc::default(),
            way,
            moves: (moves, Some(asked)),
            thread: None,
        }))
    }

    /// The bell that wakes the cluster's thread.
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// The way to tell the thread what an upgrade needs of it.
    pub fn handle(&self) -> NodeHandle {
        NodeHandle { moves: self.moves.0.clone(), bell: self.bell() }
    }

    /// The names of the cluster and of this node.
    pub fn names(&self) -> (Box<str>, Box<str>) {
        ((*self.config.name).into(), self.name.as_str().into())
    }

    /// Whether the sessions of its nodes survive their loss.
    pub fn is_durable(&self) -> bool {
        self.config.durable
    }

    /// The cluster's figures.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// Starts the cluster's thread.
    ///
    /// # Errors
    /// The reason why the thread cannot be started.
    pub fn start(
        &mut self,
        shared: Arc<Shared>,
        ends: NodeEnds<Stamped, Control>,
        clock: NanosecondClock,
        bells: Vec<Bell>,
    ) -> Result<(), String> {
        let config = &self.config;
        let plan = NodePlan {
            name: self.name.clone(),
            incarnation: incarnation(),
            shards: bells.len() as u8,
            window: config.window.get() as usize,
            give_up: give_up(config),
            when_cut_off: match config.on_partition {
                OnPartition::Park => WhenCutOff::Park,
                OnPartition::Drop => WhenCutOff::Drop,
            },
            wills: config.wills_max_bytes.get() as usize,
            durable: config.durable,
            abilities: Abilities::OWN,
        };
        let node = Node::new(plan, time::Instant(clock() / 1_000_000));
        let mut junction = Junction::new(node, shared, bells.len() as u8, ends);
        if self.way == NodeStart::Successor {
            junction.wait();
        }
        let Some(moves) = self.moves.1.take() else { return Ok(()) };
        let service = Service {
            junction,
            config: config.clone(),
            name: self.name.clone(),
            clock,
            bells,
            bell: self.bell(),
            orders: Arc::clone(&self.orders),
            moves,
            view: self.view(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cluster: {error}"))?;
        let (started, starts) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("cluster".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                let connecting = Nats::connect(&service.config, &service.name).await;
                let (outcome, connecting) = match connecting {
                    Ok(connecting) => (Ok(()), Some(connecting)),
                    Err(why) => (Err(why), None),
                };
                // `Cluster::start` waits for this.
                let _ = started.send(outcome);
                let Some((nats, subscribers)) = connecting else { return };
                // As a task, because whatever wakes the future that `block_on` runs makes a system
                // call, on this thread as well.
                let served = tokio::spawn(service.run(nats, subscribers)).await;
                if let Err(ended) = served
                    && let Ok(panic) = ended.try_into_panic()
                {
                    std::panic::resume_unwind(panic);
                }
            });
        });
        self.thread = Some(thread.map_err(|error| format!("cluster: {error}"))?);
        // The thread reports before it has a connection; it only has to read the files that it
        // needs.
        match starts.recv_timeout(START) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(format!("cluster.{why}")),
            Err(_) => Err("cluster: its thread does not start".to_owned()),
        }
    }

    /// Ends the thread after the cores have ended: the contents of the windows are sent first, at
    /// most until `until`.
    pub fn stop(&mut self, until: Instant) {
        self.orders.end(until);
        self.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            wait_for_end(&thread, until);
        }
    }
}

/// The name of this node, as the configuration says it or after its host.
pub fn own_name(config: &Config, host: &str) -> String {
    let name = config.cluster.node.0.as_ref();
    name.map_or_else(|| name_of(host), |name| name.to_string())
}

/// The host's name without its domain, made valid as a node's name.
fn name_of(host: &str) -> String {
    let first = host.split('.').next().unwrap_or_default();
    let plain = first.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' });
    plain.take(LONGEST_NAME).collect()
}
