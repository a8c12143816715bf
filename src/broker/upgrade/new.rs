//! The new process's side of an upgrade, while it starts: it takes clients in from the broker that
//! has started it.

mod sorting;

use super::super::admin_servers::node_name;
use super::super::listen::{self, Listening};
use super::super::moving::{ArrivedClients, IncomingClient, MoveOrder};
use super::super::store::{self, Beside};
use super::super::{Broker, Failure};
use super::channel::{Channel, ChannelInput};
use super::requests::is_ours;
use super::{AtRest, IN_HAND, LOOK, ask, tell};
use crate::cluster::serve::NodeMove;
use crate::cluster::start::{Cluster, own_name};
use crate::config::{Config, ListenerConfig};
use crate::ids::{ListenerId, ShardId};
use crate::shard::{ClientOffence, ComingRetained, NetworkOffence};
use crate::storage::store::EarlyPart;
use crate::upgrade::UpgradeFrame;
use crate::upgrade::cluster::MovedNode;
use crate::upgrade::frame::{Ban, Hello, UpgradeTotals};
use crate::upgrade::homes::CopiedHomes;
use crate::upgrade::sides::{New, NewInput, NewOrder};
use crossbeam_channel::Receiver;
use rustix::process::{Signal, getppid, kill_process};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the running broker may be silent, whatever it does.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a core may take to take clients in.
const CORE: Duration = Duration::from_secs(20);
/// No listener has this number.
const CLOSED: ListenerId = ListenerId(u16::MAX);
/// How long the old process may take to end: its bridges send what they have.
const END: Duration = Duration::from_secs(15);

/// The way to the running broker.
pub(in super::super) struct Predecessor {
    channel: Channel,
    side: New,
    pub hello: Hello,
}

/// What has come, and where it goes.
struct Taking {
    channel: Channel,
    side: New,
    /// Listeners of the old process, by its numbers: which one it is here.
    listeners: Vec<(ListenerId, ListenerId)>,
    enrolled: Vec<Enrolled>,
    batches: Vec<CoreParcel>,
    /// Where the copies are that came while the old process serves.
    copies: CopiedHomes,
    /// What the next client was copied as: its home, its shard, and its number there.
    known: Option<(usize, ShardId, u32)>,
    /// Parcels that the cores are taking in, in order: the next ones are read meanwhile.
    under_way: VecDeque<PendingParcel>,
    /// Clients and the like that have come: whom it is nobody's matter where they are get homes by
    /// it.
    count: u64,
    totals: UpgradeTotals,
    /// The shards of the old process that have said which of their copies are not right.
    told: Vec<ShardId>,
    /// How many retained messages those have.
    retained: u64,
    /// How many shards the old process has.
    old_shards: u8,
    /// What the old process knows as a node of a cluster.
    node: Option<Box<MovedNode>>,
    /// What was read of the store while the old process writes to it, by shard.
    read: Vec<Option<EarlyPart>>,
}

/// What of a parcel is for one core.
#[derive(Default)]
struct CoreParcel {
    clients: Vec<IncomingClient>,
    /// Sockets of those that need one, in their order.
    files: Vec<OwnedFd>,
    retained: Vec<ComingRetained>,
    bans: Vec<Ban>,
    offences: (Vec<ClientOffence>, Vec<NetworkOffence>),
    counted: Vec<(Box<str>, u64)>,
}

/// A parcel that cores are taking in.
struct PendingParcel {
    answers: Receiver<Result<u32, String>>,
    /// How many have not answered.
    asked: usize,
}

/// A listener that is known to the shards and does not listen yet.
struct Enrolled {
    id: ListenerId,
    listener: ListenerConfig,
    sockets: Vec<OwnedFd>,
}

