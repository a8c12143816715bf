//! The part of this shard that survives a restart: changes of sessions, queues and retained
//! messages become records of the log, and whoever has caused a change waits until it is durable.
//!
//! Everything here is `None` and costs one branch while `storage.path` is empty.
//!
//! # What waits
//! While something that a client's packet has changed is not durable, nothing is sent to that
//! client. Its output is kept ([`Storing::withholds`]) and goes out, complete and in order, when
//! the batches that it waits for are durable, here and on the shards that its messages went to. A
//! shard that takes in messages from another one tells it how many of them are safe
//! ([`Control::Safe`]): at once for messages of which nothing had to be stored, and after the
//! commit for the others.
//!
//! [`Control::Safe`]: crate::mesh::mail::Control::Safe

use super::Shard;
use super::withheld::{Progress, Withheld};
use crate::ids::{ShardId, SocketId};
use crate::mesh::mail::Control;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::{Publish, Qos};
use crate::session::Queued;
use crate::storage::log::{Figures, Log};
use crate::storage::record::{Record, Secret, StoredMessage, slot_keys};
use crate::storage::{Answer, Command};
use crate::time::Instant;
use hashbrown::HashMap;
use std::collections::VecDeque;

type Numbers<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// A session that is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Its number in the store.
    pub(super) number: u64,
    /// The number of the last message that waited for it.
    pub(super) slot: u32,
}

/// A message that is stored, and how many sessions wait for it.
struct Kept {
    /// Held, so that its address is no other message's.
    message: Message,
    sessions: u32,
}

/// Who causes what is stored now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Speaker {
    /// Nobody who waits for it.
    Nobody,
    /// A client of this shard.
    Client(SocketId),
    /// A message from another shard.
    Shard(ShardId),
}

/// Another shard.
#[derive(Default)]
struct Peer {
    /// Messages sent there.
    sent: u64,
    /// How many of them it said are safe.
    safe: u64,
    /// Messages taken in from there.
    taken: u64,
    /// How many of them are in `marks`, or it was told of.
    noted: u64,
    /// The last batch that has something of those since.
    batch: u64,
    /// So many are safe when that batch is durable.
    marks: VecDeque<(u64, u64)>,
}

/// What a shard with a store has besides.
pub struct Storing {
    pub(super) log: Log,
    pub(super) secret: Secret,
    /// Milliseconds since 1970 at the zero of the shard's time.
    wall: u64,
    /// The time in microseconds.
    micros: u64,
    pub(super) sessions: Numbers<u32, Known>,
    pub(super) last_session: u64,
    last_message: u64,
    /// The message of each stored reference, by session and number.
    slots: Numbers<(u32, u32), u64>,
    kept: Numbers<u64, Kept>,
    /// Numbers of messages by their address.
    numbers: Numbers<usize, u64>,
    pub(super) speaker: Speaker,
    /// Whose output waits.
    withheld: Withheld,
    peers: Vec<Peer>,
    /// The last batch that something was appended to.
    pub(super) appended: u64,
    due: Option<u64>,
}

impl Storing {
    /// For a shard of `shards`, that goes on with `log`. `wall`: milliseconds since 1970 when its
    /// time was zero. `last`: the largest numbers of a session and of a message that there ever
    /// were.
    pub fn new(log: Log, secret: Secret, shards: u8, wall: u64, last: (u64, u64)) -> Storing {
        Storing {
            log,
            secret,
            wall,
            micros: 0,
            sessions: Numbers::default(),
            last_session: last.0,
            last_message: last.1,
            slots: Numbers::default(),
            kept: Numbers::default(),
            numbers: Numbers::default(),
            speaker: Speaker::Nobody,
            withheld: Withheld::default(),
            peers: (0..shards).map(|_| Peer::default()).collect(),
            appended: 0,
            due: None,
        }
    }

