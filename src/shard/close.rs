//! How connections and sessions end: causes, last packets, wills, expiry.

use super::connection::{Connection, Parting, Stage};
use super::memory::named;
use super::{Action, Shard};
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mesh::mail::Over;
use crate::message::{Message, MessageRef, expiry};
use crate::mutant::Mutant;
use crate::packet::{self, Disconnect, ReasonCode, Version, Violation};
use crate::session::{NEVER, Session, Will};
use crate::time::Instant;

/// Milliseconds a closing connection has to take its last packets.
pub(super) const LAST_WORDS: u64 = 5000;
/// Bytes of a CONNACK or DISCONNECT besides the text of its reason string, at most.
pub(super) const LONGEST_HEAD: usize = 12;
/// Connections ended per step because their peers are gone: less than a millisecond's work.
const PARTINGS: usize = 64;

/// Expired messages taken out of one offline session's queue per turn, and when the step has no
/// work to spare.
const EXPIRED: u32 = 256;
const FEW_EXPIRED: u32 = 8;

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The client sent DISCONNECT with this reason code.
    Client(ReasonCode),
    /// The client broke a rule.
    Violation(Violation),
    /// Another connection claimed the ClientId.
    TakenOver,
    /// Nothing was received for longer than the keep-alive allows [MQTT-3.1.2-22].
    KeepAlive,
    /// The peer closed its side.
    EndOfStream,
    /// The connection broke.
    Broken,
    /// CONNECT was refused; the CONNACK, if one is owed, is written.
    Rejected,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The client's queues are full and the policy says disconnect.
    QueueFull,
    /// The broker holds as much as it may, and this client would have it hold more.
    Memory,
    /// The broker stops.
    Draining,
}

impl Cause {
    /// What a v5 client is told in DISCONNECT, if anything.
    fn farewell(self) -> Option<(ReasonCode, &'static str)> {
        match self {
            Cause::Violation(violation) => Some((violation.reason, violation.what)),
            Cause::TakenOver if Mutant::TakeoverUntold.is_on() => None,
            Cause::TakenOver => {
                Some((ReasonCode::SessionTakenOver, "another connection uses this ClientId"))
            }
            Cause::KeepAlive => Some((ReasonCode::KeepAliveTimeout, "keep alive exceeded")),
            Cause::QueueFull => Some((ReasonCode::QuotaExceeded, "the pending queue is full")),
            Cause::Memory => Some((ReasonCode::QuotaExceeded, "the server is short of memory")),
            Cause::Draining => Some((ReasonCode::ServerShuttingDown, "the server is stopping")),
            _ => None,
        }
    }

    /// For the log: why, and the reason code of a DISCONNECT if there is one.
    pub(super) fn words(self) -> (&'static str, Option<u8>) {
        let word = match self {
            Cause::Client(code) => return ("the client said goodbye", Some(code as u8)),
            Cause::EndOfStream => "the client closed the connection",
            Cause::Broken => "the connection broke",
            Cause::Rejected => "refused",
            Cause::ConnectTimeout => "no CONNECT in time",
            _ => "ended by the server",
        };
        self.farewell().map_or((word, None), |(code, what)| (what, Some(code as u8)))
    }

    /// Only DISCONNECT with reason 0x00 deletes the will [MQTT-3.14.4-3].
    fn deletes_will(self) -> bool {
        self == Cause::Client(ReasonCode::Success) && !Mutant::WillAfterDisconnect.is_on()
            || self == Cause::TakenOver && Mutant::WillLostOnTakeover.is_on()
    }
}