impl Predecessor {
    /// Hears who the running broker is.
    ///
    /// # Errors
    /// When it cannot be understood, or speaks another version.
    pub(in super::super) fn greet(
        socket: UnixStream,
        config: &Config,
    ) -> Result<Predecessor, Failure> {
        if !is_ours(&socket).map_err(Failure::new)? {
            return Err(Failure::new("the process that hands over is another user's"));
        }
        let mut side = New::default();
        let mut channel = Channel::new(socket).map_err(Failure::new)?;
        if channel.is_of_parent() {
            side.is_child();
        }
        let heard = channel.hear(SILENCE);
        let ChannelInput::Frame(frame) = heard else {
            return Err(Failure::new("--take-over is said by a broker that is upgraded, only"));
        };
        match side.handle(NewInput::Heard(&frame)) {
            Some(NewOrder::Start) => {}
            Some(NewOrder::GiveUp(why)) => {
                let _ = channel.say(&UpgradeFrame::Refused(why.as_str().into()));
                return Err(Failure::new(why));
            }
            _ => return Err(Failure::new("the running broker does not keep to the protocol")),
        }
        if let UpgradeFrame::Hello(hello) = &frame
            && let Some(why) = other_store(hello, config).or_else(|| other_node(hello, config))
        {
            let _ = channel.say(&UpgradeFrame::Refused(why.as_str().into()));
            return Err(Failure::new(why));
        }
        match frame {
            UpgradeFrame::Hello(hello) => Ok(Predecessor { channel, side, hello }),
            _ => Err(Failure::new("the running broker does not say who it is")),
        }
    }

    /// Takes everything in; returns what to listen with, and how to wait for the old process's end.
    ///
    /// # Errors
    /// When it cannot be; the running broker has been told why, and goes on.
    pub(in super::super) fn take_over(
        self,
        broker: &mut Broker,
        config: &Config,
    ) -> Result<TakenOver, Failure> {
        let (listeners, enrolled) = (Vec::new(), Vec::new());
        let batches = broker.homes.iter().map(|_| CoreParcel::default()).collect();
        let (channel, side) = (self.channel, self.side);
        let shards = broker.homes.len();
        let store = self.hello.store.filter(|store| usize::from(store.shards) != shards);
        let other = store.map(|store| {
            format!(
                "with storage.path an upgrade keeps the number of shards: it is {} and would be \
                 {shards}",
                store.shards
            )
        });
        let totals = UpgradeTotals::default();
        let under_way = VecDeque::new();
        let copies = CopiedHomes::default();
        let mut taking = Taking {
            channel,
            side,
            listeners,
            enrolled,
            batches,
            copies,
            known: None,
            under_way,
            totals,
            count: 0,
            told: Vec::new(),
            retained: 0,
            old_shards: self.hello.shards,
            node: None,
            read: Vec::new(),
        };
        match other.map_or_else(|| taking.run(broker, config), Err) {
            Ok(()) => Ok(TakenOver { channel: taking.channel, enrolled: taking.enrolled }),
            Err(why) => {
                let _ = taking.channel.say(&UpgradeFrame::Refused(why.as_str().into()));
                Err(Failure::new(why))
            }
        }
    }
}

/// Why the new configuration cannot go on with the store of the running broker, or without one.
fn other_store(hello: &Hello, config: &Config) -> Option<String> {
    let own = &*config.storage.path;
    let known = hello.store.as_ref().map_or("", |store| &*store.path);
    let real = |path: &str| std::fs::canonicalize(path).ok();
    let same = own == known || !own.is_empty() && !known.is_empty() && real(own) == real(known);
    (!same).then(|| {
        format!(
            "an upgrade keeps the store: storage.path is {known:?} in the running broker and \
             {own:?} in the new configuration"
        )
    })
}

/// Why the new configuration cannot take the place of the running broker in its cluster.
fn other_node(hello: &Hello, config: &Config) -> Option<String> {
    let known = hello.node.as_ref().map_or(("", ""), |(cluster, node)| (&**cluster, &**node));
    let cluster = &*config.cluster.name;
    let own = own_name(config, &node_name());
    let own = (cluster, if cluster.is_empty() { "" } else { &*own });
    let durable = config.cluster.durable && !cluster.is_empty();
    if own == known && durable != hello.durable {
        let (old, new) = (hello.durable, durable);
        return Some(format!("an upgrade keeps cluster.durable: it is {old} and would be {new}"));
    }
    (own != known).then(|| {
        format!(
            "an upgrade keeps the node: cluster and node are {known:?} in the running broker and \
             {own:?} in the new configuration"
        )
    })
}

