//! The part of this shard that survives a restart. Changes of sessions, queues and retained
//! messages become records of the log, and the client or shard that has caused a change waits until
//! it is durable.
//!
//! While `storage.path` is empty, [`Shard`] has no [`Storing`], and everything here costs one
//! branch.
//!
//! # What waits
//! While something that a client's packet has changed is not durable, nothing is sent to that
//! client of what came into its output since then. That is kept ([`Storing::sendable`]) and goes
//! out, complete and in order, when the batches that it waits for are durable, here and on the
//! shards that the client's messages went to. It does not wait for what the client says later. A
//! shard that takes in messages from another one tells it how many of them are safe
//! ([`Control::Safe`]): at once for messages of which nothing had to be stored, and after the
//! commit for the others.
//!
//! [`Control::Safe`]: crate::mesh::mail::Control::Safe

use super::Shard;
use super::away::ReadingBack;
use super::bodies::Bodies;
use super::journal::Journaling;
use super::left::StoredLeftovers;
use super::output::Output;
use super::receipts::Receipts;
use super::returning::Returning;
use super::unstorable::{Lateness, Standing};
use super::withheld::{StoreProgress, Withheld};
use crate::ids::{ShardId, ShardSet, SocketId};
use crate::mesh::mail::Control;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::session::{Queued, StoredSessionRef};
use crate::storage::StorageCommand;
use crate::storage::image::SessionSum;
use crate::storage::log::Log;
use crate::storage::record::{Record, StoreSecret, StoredMessage};
use crate::time::Instant;
use std::collections::VecDeque;

/// Bytes of memory for a connection that waits, with its places in the queues and a few marks.
const WAITER: usize = 256;
/// Bytes of memory for a receipt.
const RECEIPT: usize = 32;

/// The cause of what is being stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Speaker {
    /// Nothing that waits for it.
    Nobody,
    /// A packet of this client of this shard.
    Client(SocketId),
    /// A message from this other shard.
    Shard(ShardId),
}

/// How far the messages to and from another shard are safe.
#[derive(Default)]
struct PeerShard {
    /// How many messages were sent there.
    sent: u64,
    /// How many of these the other shard has reported as safe.
    safe: u64,
    /// How many messages were taken in from there.
    taken: u64,
    /// How many of these are in `marks`, or were reported as safe.
    noted: u64,
    /// The last batch with a record of messages since then.
    batch: u64,
    /// The last receipt of messages since then.
    receipt: u64,
    /// Which messages are safe, and what they wait for, in order.
    marks: VecDeque<Mark>,
}

/// The first `count` messages of another shard are safe when `batch` is durable and all receipts up
/// to `receipt` are closed.
struct Mark {
    count: u64,
    batch: u64,
    receipt: u64,
}

/// What a shard needs in addition when it has a store.
pub struct Storing {
    pub(super) own: ShardId,
    pub(super) log: Log,
    pub(super) secret: StoreSecret,
    /// The time at the zero of the shard's clock, in milliseconds since 1970.
    wall: u64,
    /// The time at the beginning of the step, in microseconds.
    pub(super) micros: u64,
    last_session: u64,
    last_message: u64,
    pub(super) bodies: Bodies,
    /// Bodies that are being read back from the disk, and what ended sessions had there.
    pub(super) reading: ReadingBack,
    /// Subscriptions of sessions whose end is stored.
    pub(super) left: StoredLeftovers,
    pub(super) speaker: Speaker,
    /// The connections whose output waits for the store.
    pub(super) withheld: Withheld,
    pub(super) receipts: Receipts,
    /// Messages that return to their share groups.
    pub(super) returning: Returning,
    peers: Vec<PeerShard>,
    /// The last batch to which something was appended.
    pub(super) appended: u64,
    /// How many records were appended.
    appends: u64,
    due: Option<u64>,
    /// The state of the store that was reported last: how it keeps up, and whether it refuses new
    /// values.
    pub(super) lateness: Lateness,
    pub(super) refuses: bool,
    /// The standing of the store when the waiting publishers were last tried again.
    pub(super) standing: Option<Standing>,
    /// The other shards whose stores refuse new values.
    pub(super) refusing: ShardSet,
    /// True when a fan-out was under way at the end of the last step, or began in this one.
    fanned: bool,
    /// For a hand-over: the sessions that the log has.
    pub(super) expected: Option<(SessionSum, u64)>,
    pub(super) journaling: Option<Box<Journaling>>,
}

