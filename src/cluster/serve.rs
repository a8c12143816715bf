//! The cluster's thread: one loop that takes in frames of the engine and mail of the shards, and
//! does what is due. The thread never waits for a shard, and no shard waits for the thread.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "on the cluster's own thread, which shares with the control thread only"
)]

use super::counted::{self, NamedCount};
use super::junction::{Junction, JunctionEnvironment, RestingJunction};
use super::nats::{Nats, Replies};
use super::node::Unsent;
use crate::bridge::orders::Orders;
use crate::config::{self, Get};
use crate::ids::ShardId;
use crate::telemetry::{ClusterRow, DurableRow, NodeRow, WillsRow};
use crate::time::Instant;
use crate::upgrade::cluster::MovedNode;
use async_nats::Subscriber;
use crossbeam_channel::{Receiver, Sender};
use futures_lite::Stream;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;

/// Frames of one subject that are taken in before other work has its turn.
const FRAMES: usize = 256;
/// The time after which the thread looks again for room in a shard's mailbox: the least that
/// tokio's timer knows.
const REST: Duration = Duration::from_millis(1);
/// Milliseconds between two updates of [`View`].
const SHOW: u64 = 500;
/// The longest time, at the end, for sent frames to leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// The time in nanoseconds, on the clock of the cores.
pub type NanosecondClock = Box<dyn Fn() -> u64 + Send>;
/// Wakes a core.
pub type Bell = Box<dyn Fn() + Send>;

/// The cluster's figures: written by the cluster's thread, read by metrics and the admin server.
#[derive(Default)]
pub struct View(Mutex<ClusterRow>);

impl View {
    /// A copy of the figures.
    pub fn row(&self) -> ClusterRow {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, row: ClusterRow) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = row;
    }
}

/// Everything that the cluster's thread owns.
pub struct Service {
    /// The node and its mailboxes.
    pub junction: Junction,
    /// The section `cluster` of the configuration.
    pub config: config::ClusterConfig,
    /// This node's name.
    pub name: String,
    /// The clock of the cores.
    pub clock: NanosecondClock,
    /// The cores' doorbells.
    pub bells: Vec<Bell>,
    /// Wakes this thread.
    pub bell: Arc<Notify>,
    /// Tells whether this thread is to end.
    pub orders: Arc<Orders>,
    /// What an upgrade asks of this thread.
    pub moves: Receiver<NodeMove>,
    /// Where this thread publishes its figures.
    pub view: Arc<View>,
}

struct ShardBells<'a> {
    clock: &'a NanosecondClock,
    bells: &'a [Bell],
}

impl JunctionEnvironment for ShardBells<'_> {
    fn stamp(&mut self) -> u64 {
        (self.clock)()
    }

    fn ring(&mut self, shard: ShardId) {
        if let Some(bell) = self.bells.get(usize::from(shard.0)) {
            bell();
        }
    }
}

impl Service {
    /// Runs until the orders tell the thread to end.
    pub async fn run(mut self, mut nats: Nats, mut subscribers: [Subscriber; 2]) {
        let mut received = 0_u64;
        let mut show_at = Instant(0);
        loop {
            let now = self.now();
            while let Ok(asked) = self.moves.try_recv() {
                obey(&mut self.junction, asked, (&mut received, &mut nats), now);
                // Nobody sees figures of a process that has taken another's place go back to 0.
                show_at = now;
            }
            let more = self.step(&mut nats, now);
            nats.flush().await;
            if now >= show_at {
                show_at = now.plus_millis(SHOW);
                self.junction.see_time(incarnation(), now);
                self.show(&nats, received, now);
            }
            if self.orders.is_ending() && self.junction.ends_unseen() {
                return;
            }
            if self.orders.is_ending() && (self.junction.node().is_empty() || self.orders.is_late())
            {
                self.show(&nats, received, now);
                self.junction.node().say_goodbye(now, &mut nats);
                nats.flush().await;
                nats.finish(FAREWELL).await;
                return;
            }
            let patience = if more {
                Duration::ZERO
            } else if self.junction.awaits_room() {
                REST
            } else {
                let due = self.junction.deadline(now).min(show_at);
                Duration::from_millis(due.millis_since(self.now()).max(1))
            };
            received += self.wait(&mut subscribers, nats.replies(), patience).await;
        }
    }

    fn step(&mut self, nats: &mut Nats, now: Instant) -> bool {
        let around = &mut ShardBells { clock: &self.clock, bells: &self.bells };
        self.junction.step(now, nats, around)
    }

    fn now(&self) -> Instant {
        Instant((self.clock)() / 1_000_000)
    }