impl CoreParcel {
    /// True when there is nothing to take in.
    fn is_empty(&self) -> bool {
        let CoreParcel { clients, files: _, retained, bans, offences, counted } = self;
        let offences = offences.0.is_empty() && offences.1.is_empty();
        let others = retained.is_empty() && bans.is_empty() && counted.is_empty();
        clients.is_empty() && others && offences
    }
}

impl Taking {
    fn run(&mut self, broker: &mut Broker, config: &Config) -> Result<(), String> {
        broker.tell_move(|| MoveOrder::Suspend);
        for listener in &config.listeners {
            let id = broker.enroll(listener).map_err(|failure| failure.to_string())?;
            let listener = listener.clone();
            self.enrolled.push(Enrolled { id, listener, sockets: Vec::new() });
        }
        let mut order = self.side.handle(NewInput::Started(broker.homes.len() as u8));
        loop {
            match order {
                Some(NewOrder::SayReady(shards)) => {
                    self.channel.say(&UpgradeFrame::Ready(shards))?
                }
                Some(NewOrder::Settle) => {
                    let input = match self.settle(broker) {
                        Ok(totals) => NewInput::Holds(totals),
                        Err(why) => NewInput::Failed(why),
                    };
                    order = self.side.handle(input);
                    continue;
                }
                Some(NewOrder::SayPrepared(totals)) => {
                    // Should old be dead, that is heard next.
                    let _ = self.channel.say(&UpgradeFrame::Prepared(totals));
                }
                Some(NewOrder::Serve) => {
                    self.say_what_is_lost();
                    broker.serve_taken_over();
                    return Ok(());
                }
                Some(NewOrder::SayCommittedAndServe) => {
                    self.channel.say(&UpgradeFrame::Committed)?;
                    broker.serve_taken_over();
                    return Ok(());
                }
                Some(NewOrder::GiveUp(why)) => return Err(why),
                Some(NewOrder::Start | NewOrder::Take) | None => {}
            }
            let heard = self.channel.hear(SILENCE);
            let input = match &heard {
                ChannelInput::Frame(frame) => NewInput::Heard(frame),
                ChannelInput::Late => NewInput::Failed("the running broker is silent".to_owned()),
                ChannelInput::Ended => NewInput::Ended,
                ChannelInput::Failed(why) => NewInput::Failed(why.clone()),
            };
            order = self.side.handle(input);
            if let (Some(NewOrder::Take), ChannelInput::Frame(frame)) = (&order, heard)
                && let Err(why) = self.take(frame, broker, config)
            {
                order = self.side.handle(NewInput::Failed(why));
            }
        }
    }

    /// The old process has died in the middle. What has come is right, but it may not be all; with
    /// a store it is.
    fn say_what_is_lost(&self) {
        let UpgradeTotals { connections, sessions, retained } = self.totals;
        tracing::warn!(
            connections,
            sessions,
            retained,
            retained_lost = self.retained.saturating_sub(retained),
            shards_lost = usize::from(self.old_shards).saturating_sub(self.told.len()),
            "the old process died in the middle: this one serves what it has"
        );
    }

