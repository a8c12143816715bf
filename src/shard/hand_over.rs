//! Clients on their way from their entry shard to their home shard, as the entry shard sees them.
//!
//! A client whose CONNECT is complete and whose home is another shard belongs to this shard until
//! the kernel has moved its socket; only then is the home shard told. If the socket cannot be
//! moved, the client waits in a queue for its home and is tried again, with a back-off per home,
//! until it has waited for `mqtt.connect_timeout`. Then it is told that the server is busy. (A
//! socket cannot be moved when the rings of the home have no room and the home is too busy to make
//! some, when the kernel lacks a resource, or when the home's mailbox is full.) Waiting clients are
//! read, so that a client that disconnects is noticed: its CONNECT must not take over the session
//! of a later one. The memory that all waiting clients hold is bounded.

use super::close::Cause;
use super::connection::{Connection, Input, Parting, Stage};
use super::output::Output;
use super::refuse::Denial;
use super::timers::AGAIN;
use super::{Action, Shard};
use crate::ids::{ShardId, SocketId};
use crate::limits::{HAND_OVER_BYTES, HAND_OVER_QUEUE, cost};
use crate::mesh::mail::{Arriving, Control};
use crate::mutant::Mutant;
use crate::packet;
use crate::time::Instant;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Bytes that are counted for a client on its way, besides those that it has sent.
const OVERHEAD: usize = 256;
/// Milliseconds between two attempts for the clients of one home, at most.
const LONGEST_PAUSE: u64 = 50;
/// Clients of one home that the driver is asked to move at a time, at most.
const WIDEST: usize = 256;
/// Control mails staged for a shard from which on it is sent no more clients.
const STAGED: usize = 256;

/// One client on its way.
struct DepartingClient {
    home: ShardId,
    cookie: u64,
    /// The ClientId that the broker has assigned to the client, if it has.
    assigned: Option<Box<str>>,
    /// Bytes of the client's CONNECT, with which the connection's input begins.
    connect: usize,
    /// What is counted for it in [`Departures::bytes`].
    bytes: usize,
    /// Until when the hand-over is tried.
    until: Instant,
    /// The driver has been asked to move the socket and has not answered.
    asked: bool,
}

/// The clients that wait for one home.
#[derive(Default)]
struct HomeQueue {
    /// The clients that are tried next, each with its cookie: the socket may be another client's by
    /// then.
    waiting: VecDeque<(SocketId, u64)>,
    /// Clients that the driver has been asked to move.
    asked: usize,
    /// How many clients of this queue the driver may be asked to move at a time.
    width: usize,
    /// Milliseconds from the last failure to the next attempt.
    pause: u64,
    retry_at: Instant,
}

impl HomeQueue {
    fn failed(&mut self, now: Instant) {
        if self.retry_at <= now {
            self.pause = (self.pause * 2).clamp(1, LONGEST_PAUSE);
        }
        self.width = 1;
        self.retry_at = now.plus_millis(self.pause);
    }

    fn moved(&mut self) {
        self.width = (self.width * 2).clamp(1, WIDEST);
        (self.pause, self.retry_at) = (0, Instant(0));
    }

    fn may_ask(&self, now: Instant) -> bool {
        self.asked < self.width.max(1) && self.retry_at <= now
    }
}

/// Every client on its way from this shard.
pub(super) struct Departures {
    all: HashMap<SocketId, Box<DepartingClient>>,
    lines: Vec<HomeQueue>,
    /// Bytes that are counted for all clients on their way.
    bytes: usize,
    /// Entries of all queues.
    queued: usize,
}