    /// Waits for frames or for mail of the shards, at most for `patience`, and takes frames in.
    /// Returns their bytes.
    async fn wait(
        &mut self,
        subscribers: &mut [Subscriber; 2],
        replies: &mut Replies,
        patience: Duration,
    ) -> u64 {
        let bell = Arc::clone(&self.bell);
        let mut notified = pin!(bell.notified());
        let mut sleep = pin!(tokio::time::sleep(patience));
        let mut bytes = 0;
        std::future::poll_fn(|context| {
            let now = self.now();
            let taken = take_frames(&mut self.junction, subscribers, now, context);
            bytes += taken.unwrap_or(0);
            let mut answered = false;
            while let Poll::Ready(Some((asker, reply))) = replies.poll_recv(context) {
                self.junction.kept(asker, reply, now);
                answered = true;
            }
            let rung = notified.as_mut().poll(context).is_ready();
            let over = sleep.as_mut().poll(context).is_ready();
            // A timer that is due now fires with the next millisecond only.
            if patience.is_zero() || taken.is_some() || answered || rung || over {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        if patience.is_zero() {
            // The library's own task runs on this thread and needs its turn.
            tokio::task::yield_now().await;
        }
        bytes
    }

    fn show(&self, nats: &Nats, received: u64, now: Instant) {
        let node = self.junction.node();
        let (counts, peers) = node.status(now);
        let (claims, moving) = node.claims();
        let unsent = |why: Unsent| counts.unsent.get(why as usize).copied().unwrap_or(0);
        let mut dropped: Vec<_> = Unsent::ALL.map(|why| (why.word(), unsent(why))).to_vec();
        dropped.push(("given_up", counts.peers.lost));
        let wills = counts.wills;
        let nodes = peers.into_iter().map(|peer| NodeRow {
            name: peer.name,
            incarnation: peer.incarnation,
            up: peer.up,
            settled: peer.settled,
            filters: peer.filters as u64,
            window: peer.window as u64,
            waiting: peer.waiting as u64,
            silent: peer.silent,
            format: peer.can.newest,
            level: peer.can.level,
            ahead: peer.ahead,
            messages: (peer.counts.sent, peer.counts.received),
        });
        self.view.show(ClusterRow {
            name: self.config.name.to_string(),
            node: self.name.clone(),
            connected: nats.is_connected() && !node.is_cut_off(),
            filters: node.filters() as u64,
            frames: (counts.frames_received, counts.frames_sent.saturating_sub(nats.unsent)),
            bytes: (received, nats.bytes),
            sent: counts.peers.sent,
            received: counts.peers.received,
            resends: counts.peers.resends,
            dropped,
            refused: vec![
                ("malformed", counts.refused + counts.peers.malformed),
                ("format", counts.formats),
                ("stale", counts.stale),
                ("same_name", counts.doubles),
                ("too_many_nodes", counts.beyond),
            ],
            disagreements: counts.peers.disagreements,
            unanswered: counts.unanswered,
            retold: counts.retold,
            retained_differ: counts.retained_differ,
            groups_untold: counts.groups_untold,
            unpassed: counts.unpassed,
            claims: claims.claims,
            claims_failed: vec![("unanswered", claims.unanswered), ("lost", claims.lost)],
            sessions: vec![("came", claims.came), ("went", claims.went), ("failed", claims.failed)],
            moving: moving as u64,
            wills: WillsRow {
                told: counts.wills_told,
                kept: counts.wills_kept,
                bytes: counts.wills_bytes,
                published: wills.published,
                dropped: vec![("no_room", wills.no_room), ("no_majority", wills.no_majority)],
            },
            durable: node.adoption(now).map(|of| DurableRow {
                member: of.joined,
                out: of.out,
                adopting: of.busy,
                adoptions: of.counts.done,
                damaged: of.counts.damaged,
                superseded: of.counts.superseded,
                failures: of.counts.failures,
            }),
            nodes: nodes.collect(),
        });
    }
}

/// What an upgrade asks of a node. Who asked may have gone: the upgrade is over for it.
pub enum NodeMove {
    /// Begin to rest.
    Rest,
    /// Say how far that is.
    AskRest(Sender<RestingJunction>),
    /// Pack everything.
    Pack(Sender<Box<MovedNode>>),
    /// Take in what another process has packed.
    Unpack(Box<MovedNode>, Sender<Result<(), String>>),
    /// Serve, or serve again.
    Serve,
}

/// What is counted beside the node, by the names under which it goes to another process.
fn counted_beside<'a>(received: &'a mut u64, nats: &'a mut Nats) -> [NamedCount<'a>; 3] {
    [
        ("bytes_received", received),
        ("bytes_sent", &mut nats.bytes),
        ("frames_unsent", &mut nats.unsent),
    ]
}

/// Does it; beside the junction there are the bytes that were received, and the connection, which
/// counts what is sent.
fn obey(
    junction: &mut Junction,
    asked: NodeMove,
    (received, nats): (&mut u64, &mut Nats),
    now: Instant,
) {
    match asked {
        NodeMove::Rest => junction.rest(),
        NodeMove::AskRest(to) => drop(to.send(junction.resting())),
        NodeMove::Pack(to) => {
            let mut moved = Box::new(junction.pack());
            moved.counted.extend(counted::pack(counted_beside(received, nats)));
            drop(to.send(moved));
        }
        NodeMove::Unpack(moved, to) => {
            counted::add(counted_beside(received, nats), &moved.counted);
            drop(to.send(junction.unpack(*moved, now)));
        }
        NodeMove::Serve => junction.serve(now),
    }
}

/// Takes in the frames that have arrived. Returns their bytes, or `None` when there were none.
fn take_frames(
    junction: &mut Junction,
    subscribers: &mut [Subscriber; 2],
    now: Instant,
    context: &mut Context<'_>,
) -> Option<u64> {
    let mut bytes = None;
    for subscriber in subscribers {
        for _ in 0..FRAMES {
            let Poll::Ready(Some(message)) = Pin::new(&mut *subscriber).poll_next(context) else {
                break;
            };
            junction.received(&message.payload, now);
            *bytes.get_or_insert(0) += message.payload.len() as u64;
        }
    }
    bytes
}

/// The time in microseconds since 1970, from which incarnations and stamps are made.
pub fn incarnation() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as u64
}

/// Milliseconds after which an unreachable node is given up.
pub fn give_up(config: &config::ClusterConfig) -> u64 {
    config.give_up_after.get().as_millis() as u64
}