    /// Milliseconds since 1970; the largest number for the end of time.
    pub(super) fn date(&self, at: Instant) -> u64 {
        if at == Instant::END { u64::MAX } else { self.wall.saturating_add(at.0) }
    }

    /// The other way round. What was before the zero of the shard's time is at it.
    pub(super) fn instant(&self, date: u64) -> Instant {
        if date == u64::MAX { Instant::END } else { Instant(date.saturating_sub(self.wall)) }
    }

    pub(super) fn append(&mut self, record: &Record<'_>) -> u64 {
        self.appended = self.log.append(record, self.micros);
        self.appended
    }

    /// Appends what the speaker waits for.
    pub(super) fn append_for_speaker(&mut self, record: &Record<'_>) {
        let batch = self.append(record);
        match self.speaker {
            Speaker::Nobody => {}
            Speaker::Client(socket) => self.withheld.wait_for_batch(socket, batch),
            Speaker::Shard(shard) => {
                if let Some(peer) = self.peers.get_mut(usize::from(shard.0)) {
                    peer.batch = batch;
                }
            }
        }
    }

    /// Appends what that client waits for.
    pub(super) fn append_for(&mut self, socket: Option<SocketId>, record: &Record<'_>) {
        let batch = self.append(record);
        if let Some(socket) = socket {
            self.withheld.wait_for_batch(socket, batch);
        }
    }

    pub(super) fn number(&self, index: u32) -> Option<u64> {
        self.sessions.get(&index).map(|known| known.number)
    }