    fn take(
        &mut self,
        frame: UpgradeFrame,
        broker: &mut Broker,
        config: &Config,
    ) -> Result<(), String> {
        match frame {
            UpgradeFrame::Listener(told) => {
                let files = (0..told.sockets).map_while(|_| self.channel.take_file());
                let files: Vec<OwnedFd> = files.collect();
                if files.len() != usize::from(told.sockets) {
                    return Err("a listening socket is missing".to_owned());
                }
                let same = |known: &&mut Enrolled| *known.listener.name == *told.name;
                let Some(known) = self.enrolled.iter_mut().find(same) else {
                    let name = &told.name;
                    return Err(format!(
                        "listener {name} is not in the new configuration: its clients would be \
                         lost"
                    ));
                };
                self.listeners.push((told.id, known.id));
                if known.listener.bind.to_string() == *told.bind {
                    known.sockets = files;
                }
            }
            UpgradeFrame::Tickets(listener, keys) => {
                let id = self.listener(listener)?;
                let open = broker.open.iter().find(|open| open.id == id);
                if let Some(secured) = open.and_then(|open| open.secured.as_ref()) {
                    secured.adopt_tickets(&keys);
                }
            }
            UpgradeFrame::Store => {
                if broker.store.is_none() {
                    let lock = self.channel.take_file();
                    let lock = lock.ok_or("the lock of the store is missing")?;
                    let store = store::take_over(config, broker.homes.len() as u8, lock)?;
                    broker.store = Some(store);
                }
                // Old waits for all that it has sent so far.
                self.wait_for_all()?;
                self.read_store(broker);
                // Should old be dead, that is heard in time.
                let _ = self.channel.say(&UpgradeFrame::Taken(0));
            }
            UpgradeFrame::Durable => {
                broker.take_store(config, std::mem::take(&mut self.read))?;
            }
            UpgradeFrame::Node(moved) => self.node = Some(moved),
            UpgradeFrame::Files(0) => self.hand_on(broker)?,
            UpgradeFrame::Files(_) => {} // those are taken with the clients that follow
            frame => self.sort(frame, broker)?,
        }
        Ok(())
    }

    /// Reads on in the store, to which the old process writes.
    fn read_store(&mut self, broker: &Broker) {
        let Some(store) = &broker.store else { return };
        let began = Instant::now();
        let read = std::mem::take(&mut self.read);
        self.read = store::read_early(store, broker.homes.len() as u8, read);
        let whole = self.read.iter().filter(|read| read.is_some()).count();
        let millis = began.elapsed().as_millis() as u64;
        tracing::info!(shards = whole, millis, "storage read while the old process writes to it");
    }

    fn listener(&self, old: ListenerId) -> Result<ListenerId, String> {
        let known = self.listeners.iter().find(|(id, _)| *id == old).map(|(_, here)| *here);
        known.ok_or_else(|| {
            "a client came by a listener that is closed by now: it cannot be handed over".to_owned()
        })
    }