impl Storing {
    /// For shard `own` of `shards`, which goes on with `log`. `wall`: the time at the zero of the
    /// shard's clock, in milliseconds since 1970. `last`: the largest numbers that a session and a
    /// message ever had.
    pub fn new(
        log: Log,
        secret: StoreSecret,
        (own, shards): (ShardId, u8),
        wall: u64,
        last: (u64, u64),
    ) -> Storing {
        Storing {
            own,
            log,
            secret,
            wall,
            micros: 0,
            last_session: last.0,
            last_message: last.1,
            bodies: Bodies::default(),
            reading: ReadingBack::default(),
            left: StoredLeftovers::default(),
            speaker: Speaker::Nobody,
            withheld: Withheld::default(),
            receipts: Receipts::default(),
            returning: Returning::default(),
            peers: (0..shards).map(|_| PeerShard::default()).collect(),
            appended: 0,
            appends: 0,
            due: None,
            lateness: Lateness::None,
            refuses: false,
            standing: None,
            refusing: ShardSet::default(),
            fanned: false,
            expected: None,
            journaling: None,
        }
    }

    /// Milliseconds since 1970; `u64::MAX` for the end of time.
    pub(super) fn date(&self, at: Instant) -> u64 {
        if at == Instant::END { u64::MAX } else { self.wall.saturating_add(at.0) }
    }

    /// The reverse of [`Storing::date`]. A date before the zero of the shard's clock becomes that
    /// zero.
    pub(super) fn instant(&self, date: u64) -> Instant {
        if date == u64::MAX { Instant::END } else { Instant(date.saturating_sub(self.wall)) }
    }

    pub(super) fn append(&mut self, record: &Record<'_>) -> u64 {
        self.appended = self.log.append(record, self.micros);
        self.appends += 1;
        self.appended
    }

    /// Appends a record, and makes the speaker wait for it.
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

    /// Appends a record, and makes that client wait for it.
    pub(super) fn append_for(&mut self, socket: Option<SocketId>, record: &Record<'_>) {
        let batch = self.append(record);
        if let Some(socket) = socket {
            self.withheld.wait_for_batch(socket, batch);
        }
    }

    /// The largest number that a session has.
    pub(super) fn last_number(&self) -> u64 {
        self.last_session
    }

    /// The number of a session, which gets one if it has none yet.
    pub(super) fn number_of(&mut self, stored: &mut StoredSessionRef) -> u64 {
        stored.number().unwrap_or_else(|| {
            self.last_session += 1;
            *stored = StoredSessionRef::new(self.last_session, 0);
            self.last_session
        })
    }