impl Departures {
    /// True when no client is on its way and no queue has an entry, not even of a client that has
    /// left.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.queued == 0
    }

    pub(super) fn new(shards: u8) -> Self {
        let lines = (0..shards).map(|_| HomeQueue::default()).collect();
        Departures { all: HashMap::new(), lines, bytes: 0, queued: 0 }
    }

    /// Clients on their way, and their bytes.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.all.len(), self.bytes)
    }

    /// When some client is to be tried next; `None` while none waits for that.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let ready = |line: &&HomeQueue| !line.waiting.is_empty() && line.asked < line.width.max(1);
        self.lines.iter().filter(ready).map(|line| line.retry_at).min()
    }

    fn line(&mut self, home: ShardId) -> &mut HomeQueue {
        &mut self.lines[usize::from(home.0)]
    }

    /// Takes out a client whose socket the driver does not have.
    fn take(&mut self, socket: SocketId) -> Option<Box<DepartingClient>> {
        self.all.get(&socket).filter(|departing| !departing.asked)?;
        let departing = self.all.remove(&socket)?;
        self.bytes -= departing.bytes;
        self.shrink();
        Some(departing)
    }

    /// The client does not wait for its home any more; false when it did not wait.
    pub(super) fn leave(&mut self, socket: SocketId) -> bool {
        self.take(socket).is_some()
    }

    fn shrink(&mut self) {
        if self.all.is_empty() && self.all.capacity() > 1024 {
            self.all = HashMap::new();
        }
    }
}

impl Shard {
    /// A client whose CONNECT is the first `connect` of `bytes` is to go to its home.
    pub(super) fn depart(
        &mut self,
        socket: SocketId,
        home: ShardId,
        assigned: Option<Box<str>>,
        connect: usize,
        bytes: &[u8],
    ) {
        let size = bytes.len() + OVERHEAD;
        let full = self.entrance.departures.bytes + size > HAND_OVER_BYTES
            || self.entrance.departures.queued >= HAND_OVER_QUEUE;
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        connection.keep_input(Input::of(bytes), &mut self.memory.tally.input);
        if full {
            self.deny(socket, connect, Denial::Busy);
            return;
        }
        connection.stage = Stage::HandingOver;
        let sending = connection.output.as_deref().is_some_and(Output::is_sending);
        // From here on it is counted with the clients on their way.
        self.memory.tally.input -= connection.input.as_ref().map_or(0, |input| input.capacity());
        let until = self.now.plus_millis(self.settings.connect_timeout);
        self.arm_connection(socket, until);
        let cookie = cookie(home, self.topology.id, self.topology.ticket());
        let departures = &mut self.entrance.departures;
        departures.bytes += size;
        let departing =
            DepartingClient { home, cookie, assigned, connect, bytes: size, until, asked: false };
        departures.all.insert(socket, Box::new(departing));
        // What the connection's layers have sent, such as the end of a handshake, must be out: a
        // socket with a send in flight cannot be moved. The completion of that send goes on with
        // the hand-over.
        if !sending || Mutant::MovedWhileSending.is_on() {
            self.set_out(socket);
        }
    }

    /// No send is in flight on the socket: the driver is asked to move it now, or the client waits
    /// in the queue of its home.
    pub(super) fn set_out(&mut self, socket: SocketId) {
        let Some(departing) = self.entrance.departures.all.get(&socket) else { return };
        let (home, cookie) = (departing.home, departing.cookie);
        if departing.asked {
            return;
        }
        if self.entrance.departures.line(home).waiting.is_empty() && self.has_room_for_clients(home)
        {
            self.ask(socket);
        } else {
            self.entrance.departures.line(home).waiting.push_back((socket, cookie));
            self.entrance.departures.queued += 1;
            self.watch(socket);
        }
    }