    pub(super) fn stored<'a>(&self, message: &MessageRef<'a>) -> StoredMessage<'a> {
        StoredMessage {
            topic: message.topic,
            properties: message.properties,
            payload: message.payload,
            expires: message.expires.map_or(u64::MAX, |at| self.date(at)),
            flags: message.qos as u8 | u8::from(message.retain) << 2,
        }
    }

    /// Stores that `queued` waits for the session; returns its number.
    pub(super) fn fan(&mut self, index: u32, queued: &Queued) -> u32 {
        let Some(known) = self.sessions.get_mut(&index) else { return 0 };
        known.slot = known.slot.checked_add(1).unwrap_or(1);
        let Known { number: session, slot } = *known;
        let message = self.keep(&queued.message);
        let mut ids = Vec::new();
        for id in queued.subscription_ids.as_slice() {
            ids.extend_from_slice(&id.to_le_bytes());
        }
        let share = queued.share.as_ref().map_or("", |share| share.as_str());
        let flags = queued.qos as u8 | u8::from(queued.retain) << 2;
        let ids = &ids;
        self.append_for_speaker(&Record::Fan { session, slot, message, flags, ids, share });
        self.slots.insert((index, slot), message);
        slot
    }

    /// The number of a message, which is stored when it is not yet.
    fn keep(&mut self, message: &Message) -> u64 {
        let address = message.address();
        if let Some(number) = self.numbers.get(&address) {
            if let Some(kept) = self.kept.get_mut(number) {
                kept.sessions += 1;
            }
            return *number;
        }
        self.last_message += 1;
        let number = self.last_message;
        let body = self.stored(&message.view());
        self.append_for_speaker(&Record::Put { message: number, body });
        self.hold(number, message.clone());
        number
    }

    /// A session waits for a message that is stored under that number.
    pub(super) fn hold(&mut self, number: u64, message: Message) {
        self.numbers.insert(message.address(), number);
        let kept = self.kept.entry(number).or_insert(Kept { message, sessions: 0 });
        kept.sessions += 1;
    }

    /// A message does not wait for the session any more.
    pub(super) fn release(&mut self, index: u32, slot: u32, said: bool) {
        let Some(message) = self.slots.remove(&(index, slot)) else { return };
        let Some(session) = self.number(index) else { return };
        if said {
            self.append(&Record::Ack { session, slot });
        } else {
            slot_keys(session, slot).into_iter().for_each(|key| self.log.forget(key));
        }
        let Some(kept) = self.kept.get_mut(&message) else { return };
        kept.sessions -= 1;
        if kept.sessions == 0
            && let Some(kept) = self.kept.remove(&message)
        {
            self.numbers.remove(&kept.message.address());
            self.log.forget(crate::storage::record::message_key(message));
        }
    }

    /// A stored session is at that place now.
    pub(super) fn adopt(&mut self, index: u32, number: u64, slot: u32) {
        self.sessions.insert(index, Known { number, slot });
    }

    /// A stored message waits for it.
    pub(super) fn adopt_slot(&mut self, index: u32, slot: u32, number: u64, message: Message) {
        self.slots.insert((index, slot), number);
        self.hold(number, message);
    }

    /// Whether the output of a connection has to wait.
    pub(super) fn withholds(&self, socket: SocketId) -> bool {
        let early = Mutant::StorageToldEarly.is_on();
        self.withheld.holds(socket, &Reached(&self.log, &self.peers)) && !early
    }

    /// That client waits for all that has been appended so far.
    pub(super) fn wait_for_all(&mut self, socket: SocketId) {
        self.withheld.wait_for_batch(socket, self.appended);
    }

    /// The connection is gone.
    pub(super) fn forget_socket(&mut self, socket: SocketId) {
        self.withheld.forget(socket);
    }

    /// A message for another shard is on its way; `waits` if its publisher does.
    pub(super) fn sent(&mut self, shard: ShardId, waits: bool) {
        let Some(peer) = self.peers.get_mut(usize::from(shard.0)) else { return };
        peer.sent += 1;
        let count = peer.sent;
        let waits = waits && !Mutant::StorageRemoteUnwaited.is_on();
        if let (Speaker::Client(socket), true) = (self.speaker, waits) {
            self.withheld.wait_elsewhere(socket, shard, count);
        }
    }

    /// A message of another shard has been taken in.
    pub(super) fn took(&mut self, shard: ShardId) {
        if let Some(peer) = self.peers.get_mut(usize::from(shard.0)) {
            peer.taken += 1;
        }
        self.speaker = Speaker::Nobody;
    }

    /// Another shard says that so many are safe there.
    pub(super) fn safe_there(&mut self, shard: ShardId, count: u64) {
        if let Some(peer) = self.peers.get_mut(usize::from(shard.0)) {
            peer.safe = peer.safe.max(count);
        }
    }

    /// A fan-out of what the speaker sent goes on in later steps.
    pub(super) fn fans_out(&mut self) {
        if let Speaker::Client(socket) = self.speaker {
            self.withheld.wait_for_fan_outs(socket);
        }
    }

    /// What the other shards are to be told at the end of a step in which `fanning` fan-outs are
    /// under way: how many of their messages are safe.
    fn safe_here(&mut self, fanning: bool) -> Vec<(ShardId, u64)> {
        let (durable, appended) = (self.log.durable(), self.appended);
        let mut told = Vec::new();
        for (at, peer) in self.peers.iter_mut().enumerate() {
            if peer.taken > peer.noted && !fanning {
                peer.noted = peer.taken;
                peer.marks.push_back((peer.taken, peer.batch));
            } else if fanning {
                // Whatever they bring comes no later than what is appended last.
                peer.batch = appended;
            }
            let mut count = None;
            while let Some(mark) = peer.marks.pop_front_if(|&mut (_, batch)| batch <= durable) {
                count = Some(mark.0);
            }
            told.extend(count.map(|count| (ShardId(at as u8), count)));
        }
        if !fanning {
            self.withheld.fan_outs_are_over(appended);
        }
        told
    }
}

/// How far a shard's log, and the other shards, have got.
struct Reached<'a>(&'a Log, &'a [Peer]);

impl Progress for Reached<'_> {
    fn durable(&self) -> u64 {
        self.0.durable()
    }

    fn safe(&self, shard: ShardId) -> u64 {
        self.1.get(usize::from(shard.0)).map_or(u64::MAX, |peer| peer.safe)
    }
}