    pub(super) fn stored<'a>(&self, message: &MessageRef<'a>) -> StoredMessage<'a> {
        StoredMessage {
            topic: message.topic,
            properties: message.properties,
            payload: message.payload,
            expires: message.expires.map_or(u64::MAX, |at| self.date(at)),
            flags: message.qos as u8 | u8::from(message.retain) << 2,
            accounts: 0,
            stamp: 0,
        }
    }

    /// Stores that `queued` waits for the session at that place; returns its slot, or 0 if the
    /// session is not stored.
    pub(super) fn fan(&mut self, index: u32, known: &mut StoredSessionRef, queued: &Queued) -> u32 {
        let Some(session) = known.number() else { return 0 };
        let slot = known.next_slot();
        let message = self.keep(&queued.message);
        let mut ids = Vec::new();
        for id in queued.subscription_ids.as_slice() {
            ids.extend_from_slice(&id.to_le_bytes());
        }
        let share = queued.share.as_ref().map_or("", |share| share.as_str());
        let flags = queued.qos as u8 | u8::from(queued.retain) << 2;
        let ids = &ids;
        self.append_for_speaker(&Record::Fan { session, slot, message, flags, ids, share });
        self.bodies.set_slot(index, slot, message);
        slot
    }

    /// The number of a message, which is stored first if it is not yet.
    fn keep(&mut self, message: &Message) -> u64 {
        if let Some(number) = self.bodies.number(message) {
            self.bodies.hold_again(number);
            return number;
        }
        self.last_message += 1;
        let number = self.last_message;
        let body = self.stored(&message.view());
        self.append_for_speaker(&Record::Put { message: number, body });
        self.bodies.hold(number, message.clone(), self.log.last_checksum());
        number
    }

    /// Notes that a message does not wait any longer for the session at that place, whose number is
    /// `session`. `said`: the log gets a record of that; otherwise the log only forgets the keys.
    pub(super) fn release(&mut self, index: u32, session: Option<u64>, slot: u32, said: bool) {
        let Some(session) = session else {
            // The session is not stored any longer. The message was kept as one that returns to its
            // group (see [`Shard::store_returns`]), and is done with now.
            self.given_on(slot);
            return;
        };
        let Some(message) = self.bodies.take_slot(index, slot) else { return };
        if said {
            self.append(&Record::Ack { session, slot });
        } else {
            self.log.forget_slot(session, slot);
        }
        self.let_go(message);
    }

    /// Drops a handle of the stored message with that number. The last one removes it from the
    /// store.
    pub(super) fn let_go(&mut self, message: u64) {
        if self.bodies.let_go(message) {
            self.log.forget(crate::storage::record::message_key(message));
        }
    }

    /// How many bytes of the output of a connection do not have to wait for the store.
    pub(super) fn sendable(&mut self, socket: SocketId, output: &Output) -> usize {
        if Mutant::StorageToldEarly.is_on() {
            return usize::MAX;
        }
        let kept = self.kept();
        let Storing { withheld, peers, receipts, .. } = self;
        let sent = withheld.may_send(socket, output.end(), &Reached { kept, peers, receipts });
        sent.map_or(usize::MAX, |position| output.before(position))
    }

    /// Bytes of memory, without messages: these are counted where they wait.
    pub(super) fn held(&self) -> usize {
        self.bodies.held()
            + self.reading.held()
            + self.left.held()
            + self.withheld.len() * WAITER
            + (self.receipts.len() + self.returning.len()) * RECEIPT
            + self.log.memory()
            + self.journaling.as_ref().map_or(0, |journaling| journaling.journal.memory())
    }

    /// Makes that client wait for everything that has been appended so far.
    pub(super) fn wait_for_all(&mut self, socket: SocketId) {
        self.withheld.wait_for_batch(socket, self.appended);
    }

    /// Forgets a connection that is gone, with everything it waited for.
    pub(super) fn forget_socket(&mut self, socket: SocketId) {
        self.withheld.forget(socket);
    }

    /// Counts a message that goes to another shard. `waits`: its publisher waits until it is safe
    /// there.
    pub(super) fn sent(&mut self, shard: ShardId, waits: bool) {
        let Some(peer) = self.peers.get_mut(usize::from(shard.0)) else { return };
        peer.sent += 1;
        let count = peer.sent;
        let waits = waits && !Mutant::StorageRemoteUnwaited.is_on();
        if let (Speaker::Client(socket), true) = (self.speaker, waits) {
            self.withheld.wait_elsewhere(socket, shard, count);
        }
    }

    /// Counts a message of another shard that has been taken in.
    pub(super) fn took(&mut self, shard: ShardId) {
        if let Some(peer) = self.peers.get_mut(usize::from(shard.0)) {
            peer.taken += 1;
        }
        self.speaker = Speaker::Nobody;
    }

    /// Notes that another shard has reported so many messages as safe.
    pub(super) fn safe_there(&mut self, shard: ShardId, count: u64) {
        if let Some(peer) = self.peers.get_mut(usize::from(shard.0)) {
            peer.safe = peer.safe.max(count);
        }
    }

    /// Makes the speaker wait for a fan-out of its message, which goes on in later steps.
    pub(super) fn fans_out(&mut self) {
        self.fanned = true;
        if let Speaker::Client(socket) = self.speaker {
            self.withheld.wait_for_fan_outs(socket);
        }
    }

    /// Begins a receipt for a message of the speaker that goes to a member on another shard, and
    /// makes the speaker wait for it.
    pub(super) fn begin_receipt(&mut self) -> u64 {
        let receipt = self.receipts.begin();
        match self.speaker {
            Speaker::Nobody => {}
            Speaker::Client(socket) => self.withheld.wait_for_receipt(socket, receipt),
            Speaker::Shard(shard) => {
                if let Some(peer) = self.peers.get_mut(usize::from(shard.0)) {
                    peer.receipt = receipt;
                }
            }
        }
        receipt
    }

    /// Closes a receipt whose message is durable, or is to reach no member.
    pub(super) fn close_receipt(&mut self, receipt: u64) {
        self.receipts.close(receipt);
        self.note_given_on(receipt);
    }

    /// How many records have been appended so far; for [`Self::keep_receipt`].
    pub(super) fn appends(&self) -> u64 {
        self.appends
    }

    /// Notes that a session of this shard has taken the message with that receipt of `home`.
    /// `before`: how many records had been appended before that.
    pub(super) fn keep_receipt(&mut self, home: ShardId, receipt: u64, before: u64) {
        let stored = self.appends != before;
        self.receipts.keep(home, receipt, stored.then_some(self.appended));
    }

    /// Handles the receipts whose messages are durable here: closes those of this shard, and
    /// returns those of other shards.
    fn close_durable(&mut self) -> Vec<(ShardId, u64)> {
        let own = self.own;
        let mut taken = self.receipts.take_durable(self.kept());
        taken.retain(|&(home, receipt)| {
            if home == own {
                self.close_receipt(receipt);
            }
            home != own
        });
        taken
    }

    /// What the other shards are to be told at the end of a step: how many of their messages are
    /// safe. `fanning`: fan-outs are under way.
    fn safe_here(&mut self, fanning: bool) -> Vec<(ShardId, u64)> {
        let (durable, appended) = (self.kept(), self.appended);
        let (closed, receipt) = (self.receipts.closed(), self.receipts.last());
        let mut told = Vec::new();
        // The records that a fan-out appends in its last step count, too, even if that is its first
        // step.
        let fanned = std::mem::replace(&mut self.fanned, fanning) || fanning;
        for (at, peer) in self.peers.iter_mut().enumerate() {
            if fanned {
                // Whatever the fan-outs append is not later than the last record.
                (peer.batch, peer.receipt) = (appended, receipt);
            }
            if peer.taken > peer.noted && !fanning {
                peer.noted = peer.taken;
                let (count, batch, receipt) = (peer.taken, peer.batch, peer.receipt);
                peer.marks.push_back(Mark { count, batch, receipt });
            }
            let mut count = None;
            let is_safe = |mark: &mut Mark| mark.batch <= durable && mark.receipt <= closed;
            while let Some(mark) = peer.marks.pop_front_if(is_safe) {
                count = Some(mark.count);
            }
            told.extend(count.map(|count| (ShardId(at as u8), count)));
        }
        if !fanning {
            self.withheld.fan_outs_are_over(appended, receipt);
        }
        told
    }
}