    /// The driver's answer to [`Action::HandOver`].
    pub(super) fn after_hand_over(&mut self, socket: SocketId, cookie: u64, ok: bool) {
        let now = self.now;
        let Some(departing) = self.entrance.departures.all.get_mut(&socket) else { return };
        if departing.cookie != cookie || !departing.asked {
            return;
        }
        departing.asked = false;
        let (home, late) = (departing.home, departing.until <= now);
        let line = self.entrance.departures.line(home);
        line.asked -= 1;
        if ok {
            line.moved();
            self.departed(socket);
            return;
        }
        self.counters.handover_failures += 1;
        line.failed(now);
        let gone = self.connections.get(socket.0).is_some_and(|c| c.parting != Parting::No);
        if Mutant::HandOverGivenUp.is_on() {
            self.leave_line(socket);
            self.disconnect(socket, Cause::Rejected);
        } else if self.work.stopping.draining || late {
            self.give_up(socket);
        } else {
            self.entrance.departures.line(home).waiting.push_front((socket, cookie));
            self.entrance.departures.queued += 1;
            if !gone || !self.depart_parted(socket) {
                self.watch(socket);
            }
        }
    }

    /// The socket is on the home's ring: the home hears of the client, and counts it with its
    /// listener from now on.
    fn departed(&mut self, socket: SocketId) {
        let Some(departing) = self.entrance.departures.take(socket) else { return };
        let Some(connection) = self.connections.remove(socket.0) else { return };
        let source = connection.source();
        let Connection { listener, peer, input, output, layered, .. } = connection;
        let bytes = input.map(|input| input.into_bytes()).unwrap_or_default();
        let DepartingClient { cookie, assigned, home, .. } = *departing;
        let layers = if layered { self.take_layers(socket) } else { None };
        if let Some(layers) = &layers {
            self.forget_keys(layers);
        }
        let layers = layers.filter(|_| !Mutant::LayersLeftBehind.is_on());
        let wire = output.map_or_else(Vec::new, |output| {
            let mut wire = output.wire().to_vec();
            if Mutant::WireLeftBehind.is_on() {
                wire.clear();
            }
            self.outputs.pool.put_output(output);
            wire
        });
        let arriving = Arriving { cookie, listener, peer, source, assigned, bytes, layers, wire };
        self.mail.outbox.tell(home, Control::Connect(Box::new(arriving)));
        self.counters.handovers_out += 1;
    }

    /// Tries the waiting clients whose turn it is, until the step's work comes to `limit`. While
    /// the broker drains, refuses these clients instead.
    pub(super) fn run_departures(&mut self, limit: u32) {
        self.counters.handovers_waiting = self.entrance.departures.all.len() as u64;
        if self.entrance.departures.queued == 0 {
            return;
        }
        for home in (0..self.topology.shards).map(ShardId) {
            while !self.is_spent(limit) {
                let (draining, now) = (self.work.stopping.draining, self.now);
                let room = self.has_room_for_clients(home);
                let line = self.entrance.departures.line(home);
                if line.waiting.is_empty() || !draining && !line.may_ask(now) {
                    break;
                }
                if !draining && !room {
                    line.failed(now);
                    break;
                }
                let Some((socket, cookie)) = line.waiting.pop_front() else { break };
                line.waiting.shrink_to(64.max(line.waiting.len() * 2));
                self.entrance.departures.queued -= 1;
                self.meter.charge(cost::PACKET);
                let waits = |d: &DepartingClient| d.cookie == cookie && !d.asked;
                if !self
                    .entrance
                    .departures
                    .all
                    .get(&socket)
                    .is_some_and(|departing| waits(departing))
                {
                    continue;
                }
                self.meter.charge(cost::SEND);
                if draining {
                    self.give_up(socket);
                } else {
                    self.ask(socket);
                }
            }
        }
    }

    /// The time in which a client has to be handed over may have passed.
    pub(super) fn departure_due(&mut self, socket: SocketId) {
        let now = self.now;
        let Some(departing) = self.entrance.departures.all.get(&socket) else { return };
        if departing.until > now {
            let until = departing.until;
            self.arm_connection(socket, until);
        } else if departing.asked {
            self.arm_connection(socket, now.plus_millis(AGAIN));
        } else {
            self.give_up(socket);
        }
    }