impl Shard {
    /// From now on, what changes is stored.
    pub fn store_with(&mut self, storing: Storing) {
        self.storing = Some(Box::new(storing));
    }

    /// What the owner of the log's files is to do.
    pub fn storage_commands(&mut self) -> impl Iterator<Item = Command> {
        self.storing.iter_mut().flat_map(|storing| storing.log.commands.drain(..))
    }

    /// What became of one of those.
    pub fn storage_answered(&mut self, answer: Answer) {
        let Some(storing) = &mut self.storing else { return };
        storing.log.answered(answer, storing.micros);
        if let Some(trouble) = storing.log.take_trouble() {
            tracing::error!(shard = self.topology.id.0, "storage: {trouble}");
        }
    }

    /// Whether everything that was stored is durable.
    pub fn is_stored(&self) -> bool {
        self.storing.as_ref().is_none_or(|storing| storing.log.is_settled())
    }

    /// Brings the figures of storage up to date.
    pub fn measure_storage(&mut self) {
        let Some(storing) = &self.storing else { return };
        let (log, counters) = (&storing.log, &mut self.counters);
        let Figures { commits, written, copied, failures, troubles } = log.figures();
        counters.storage_commits = commits;
        counters.storage_written = written;
        counters.storage_copied = copied;
        counters.storage_failures = failures;
        counters.storage_troubles = troubles;
        (counters.storage_live, counters.storage_used) = log.sizes();
        counters.storage_values = log.counts().0 as u64;
        counters.storage_backlog = log.backlog() as u64;
        counters.storage_age_nanos = log.age(storing.micros) * 1000;
        counters.storage_waiting = storing.withheld.len() as u64;
        counters.storage_down = u64::from(log.is_down());
        counters.storage_full = u64::from(log.is_full());
    }

    /// When the log wants its turn, if nothing happens before.
    pub(super) fn storage_due(&self) -> Option<Instant> {
        let due = self.storing.as_ref()?.due?;
        Some(Instant(due.div_ceil(1000)))
    }

    /// The time in microseconds at the beginning of a step.
    pub(super) fn begin_storing(&mut self, micros: u64) {
        if let Some(storing) = &mut self.storing {
            storing.micros = micros;
            storing.speaker = Speaker::Nobody;
        }
    }

    /// The end of a step: the log has its turn, and who waited for what is durable by now goes on.
    pub(super) fn run_storing(&mut self) {
        let Some(storing) = &mut self.storing else { return };
        storing.speaker = Speaker::Nobody;
        storing.due = storing.log.turn(storing.micros);
        let told = storing.safe_here(!self.delivery.fanouts.is_empty());
        let released = storing.withheld.take_met(&Reached(&storing.log, &storing.peers));
        for (shard, count) in told {
            self.mail.outbox.tell(shard, Control::Safe(count));
        }
        for socket in released {
            let Some(connection) = self.connections.get_mut(socket.0) else { continue };
            let Some(output) = &mut connection.output else { continue };
            if !std::mem::replace(&mut output.dirty, true) {
                self.outputs.dirty.push(socket);
            }
        }
    }

    /// Whether a publisher has to wait because no new values can be stored now: the disk is full or
    /// fails, or is behind. What may have to be stored is anything but QoS 0 without RETAIN; what
    /// clears a retained message makes room.
    pub(super) fn waits_for_storage(&self, publish: &Publish<'_>) -> bool {
        let clears = publish.retain && publish.payload.is_empty();
        let stored = !clears && (publish.qos > Qos::AtMostOnce || publish.retain);
        stored && self.storing.as_ref().is_some_and(|storing| !storing.log.accepts(storing.micros))
    }

    /// A packet of that client is looked at.
    #[inline]
    pub(super) fn begin_packet(&mut self, socket: SocketId) {
        if let Some(storing) = &mut self.storing {
            storing.speaker = Speaker::Client(socket);
        }
    }
}