impl Shard {
    /// Ends a connection for `cause`. Calling it for one that is closing or gone does nothing.
    pub(super) fn disconnect(&mut self, socket: SocketId, cause: Cause) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let (stage, listener, peer) = (connection.stage, connection.listener, connection.peer);
        match stage {
            Stage::Closing | Stage::Closed => return,
            // While the driver has it, its answer decides.
            Stage::HandingOver if !self.leave_line(socket) => return,
            Stage::Entry if cause == Cause::ConnectTimeout => {
                self.log_refused(peer, listener, "no CONNECT in time");
            }
            Stage::HandingOver | Stage::Entry => {}
            Stage::Refused(_) => self.refused_waiting -= 1,
            Stage::Open(index) => {
                self.work += cost::SESSION;
                self.counters.connections_open -= 1;
                self.count_cause(cause);
                self.log_disconnected(socket, index, cause);
                self.say_farewell(socket, index, cause);
                self.detach(index, cause);
            }
        }
        self.counters.connections_closed += 1;
        if !matches!(stage, Stage::Refused(_)) {
            self.release_entrance(listener);
        }
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        connection.stage = Stage::Closing;
        let leaked = Mutant::MemoryInputLeaked.is_on() && connection.input.is_some();
        self.tally.input += usize::from(leaked);
        if let Some(input) = connection.take_input(&mut self.tally.input) {
            self.pool.put_input(input);
        }
        if let Some(aliases) = connection.aliases.take() {
            self.tally.names -= aliases.bytes();
        }
        connection.patience = 0;
        let drained = connection.output.as_ref().is_none_or(|output| output.unsent() == 0);
        // A client that has said goodbye, or sent its end of stream, is owed no orderly end: that
        // takes a shutdown, which the kernel does on a thread of its own.
        let parted = matches!(cause, Cause::Client(_) | Cause::EndOfStream);
        if cause == Cause::Broken || drained && parted {
            self.close_socket(socket, Action::Close(socket));
        } else if drained {
            self.close_socket(socket, Action::Finish(socket));
        } else {
            let now = self.now;
            connection.last_seen = now;
            self.arm_connection(socket, now.plus_millis(LAST_WORDS));
        }
    }

    /// The peer is gone (`broken`), or will send nothing more: the connection's end is queued. When
    /// a crowd drops at once, what others send is not kept waiting for all those ends.
    pub(super) fn part(&mut self, socket: SocketId, broken: bool) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        match connection.stage {
            Stage::Entry | Stage::Refused(_) | Stage::HandingOver | Stage::Open(_) => {
                if broken || connection.parting == Parting::No {
                    connection.parting = if broken { Parting::Broken } else { Parting::Ended };
                }
                self.parting.push_back(socket);
            }
            Stage::Closing if broken => self.broken(socket),
            Stage::Closing | Stage::Closed => {}
        }
    }

    /// Ends connections whose peers are gone, until the step's work comes to `limit`; true when
    /// some are left.
    pub(super) fn run_parting(&mut self, limit: u32) -> bool {
        for _ in 0..PARTINGS {
            if self.is_spent(limit) {
                break;
            }
            let Some(socket) = self.parting.pop_front() else { break };
            // The socket may have been closed meanwhile, and another connection have its number.
            let Some(connection) = self.connections.get(socket.0) else { continue };
            let broken = match connection.parting {
                Parting::No => continue,
                Parting::Ended => false,
                Parting::Broken => true,
            };
            if connection.stage == Stage::HandingOver {
                self.depart_parted(socket);
                continue;
            }
            // What it sent before and is held back still counts: a publisher may write and close.
            if !broken && connection.input.is_some() && connection.holds.is_free() {
                self.process_held(socket);
            }
            // `go_on` puts it here again.
            let held = |c: &Connection| c.input.is_some() && !c.holds.is_free();
            let open = |c: &Connection| matches!(c.stage, Stage::Open(_));
            if !broken && self.connections.get(socket.0).is_some_and(|c| open(c) && held(c)) {
                continue;
            }
            self.disconnect(socket, if broken { Cause::Broken } else { Cause::EndOfStream });
        }
        if self.parting.is_empty() {
            self.parting.shrink_to(64);
        }
        !self.parting.is_empty()
    }

    /// Ends a connection that cannot carry anything more, even if it is closing already.
    pub(super) fn broken(&mut self, socket: SocketId) {
        match self.connections.get(socket.0).map(|connection| connection.stage) {
            Some(Stage::Closing) => self.close_socket(socket, Action::Close(socket)),
            _ => self.disconnect(socket, Cause::Broken),
        }
    }

    /// The last thing that is asked of the driver for a connection.
    pub(super) fn close_socket(&mut self, socket: SocketId, action: Action) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        connection.stage = Stage::Closed;
        self.actions.push(action);
    }

    fn count_cause(&mut self, cause: Cause) {
        match cause {
            Cause::Violation(_) => self.counters.violations += 1,
            Cause::KeepAlive => self.counters.keepalive_timeouts += 1,
            Cause::ConnectTimeout => self.counters.connect_timeouts += 1,
            Cause::Memory => self.counters.memory_ended += 1,
            _ => {}
        }
    }

    fn say_farewell(&mut self, socket: SocketId, index: u32, cause: Cause) {
        let Some(session) = self.sessions.get(index) else { return };
        let (version, informed) = (session.version, session.problem_information);
        let max = session.maximum_packet_size as usize;
        if let (Version::V5, Some((reason, what))) = (version, cause.farewell()) {
            // [MQTT-3.14.2-3]: no reason string that makes the packet too large.
            let fits = what.len() + LONGEST_HEAD <= max;
            let what = (informed && fits && self.settings.reason_strings).then_some(what);
            self.answer(socket, |out| {
                let packet = Disconnect { reason_string: what, ..Disconnect::new(reason) };
                packet::encode_disconnect(out, version, &packet)
            });
        }
    }

    /// The session loses its connection.
    fn detach(&mut self, index: u32, cause: Cause) {
        let now = self.now;
        self.joining.remove(&index);
        self.tasks.connection_ended(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.socket = None;
        let Session { flow, subscriptions, .. } = session;
        if let Some(flow) = flow {
            flow.crowded = None;
            // Retained messages that a SUBSCRIBE is owed are owed to the session
            // [MQTT-3.8.4-4]; the next connection goes on with them. At QoS 0, too: only what is on
            // its way now is dropped, as all QoS 0 for a client that is away.
            flow.inherit_replays(|filter| {
                subscriptions.position(filter).is_some() && !Mutant::ReplayNotInherited.is_on()
            });
        }
        // Only now: what the publishers go on with must not find this client crowded again.
        self.unpark_waiters(index, Over::CaughtUp);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let expiry = session.expiry;
        self.tally.names -= named(session);
        match session.will.take() {
            Some(_) if cause.deletes_will() => {}
            Some(mut will) if will.delay > 0 && expiry > 0 && !Mutant::WillDelayIgnored.is_on() => {
                // [MQTT-3.1.3-9] and section 3.1.3.2.2: after the delay, unless the client is back.
                will.due = Some(now.plus_seconds(will.delay));
                session.will = Some(will);
            }
            Some(will) => {
                session.will = Mutant::WillTwice.is_on().then(|| will.clone());
                self.fire_will(*will);
            }
            None => {}
        }
        if let Some(session) = self.sessions.get(index) {
            self.tally.names += named(session);
        }
        if expiry == 0 {
            self.end_session(index);
            return;
        }
        let Some(session) = self.sessions.get_mut(index) else { return };
        let never = expiry == NEVER || Mutant::SessionNeverExpires.is_on();
        let part = if Mutant::SessionExpiresEarly.is_on() { 2 } else { 1 };
        session.ends = if never { Instant::END } else { now.plus_seconds(expiry / part) };
        if session.flow.as_ref().is_some_and(|flow| flow.is_idle())
            && let Some(flow) = session.flow.take()
        {
            self.tally.forget_idle(&flow);
        }
        let Some(session) = self.sessions.get(index) else { return };
        let next = session.next_due();
        self.counters.sessions_persistent += 1;
        if let Some(next) = next {
            self.arm_session(index, next);
        }
        self.tell_presence(index, false);
    }

    /// Another connection claims the ClientId [MQTT-3.1.4-3].
    pub(super) fn take_over(&mut self, index: u32) {
        if Mutant::TakeoverKeepsOld.is_on() {
            return;
        }
        if Mutant::PendingLostOnTakeover.is_on()
            && let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.take())
        {
            self.forget_flow(&flow);
        }
        if let Some(socket) = self.sessions.get(index).and_then(|session| session.socket) {
            self.disconnect(socket, Cause::TakenOver);
        }
    }

    /// Ends an offline session: its subscriptions, queues and name go; a waiting will is sent now.
    pub(super) fn end_session(&mut self, index: u32) {
        let reference = self.session_ref(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        debug_assert!(session.socket.is_none());
        self.work += cost::SESSION;
        let hash = session.key.0.get();
        let (flow, will) = (session.flow.take(), session.will.take());
        self.tally.names -= will.as_ref().map_or(0, |will| will.message.size());
        self.names.remove(hash, index);
        if let Some(flow) = flow {
            self.return_flow(reference, *flow);
        }
        self.counters.sessions -= 1;
        self.joining.remove(&index);
        self.end_subscriptions(index);
        if let Some(will) = will {
            self.fire_will(*will);
        }
    }

    /// An offline session's time: the will's delay or the session itself may be over.
    pub(super) fn session_due(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.socket.is_some() || session.is_ending() {
            return;
        }
        if session.ends <= now {
            self.counters.sessions_persistent -= 1;
            self.counters.sessions_expired += 1;
            self.end_session(index);
            return;
        }
        let due = session.will.as_ref().and_then(|will| will.due);
        if due.is_some_and(|due| due <= now)
            && let Some(will) = session.will.take()
        {
            self.tally.names -= will.message.size();
            self.fire_will(*will);
        }
        self.sweep_expired(index);
        if let Some(next) = self.sessions.get(index).and_then(Session::next_due) {
            self.arm_session(index, next);
        }
    }

    /// Takes a share of the expired messages out of an offline session's queue; what is left has
    /// its turn at the next tick.
    fn sweep_expired(&mut self, index: u32) {
        let now = self.now;
        // Some in any case, or a shard that is always busy would never get on.
        let most = if self.work < self.settings.budget.step { EXPIRED } else { FEW_EXPIRED };
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.expiry_due().is_none_or(|due| due > now) {
            return;
        }
        let Some(flow) = &mut session.flow else { return };
        let before = flow.pending.bytes();
        let dropped = flow.pending.expire(now, most);
        self.work += cost::DELIVERY * dropped;
        self.counters.pending_messages -= u64::from(dropped);
        self.counters.pending_bytes -= (before - flow.pending.bytes()) as u64;
        self.counters.dropped_expired += u64::from(dropped);
        if flow.is_idle()
            && let Some(flow) = session.flow.take()
        {
            self.tally.forget_idle(&flow);
        }
    }

    pub(super) fn fire_will(&mut self, will: Will) {
        let expires = will.message_expiry.map(|seconds| expiry(self.now, seconds));
        let message = match self.bounded_expiry(expires) {
            None => will.message,
            expires => {
                let view = MessageRef { expires, ..will.message.view() };
                Message::new(&view, &mut self.scratch)
            }
        };
        self.queue_will(message);
    }

    /// Routes wills that are due, as far as mailboxes have room, until the step's work comes to
    /// `limit`; true when more can be at once.
    pub(super) fn publish_wills(&mut self, limit: u32) -> bool {
        while !self.is_spent(limit) {
            if self.fanouts.is_full() {
                return false; // they are going on, and so are the wills then
            }
            let Some(message) = self.wills.front().cloned() else { return false };
            let view = message.view();
            self.work += cost::PACKET + cost::bytes(message.size());
            if !self.try_publish(&view, Some(&message)) {
                return false;
            }
            self.counters.wills_sent += 1;
            if let Some(message) = self.wills.pop_front() {
                self.tally.names -= message.size();
            }
        }
        !self.wills.is_empty()
    }

    /// `expires`, no later than `mqtt.message_expiry_max` allows.
    pub(super) fn bounded_expiry(&self, expires: Option<Instant>) -> Option<Instant> {
        let bound = self.settings.message_expiry_max.map(|seconds| self.now.plus_seconds(seconds));
        [expires, bound].into_iter().flatten().min()
    }

    /// The driver has closed the socket: nothing of the connection is left.
    pub(super) fn forget(&mut self, socket: SocketId) {
        if Mutant::SlotLeaked.is_on() {
            return;
        }
        let Some(connection) = self.connections.remove(socket.0) else { return };
        self.parked.forget(socket, connection.holds);
        if let Some(output) = connection.output {
            self.pool.put_output(output);
        }
    }

    /// Ends what this step decided to end while it could not.
    pub(super) fn run_closing(&mut self) {
        while let Some((socket, cause)) = self.closing.pop() {
            self.disconnect(socket, cause);
        }
    }
}