    /// A waiting client has sent more: the bytes go to its home with the rest, and no more is read.
    pub(super) fn receive_departing(&mut self, socket: SocketId, bytes: &[u8]) {
        let Some(departing) = self.entrance.departures.all.get_mut(&socket) else { return };
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        departing.bytes += bytes.len();
        self.entrance.departures.bytes += bytes.len();
        connection.input.get_or_insert_default().extend(bytes);
    }

    /// What came from a waiting client was not for MQTT, but for the connection's layers: more may
    /// come.
    pub(super) fn watch_departing(&mut self, socket: SocketId) {
        if self.entrance.departures.all.get(&socket).is_some_and(|departing| !departing.asked) {
            self.watch(socket);
        }
    }

    /// A waiting client has closed its side, or its connection broke; true when that ends the
    /// connection. Unless the connection broke, a client that has sent more than its CONNECT is
    /// still handed over: it may have published a message before it closed.
    pub(super) fn depart_parted(&mut self, socket: SocketId) -> bool {
        let Some(departing) = self.entrance.departures.all.get(&socket) else { return false };
        let Some(connection) = self.connections.get(socket.0) else { return false };
        let sent = connection.input.as_ref().map_or(0, |input| input.rest().len());
        let broken = connection.parting == Parting::Broken;
        let stays = sent > departing.connect && !broken || Mutant::LeftStillHandedOver.is_on();
        if departing.asked || stays {
            return false;
        }
        self.leave_line(socket);
        self.disconnect(socket, if broken { Cause::Broken } else { Cause::EndOfStream });
        true
    }

    /// Tells a waiting client that it is not admitted.
    fn give_up(&mut self, socket: SocketId) {
        let connect = self.entrance.departures.all.get(&socket).map(|departing| departing.connect);
        let Some(connect) = connect.filter(|_| self.leave_line(socket)) else { return };
        if Mutant::BusyUntold.is_on() {
            self.disconnect(socket, Cause::Rejected);
            return;
        }
        let denial = if self.work.stopping.draining { Denial::Draining } else { Denial::Busy };
        self.deny(socket, connect, denial);
    }

    fn ask(&mut self, socket: SocketId) {
        let Some(departing) = self.entrance.departures.all.get_mut(&socket) else { return };
        departing.asked = true;
        let (home, cookie) = (departing.home, departing.cookie);
        self.entrance.departures.line(home).asked += 1;
        self.outputs.actions.push(Action::HandOver(socket, home, cookie));
    }

    /// Reads a waiting client, to notice when it gives up. Once more than its CONNECT has come,
    /// nothing more is read: the rest stays in the kernel.
    fn watch(&mut self, socket: SocketId) {
        let Some(departing) = self.entrance.departures.all.get(&socket) else { return };
        let Some(connection) = self.connections.get(socket.0) else { return };
        let sent = connection.input.as_ref().map_or(0, |input| input.rest().len());
        if sent == departing.connect && connection.parting == Parting::No {
            self.outputs.actions.push(Action::ReceiveOnce(socket));
        }
    }

    /// Whether that shard takes in its mail fast enough to be sent more clients.
    fn has_room_for_clients(&mut self, home: ShardId) -> bool {
        self.mail.outbox.to(home).control.len() < STAGED
    }

    /// Denies a client whose CONNECT is the first `connect` bytes of its input.
    fn deny(&mut self, socket: SocketId, connect: usize, denial: Denial) {
        let connection = self.connections.get_mut(socket.0);
        let input = connection.and_then(|c| c.take_input(&mut self.memory.tally.input));
        let Some(input) = input else { return };
        let bytes = input.rest().get(..connect).unwrap_or_default();
        match packet::decode_connect(bytes) {
            Ok(connect) => self.deny_connect(socket, &connect, denial),
            Err(_) => self.disconnect(socket, Cause::Rejected),
        }
    }
}

/// A number that names one client's hand-over: where to, where from, and which.
fn cookie(to: ShardId, from: ShardId, number: u64) -> u64 {
    u64::from(to.0) << 48 | u64::from(from.0) << 40 | number & ((1 << 40) - 1)
}