/// How far the log of this shard and the other shards have come.
struct Reached<'a> {
    kept: u64,
    peers: &'a [PeerShard],
    receipts: &'a Receipts,
}

impl StoreProgress for Reached<'_> {
    fn durable(&self) -> u64 {
        self.kept
    }

    fn closed(&self) -> u64 {
        self.receipts.closed()
    }

    fn safe(&self, shard: ShardId) -> u64 {
        self.peers.get(usize::from(shard.0)).map_or(u64::MAX, |peer| peer.safe)
    }
}

impl Shard {
    /// Stores all changes from now on.
    pub fn store_with(&mut self, storing: Storing) {
        self.storing = Some(Box::new(storing));
    }

    /// What the owner of the log's files has to do, in order.
    pub fn storage_commands(&mut self) -> impl Iterator<Item = StorageCommand> {
        self.storing.iter_mut().flat_map(|storing| storing.log.commands.drain(..))
    }

    /// Whether this shard is the home of that ClientId.
    pub fn is_home_of(&self, name: &str) -> bool {
        self.topology.home(name) == self.topology.id
    }

    /// True while changes do not become durable because the disk fails.
    pub fn is_storage_down(&self) -> bool {
        self.storing.as_ref().is_some_and(|storing| storing.log.is_down())
    }