    /// Gives each core its clients of this parcel. While the cores take them in, the next parcels
    /// are read: [`IN_HAND`] at most, since of sockets that no ring has yet there is a bound.
    fn hand_on(&mut self, broker: &Broker) -> Result<(), String> {
        let (taken, answers) = crossbeam_channel::bounded(broker.homes.len());
        let mut asked = 0;
        for (home, batch) in broker.homes.iter().zip(&mut self.batches) {
            if batch.is_empty() {
                continue;
            }
            let CoreParcel { clients, files, retained, bans, offences, counted } =
                std::mem::take(batch);
            let taken = taken.clone();
            let arrived =
                ArrivedClients { clients, files, retained, bans, offences, counted, taken };
            tell(home, MoveOrder::TakeIn(Box::new(arrived)));
            asked += 1;
        }
        self.under_way.push_back(PendingParcel { answers, asked });
        while self.under_way.len() > IN_HAND {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits until the oldest parcel is taken in, and says so.
    fn wait(&mut self) -> Result<(), String> {
        let Some(PendingParcel { answers, asked }) = self.under_way.pop_front() else {
            return Ok(());
        };
        let mut count = 0;
        for _ in 0..asked {
            let answer = answers.recv_timeout(CORE);
            count += answer.map_err(|_| "a shard does not take its clients in".to_owned())??;
        }
        // Should old be dead, that is heard in time.
        let _ = self.channel.say(&UpgradeFrame::Taken(count));
        Ok(())
    }

    /// Waits until every parcel is taken in.
    fn wait_for_all(&mut self) -> Result<(), String> {
        while !self.under_way.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits until the shards have told each other of the members of share groups.
    fn settle(&mut self, broker: &Broker) -> Result<UpgradeTotals, String> {
        self.hand_on(broker)?;
        self.wait_for_all()?;
        let told: Arc<[ShardId]> = self.told.as_slice().into();
        broker.tell_move(|| MoveOrder::EndStale(Arc::clone(&told), self.old_shards));
        self.wait_for_rest(broker)?;
        if let (Some(moved), Some(cluster)) = (self.node.take(), &broker.cluster) {
            // The filters of the clients are known to the cluster's thread by now.
            let answer = cluster.handle().ask(|to| NodeMove::Unpack(moved, to));
            answer.ok_or("the cluster's thread does not answer")??;
            self.wait_for_rest(broker)?;
        }
        let checked = ask(&broker.homes, MoveOrder::CheckStored);
        if checked.len() < broker.homes.len() {
            return Err("a shard does not say whether its store is whole".to_owned());
        }
        checked.into_iter().collect::<Result<(), String>>()?;
        let held = ask(&broker.homes, MoveOrder::CountHeld);
        held.iter().for_each(|held| self.totals.add(held));
        Ok(self.totals)
    }

    fn wait_for_rest(&self, broker: &Broker) -> Result<(), String> {
        let node = broker.cluster.as_ref().map(Cluster::handle);
        let until = Instant::now() + CORE;
        let mut before: Option<AtRest> = None;
        loop {
            let all = AtRest::of(&broker.homes, node.as_ref());
            let rests = all.as_ref().is_some_and(|all| all.under_way().is_none());
            if rests && before == all {
                return Ok(());
            }
            if Instant::now() > until {
                return Err("the shards do not come to rest".to_owned());
            }
            before = all.filter(|_| rests);
            std::thread::sleep(LOOK);
        }
    }
}

/// All clients are here and served; the listeners do not listen yet.
pub(in super::super) struct TakenOver {
    channel: Channel,
    enrolled: Vec<Enrolled>,
}

impl TakenOver {
    /// Listens: with the sockets that came, or with new ones where there are none. Returns names
    /// and addresses.
    pub(in super::super) fn listen(&mut self, broker: &mut Broker) -> Vec<String> {
        let mut bound = Vec::new();
        for Enrolled { id, listener, sockets } in self.enrolled.drain(..) {
            let listening: Result<Listening, _> = match sockets.is_empty() {
                true => listen::open(&listener, broker.homes.len()),
                false => listen::inherit(&listener, sockets, broker.homes.len()),
            };
            match listening {
                Ok(listening) => bound.push(broker.listen(id, &listener, listening)),
                // The clients are served all the same; the operator sees what is missing.
                Err(failure) => tracing::error!("{failure}"),
            }
        }
        bound
    }

    /// Waits until the old process has ended, whose admin addresses are free then. One that does
    /// not end has nothing to do any more, and is killed: what it still has, only one can have.
    pub(in super::super) fn wait_for_end(mut self) {
        let until = Instant::now() + END;
        while Instant::now() < until {
            if !matches!(self.channel.hear(END), ChannelInput::Frame(_) | ChannelInput::Late) {
                return;
            }
        }
        if self.channel.is_of_parent()
            && let Some(parent) = getppid()
        {
            tracing::error!(pid = parent.as_raw_nonzero().get(), "the old process does not end");
            let _ = kill_process(parent, Signal::KILL);
            self.channel.hear(END);
        }
    }
}

impl Broker {
    /// Goes on with the store of the old process, of which so much is read. It is not changed
    /// before [`MoveOrder::Serve`].
    fn take_store(&mut self, config: &Config, read: Vec<Option<EarlyPart>>) -> Result<(), String> {
        let shards = self.homes.len() as u8;
        let store = self.store.as_ref().ok_or("the lock of the store is missing")?;
        let beside = Beside::Predecessor;
        let stored = store::read(Some(store), config, shards, self.clock, beside, read)
            .map_err(|failure| failure.to_string())?;
        let (sender, answers) = crossbeam_channel::bounded(self.homes.len());
        for (home, stored) in self.homes.iter().zip(stored) {
            tell(home, MoveOrder::Store(Box::new(stored), sender.clone()));
        }
        for _ in 0..shards {
            let answer = answers.recv_timeout(CORE);
            answer.map_err(|_| "a shard does not take its store".to_owned())??;
        }
        Ok(())
    }

    /// Serves what has come.
    fn serve_taken_over(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.handle().tell(NodeMove::Serve);
        }
        self.tell_move(|| MoveOrder::Serve);
    }

    /// Tells every core.
    fn tell_move(&self, order: impl Fn() -> MoveOrder) {
        self.homes.iter().for_each(|home| tell(home, order()));
    }
}