    /// True when everything that was stored is durable, and in the stream if that takes it.
    pub fn is_stored(&self) -> bool {
        self.storing.as_ref().is_none_or(|storing| storing.log.is_settled() && storing.is_level())
    }

    /// How long the oldest change has waited for the disk, in milliseconds.
    pub(super) fn storage_age(&self) -> u64 {
        self.storing.as_ref().map_or(0, |storing| storing.log.age(storing.micros) / 1000)
    }

    /// When the log has to have its turn, even if nothing else happens.
    pub(super) fn storage_due(&self) -> Option<Instant> {
        let due = self.storing.as_ref()?.due?;
        Some(Instant(due.div_ceil(1000)))
    }

    /// Notes the time at the beginning of a step, in microseconds.
    pub(super) fn begin_storing(&mut self, micros: u64) {
        if let Some(storing) = &mut self.storing {
            storing.micros = micros;
            storing.speaker = Speaker::Nobody;
        }
    }

    /// Notes that no client or shard waits for what is stored from now on in this step.
    #[inline]
    pub(super) fn end_packets(&mut self) {
        if let Some(storing) = &mut self.storing {
            storing.speaker = Speaker::Nobody;
        }
    }

    /// Gives the log its turn at the end of a step, and sends the output of the connections whose
    /// changes are durable by now.
    pub(super) fn run_storing(&mut self) {
        let Some(storing) = &mut self.storing else { return };
        let turn = storing.log.turn(storing.micros);
        let journaling = storing.journaling.as_ref().filter(|_| !storing.is_of_predecessor());
        let journal = journaling.and_then(|of| of.journal.due());
        storing.due = [turn, storing.reading.due(), journal].into_iter().flatten().min();
        let kept = storing.close_durable();
        let fanning = !self.delivery.fanouts.is_empty();
        let told = storing.safe_here(fanning && !Mutant::StorageFanOutUnwaited.is_on());
        let kept_up_to = storing.kept();
        let Storing { withheld, peers, receipts, .. } = &mut **storing;
        let released = withheld.take_met(&Reached { kept: kept_up_to, peers, receipts });
        for (shard, count) in told {
            self.mail.outbox.tell(shard, Control::Safe(count));
        }
        for (shard, receipt) in kept {
            self.mail.outbox.tell(shard, Control::Kept(receipt));
        }
        self.tell_given_on();
        for socket in released {
            let Some(connection) = self.connections.get_mut(socket.0) else { continue };
            let Some(output) = &mut connection.output else { continue };
            if !std::mem::replace(&mut output.dirty, true) {
                self.outputs.dirty.push(socket);
            }
        }
    }

    /// Notes that a packet of that client is being handled, so that the client waits for what is
    /// stored.
    #[inline]
    pub(super) fn begin_packet(&mut self, socket: SocketId) {
        if let Some(storing) = &mut self.storing {
            storing.speaker = Speaker::Client(socket);
        }
    }
}
